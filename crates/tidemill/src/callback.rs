//! Callbacks as sinks: they keep no ledger, and tell the callback what names its effect.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::job::Job;
use tidemill_engine::sink::{BatchCommit, Claim, Committed, Sink, SinkBatch, SinkInput, SinkState, SliceWriter};

use crate::dstream::DStream;
use crate::outcome::guarded_call;
use crate::output::{OutputSettings, Parts, Slots, StreamJob};
use crate::task::{BatchContext, OffsetRange, TaskContext};

/// What a program wants to be called with.
pub(crate) enum Callback<T> {
    /// Once per slice.
    Slice(SliceCallback<T>),
    /// Once per batch.
    Batch(BatchCallback<T>),
}

pub(crate) type SliceCallback<T> = Arc<dyn Fn(Vec<T>, &TaskContext) -> std::result::Result<(), String> + Send + Sync>;
pub(crate) type BatchCallback<T> = Arc<dyn Fn(Vec<T>, &BatchContext) -> std::result::Result<(), String> + Send + Sync>;

impl<T> Clone for Callback<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Slice(callback) => Self::Slice(Arc::clone(callback)),
            Self::Batch(callback) => Self::Batch(Arc::clone(callback)),
        }
    }
}

/// A callback at the end of a stream.
pub(crate) struct Called<T> {
    pub(crate) stream: DStream<T>,
    pub(crate) callback: Callback<T>,
}

impl<T> Debug for Called<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Called")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Parts for Called<T> {
    fn parts(self: Box<Self>, settings: &OutputSettings) -> Result<(Box<dyn Job>, Box<dyn Sink>)> {
        let slots = Arc::new(Slots::default());
        let sink = CallbackSink {
            app: settings.app.clone(),
            name: settings.name.clone(),
            slots: Arc::clone(&slots),
            callback: self.callback,
        };
        let job = StreamJob::new(self.stream, settings.clone(), Arc::new(slots));
        Ok((Box::new(job), Box::new(sink)))
    }

    fn held(&self) -> Box<dyn Send> {
        Box::new((self.stream.clone(), self.callback.clone()))
    }
}

/// An output of a program as a sink.
struct CallbackSink<T> {
    app: String,
    name: String,
    slots: Arc<Slots<T>>,
    callback: Callback<T>,
}

impl<T> Debug for CallbackSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: Send + 'static> Sink for CallbackSink<T> {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "callback".to_owned(),
            target: String::new(),
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
        let of = |range: &&tidemill_core::RangePlan| range.until > range.from;
        let batch = BatchContext {
            app: self.app.clone(),
            output: self.name.clone(),
            batch_id: plan.batch_id,
            batch_time_ms: plan.batch_time_ms,
            ranges: plan.ranges.iter().filter(of).map(OffsetRange::of).collect(),
            attempt,
        };
        let writers = (0..slices)
            .map(|slice| -> Box<dyn SliceWriter> {
                match &self.callback {
                    Callback::Batch(_) => Box::new(Later),
                    Callback::Slice(callback) => Box::new(SliceCall {
                        task: TaskContext::new(&batch, slice, self.slots.range(slice)),
                        slots: Arc::clone(&self.slots),
                        callback: Arc::clone(callback),
                    }),
                }
            })
            .collect();
        let commit = Box::new(BatchCall {
            batch,
            slices,
            slots: Arc::clone(&self.slots),
            callback: self.callback.clone(),
        });
        Ok(SinkBatch { writers, commit })
    }
}

/// User code may block, so it gets a thread of its own.
async fn blocking(code: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    match tokio::task::spawn_blocking(code).await {
        Ok(done) => done,
        Err(error) => Err(Error::with_source(Kind::Bug, "a callback was lost", error)),
    }
}

fn user_code(outcome: std::result::Result<(), String>) -> Result<()> {
    outcome.map_err(|text| Error::new(Kind::UserCode, text))
}

/// A slice whose values wait for the end of the batch.
#[derive(Debug)]
struct Later;

#[async_trait]
impl SliceWriter for Later {
    async fn write(&mut self, _rows: RecordBatch) -> Result<()> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct SliceCall<T> {
    task: TaskContext,
    slots: Arc<Slots<T>>,
    callback: SliceCallback<T>,
}

impl<T> Debug for SliceCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceCall")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: Send + 'static> SliceWriter for SliceCall<T> {
    async fn write(&mut self, _rows: RecordBatch) -> Result<()> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let values = self.slots.take(self.task.slice);
        let (callback, task) = (self.callback, self.task);
        let what = task.what();
        blocking(move || guarded_call(|| user_code(callback(values, &task))))
            .await
            .map_err(|error| Error::new(error.kind(), format!("{what}: {}", error.chain())))
    }
}

struct BatchCall<T> {
    batch: BatchContext,
    slices: usize,
    slots: Arc<Slots<T>>,
    callback: Callback<T>,
}

impl<T> Debug for BatchCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchCall")
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: Send + 'static> BatchCommit for BatchCall<T> {
    async fn commit(self: Box<Self>, permit: &CommitPermit, _record: LedgerRecord) -> Result<Committed> {
        let Callback::Batch(callback) = self.callback else {
            // The slices have done everything already.
            return Ok(Committed {
                rows: permit.records_in() - permit.skipped() - permit.dead_lettered(),
                files: Vec::new(),
            });
        };
        let values: Vec<T> = (0..self.slices).flat_map(|slice| self.slots.take(slice)).collect();
        let count = values.len() as u64;
        let batch = self.batch;
        blocking(move || guarded_call(|| user_code(callback(values, &batch)))).await?;
        Ok(Committed {
            rows: count,
            files: Vec::new(),
        })
    }
}
