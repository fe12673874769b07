//! What a callback is told of the batch and the slice it runs for.

use std::fmt;

use tidemill_core::RangePlan;

/// Half-open interval of offsets of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// The offset after the last. `until - from` is an upper bound of the number of records.
    pub until: i64,
}

impl OffsetRange {
    pub(crate) fn of(range: &RangePlan) -> Self {
        Self {
            topic: range.partition.topic.clone(),
            partition: range.partition.partition,
            from: range.from,
            until: range.until,
        }
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} [{}, {})", self.topic, self.partition, self.from, self.until)
    }
}

/// The batch a callback runs for. The same in every run of the batch, but for `attempt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchContext {
    /// The application's name.
    pub app: String,
    /// The output's stable id: its number in construction order.
    pub output: String,
    /// Increasing, never used twice.
    pub batch_id: u64,
    /// Milliseconds since 1970 UTC, strictly increasing.
    pub batch_time_ms: i64,
    /// What the batch reads.
    pub ranges: Vec<OffsetRange>,
    /// 0 for the first run in this process.
    pub attempt: u32,
}

impl BatchContext {
    /// Names the batch's effect in this output: store it with the rows to recognise a second run (X29).
    pub fn unique_id(&self) -> String {
        format!("{}/{}/{}", self.app, self.output, self.batch_id)
    }
}

/// The slice a callback runs for. The same in every run of the batch, but for `attempt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskContext {
    /// The application's name.
    pub app: String,
    /// The output's stable id: its number in construction order.
    pub output: String,
    /// Increasing, never used twice.
    pub batch_id: u64,
    /// Milliseconds since 1970 UTC, strictly increasing.
    pub batch_time_ms: i64,
    /// The slice's number in the batch.
    pub slice: usize,
    /// The Kafka partition, where the slice is part of one: no exchange of rows lies between.
    pub partition: Option<i32>,
    /// What the slice reads, where it is one range.
    pub range: Option<OffsetRange>,
    /// 0 for the first run in this process.
    pub attempt: u32,
}

impl TaskContext {
    pub(crate) fn new(batch: &BatchContext, slice: usize, range: Option<OffsetRange>) -> Self {
        Self {
            app: batch.app.clone(),
            output: batch.output.clone(),
            batch_id: batch.batch_id,
            batch_time_ms: batch.batch_time_ms,
            slice,
            partition: range.as_ref().map(|range| range.partition),
            range,
            attempt: batch.attempt,
        }
    }

    /// Names the slice's effect in this output: app, output, batch, and `topic/partition/from`, or the slice's number where
    /// an exchange of rows lies between (X29). The same on every machine and in every run, so that storing it with the rows makes
    /// the effect exactly once.
    pub fn unique_id(&self) -> String {
        let batch = format!("{}/{}/{}", self.app, self.output, self.batch_id);
        match &self.range {
            Some(range) => format!("{batch}/{}/{}/{}", range.topic, range.partition, range.from),
            None => format!("{batch}/{}", self.slice),
        }
    }

    /// The slice in messages.
    pub(crate) fn what(&self) -> String {
        match &self.range {
            Some(range) => range.to_string(),
            None => format!("slice {}", self.slice),
        }
    }
}
