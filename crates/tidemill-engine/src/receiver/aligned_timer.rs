//! Ticks at multiples of an interval.

use std::time::Duration;

use crate::time::Clock;

/// When blocks are cut: at multiples of the interval, strictly after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlignedTimer {
    interval_ms: i64,
    next_ms: i64,
}

impl AlignedTimer {
    pub(super) fn starting(interval: Duration, now_ms: i64) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        Self {
            interval_ms,
            next_ms: after(now_ms, interval_ms),
        }
    }

    /// The begin of the interval that ends with the next tick.
    pub(super) fn begun_ms(&self) -> i64 {
        self.next_ms.saturating_sub(self.interval_ms)
    }

    /// Waits for the next tick.
    pub(super) async fn wait(&self, clock: &dyn Clock) {
        let left = self.next_ms.saturating_sub(clock.now_ms());
        if let Ok(left) = u64::try_from(left)
            && left > 0
        {
            clock.sleep(Duration::from_millis(left)).await;
        }
    }

    /// Goes on from the tick that has come. Those that have passed meanwhile are one with it: a block that waited for room in the queue
    /// is not followed by one per tick.
    pub(super) fn take(&mut self, now_ms: i64) {
        self.next_ms = after(now_ms.max(self.next_ms), self.interval_ms);
    }
}

/// The first multiple after a moment.
fn after(now_ms: i64, interval_ms: i64) -> i64 {
    (now_ms - now_ms.rem_euclid(interval_ms)).saturating_add(interval_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TIME-06, for blocks.
    #[test]
    fn ticks_are_multiples_after_the_start() {
        for (now, first) in [(1_234, 1_500), (1_500, 2_000)] {
            let timer = AlignedTimer::starting(Duration::from_millis(500), now);
            assert_eq!((timer.next_ms, timer.begun_ms()), (first, first - 500), "from {now}");
        }
    }

    #[test]
    fn ticks_that_were_missed_become_one() {
        let mut timer = AlignedTimer::starting(Duration::from_millis(10), 0);
        timer.take(10);
        assert_eq!(timer.next_ms, 20);
        timer.take(57);
        assert_eq!(timer.next_ms, 60);
    }
}
