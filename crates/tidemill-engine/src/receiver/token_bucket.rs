//! A smooth limit: so many tokens per second, and those of one idle second may be taken at once.

use std::time::Duration;

/// Tokens of one kind. Who takes more than there are goes on at once, and the next one waits for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TokenBucket {
    /// Per second; `None`: no limit.
    rate: Option<u64>,
    /// Below zero: what was taken in advance.
    tokens: f64,
    filled: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "rates")]
impl TokenBucket {
    pub(super) fn new(rate: Option<u64>, now: Duration) -> Self {
        Self {
            rate,
            tokens: 0.0,
            filled: now,
        }
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Another rate from now on. What is owed stays owed, and is paid at this rate.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Duration) {
        self.fill(now);
        self.rate = rate;
        self.fill(now);
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        self.tokens = match self.rate {
            Some(rate) => (self.tokens + passed.as_secs_f64() * rate as f64).min(rate as f64),
            None => 0.0,
        };
    }

    /// How long to wait until anything may be taken.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        match self.rate {
            Some(rate) if self.tokens < 0.0 => Duration::from_secs_f64(-self.tokens / rate as f64),
            _ => Duration::ZERO,
        }
    }

    /// Takes tokens, whether they are there or not.
    pub(super) fn take(&mut self, count: u64) {
        if self.rate.is_some() {
            self.tokens -= count as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn who_comes_after_waits_for_what_was_taken() {
        let mut bucket = TokenBucket::new(Some(100), ms(0));
        assert_eq!(bucket.wait(ms(0)), ms(0));
        bucket.take(50);
        assert_eq!(bucket.wait(ms(0)), ms(500));
        assert_eq!(bucket.wait(ms(300)), ms(200));
        assert_eq!(bucket.wait(ms(500)), ms(0));
    }

    #[test]
    fn one_idle_second_may_be_taken_at_once_and_no_more() {
        let mut bucket = TokenBucket::new(Some(100), ms(0));
        assert_eq!(bucket.wait(ms(60_000)), ms(0));
        bucket.take(100);
        assert_eq!(bucket.wait(ms(60_000)), ms(0));
        bucket.take(1);
        assert_eq!(bucket.wait(ms(60_000)), ms(10));
    }

    #[test]
    fn another_rate_counts_from_now() {
        let mut bucket = TokenBucket::new(Some(10), ms(0));
        bucket.take(10);
        bucket.set_rate(Some(1_000), ms(500));
        assert_eq!(bucket.wait(ms(500)), ms(5));
        bucket.set_rate(None, ms(500));
        assert_eq!(bucket.wait(ms(500)), ms(0));
    }
}
