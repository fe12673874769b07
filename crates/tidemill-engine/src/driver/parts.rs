//! What a driver is made of: sources, outputs and the loop's settings.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::loss::OnOutOfRange;
use tidemill_core::plan::TableIdentity;
use tidemill_core::rate::{PartitionBound, PidSettings};
use tidemill_core::start::{OnNewPartition, StartPolicy};
use tidemill_core::ways_out::WaysOut;

use crate::job::Job;
use crate::sink::Sink;
use crate::source::Source;
use crate::state::StateSettings;

/// What the driver needs to know of one source beside reading it.
#[derive(Debug)]
pub struct DriverSource {
    /// The source's name in the pipeline.
    pub name: String,
    /// Where its records are.
    pub source: Arc<dyn Source>,
    /// Where it begins on the first start.
    pub start: StartPolicy,
    /// Where it begins in partitions that it meets later.
    pub on_new_partition: OnNewPartition,
    /// What happens where offsets are gone before they were read.
    pub on_out_of_range: OnOutOfRange,
    /// What each of its partitions gives at most, and at least.
    pub bound: PartitionBound,
    /// Records per second of all partitions while back-pressure has no estimate yet, `None` = no bound.
    pub initial_rate: Option<u64>,
    /// Bytes of one batch.
    pub batch_bytes_max: u64,
}

/// One output: what it computes and where the rows go.
#[derive(Debug)]
pub struct Output {
    /// The sink's name in the pipeline.
    pub name: String,
    /// What it computes.
    pub job: Box<dyn Job>,
    /// The sink.
    pub sink: Box<dyn Sink>,
    /// True where its rows are the dead letters of a source (X17).
    pub dead_letters: bool,
    /// Hash of what it is given, without its name: tells a changed query.
    pub query_hash: String,
    /// The same sink under the name that the file has now, where `name` is the one before a rename.
    pub successor: Option<Successor>,
}

/// A sink that was renamed: the recovery runs under the old name, everything after it under this one (X9).
#[derive(Debug)]
pub struct Successor {
    /// The new name.
    pub name: String,
    /// The sink of that name.
    pub sink: Box<dyn Sink>,
}

/// Dead letters first, then by name (X15).
pub(super) fn into_commit_order(outputs: &mut [Output]) {
    outputs.sort_by(|a, b| (!a.dead_letters, &a.name).cmp(&(!b.dead_letters, &b.name)));
}

/// When batches begin, and which time they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickPolicy {
    /// At multiples of the interval, the first one at once; ticks that are overdue become one batch, and a batch without data is
    /// left out where no row can come of it. The time is the clock's, but that of its end where a window comes to its end.
    Merged,
    /// Every multiple of the interval is a batch of that time, with or without data, down time included.
    Every,
}

/// Settings of the loop.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// The application's name.
    pub app: String,
    /// Time between batches.
    pub interval: Duration,
    /// How long a drain may take before the process gives the batch up; it is then run again at the next start.
    pub drain_timeout: Duration,
    /// Parameters of back-pressure, `None` = off. It is off too where the loop runs until it is caught up: without ticks
    /// there is nothing to keep up with.
    pub backpressure: Option<PidSettings>,
    /// Slices after a shuffle.
    pub reduce_slices: usize,
    /// Hash of what the pipeline computes.
    pub pipeline_hash: String,
    /// Reference tables as they were read.
    pub tables: Vec<TableIdentity>,
    /// When batches begin.
    pub ticks: TickPolicy,
    /// Take the end offsets at start, process to them without waiting for ticks, and end.
    pub until_caught_up: bool,
    /// What a person ordered for this start.
    pub ways_out: WaysOut,
    /// Where the stateful operators keep what they need between batches; `None` where no output has any.
    pub state: Option<StateSettings>,
}
