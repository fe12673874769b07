//! An output of a program: what it computes, and the sink that takes it.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use tidemill_core::plan::BatchPlan;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::job::{BatchRun, Finished, Job, SliceRows, StateReaders};
use tidemill_engine::sink::Sink;
use tidemill_engine::state::OperatorSpec;
use tokio::runtime::Handle;

use crate::batch::Batch;
use crate::dstream::{Compute, DStream};
use crate::graph::{Graph, Stream};
use crate::outcome::{guarded, guarded_call};
use crate::remembered::Planned;
use crate::scope::Scope;
use crate::task::OffsetRange;

/// An output that a program declared.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) stream: Arc<Stream>,
    pub(crate) parts: Box<dyn Parts>,
}

/// Makes job and sink of an output once the program starts.
pub(crate) trait Parts: Debug + Send {
    fn parts(self: Box<Self>, settings: &OutputSettings) -> Result<(Box<dyn Job>, Box<dyn Sink>)>;

    /// Keeps what the program's closures own until the program has ended.
    fn held(&self) -> Box<dyn Send>;
}

/// What outputs need to know of their program.
#[derive(Debug, Clone)]
pub(crate) struct OutputSettings {
    pub(crate) app: String,
    /// The output's name.
    pub(crate) name: String,
    pub(crate) interval: Duration,
    /// Bytes of rows between slices that are held in memory.
    pub(crate) held_bytes_max: usize,
}

/// The values of a batch by slice, between the job that computes them and the sink that takes them. A leaf lock, held for a move.
pub(crate) struct Slots<T>(Mutex<Vec<Slot<T>>>);

struct Slot<T> {
    values: Vec<T>,
    range: Option<OffsetRange>,
}

impl<T> Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slots")
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Slots<T> {
    fn begin(&self, batch: Option<&Batch<T>>) {
        let slot = |batch: &Batch<T>, slice| Slot {
            values: Vec::new(),
            range: batch.slices.range(slice),
        };
        let slots = batch.map_or_else(Vec::new, |batch| {
            (0..batch.slices.count()).map(|slice| slot(batch, slice)).collect()
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = slots;
    }

    fn put(&self, slice: usize, values: Vec<T>) {
        if let Some(slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(slice) {
            slot.values = values;
        }
    }

    /// The range of a slice, where it is one.
    pub(crate) fn range(&self, slice: usize) -> Option<OffsetRange> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(slice)?.range.clone()
    }

    pub(crate) fn take(&self, slice: usize) -> Vec<T> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .get_mut(slice)
            .map(|slot| std::mem::take(&mut slot.values))
            .unwrap_or_default()
    }
}

/// How an output hands the values of a slice on.
pub(crate) trait Handed<T>: Debug + Send + Sync {
    /// Columns of the rows.
    fn schema(&self) -> SchemaRef;
    /// A batch begins.
    fn begin(&self, batch: Option<&Batch<T>>);
    /// The values of a slice, as rows where the sink takes rows.
    fn rows(&self, slice: usize, values: Vec<T>) -> Result<Vec<RecordBatch>>;
}

/// Values as they are, through slots.
impl<T: Send + 'static> Handed<T> for Arc<Slots<T>> {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn begin(&self, batch: Option<&Batch<T>>) {
        Slots::begin(self, batch);
    }

    fn rows(&self, slice: usize, values: Vec<T>) -> Result<Vec<RecordBatch>> {
        self.put(slice, values);
        Ok(Vec::new())
    }
}

/// Computes a stream for an output.
pub(crate) struct StreamJob<T> {
    graph: Arc<Graph>,
    stream: Arc<Stream>,
    compute: Compute<T>,
    settings: OutputSettings,
    handed: Arc<dyn Handed<T>>,
}

impl<T> Debug for StreamJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamJob")
            .field("output", &self.settings.name)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> StreamJob<T> {
    pub(crate) fn new(stream: DStream<T>, settings: OutputSettings, handed: Arc<dyn Handed<T>>) -> Self {
        Self {
            graph: stream.graph,
            stream: stream.stream,
            compute: stream.compute,
            settings,
            handed,
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Job for StreamJob<T> {
    fn schema(&self) -> SchemaRef {
        self.handed.schema()
    }

    fn ordered(&self) -> bool {
        self.stream.in_order
    }

    fn operators(&self) -> Vec<OperatorSpec> {
        self.stream.operators()
    }

    fn for_batch(&self, plan: &BatchPlan, before: &StateReaders) -> Result<Arc<dyn BatchRun>> {
        let settings = &self.settings;
        let scope = Arc::new(Scope::new(
            plan,
            settings.interval,
            before.clone(),
            settings.held_bytes_max,
        ));
        if let Ok(runtime) = Handle::try_current() {
            self.graph.remembered().begin(Planned {
                plan: Arc::clone(scope.plan()),
                held_bytes_max: settings.held_bytes_max,
                runtime,
            });
        }
        let run = StreamRun {
            graph: Arc::clone(&self.graph),
            batch: guarded_call(|| (self.compute)(&scope))?,
            scope,
            handed: Arc::clone(&self.handed),
        };
        self.handed.begin(run.batch.as_ref());
        Ok(Arc::new(run))
    }

    async fn yields_without_input(&self) -> Result<bool> {
        Ok(true)
    }
}

struct StreamRun<T> {
    graph: Arc<Graph>,
    scope: Arc<Scope>,
    batch: Option<Batch<T>>,
    handed: Arc<dyn Handed<T>>,
}

impl<T> Debug for StreamRun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRun")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl<T> Drop for StreamRun<T> {
    fn drop(&mut self) {
        self.scope.release();
        self.graph.ended(self.scope.time_ms());
    }
}

#[async_trait]
impl<T: Send + 'static> BatchRun for StreamRun<T> {
    fn slices(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.slices.count())
    }

    fn exchanges(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.slices.exchanges())
    }

    fn is_due(&self) -> bool {
        self.batch.is_some()
    }

    fn execute(&self, slice: usize) -> Result<SliceRows> {
        let batch = self
            .batch
            .clone()
            .ok_or_else(|| Error::new(Kind::Bug, "a slice of a batch that is not there"))?;
        let handed = Arc::clone(&self.handed);
        let rows = async move {
            let mut values = Vec::new();
            guarded(batch.slices.run(slice, &mut |value| values.push(value))).await?;
            handed.rows(slice, values)
        };
        let rows = futures::stream::once(rows).flat_map(|rows| {
            let each: Vec<Result<RecordBatch>> = match rows {
                Ok(rows) => rows.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(each)
        });
        Ok(rows.boxed())
    }

    async fn finish(&self) -> Result<Finished> {
        self.scope.finish().await
    }
}
