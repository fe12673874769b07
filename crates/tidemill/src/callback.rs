//! Callbacks as sinks: they keep no ledger, and tell the callback what names its effect.

use std::any::Any;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, RangePlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{BatchCommit, Claim, Committed, Sink, SinkBatch, SinkInput, SinkState, SliceWriter};

use crate::dstream::Stage;
use crate::record::{Block, Record};
use crate::task::{BatchContext, OffsetRange, TaskContext};

type SliceCallback<T> = Arc<dyn Fn(Vec<T>, &TaskContext) -> Result<(), String> + Send + Sync>;
type BatchCallback<T> = Arc<dyn Fn(Vec<T>, &BatchContext) -> Result<(), String> + Send + Sync>;

/// Makes the writers and the end of one batch.
pub(crate) trait Callback: Debug + Send + Sync {
    fn begin(&self, batch: BatchContext, ranges: Vec<OffsetRange>, slices: usize) -> SinkBatch;
}

/// An output of a program as a sink.
#[derive(Debug)]
pub(crate) struct CallbackSink {
    app: String,
    name: String,
    source: String,
    callback: Arc<dyn Callback>,
}

impl CallbackSink {
    pub(crate) fn new(app: String, name: String, source: String, callback: Arc<dyn Callback>) -> Self {
        Self {
            app,
            name,
            source,
            callback,
        }
    }
}

fn offset_range(range: &RangePlan) -> OffsetRange {
    OffsetRange {
        topic: range.partition.topic.clone(),
        partition: range.partition.partition,
        from: range.from,
        until: range.until,
    }
}

#[async_trait]
impl Sink for CallbackSink {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "callback".to_owned(),
            target: self.source.clone(),
        }
    }

    fn exactly_once(&self) -> bool {
        false
    }

    async fn check(&mut self, _input: &SinkInput) -> Result<()> {
        Ok(())
    }

    async fn inspect(&mut self, _app: &str) -> Result<SinkState> {
        Ok(SinkState::default())
    }

    async fn fence(&mut self, _claim: &Claim) -> Result<()> {
        Ok(())
    }

    async fn ledger(&mut self) -> Result<Option<LedgerRecord>> {
        Ok(None)
    }

    async fn birth(&mut self, _record: &LedgerRecord) -> Result<()> {
        Ok(())
    }

    async fn begin(&mut self, plan: &BatchPlan, slices: usize, attempt: u32) -> Result<SinkBatch> {
        let ranges: Vec<OffsetRange> = plan
            .ranges
            .iter()
            .filter(|range| range.source == self.source && range.until > range.from)
            .map(offset_range)
            .collect();
        let batch = BatchContext {
            app: self.app.clone(),
            output: self.name.clone(),
            batch_id: plan.batch_id,
            batch_time_ms: plan.batch_time_ms,
            ranges: ranges.clone(),
            attempt,
        };
        Ok(self.callback.begin(batch, ranges, slices))
    }
}

/// The values of one slice, as they come out of the chain.
struct Collected<T> {
    stage: Stage<T>,
    rows: Vec<T>,
}

impl<T> Debug for Collected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected")
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

impl<T> Collected<T> {
    fn new(stage: &Stage<T>) -> Self {
        Self {
            stage: Arc::clone(stage),
            rows: Vec::new(),
        }
    }

    fn take_in(&mut self, rows: &RecordBatch) -> Result<()> {
        let block = Arc::new(Block::new(rows)?);
        guarded(|| {
            for row in 0..block.len() {
                (self.stage)(Record::new(Arc::clone(&block), row), &mut |value| self.rows.push(value));
            }
            Ok(())
        })
    }
}

/// Runs user code; an error or a panic becomes [`Kind::UserCode`] with its text.
fn guarded(code: impl FnOnce() -> Result<(), String>) -> Result<()> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(text)) => Err(Error::new(Kind::UserCode, text)),
        Err(panic) => Err(Error::new(
            Kind::UserCode,
            format!("the closure panicked: {}", panic_text(&*panic)),
        )),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

/// User code may block, so it gets a thread of its own.
async fn blocking(code: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    match tokio::task::spawn_blocking(code).await {
        Ok(done) => done,
        Err(error) => Err(Error::with_source(Kind::Bug, "a callback was lost", error)),
    }
}

/// `foreach_partition`
pub(crate) struct PerSlice<T> {
    stage: Stage<T>,
    callback: SliceCallback<T>,
}

impl<T> PerSlice<T> {
    pub(crate) fn new(stage: Stage<T>, callback: SliceCallback<T>) -> Self {
        Self { stage, callback }
    }
}

impl<T> Debug for PerSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PerSlice")
    }
}

struct SliceRun<T> {
    collected: Collected<T>,
    task: Option<TaskContext>,
    callback: SliceCallback<T>,
}

impl<T> Debug for SliceRun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceRun")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Callback for PerSlice<T> {
    fn begin(&self, batch: BatchContext, ranges: Vec<OffsetRange>, slices: usize) -> SinkBatch {
        let writers = (0..slices)
            .map(|slice| -> Box<dyn SliceWriter> {
                // A batch without ranges has one slice that reads nothing: there is no partition to call for.
                let task = ranges.get(slice).map(|range| TaskContext {
                    app: batch.app.clone(),
                    output: batch.output.clone(),
                    batch_id: batch.batch_id,
                    batch_time_ms: batch.batch_time_ms,
                    slice,
                    partition: range.partition,
                    range: range.clone(),
                    attempt: batch.attempt,
                });
                Box::new(SliceRun {
                    collected: Collected::new(&self.stage),
                    task,
                    callback: Arc::clone(&self.callback),
                })
            })
            .collect();
        SinkBatch {
            writers,
            commit: Box::new(Nothing),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> SliceWriter for SliceRun<T> {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.collected.take_in(&rows)
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let Some(task) = self.task else { return Ok(()) };
        let (callback, rows) = (self.callback, self.collected.rows);
        let range = task.range.to_string();
        blocking(move || guarded(|| callback(rows, &task)))
            .await
            .map_err(|error| Error::new(error.kind(), format!("{range}: {}", error.chain())))
    }
}

/// The slices have done everything already.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl BatchCommit for Nothing {
    async fn commit(self: Box<Self>, permit: &CommitPermit, _record: LedgerRecord) -> Result<Committed> {
        Ok(Committed {
            rows: permit.records_in() - permit.skipped() - permit.dead_lettered(),
            files: Vec::new(),
        })
    }
}

/// `foreach_batch`
pub(crate) struct PerBatch<T> {
    stage: Stage<T>,
    callback: BatchCallback<T>,
}

impl<T> PerBatch<T> {
    pub(crate) fn new(stage: Stage<T>, callback: BatchCallback<T>) -> Self {
        Self { stage, callback }
    }
}

impl<T> Debug for PerBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PerBatch")
    }
}

/// Values by slice. A leaf lock, held for a move.
type BySlice<T> = Arc<Mutex<Vec<Vec<T>>>>;

struct SlicePart<T> {
    collected: Collected<T>,
    slice: usize,
    all: BySlice<T>,
}

impl<T> Debug for SlicePart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlicePart")
            .field("slice", &self.slice)
            .finish_non_exhaustive()
    }
}

struct BatchRun<T> {
    batch: BatchContext,
    all: BySlice<T>,
    callback: BatchCallback<T>,
}

impl<T> Debug for BatchRun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRun")
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Callback for PerBatch<T> {
    fn begin(&self, batch: BatchContext, _ranges: Vec<OffsetRange>, slices: usize) -> SinkBatch {
        let all: BySlice<T> = Arc::new(Mutex::new((0..slices).map(|_| Vec::new()).collect()));
        let writers = (0..slices)
            .map(|slice| -> Box<dyn SliceWriter> {
                Box::new(SlicePart {
                    collected: Collected::new(&self.stage),
                    slice,
                    all: Arc::clone(&all),
                })
            })
            .collect();
        SinkBatch {
            writers,
            commit: Box::new(BatchRun {
                batch,
                all,
                callback: Arc::clone(&self.callback),
            }),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> SliceWriter for SlicePart<T> {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.collected.take_in(&rows)
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)[self.slice] = self.collected.rows;
        Ok(())
    }
}

#[async_trait]
impl<T: Send + 'static> BatchCommit for BatchRun<T> {
    async fn commit(self: Box<Self>, _permit: &CommitPermit, _record: LedgerRecord) -> Result<Committed> {
        let slices = std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner));
        let rows: Vec<T> = slices.into_iter().flatten().collect();
        let count = rows.len() as u64;
        let (batch, callback) = (self.batch, self.callback);
        blocking(move || guarded(|| callback(rows, &batch))).await?;
        Ok(Committed {
            rows: count,
            files: Vec::new(),
        })
    }
}
