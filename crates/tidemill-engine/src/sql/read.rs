//! The operator that turns a row of the range table into the records of that range.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use tidemill_core::plan::RangePlan;

use super::scan_run::ScanRun;
use super::table::{SourceTable, Take};

/// What a scan is planned as if it read: more than any reference table.
const ROWS_ASSUMED: usize = 1 << 40;
const ROW_BYTES_ASSUMED: usize = 100;

/// Reads ranges: one input row (the index of a range) becomes the records of that range.
///
/// In a template it has no ranges; [`ReadRangesExec::for_batch`] gives it those of a batch. Which range a slice reads
/// travels as data in the input row, never as the slice's number.
#[derive(Debug)]
pub struct ReadRangesExec {
    table: Arc<SourceTable>,
    take: Take,
    schema: SchemaRef,
    input: Arc<dyn ExecutionPlan>,
    run: Option<Arc<ScanRun>>,
    properties: Arc<PlanProperties>,
}

fn range_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("range", DataType::UInt32, false)]))
}

/// One slice per range, or one empty slice: operators above need at least one.
fn range_table(ranges: usize) -> DfResult<Arc<DataSourceExec>> {
    let schema = range_schema();
    let mut slices = Vec::with_capacity(ranges.max(1));
    for index in 0..ranges {
        let number = u32::try_from(index).map_err(|_| DataFusionError::Internal("too many ranges".into()))?;
        let column: ArrayRef = Arc::new(UInt32Array::from(vec![number]));
        slices.push(vec![RecordBatch::try_new(Arc::clone(&schema), vec![column])?]);
    }
    if slices.is_empty() {
        slices.push(Vec::new());
    }
    MemorySourceConfig::try_new_exec(&slices, schema, None)
}

impl ReadRangesExec {
    /// The operator in a template: planned as if it had `slices` slices, so that what lies above can merge any number.
    pub(super) fn template(table: Arc<SourceTable>, take: Take, schema: SchemaRef, slices: usize) -> DfResult<Self> {
        let input = range_table(slices)?;
        Ok(Self::over(table, take, schema, input, None))
    }

    fn over(
        table: Arc<SourceTable>,
        take: Take,
        schema: SchemaRef,
        input: Arc<dyn ExecutionPlan>,
        run: Option<Arc<ScanRun>>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            table,
            take,
            schema,
            input,
            run,
            properties: Arc::new(properties),
        }
    }

    /// The source's name.
    pub fn source(&self) -> &str {
        &self.table.name
    }

    /// The declared columns that the query wants of each record, by index.
    pub(super) fn wanted(&self) -> Vec<usize> {
        self.take.wanted()
    }

    /// The operator for one batch, with those of `ranges` that belong to its source, and the run to ask afterwards.
    ///
    /// # Errors
    /// Where the range table can't be built: a bug.
    pub fn for_batch(&self, ranges: &[RangePlan]) -> DfResult<(Arc<dyn ExecutionPlan>, Arc<ScanRun>)> {
        let ranges: Vec<RangePlan> = ranges
            .iter()
            .filter(|range| range.source == self.table.name && range.until > range.from)
            .cloned()
            .collect();
        let input = range_table(ranges.len())?;
        let run = Arc::new(ScanRun::open(
            Arc::clone(&self.table),
            self.take.clone(),
            Arc::clone(&self.schema),
            ranges,
        ));
        let exec = Self::over(
            Arc::clone(&self.table),
            self.take.clone(),
            Arc::clone(&self.schema),
            input,
            Some(Arc::clone(&run)),
        );
        Ok((Arc::new(exec), run))
    }
}

impl DisplayAs for ReadRangesExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "ReadRangesExec: source={}, columns=[{}]",
            self.table.name,
            names.join(", ")
        )
    }
}

impl ExecutionPlan for ReadRangesExec {
    fn name(&self) -> &str {
        "ReadRangesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        Ok(Arc::new(Self::over(
            Arc::clone(&self.table),
            self.take.clone(),
            Arc::clone(&self.schema),
            input,
            self.run.clone(),
        )))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    /// Nobody knows how much a batch will read; a join should hold its other side in memory.
    fn partition_statistics(&self, _slice: Option<usize>) -> DfResult<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Inexact(ROWS_ASSUMED);
        statistics.total_byte_size = Precision::Inexact(ROWS_ASSUMED * ROW_BYTES_ASSUMED);
        Ok(Arc::new(statistics))
    }

    fn execute(&self, slice: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let run =
            self.run.as_ref().map(Arc::clone).ok_or_else(|| {
                DataFusionError::Internal("a template was executed without the ranges of a batch".into())
            })?;
        let input = self.input.execute(slice, context)?;
        let rows = input
            .map_ok(move |batch| range_indexes(&batch, Arc::clone(&run)))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

fn range_indexes(
    batch: &RecordBatch,
    run: Arc<ScanRun>,
) -> impl futures::Stream<Item = DfResult<RecordBatch>> + Send + use<> {
    let column = batch.column(0).as_any().downcast_ref::<UInt32Array>().cloned();
    let indexes: Vec<u32> = column.map(|column| column.values().to_vec()).unwrap_or_default();
    futures::stream::iter(indexes).flat_map(move |index| ScanRun::read(Arc::clone(&run), index as usize))
}
