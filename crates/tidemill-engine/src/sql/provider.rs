//! A source, and its dead letters, as the tables that DataFusion plans over.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result as DfResult, plan_err};
use datafusion::datasource::TableType;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use super::dead_letters;
use super::read::ReadRangesExec;
use super::table::{Column, MetadataColumn, SourceTable, Take};

/// A [`SourceTable`] with the metadata columns that one query names, as DataFusion sees it.
#[derive(Debug)]
pub(super) struct QueriedTable {
    table: Arc<SourceTable>,
    metadata: Vec<MetadataColumn>,
    schema: SchemaRef,
}

impl QueriedTable {
    pub(super) fn new(table: Arc<SourceTable>, metadata: Vec<MetadataColumn>) -> Self {
        let mut fields: Vec<Arc<Field>> = table.columns.fields().iter().map(Arc::clone).collect();
        fields.extend(metadata.iter().map(|column| Arc::new(column.field())));
        Self {
            table,
            metadata,
            schema: Arc::new(Schema::new(fields)),
        }
    }
}

#[async_trait]
impl TableProvider for QueriedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        let declared = self.table.columns.fields().len();
        let values = wanted.iter().copied().filter(|index| *index < declared);
        let unreadable: Vec<&str> = values.filter_map(|index| self.table.format.unreadable(index)).collect();
        if !unreadable.is_empty() {
            let problems = unreadable.join("; ");
            return plan_err!("source {}: {problems}. Leave it out of the query", self.table.name);
        }
        let columns = wanted
            .iter()
            .map(|index| match index.checked_sub(declared) {
                None => Column::Value(*index),
                Some(at) => Column::Metadata(self.metadata[at]),
            })
            .collect();
        let schema = Arc::new(self.schema.project(wanted)?);
        let slices = state.config().target_partitions().max(2);
        Ok(Arc::new(ReadRangesExec::template(
            Arc::clone(&self.table),
            Take::Records(columns),
            schema,
            slices,
        )?))
    }
}

/// The bad records of a source.
#[derive(Debug)]
pub(super) struct DeadLetters {
    pub(super) table: Arc<SourceTable>,
}

#[async_trait]
impl TableProvider for DeadLetters {
    fn schema(&self) -> SchemaRef {
        dead_letters::schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..dead_letters::schema().fields().len()).collect();
        let wanted = projection.unwrap_or(&all).clone();
        let projected = Arc::new(dead_letters::schema().project(&wanted)?);
        let slices = state.config().target_partitions().max(2);
        let table = Arc::clone(&self.table);
        Ok(Arc::new(ReadRangesExec::template(
            table,
            Take::DeadLetters(wanted),
            projected,
            slices,
        )?))
    }
}
