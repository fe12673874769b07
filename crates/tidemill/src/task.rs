//! What a callback is told of the batch and the slice it runs for.

use std::fmt;

use tidemill_core::RangePlan;

/// Half-open interval of offsets of one partition.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let words = Input::of([["a", "b"]]);
/// # let run = harness.start(|context| {
/// words.stream(context).foreach_batch(|words, batch| {
///     let records: i64 = batch.ranges.iter().map(|range| range.until - range.from).sum();
///     assert_eq!(records, 2);
///     assert_eq!(words.len(), 2);
/// });
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
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
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let words = Input::of([["a"]]);
/// # let run = harness.start(|context| {
/// words.stream(context).foreach_batch(|_words, batch| {
///     assert_eq!((batch.batch_id, batch.batch_time_ms, batch.attempt), (1, 1_000, 0));
/// });
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
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
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([["a"]]);
    /// # let (send, sent) = std::sync::mpsc::sync_channel(1);
    /// # let run = harness.start(|context| {
    /// words.stream(context).foreach_batch(move |_words, batch| send.send(batch.unique_id()));
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(sent.try_recv(), Ok("harness/output-000/1".to_owned()));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn unique_id(&self) -> String {
        format!("{}/{}/{}", self.app, self.output, self.batch_id)
    }
}

/// The slice a callback runs for. The same in every run of the batch, but for `attempt`.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let words = Input::of([["a", "b"]]);
/// # let run = harness.start(|context| {
/// words.stream(context).foreach_partition(|_words, task| {
///     assert_eq!(task.partition, i32::try_from(task.slice).ok());
/// });
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
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
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([['a']]);
    /// # let (send, sent) = std::sync::mpsc::sync_channel(1);
    /// # let run = harness.start(|context| {
    /// let one = words.stream(context).repartition(1);
    /// one.foreach_partition(move |_words, task| send.send(task.unique_id()));
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(sent.try_recv(), Ok("harness/output-000/1/0".to_owned()));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
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
