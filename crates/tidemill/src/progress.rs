//! How far a program has come: what waits, runs and has ended, with what it read.

use std::collections::{BTreeMap, VecDeque};

use tidemill_engine::driver::{BatchInfo, OutputInfo};

/// Outputs that are known beyond those of known batches: an event may come late.
const SPARE_OUTPUTS: usize = 10;

/// The batches of a program by how far they are, from the events of a [`StreamingListener`](crate::StreamingListener). It reads no
/// clock and holds no more than it was told to keep.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// use std::sync::{Arc, Mutex};
/// use tidemill::{BatchInfo, Progress, StreamingListener};
///
/// struct Follow(Arc<Mutex<Progress>>);
///
/// impl StreamingListener for Follow {
///     fn batch_completed(&self, batch: &BatchInfo) {
///         self.0.lock().unwrap().batch_completed(batch);
///     }
/// }
///
/// let progress = Arc::new(Mutex::new(Progress::retaining(100)));
/// # let words = Input::of([["a", "b"]]);
/// # let run = harness.start(|context| {
/// context.add_listener(Follow(Arc::clone(&progress)));
/// # words.stream(context).print(1);
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// run.stop()?;
/// assert_eq!(progress.lock().unwrap().batches_completed(), 1);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Progress {
    retained_max: usize,
    /// By batch time.
    waiting: BTreeMap<i64, BatchInfo>,
    running: BTreeMap<i64, BatchInfo>,
    /// The oldest first.
    completed: VecDeque<BatchInfo>,
    /// Outputs that began, by batch time and number.
    outputs: BTreeMap<i64, BTreeMap<usize, OutputInfo>>,
    batches_completed: u64,
    records_received: u64,
    records_processed: u64,
}

impl Progress {
    /// Keeps the last `retained` completed batches.
    pub fn retaining(retained: usize) -> Self {
        Self {
            retained_max: retained,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            completed: VecDeque::new(),
            outputs: BTreeMap::new(),
            batches_completed: 0,
            records_received: 0,
            records_processed: 0,
        }
    }

    /// A batch is planned.
    pub fn batch_submitted(&mut self, batch: &BatchInfo) {
        self.waiting.insert(batch.batch_time_ms, batch.clone());
    }

    /// A batch begins: its records count as received.
    pub fn batch_started(&mut self, batch: &BatchInfo) {
        self.waiting.remove(&batch.batch_time_ms);
        self.running.insert(batch.batch_time_ms, batch.clone());
        self.records_received += batch.records();
    }

    /// A batch ended: its records count as processed.
    pub fn batch_completed(&mut self, batch: &BatchInfo) {
        self.waiting.remove(&batch.batch_time_ms);
        self.running.remove(&batch.batch_time_ms);
        self.completed.push_back(batch.clone());
        while self.completed.len() > self.retained_max {
            if let Some(oldest) = self.completed.pop_front() {
                self.outputs.remove(&oldest.batch_time_ms);
            }
        }
        self.batches_completed += 1;
        self.records_processed += batch.records();
    }

    /// An output began or ended.
    pub fn output(&mut self, output: &OutputInfo) {
        let of_batch = self.outputs.entry(output.batch_time_ms).or_default();
        of_batch.insert(output.id, output.clone());
        let known = self.waiting.len() + self.running.len() + self.completed.len();
        while self.outputs.len() > known + SPARE_OUTPUTS {
            self.outputs.pop_first();
        }
    }

    /// The outputs of a batch that have begun, by their number.
    pub fn outputs(&self, batch_time_ms: i64) -> impl Iterator<Item = &OutputInfo> {
        self.outputs.get(&batch_time_ms).into_iter().flat_map(BTreeMap::values)
    }

    /// Batches that are planned and have not begun, the oldest first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &BatchInfo> {
        self.waiting.values()
    }

    /// Batches that have begun and not ended, the oldest first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = &BatchInfo> {
        self.running.values()
    }

    /// The last batches that have ended, the oldest first.
    pub fn completed(&self) -> impl ExactSizeIterator<Item = &BatchInfo> {
        self.completed.iter()
    }

    /// Batches that are planned and have not ended.
    pub fn unprocessed_batches(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// All batches that have ended.
    pub fn batches_completed(&self) -> u64 {
        self.batches_completed
    }

    /// Records of all batches that have begun.
    pub fn records_received(&self) -> u64 {
        self.records_received
    }

    /// Records of all batches that have ended.
    pub fn records_processed(&self) -> u64 {
        self.records_processed
    }
}

#[cfg(test)]
impl Progress {
    /// Batches that outputs are known of.
    pub(crate) fn batches_with_outputs(&self) -> usize {
        self.outputs.len()
    }
}
