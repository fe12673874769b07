//! What a callback is told of the batch and the slice it runs for.

use std::fmt;

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
    /// The Kafka partition.
    pub partition: i32,
    /// What the slice reads.
    pub range: OffsetRange,
    /// 0 for the first run in this process.
    pub attempt: u32,
}

impl TaskContext {
    /// Names the slice's effect in this output: app, output, batch and `topic/partition/from` (X29). The same on every
    /// machine and in every run, so that storing it with the rows makes the effect exactly once.
    pub fn unique_id(&self) -> String {
        format!(
            "{}/{}/{}/{}/{}/{}",
            self.app, self.output, self.batch_id, self.range.topic, self.range.partition, self.range.from
        )
    }
}
