//! When batches begin: at multiples of the interval.

use std::time::Duration;

/// The ticks of one run, in time since its clock began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    interval: Duration,
    next: Duration,
}

impl Ticks {
    /// Ticks from `first` on.
    pub(super) fn new(interval: Duration, first: Duration) -> Self {
        Self { interval, next: first }
    }

    /// The tick that is to come, or overdue.
    pub(super) fn next(self) -> Duration {
        self.next
    }

    /// Takes the tick that has come. The next one stays a multiple, so that a batch that was late does not delay all that
    /// follow; ticks that are overdue by a whole interval become one with it.
    pub(super) fn take(&mut self, now: Duration) {
        let late = now.saturating_sub(self.next);
        let missed = late.as_nanos() / self.interval.as_nanos().max(1);
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.next += self.interval.saturating_mul(steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn next_after(now: u64) -> Duration {
        let mut ticks = Ticks::new(ms(5), ms(100));
        ticks.take(ms(now));
        ticks.next()
    }

    #[test]
    fn a_late_batch_leaves_the_ticks_after_it_where_they_are() {
        assert_eq!(next_after(100), ms(105));
        assert_eq!(next_after(104), ms(105));
    }

    #[test]
    fn ticks_overdue_by_whole_intervals_become_one() {
        assert_eq!(next_after(105), ms(110));
        assert_eq!(next_after(163), ms(165));
    }
}
