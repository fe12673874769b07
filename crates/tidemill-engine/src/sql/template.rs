//! A query planned once; per batch only its ranges change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};
use tidemill_core::plan::{BatchPlan, RangePlan};

use super::dead_letters;
use super::from_engine::from_engine;
use super::functions::{BatchCell, tells_batches_apart};
use super::provider::{DeadLetters, QueriedTable};
use super::read::ReadRangesExec;
use super::reference::ReferenceTable;
use super::running::{self, Noted, RunningTable, Scope, StateExec};
use super::scan_run::ScanRun;
use super::session::{read_only, register, session};
use super::table::{MetadataColumn, OnBadRecord, SourceTable};
use crate::error::{Error, Kind, Result};
use crate::job::{BatchRun, Finished, Job, SliceRows, StateReaders};
use crate::state::OperatorSpec;

/// Operators that keep the rows of a slice together and in order.
const ORDER_KEEPING: &[&str] = &[
    "ProjectionExec",
    "FilterExec",
    "CoalesceBatchesExec",
    "CooperativeExec",
    "ReadRangesExec",
    "UnnestExec",
];

/// Operators that keep every row.
const ROW_KEEPING: &[&str] = &[
    "ProjectionExec",
    "CoalesceBatchesExec",
    "CooperativeExec",
    "RepartitionExec",
    "CoalescePartitionsExec",
];

/// Operators that keep every column in its place.
const COLUMN_KEEPING: &[&str] = &[
    "CoalesceBatchesExec",
    "CooperativeExec",
    "RepartitionExec",
    "CoalescePartitionsExec",
    "SortExec",
    "SortExec(TopK)",
    "SortPreservingMergeExec",
    "GlobalLimitExec",
    "LocalLimitExec",
];

/// A named query; it is a table for later queries and outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The name.
    pub name: String,
    /// The text.
    pub sql: String,
    /// What its aggregates range over.
    pub scope: Scope,
}

/// What templates are planned from.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Sources as tables.
    pub tables: Vec<Arc<SourceTable>>,
    /// Tables that stay as they are.
    pub references: Vec<ReferenceTable>,
    /// Queries, in the order of the file.
    pub queries: Vec<Query>,
    /// Slices after a shuffle.
    pub reduce_slices: usize,
    /// Bytes that sorts, joins and aggregates of one output may hold before they spill.
    pub memory_bytes_max: usize,
}

/// An output's query as a physical plan without ranges.
#[derive(Debug)]
pub struct Template {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    cell: Arc<BatchCell>,
    sources: Vec<String>,
    operators: Vec<OperatorSpec>,
    slides: BTreeMap<String, i64>,
    ordered: bool,
}

/// A template with the ranges of one batch.
#[derive(Debug)]
pub struct QueryRun {
    /// Gone when the run is finished: operators keep the tasks that they started, and what those still read, as long as the plan is
    /// there. A leaf lock, held to take or copy it.
    plan: Mutex<Option<Arc<dyn ExecutionPlan>>>,
    context: Arc<TaskContext>,
    scans: Vec<Arc<ScanRun>>,
    noted: Vec<Arc<Noted>>,
}

impl Template {
    /// Plans `sql` over the catalog. A query is refused where it changes anything or would differ in a second run.
    ///
    /// # Errors
    /// `Config` with the name of the query and DataFusion's own words.
    pub async fn plan(catalog: &Catalog, output: &str, sql: &str) -> Result<Self> {
        let cell = Arc::new(BatchCell::default());
        let session = session(catalog.reduce_slices.max(2), catalog.memory_bytes_max, &cell)?;
        for table in &catalog.references {
            table
                .register(&session)
                .map_err(|error| refused(&format!("tables.{}", table.identity.name), error))?;
        }
        for query in &catalog.queries {
            let what = format!("queries.{}", query.name);
            let frame = frame(&session, catalog, &what, &query.sql).await?;
            let table: Arc<dyn TableProvider> = match query.scope {
                Scope::Batch => frame.into_view(),
                scope @ (Scope::Running { .. } | Scope::Windowed(_)) => {
                    let text = text_of(catalog, query);
                    Arc::new(RunningTable::new(
                        running::lower(frame, &query.name, &text, scope).await?,
                    ))
                }
            };
            register(&session, &query.name, table).map_err(|error| refused(&what, error))?;
        }
        let what = format!("sinks.{output}");
        let frame = frame(&session, catalog, &what, sql).await?;
        let plan = frame
            .create_physical_plan()
            .await
            .and_then(running::expand)
            .map_err(|error| refused(&what, error))?;
        let mut sources = Vec::new();
        let mut operators: Vec<OperatorSpec> = Vec::new();
        let mut slides = BTreeMap::new();
        plan.apply(|node| {
            if let Some(read) = node.downcast_ref::<ReadRangesExec>()
                && !sources.contains(&read.source().to_owned())
            {
                sources.push(read.source().to_owned());
            }
            if let Some(state) = node.downcast_ref::<StateExec>()
                && let Some(operator) = state.changes()
                && !operators.contains(operator)
            {
                operators.push(operator.clone());
                slides.extend(state.window().map(|window| (operator.id.clone(), window.slide_ms)));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(|error| refused(&what, error))?;
        let ordered = keeps_order(&plan);
        Ok(Self {
            plan,
            context: session.task_ctx(),
            cell,
            sources,
            operators,
            slides,
            ordered,
        })
    }

    /// The sources that the query reads.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The declared columns of `source`, by index, that the query wants.
    pub fn columns_of(&self, source: &str) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        let walked = self.plan.apply(|node| {
            if let Some(read) = node.downcast_ref::<ReadRangesExec>()
                && read.source() == source
            {
                columns.extend(read.wanted());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok(), "nothing in the walk fails");
        columns
    }

    /// True where a group may be given in one batch and be left out in a later one, though it has changed: by a window, a HAVING, a
    /// LIMIT, a join. A sink that upserts by `key` would keep its last row (X21), unless the key tells the rows of batches apart.
    pub fn may_leave_groups_out(&self, key: &[String]) -> bool {
        let schema = self.plan.schema();
        let is_of_batch = |name: &String| schema.index_of(name).is_ok_and(|at| is_of_batch(&self.plan, at));
        !self.operators.is_empty() && !keeps_groups(&self.plan) && !key.iter().any(is_of_batch)
    }

    /// The plan with the ranges of a batch; `batch_time()` and its kin answer for that batch from here on.
    ///
    /// # Errors
    /// A bug.
    pub fn run(&self, batch: &BatchPlan) -> Result<QueryRun> {
        self.run_after(batch, &StateReaders::new())
    }

    fn run_after(&self, batch: &BatchPlan, before: &StateReaders) -> Result<QueryRun> {
        self.with_ranges(batch.batch_id, batch.batch_time_ms, &batch.ranges, before)
    }

    fn with_ranges(&self, id: u64, time_ms: i64, ranges: &[RangePlan], before: &StateReaders) -> Result<QueryRun> {
        self.cell.set(id, time_ms);
        let mut scans = Vec::new();
        let mut noted = Vec::new();
        let bug = |error| Error::with_source(Kind::Bug, "put the ranges of a batch into the plan", error);
        let fresh = reset_plan_states(Arc::clone(&self.plan)).map_err(bug)?;
        let plan = fresh
            .transform_up(|node| {
                if let Some(read) = node.downcast_ref::<ReadRangesExec>() {
                    let (read, run) = read.for_batch(ranges)?;
                    scans.push(run);
                    return Ok(Transformed::yes(read));
                }
                if let Some(state) = node.downcast_ref::<StateExec>() {
                    let (state, notes) = state.for_batch(time_ms, before)?;
                    noted.extend(notes);
                    return Ok(Transformed::yes(state));
                }
                Ok(Transformed::no(node))
            })
            .map_err(bug)?
            .data;
        Ok(QueryRun {
            plan: Mutex::new(Some(plan)),
            context: Arc::clone(&self.context),
            scans,
            noted,
        })
    }
}

#[async_trait]
impl Job for Template {
    fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    fn ordered(&self) -> bool {
        self.ordered
    }

    fn operators(&self) -> Vec<OperatorSpec> {
        self.operators.clone()
    }

    fn slides(&self) -> BTreeMap<String, i64> {
        self.slides.clone()
    }

    fn for_batch(&self, plan: &BatchPlan, before: &StateReaders) -> Result<Arc<dyn BatchRun>> {
        Ok(Arc::new(self.run_after(plan, before)?))
    }

    async fn yields_without_input(&self) -> Result<bool> {
        let run = self.with_ranges(0, 0, &[], &StateReaders::new())?;
        let failed = |error| Error::with_source(Kind::Config, "the query fails on an empty batch", error);
        let rows: Vec<_> = execute_stream(run.plan(), run.context)
            .map_err(failed)?
            .try_collect()
            .await
            .map_err(failed)?;
        Ok(rows.iter().any(|rows| rows.num_rows() > 0))
    }
}

async fn frame(
    session: &SessionContext,
    catalog: &Catalog,
    what: &str,
    sql: &str,
) -> Result<datafusion::dataframe::DataFrame> {
    let metadata: Vec<MetadataColumn> = MetadataColumn::ALL
        .into_iter()
        .filter(|column| names(sql, column.name()))
        .collect();
    for table in &catalog.tables {
        if table.on_bad_record == OnBadRecord::DeadLetter {
            let name = dead_letters::table_name(&table.name);
            let letters = DeadLetters {
                table: Arc::clone(table),
            };
            register(session, &name, Arc::new(letters)).map_err(|error| refused(what, error))?;
        }
        let queried = QueriedTable::new(Arc::clone(table), metadata.clone());
        register(session, &table.name, Arc::new(queried)).map_err(|error| refused(what, error))?;
    }
    read_only(session, sql).await.map_err(|error| refused(what, error))
}

fn refused(what: &str, error: datafusion::error::DataFusionError) -> Error {
    Error::with_source(Kind::Config, what.to_owned(), error)
}

/// True where `sql` has `name` as a word.
fn names(sql: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    sql.match_indices(name).any(|(at, _)| {
        !sql[..at].chars().next_back().is_some_and(is_word)
            && !sql[at + name.len()..].chars().next().is_some_and(is_word)
    })
}

/// All that a query is made of, as it is written: its own text, and those of the queries before it that it names.
fn text_of(catalog: &Catalog, query: &Query) -> String {
    let mut text = query.sql.clone();
    let before = catalog.queries.iter().take_while(|before| before.name != query.name);
    for before in before.collect::<Vec<_>>().into_iter().rev() {
        if names(&text, &before.name) {
            text.push_str(&format!("\n{}: {}", before.name, before.sql));
        }
    }
    text
}

fn keeps_groups(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.children().as_slice() {
        [below] if ROW_KEEPING.contains(&plan.name()) => keeps_groups(below),
        [below] => below.downcast_ref::<StateExec>().is_some(),
        _ => false,
    }
}

/// True where column `at` is another value in each batch: `batch_time()` and its kin, as the query calls them.
fn is_of_batch(plan: &Arc<dyn ExecutionPlan>, at: usize) -> bool {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expr = &projection.expr()[at].expr;
        if let Some(column) = expr.downcast_ref::<Column>() {
            return is_of_batch(projection.input(), column.index());
        }
        let called = expr.downcast_ref::<ScalarFunctionExpr>();
        return called.is_some_and(|called| tells_batches_apart(called.fun()));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let below = filter.projection().as_ref().map_or(at, |columns| columns[at]);
        return is_of_batch(filter.input(), below);
    }
    match plan.children().as_slice() {
        [below] if COLUMN_KEEPING.contains(&plan.name()) => is_of_batch(below, at),
        _ => false,
    }
}

fn keeps_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if !ORDER_KEEPING.contains(&plan.name()) {
        return false;
    }
    if plan.downcast_ref::<ReadRangesExec>().is_some() {
        return true;
    }
    plan.children()
        .as_slice()
        .first()
        .is_some_and(|child| plan.children().len() == 1 && keeps_order(child))
}

impl QueryRun {
    fn plan(&self) -> Arc<dyn ExecutionPlan> {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(plan.as_ref().expect("a finished run is not executed"))
    }
}

#[async_trait]
impl BatchRun for QueryRun {
    fn slices(&self) -> usize {
        self.plan().output_partitioning().partition_count()
    }

    fn exchanges(&self) -> bool {
        !keeps_order(&self.plan())
    }

    fn execute(&self, slice: usize) -> Result<SliceRows> {
        let rows = self
            .plan()
            .execute(slice, Arc::clone(&self.context))
            .map_err(from_engine)?;
        Ok(rows.map_err(from_engine).boxed())
    }

    async fn finish(&self) -> Result<Finished> {
        drop(self.plan.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut changes = BTreeMap::new();
        for noted in &self.noted {
            // A query that is read twice changes the same twice.
            let changed = noted.finish(&self.context).await?;
            if !changed.is_empty() {
                changes.insert(noted.operator().to_owned(), changed);
            }
        }
        Ok(Finished {
            scans: self.scans.clone(),
            changes,
        })
    }
}
