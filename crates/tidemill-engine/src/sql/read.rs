//! The operator that turns a row of the range table into the records of that range.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions, StringViewArray, UInt32Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult};
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
use tidemill_core::commit::SliceReport;
use tidemill_core::plan::RangePlan;
use tokio::sync::Notify;

use super::table::{Column, MetadataColumn, OnBadRecord, SourceTable, raw_columns};
use crate::error::{Error, Kind};
use crate::failpoint;
use crate::format::Decoder;
use crate::source::{RangeStream, RawRows, Scan};

/// Reads ranges: one input row (the index of a range) becomes the records of that range.
///
/// In a template it has no ranges; [`ReadRangesExec::for_batch`] gives it those of a batch. Which range a slice reads
/// travels as data in the input row, never as the slice's number.
#[derive(Debug)]
pub struct ReadRangesExec {
    table: Arc<SourceTable>,
    columns: Vec<Column>,
    schema: SchemaRef,
    input: Arc<dyn ExecutionPlan>,
    run: Option<Arc<ScanRun>>,
    properties: Arc<PlanProperties>,
}

/// The ranges of one scan in one batch, what became of them, and the streams that a query left unread.
#[derive(Debug)]
pub struct ScanRun {
    table: Arc<SourceTable>,
    columns: Vec<Column>,
    schema: SchemaRef,
    ranges: Vec<RangePlan>,
    scan: Arc<dyn Scan>,
    // A leaf lock, held for a push or a take only: slices end on any thread.
    ended: Mutex<Ended>,
    /// Told of each slice that ended or was left.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ended {
    reports: Vec<SliceReport>,
    left: Vec<SliceRead>,
    taken: Vec<bool>,
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
    pub(super) fn template(
        table: Arc<SourceTable>,
        columns: Vec<Column>,
        schema: SchemaRef,
        slices: usize,
    ) -> DfResult<Self> {
        let input = range_table(slices)?;
        Ok(Self::over(table, columns, schema, input, None))
    }

    fn over(
        table: Arc<SourceTable>,
        columns: Vec<Column>,
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
            columns,
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
        let needs_value = self.columns.iter().any(|column| matches!(column, Column::Value(_)))
            || self.table.format.validates_without_columns();
        let scan = self
            .table
            .source
            .scan(ranges.clone(), raw_columns(&self.columns, needs_value));
        let input = range_table(ranges.len())?;
        let taken = vec![false; ranges.len()];
        let run = Arc::new(ScanRun {
            table: Arc::clone(&self.table),
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
            ranges,
            scan,
            ended: Mutex::new(Ended {
                taken,
                ..Ended::default()
            }),
            changed: Notify::new(),
        });
        let exec = Self::over(
            Arc::clone(&self.table),
            self.columns.clone(),
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
            self.columns.clone(),
            Arc::clone(&self.schema),
            input,
            self.run.clone(),
        )))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
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

impl ScanRun {
    /// The source's name.
    pub fn source(&self) -> &str {
        &self.table.name
    }

    fn open(&self, index: usize) -> SliceRead {
        let wanted: Vec<usize> = self
            .columns
            .iter()
            .filter_map(|column| match column {
                Column::Value(index) => Some(*index),
                Column::Metadata(_) => None,
            })
            .collect();
        let range = self.ranges[index].clone();
        SliceRead {
            stream: self.scan.stream(index),
            decoder: self.table.format.decoder(&wanted),
            report: SliceReport {
                reached: range.from,
                range,
                records_in: 0,
                skipped: 0,
                bytes: 0,
            },
            rows_next: RowsNext::First,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read(run: Arc<Self>, index: usize) -> impl futures::Stream<Item = DfResult<RecordBatch>> + Send {
        run.lock().taken[index] = true;
        let slice = Reading {
            read: Some(run.open(index)),
            run,
        };
        futures::stream::try_unfold(slice, |mut slice| async move {
            let rows = match &mut slice.read {
                Some(read) => read
                    .next(&slice.run)
                    .await
                    .map_err(|error| DataFusionError::External(error.into()))?,
                None => None,
            };
            match rows {
                Some(rows) => Ok(Some((rows, slice))),
                None => {
                    slice.end();
                    Ok(None)
                }
            }
        })
    }

    /// Reads what the query left unread (a LIMIT, an empty side of a join), so that every record is counted and every
    /// bad one found; then gives the reports of all ranges.
    ///
    /// # Errors
    /// As the source and the bad-record policy say.
    pub async fn finish(self: &Arc<Self>) -> Result<Vec<SliceReport>, Error> {
        self.all_ended_or_left().await;
        let mut left = {
            let mut ended = self.lock();
            let untouched: Vec<usize> = (0..self.ranges.len()).filter(|index| !ended.taken[*index]).collect();
            let mut left = std::mem::take(&mut ended.left);
            left.extend(untouched.into_iter().map(|index| self.open(index)));
            left
        };
        for read in &mut left {
            while read.next(self).await?.is_some() {}
            self.lock().reports.push(read.report.clone());
        }
        Ok(std::mem::take(&mut self.lock().reports))
    }
}

impl ScanRun {
    /// Waits until the query holds no slice any more: tasks that an operator no longer needs are dropped a little later.
    async fn all_ended_or_left(&self) {
        let held = || {
            let ended = self.lock();
            let taken = ended.taken.iter().filter(|taken| **taken).count();
            taken > ended.reports.len() + ended.left.len()
        };
        loop {
            let changed = self.changed.notified();
            if !held() {
                return;
            }
            changed.await;
        }
    }
}

/// A slice while the query reads it. Dropped before its end it leaves its stream for [`ScanRun::finish`].
struct Reading {
    read: Option<SliceRead>,
    run: Arc<ScanRun>,
}

impl Reading {
    fn end(&mut self) {
        if let Some(read) = self.read.take() {
            failpoint::pass("read.slice-end");
            self.run.lock().reports.push(read.report);
            self.run.changed.notify_waiters();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(read) = self.read.take() {
            self.run.lock().left.push(read);
            self.run.changed.notify_waiters();
        }
    }
}

struct SliceRead {
    stream: RangeStream,
    decoder: Box<dyn Decoder>,
    report: SliceReport,
    rows_next: RowsNext,
}

/// Which rows of a slice come next, as the failpoints name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsNext {
    First,
    /// Some were handed on; the middle has not been passed.
    UpToMiddle,
    BeyondMiddle,
}

impl fmt::Debug for SliceRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceRead")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl SliceRead {
    async fn next(&mut self, run: &ScanRun) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some(raw) = self.stream.next().await else {
                return Ok(None);
            };
            let raw = raw?;
            self.report.reached = self.report.reached.max(raw.position);
            if raw.offsets.is_empty() {
                continue;
            }
            self.pass_failpoints();
            return self.decode(run, &raw).map(Some);
        }
    }

    /// The middle is passed once per slice, by rows that are not its first, leave more than half of its range read, and
    /// are not its last.
    fn pass_failpoints(&mut self) {
        let SliceReport { range, reached, .. } = &self.report;
        match self.rows_next {
            RowsNext::First => {
                failpoint::pass("read.first-rows");
                self.rows_next = RowsNext::UpToMiddle;
            }
            RowsNext::UpToMiddle if reached - range.from > range.until - reached && *reached < range.until => {
                failpoint::pass("read.middle-rows");
                self.rows_next = RowsNext::BeyondMiddle;
            }
            RowsNext::UpToMiddle | RowsNext::BeyondMiddle => {}
        }
    }

    fn decode(&mut self, run: &ScanRun, raw: &RawRows) -> Result<RecordBatch, Error> {
        let decoded = self.decoder.decode(raw);
        self.report.records_in += raw.offsets.len() as u64;
        self.report.bytes += raw.bytes;
        let mut values = decoded.columns.into_iter();
        let columns = run
            .columns
            .iter()
            .map(|column| match column {
                Column::Value(_) => values
                    .next()
                    .ok_or_else(|| Error::new(Kind::Bug, "a decoder gave too few columns")),
                Column::Metadata(column) => metadata(*column, &self.report.range, raw),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(raw.offsets.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&run.schema), columns, &options)
            .map_err(|error| Error::with_source(Kind::Bug, "put columns together", error))?;
        let Some(bad) = decoded.bad else { return Ok(rows) };
        match run.table.on_bad_record {
            OnBadRecord::Stop => Err(Error::new(
                Kind::Data,
                format!(
                    "bad record in source {} at {} offset {}: {}. Mend the producer and start the source behind it, or set \
                     on_bad_record = \"skip\"",
                    run.table.name,
                    self.report.range.partition,
                    raw.offsets.value(bad.first_row),
                    bad.first_reason
                ),
            )),
            OnBadRecord::Skip => {
                self.report.skipped += bad.count as u64;
                filter_record_batch(&rows, &bad.keep)
                    .map_err(|error| Error::with_source(Kind::Bug, "leave bad records out", error))
            }
        }
    }
}

fn metadata(column: MetadataColumn, range: &RangePlan, raw: &RawRows) -> Result<ArrayRef, Error> {
    let rows = raw.offsets.len();
    let missing = || Error::new(Kind::Bug, format!("the source did not give {}", column.name()));
    Ok(match column {
        MetadataColumn::Topic => Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(
            &range.partition.topic,
            rows,
        ))),
        MetadataColumn::Partition => Arc::new(Int32Array::from_value(range.partition.partition, rows)),
        MetadataColumn::Offset => Arc::new(raw.offsets.clone()),
        MetadataColumn::Timestamp => Arc::new(raw.timestamps.clone().ok_or_else(missing)?),
        MetadataColumn::Key => Arc::new(raw.keys.clone().ok_or_else(missing)?),
        MetadataColumn::Headers => Arc::new(raw.headers.clone().ok_or_else(missing)?),
    })
}
