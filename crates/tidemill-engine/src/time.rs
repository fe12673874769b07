//! The only place that reads a clock or waits for one.

#[cfg(test)]
pub(crate) mod hand;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

/// Time, handed in so that tests and re-runs need no wall clock.
#[async_trait]
pub trait Clock: Debug + Send + Sync {
    /// Milliseconds since 1970 UTC.
    fn now_ms(&self) -> i64;
    /// Monotonic time since some fixed moment, for measuring.
    fn elapsed(&self) -> Duration;
    /// Waits.
    async fn sleep(&self, time: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    begun: std::time::Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn default() -> Self {
        Self {
            begun: std::time::Instant::now(),
        }
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that waits")]
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
