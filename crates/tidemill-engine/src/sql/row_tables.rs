//! Queries over rows that a program gives, in one run of one batch.
//!
//! Rows come in the same order in every run: a table has one slice, a query is run in one, and slices that become one come one after
//! another. So what depends on an order that the query leaves open, like the last digits of a sum, is the same too.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as DfResult, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::from_engine::from_engine;
use super::functions::BatchCell;
use super::in_order::in_order;
use super::session::{read_only, reading, register, session};
use crate::error::{Error, Kind, Result};

/// Tables of one batch, and what queries over them run in.
pub struct RowTables {
    session: SessionContext,
}

impl fmt::Debug for RowTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowTables")
            .field("session", &self.session.session_id())
            .finish_non_exhaustive()
    }
}

impl RowTables {
    /// No tables yet. `batch_time()` and its kin answer for the batch with this id and time; sorts, joins and aggregates may hold
    /// `memory_bytes_max` bytes before they spill, rows of the tables not counted.
    ///
    /// # Errors
    /// `Refused` where the query engine has no temporary folder.
    pub fn new(batch_id: u64, batch_time_ms: i64, memory_bytes_max: usize) -> Result<Self> {
        let cell = Arc::new(BatchCell::default());
        cell.set(batch_id, batch_time_ms);
        Ok(Self {
            session: session(1, memory_bytes_max, &cell)?,
        })
    }

    /// Adds a table of `rows`, all of `schema`, and gives it as a frame.
    ///
    /// # Errors
    /// A bug.
    pub fn add(&self, name: &str, schema: &SchemaRef, rows: Vec<RecordBatch>) -> Result<DataFrame> {
        let added = || -> DfResult<DataFrame> {
            let table = Arc::new(MemTable::try_new(Arc::clone(schema), vec![rows])?);
            register(&self.session, name, Arc::clone(&table) as _)?;
            let scan = LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(table), None)?;
            Ok(DataFrame::new(self.session.state(), scan.build()?))
        };
        added().map_err(|error| Error::with_source(Kind::Bug, format!("table {name}"), error))
    }

    /// A query over the tables, refused where it changes anything or would differ in a second run.
    ///
    /// # Errors
    /// `Config` in DataFusion's own words.
    pub async fn sql(&self, query: &str) -> Result<DataFrame> {
        read_only(&self.session, query).await.map_err(refused)
    }

    /// Everything that can be known of a frame before it is run.
    ///
    /// # Errors
    /// `Config` where it can't be run, changes anything, or would differ in a second run.
    pub async fn check(&self, frame: DataFrame) -> Result<()> {
        self.plan(frame).await.map(drop)
    }

    /// The rows of a frame.
    ///
    /// # Errors
    /// As [`check`](Self::check); `Data` where the query fails on the rows.
    pub async fn rows(&self, frame: DataFrame) -> Result<Vec<RecordBatch>> {
        let plan = self.plan(frame).await?;
        let rows = plan.execute(0, self.session.task_ctx()).map_err(from_engine)?;
        rows.try_collect().await.map_err(from_engine)
    }

    async fn plan(&self, frame: DataFrame) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = frame.into_unoptimized_plan();
        reading().verify_plan(&plan).map_err(refused)?;
        self.refuse_chance(&plan).map_err(refused)?;
        // In this session, wherever the frame comes from.
        let frame = DataFrame::new(self.session.state(), plan);
        let plan = frame.create_physical_plan().await.map_err(refused)?;
        in_order(plan).map_err(refused)
    }

    /// SQL finds the functions of the session, whose answers belong to the batch; a frame may have been made with DataFusion's own.
    fn refuse_chance(&self, plan: &LogicalPlan) -> DfResult<()> {
        let state = self.session.state();
        let same_in_every_run = |expr: &Expr| {
            if let Expr::ScalarFunction(call) = expr
                && call.func.signature().volatility != Volatility::Immutable
                && state.scalar_functions().get(call.func.name()) != Some(&call.func)
            {
                return Err(DataFusionError::Plan(format!(
                    "{}() would give another answer when a batch runs again; in sql() it is that of the batch, or refused",
                    call.func.name()
                )));
            }
            Ok(TreeNodeRecursion::Continue)
        };
        plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(same_in_every_run)))?;
        Ok(())
    }
}

fn refused(error: DataFusionError) -> Error {
    Error::with_source(Kind::Config, "the query can't be run", error)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::functions::math::expr_fn::random;
    use datafusion::prelude::now;

    use super::*;

    fn tables(names: &[&str]) -> (RowTables, Vec<DataFrame>) {
        let schema = Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, true)]));
        let tables = RowTables::new(7, 1_000, 1 << 20).unwrap();
        let rows = |first: i64| {
            let of = |chunk: i64| Arc::new(Int64Array::from_iter_values(chunk..chunk + 10));
            let rows = |chunk: i64| RecordBatch::try_new(Arc::clone(&schema), vec![of(first + 10 * chunk)]).unwrap();
            (0..10).map(rows).collect::<Vec<_>>()
        };
        let frames = names
            .iter()
            .zip([0, 100])
            .map(|(name, first)| tables.add(name, &schema, rows(first)).unwrap());
        let frames = frames.collect();
        (tables, frames)
    }

    fn numbers(rows: &[RecordBatch]) -> Vec<i64> {
        rows.iter()
            .flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect()
    }

    async fn asked(tables: &RowTables, query: &str) -> Vec<i64> {
        let frame = tables.sql(query).await.unwrap();
        numbers(&tables.rows(frame).await.unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn rows_come_in_one_order_also_where_slices_become_one() {
        let (tables, _) = tables(&["a", "b"]);
        let together = "SELECT number FROM a UNION ALL SELECT number FROM b";
        for _ in 0..20 {
            assert_eq!(asked(&tables, together).await, (0..200).collect::<Vec<_>>());
            let grouped = format!("SELECT number % 100 AS rest FROM ({together}) GROUP BY rest");
            assert_eq!(asked(&tables, &grouped).await, (0..100).collect::<Vec<_>>());
            let first = format!("SELECT number + 0 FROM ({together}) LIMIT 3");
            assert_eq!(asked(&tables, &first).await, [0, 1, 2]);
            let skipped = format!("SELECT number + 0 FROM ({together}) LIMIT 3 OFFSET 99");
            assert_eq!(asked(&tables, &skipped).await, [99, 100, 101]);
        }
    }

    #[tokio::test]
    async fn time_is_that_of_the_batch() {
        let (tables, _) = tables(&["a"]);
        assert_eq!(
            asked(
                &tables,
                "SELECT batch_time()::BIGINT + batch_id()::BIGINT FROM a LIMIT 1"
            )
            .await,
            [1_007]
        );
        assert_eq!(
            asked(&tables, "SELECT now()::BIGINT / 1000000 FROM a LIMIT 1").await,
            [1_000]
        );
    }

    #[tokio::test]
    async fn what_would_differ_in_a_second_run_or_changes_anything_is_refused() {
        let (tables, frames) = tables(&["a"]);
        for (query, word) in [
            ("SELECT random() FROM a", "random() would give another answer"),
            ("SELECT numbre FROM a", "numbre"),
            ("CREATE TABLE b AS SELECT * FROM a", "DDL"),
            ("INSERT INTO a VALUES (1)", "DML"),
        ] {
            let error = match tables.sql(query).await {
                Ok(frame) => tables.check(frame).await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), Kind::Config, "{query}");
            assert!(error.chain().contains(word), "{}", error.chain());
        }
        for chance in [random(), now()] {
            let frame = frames[0].clone().select(vec![chance.alias("chance")]).unwrap();
            let frame = frame.distinct().unwrap();
            let error = tables.check(frame).await.unwrap_err();
            assert!(error.chain().contains("would give another answer"), "{}", error.chain());
        }
    }
}
