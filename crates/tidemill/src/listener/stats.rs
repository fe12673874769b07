//! Logs how long the last batches took.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidemill_engine::driver::BatchInfo;

use super::StreamingListener;
use crate::shown::short_duration;

/// The parts of the sorted values that are told, in percent.
const PERCENTS: [usize; 7] = [0, 5, 25, 50, 75, 95, 100];

/// Logs the spread of total delay and processing time over the last batches, after each.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let words = Input::of([["a"]]);
/// # let run = harness.start(|context| {
/// context.add_listener(tidemill::StatsReportListener::over(10));
/// words.stream(context).print(1);
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug)]
pub struct StatsReportListener {
    batches_max: usize,
    /// Total and processing delay of each, the oldest first. A leaf lock.
    last: Mutex<VecDeque<(Duration, Duration)>>,
}

impl StatsReportListener {
    /// Over so many batches, one at least.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([["a"]]);
    /// # let run = harness.start(|context| {
    /// context.add_listener(tidemill::StatsReportListener::over(1));
    /// words.stream(context).print(1);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn over(batches: usize) -> Self {
        Self {
            batches_max: batches.max(1),
            last: Mutex::default(),
        }
    }

    /// Notes a batch; gives the number of batches, and the spreads of their total and processing delays.
    fn noted(&self, batch: &BatchInfo) -> Option<(usize, String, String)> {
        let delays = (batch.total_delay()?, batch.processing_delay()?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(delays);
        if last.len() > self.batches_max {
            last.pop_front();
        }
        let total = spread(last.iter().map(|(total, _)| *total).collect());
        let processing = spread(last.iter().map(|(_, processing)| *processing).collect());
        Some((last.len(), total, processing))
    }
}

/// Over ten batches.
impl Default for StatsReportListener {
    fn default() -> Self {
        Self::over(10)
    }
}

impl StreamingListener for StatsReportListener {
    fn batch_completed(&self, batch: &BatchInfo) {
        if let Some((batches, total_delay, processing_time)) = self.noted(batch) {
            tracing::info!(batches, total_delay, processing_time, "delays of the last batches");
        }
    }
}

fn spread(mut values: Vec<Duration>) -> String {
    values.sort();
    let at = |percent: usize| values[(percent * values.len() / 100).min(values.len() - 1)];
    let parts = PERCENTS.map(|percent| format!("{percent}%: {}", short_duration(at(percent))));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn batch(processing_ms: i64) -> BatchInfo {
        BatchInfo {
            batch_id: 1,
            batch_time_ms: 1_000,
            inputs: BTreeMap::new(),
            submitted_ms: 0,
            started_ms: Some(10),
            ended_ms: Some(10 + processing_ms),
            outputs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_spread_of_the_last_batches_is_told() {
        let stats = StatsReportListener::over(4);
        let mut told = None;
        for processing_ms in [9_000, 40, 10, 30, 20] {
            told = stats.noted(&batch(processing_ms));
        }
        let processing = "0%: 10 ms, 5%: 10 ms, 25%: 20 ms, 50%: 30 ms, 75%: 40 ms, 95%: 40 ms, 100%: 40 ms";
        let total = "0%: 20 ms, 5%: 20 ms, 25%: 30 ms, 50%: 40 ms, 75%: 50 ms, 95%: 50 ms, 100%: 50 ms";
        assert_eq!(told, Some((4, total.to_owned(), processing.to_owned())));
        let unstarted = BatchInfo {
            started_ms: None,
            ..batch(1)
        };
        assert_eq!(stats.noted(&unstarted), None);
    }
}
