//! A running query as the table that later queries and outputs are planned over.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::TableType;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};

use super::lower::RunningQuery;

/// The table.
#[derive(Debug)]
pub(in crate::sql) struct RunningTable {
    query: Arc<RunningQuery>,
}

impl RunningTable {
    pub(in crate::sql) fn new(query: RunningQuery) -> Self {
        Self { query: Arc::new(query) }
    }
}

#[async_trait]
impl TableProvider for RunningTable {
    fn schema(&self) -> SchemaRef {
        self.query.plan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let scan: Arc<dyn ExecutionPlan> = Arc::new(RunningQueryExec::new(Arc::clone(&self.query)));
        let Some(projection) = projection else {
            return Ok(scan);
        };
        let schema = scan.schema();
        let columns = projection.iter().map(|index| {
            let name = schema.field(*index).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, *index));
            (column, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns, Arc::clone(&scan))?))
    }
}

/// Stands for a running query while the plan above it is made; [`expand`] puts the query's plan there.
#[derive(Debug)]
struct RunningQueryExec {
    query: Arc<RunningQuery>,
    properties: Arc<PlanProperties>,
}

impl RunningQueryExec {
    fn new(query: Arc<RunningQuery>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(query.plan.schema()),
            Partitioning::UnknownPartitioning(query.plan.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            query,
            properties: Arc::new(properties),
        }
    }
}

/// The plan with the plans of the running queries that it reads.
///
/// # Errors
/// A bug.
pub(in crate::sql) fn expand(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let expanded = plan.transform_up(|node| {
        Ok(match node.downcast_ref::<RunningQueryExec>() {
            None => Transformed::no(node),
            Some(stand_in) => Transformed::yes(Arc::clone(&stand_in.query.plan)),
        })
    })?;
    Ok(expanded.data)
}

impl DisplayAs for RunningQueryExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningQueryExec")
    }
}

impl ExecutionPlan for RunningQueryExec {
    fn name(&self) -> &str {
        "RunningQueryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _slice: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        Err(DataFusionError::Internal(
            "a running query was executed without its plan".into(),
        ))
    }
}
