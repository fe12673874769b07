//! What happens, told to whoever listens.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use tidemill_core::plan::{BatchId, BatchPlan};

/// Hears of what happens, on the driver's own thread: it must not block.
pub trait Listener: Debug + Send + Sync {
    /// Something happened.
    fn hear(&self, event: Event);
}

/// Something that happened. Per batch in this order: submitted, started, each output started and completed, completed. An output
/// whose closure fails does not keep those after it from being run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The application has recovered and goes on.
    Started {
        /// When, in milliseconds since 1970 UTC.
        at_ms: i64,
    },
    /// A batch is planned.
    BatchSubmitted(BatchInfo),
    /// Its first output is about to run.
    BatchStarted(BatchInfo),
    /// An output is about to run.
    OutputStarted(OutputInfo),
    /// An output was committed, or failed.
    OutputCompleted(OutputInfo),
    /// All outputs ended, or one failed for good.
    BatchCompleted(BatchInfo),
}

/// A batch as it stands when an event tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInfo {
    /// The batch.
    pub batch_id: BatchId,
    /// Its time in milliseconds since 1970 UTC.
    pub batch_time_ms: i64,
    /// Offsets that it reads of each source: at least its records.
    pub inputs: BTreeMap<String, u64>,
    /// When it was planned, in milliseconds since 1970 UTC.
    pub submitted_ms: i64,
    /// When its first output began.
    pub started_ms: Option<i64>,
    /// When its last output ended.
    pub ended_ms: Option<i64>,
    /// Its outputs, as far as they began, by name.
    pub outputs: BTreeMap<String, OutputInfo>,
}

impl BatchInfo {
    pub(super) fn of(plan: &BatchPlan, now_ms: i64) -> Self {
        let mut inputs = BTreeMap::new();
        for range in &plan.ranges {
            *inputs.entry(range.source.clone()).or_default() += range.offsets();
        }
        Self {
            batch_id: plan.batch_id,
            batch_time_ms: plan.batch_time_ms,
            inputs,
            submitted_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            outputs: BTreeMap::new(),
        }
    }

    /// From submission to the start of the first output.
    pub fn scheduling_delay(&self) -> Option<Duration> {
        between(self.submitted_ms, self.started_ms?)
    }

    /// From the start of the first output to the end of the last.
    pub fn processing_delay(&self) -> Option<Duration> {
        between(self.started_ms?, self.ended_ms?)
    }

    /// From submission to the end.
    pub fn total_delay(&self) -> Option<Duration> {
        Some(self.scheduling_delay()? + self.processing_delay()?)
    }

    /// Offsets that it reads of all sources.
    pub fn records(&self) -> u64 {
        self.inputs.values().sum()
    }
}

fn between(from_ms: i64, to_ms: i64) -> Option<Duration> {
    Some(Duration::from_millis(u64::try_from(to_ms - from_ms).unwrap_or(0)))
}

/// One output of a batch as it stands when an event tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputInfo {
    /// The batch's time in milliseconds since 1970 UTC.
    pub batch_time_ms: i64,
    /// Its number in construction order.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// When it began, in milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// Why it failed, where it did.
    pub failure: Option<String>,
}
