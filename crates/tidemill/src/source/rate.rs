//! Numbers by a rate.

use std::sync::Arc;

use tidemill_engine::error::Result;
use tidemill_engine::source::Source;
use tidemill_engine::time::Clock;

use super::Opens;
use super::memory::{MemorySource, Reach};

/// How many numbers come for [`StreamingContext::rate_stream`](crate::StreamingContext::rate_stream).
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// # let kept = Output::default();
/// # let run = harness.start(|context| {
/// context.rate_stream(tidemill::Rate::per_second(2)).foreach_batch(kept.keep());
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// assert_eq!(kept.at(1_000), [0, 1]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    slices: u64,
    total: Option<u64>,
}

impl Rate {
    /// So many numbers per second, from the start of the process on. A program that goes on from a checkpoint counts on where it was.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let rate = tidemill::Rate::per_second(2);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// context.rate_stream(rate).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [[0, 1]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn per_second(numbers: u64) -> Self {
        Self {
            per_second: numbers,
            slices: 1,
            total: None,
        }
    }

    /// The numbers below `total`, all there from the beginning.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let rate = tidemill::Rate::at_once(3);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// context.rate_stream(rate).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(0).concat().len() + kept.at(1_000).concat().len(), 3);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn at_once(total: u64) -> Self {
        Self {
            per_second: 0,
            slices: 1,
            total: Some(total),
        }
    }

    /// Deals the numbers out over so many slices. Default = 1.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let rate = tidemill::Rate::per_second(4).in_slices(2);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// context.rate_stream(rate).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [[0, 2], [1, 3]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn in_slices(mut self, slices: u32) -> Self {
        self.slices = u64::from(slices.max(1));
        self
    }

    pub(crate) fn slices(self) -> u64 {
        self.slices
    }

    pub(crate) fn opens(self, clock: Arc<dyn Clock>) -> RateOpens {
        RateOpens { rate: self, clock }
    }
}

/// Opens a rate on a clock.
#[derive(Debug)]
pub(crate) struct RateOpens {
    rate: Rate,
    clock: Arc<dyn Clock>,
}

impl Opens for RateOpens {
    fn open(&self, _app: &str) -> Result<Arc<dyn Source>> {
        let reach = RateReach {
            rate: self.rate,
            begun_ms: u64::try_from(self.clock.now_ms()).unwrap_or(0),
            clock: Arc::clone(&self.clock),
        };
        Ok(Arc::new(MemorySource::new("rate", Arc::new(reach))))
    }
}

struct RateReach {
    rate: Rate,
    begun_ms: u64,
    clock: Arc<dyn Clock>,
}

impl Reach for RateReach {
    fn ends(&self) -> Vec<i64> {
        let Rate {
            per_second,
            slices,
            total,
        } = self.rate;
        let passed = u64::try_from(self.clock.now_ms())
            .unwrap_or(0)
            .saturating_sub(self.begun_ms);
        let come = total.unwrap_or(passed.saturating_mul(per_second) / 1_000);
        let of_slice = |slice: u64| (come + slices - 1 - slice) / slices;
        (0..slices)
            .map(|slice| i64::try_from(of_slice(slice)).unwrap_or(i64::MAX))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Harness, Output};
    use std::time::Duration;

    #[test]
    fn numbers_come_by_their_rate_each_once_in_whichever_slice() {
        let harness = Harness::new(Duration::from_secs(1));
        let output = Output::sorted();
        let run = harness
            .start(|context| {
                context
                    .rate_stream(Rate::per_second(5).in_slices(2))
                    .foreach_batch(output.keep());
                Ok(())
            })
            .unwrap();
        run.batches(2).unwrap();
        assert_eq!(output.batches(), [vec![0, 1, 2, 3, 4], vec![5, 6, 7, 8, 9]]);
    }
}
