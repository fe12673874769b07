//! When batches begin: at multiples of the interval.

use std::time::Duration;

use super::TickPolicy;
use crate::time::Clock;

/// The ticks of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    policy: TickPolicy,
    interval: Duration,
    /// In time since the clock began; of merged ticks only.
    next: Duration,
}

/// How far the next tick is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Until {
    pub(super) wait: Duration,
    pub(super) late: Duration,
}

impl Ticks {
    /// Ticks from `first` on.
    pub(super) fn new(policy: TickPolicy, interval: Duration, first: Duration) -> Self {
        Self {
            policy,
            interval,
            next: first,
        }
    }

    /// How far the tick after the batch of `last_ms` is.
    pub(super) fn until(self, clock: &dyn Clock, last_ms: i64) -> Until {
        match self.policy {
            TickPolicy::Merged => Until {
                wait: self.next.saturating_sub(clock.elapsed()),
                late: clock.elapsed().saturating_sub(self.next),
            },
            TickPolicy::Every => {
                let next = last_ms.saturating_add(super::millis(self.interval));
                let between = |from: i64, to: i64| Duration::from_millis(u64::try_from(to - from).unwrap_or(0));
                let now = clock.now_ms();
                Until {
                    wait: between(now, next),
                    late: between(next, now),
                }
            }
        }
    }

    /// Takes the tick that has come. The next one stays a multiple, so that a batch that was late does not delay all that
    /// follow; merged ticks that are overdue by a whole interval become one with it.
    pub(super) fn take(&mut self, now: Duration) {
        let late = now.saturating_sub(self.next);
        let missed = late.as_nanos() / self.interval.as_nanos().max(1);
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.next += self.interval.saturating_mul(steps);
    }
}

/// The multiple of the interval at or before `now_ms`: where batch times are counted from, so that the first batch comes after it.
pub(super) fn zero(now_ms: i64, interval: Duration) -> i64 {
    now_ms - now_ms.rem_euclid(super::millis(interval).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn next_after(now: u64) -> Duration {
        let mut ticks = Ticks::new(TickPolicy::Merged, ms(5), ms(100));
        ticks.take(ms(now));
        ticks.next
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

    /// TIME-06: the first tick comes strictly after the start.
    #[test]
    fn times_are_counted_from_the_multiple_before_the_start() {
        assert_eq!(zero(1234, ms(500)), 1000);
        assert_eq!(zero(1500, ms(500)), 1500);
    }
}
