//! How much a receiver may take in per second.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::token_bucket::TokenBucket;
use crate::time::Clock;

/// What a receiver may take in.
///
/// Spark calls a maximum of 0 or less no limit, and then fails on it; here it is no limit (`NonZeroU64::new(0)` is none).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Records per second, which no update goes beyond. Default: no limit.
    pub records_per_s_max: Option<NonZeroU64>,
    /// Records per second until the first update, with or without back-pressure. Default: `records_per_s_max`.
    pub records_per_s_initial: Option<NonZeroU64>,
    /// Bytes per second. Default: no limit.
    pub bytes_per_s_max: Option<NonZeroU64>,
}

/// Limits records and bytes. Many may wait; they go on in the order in which they came.
#[derive(Debug)]
pub struct RateLimiter {
    records_per_s_max: Option<u64>,
    clock: Arc<dyn Clock>,
    // A leaf lock, held to reckon.
    buckets: Mutex<Buckets>,
    /// Held by the one who waits: the others wait behind it.
    turn: tokio::sync::Mutex<()>,
    updated: Notify,
}

#[derive(Debug)]
struct Buckets {
    records: TokenBucket,
    bytes: TokenBucket,
}

impl RateLimiter {
    /// Limits on this clock.
    pub fn new(limits: RateLimits, clock: Arc<dyn Clock>) -> Self {
        let most = limits.records_per_s_max.map(NonZeroU64::get);
        let initial = limits.records_per_s_initial.map(NonZeroU64::get);
        let now = clock.elapsed();
        let buckets = Buckets {
            records: TokenBucket::new(at_most(initial, most), now),
            bytes: TokenBucket::new(limits.bytes_per_s_max.map(NonZeroU64::get), now),
        };
        Self {
            records_per_s_max: most,
            clock,
            buckets: Mutex::new(buckets),
            turn: tokio::sync::Mutex::new(()),
            updated: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records per second now; `None`: no limit.
    pub fn records_per_s(&self) -> Option<u64> {
        self.lock().records.rate()
    }

    /// Takes what an estimator gives, without its fraction and up to the maximum; gives the rate that holds now. A rate below 1
    /// changes nothing. Who waits goes on at the new rate.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates")]
    pub fn update(&self, records_per_s: f64) -> Option<u64> {
        if records_per_s >= 1.0 {
            let rate = at_most(Some(records_per_s as u64), self.records_per_s_max);
            self.lock().records.set_rate(rate, self.clock.elapsed());
            self.updated.notify_one();
        }
        self.records_per_s()
    }

    /// Waits until what was taken before is within the limits, and takes this. Where it is dropped before, nothing was taken.
    pub async fn take(&self, records: u64, bytes: u64) {
        let _turn = self.turn.lock().await;
        while let Some(wait) = self.try_take(records, bytes) {
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = self.updated.notified() => {}
            }
        }
    }

    /// Takes it, or gives how long to wait.
    fn try_take(&self, records: u64, bytes: u64) -> Option<Duration> {
        let now = self.clock.elapsed();
        let mut buckets = self.lock();
        let wait = buckets.records.wait(now).max(buckets.bytes.wait(now));
        if !wait.is_zero() {
            return Some(wait);
        }
        buckets.records.take(records);
        buckets.bytes.take(bytes);
        None
    }
}

/// The smaller of two limits, either of which may be none.
fn at_most(rate: Option<u64>, most: Option<u64>) -> Option<u64> {
    rate.into_iter().chain(most).min()
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;
    use crate::time::hand::HandClock;

    fn limiter(most: u64, initial: u64, bytes: u64) -> (Arc<HandClock>, RateLimiter) {
        let clock = Arc::new(HandClock::at(0));
        let limits = RateLimits {
            records_per_s_max: NonZeroU64::new(most),
            records_per_s_initial: NonZeroU64::new(initial),
            bytes_per_s_max: NonZeroU64::new(bytes),
        };
        let limiter = RateLimiter::new(limits, Arc::clone(&clock) as Arc<dyn Clock>);
        (clock, limiter)
    }

    /// Name, maximum, initial rate, updates, the limit after them.
    type Row = (&'static str, u64, u64, &'static [f64], Option<u64>);

    /// RATE-01, 03, 04, 05 and 09; 0 is no limit.
    #[test]
    fn rate_01_03_04_05_09_what_holds_after_updates() {
        let rows: &[Row] = &[
            ("RATE-01", 0, 0, &[105.0], Some(105)),
            ("RATE-03", 100, 0, &[105.0], Some(100)),
            ("RATE-04", 100, 0, &[0.0, -5.0], Some(100)),
            ("RATE-05", 100, 30, &[], Some(30)),
            ("RATE-09", 0, 0, &[99.9], Some(99)),
            ("no limit", 0, 0, &[], None),
            ("initial beyond the maximum", 100, 300, &[], Some(100)),
            ("not a number", 100, 30, &[f64::NAN], Some(30)),
            ("below one", 100, 30, &[0.9], Some(30)),
        ];
        for (row, most, initial, updates, expected) in rows {
            let (_, limiter) = limiter(*most, *initial, 0);
            for update in *updates {
                assert_eq!(limiter.update(*update), limiter.records_per_s(), "{row}");
            }
            assert_eq!(limiter.records_per_s(), *expected, "{row}");
        }
    }

    #[tokio::test]
    async fn records_and_bytes_are_limited_each() {
        for (records, bytes) in [(10, 1), (1, 1_000)] {
            let (clock, limiter) = limiter(10, 0, 1_000);
            limiter.take(records, bytes).await;
            let next = limiter.take(1, 1);
            tokio::pin!(next);
            assert!(poll!(&mut next).is_pending());
            clock.advance(999);
            assert!(poll!(&mut next).is_pending());
            clock.advance(1);
            assert!(poll!(&mut next).is_ready());
        }
    }

    #[tokio::test]
    async fn they_go_on_in_their_order_and_an_update_helps_who_waits() {
        let (clock, limiter) = limiter(0, 1, 0);
        limiter.take(100, 0).await;
        let (first, second) = (limiter.take(50, 0), limiter.take(1, 0));
        tokio::pin!(first, second);
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        limiter.update(1_000.0);
        assert!(poll!(&mut first).is_pending(), "100 are owed still");
        clock.advance(100);
        assert!(poll!(&mut second).is_pending(), "it came second");
        assert!(poll!(&mut first).is_ready());
        assert!(poll!(&mut second).is_pending());
        clock.advance(50);
        assert!(poll!(&mut second).is_ready());
    }
}
