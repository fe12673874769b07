//! How long the driver goes on trying what may pass by itself: for ever, until it is told to stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::Driver;
use crate::time::Clock;

const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_LAST: Duration = Duration::from_secs(10);

/// Waits between attempts that double from 200 ms to 10 s. Once the stop signal is up, all of the driver's waits together
/// last no longer than `drain_timeout`.
#[derive(Debug)]
pub(super) struct Patience {
    clock: Arc<dyn Clock>,
    stop: watch::Receiver<bool>,
    drain_timeout: Duration,
    drain_since: Arc<OnceLock<Duration>>,
    wait: Duration,
}

impl Driver {
    /// Patience for one thing to do.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            clock: Arc::clone(&self.clock),
            stop: self.stop.clone(),
            drain_timeout: self.settings.drain_timeout,
            drain_since: Arc::clone(&self.drain_since),
            wait: WAIT_FIRST,
        }
    }
}

impl Patience {
    /// The longest that the next wait may be.
    pub(super) fn next(&self) -> Duration {
        self.wait
    }

    /// Waits before the next attempt, and no longer than until the stop signal. False where the time for draining is over.
    pub(super) async fn wait(&mut self) -> bool {
        let wait = self.wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.wait = (self.wait * 2).min(WAIT_LAST);
        if *self.stop.borrow() {
            let since = *self.drain_since.get_or_init(|| self.clock.elapsed());
            let left = (since + self.drain_timeout).saturating_sub(self.clock.elapsed());
            if left.is_zero() {
                return false;
            }
            self.clock.sleep(wait.min(left)).await;
            return true;
        }
        let stopped = async {
            if self.stop.wait_for(|stop| *stop).await.is_err() {
                // Nobody is left to stop the driver.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.clock.sleep(wait) => {}
            () = stopped => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    fn patience(stop: watch::Receiver<bool>, drain_timeout: Duration) -> Patience {
        Patience {
            clock: Arc::new(SystemClock::default()),
            stop,
            drain_timeout,
            drain_since: Arc::default(),
            wait: WAIT_FIRST,
        }
    }

    #[tokio::test]
    async fn waits_grow_and_end_with_the_time_for_draining() {
        let (stop, stopped) = watch::channel(false);
        let mut patience = patience(stopped, Duration::from_millis(1));
        assert!(patience.wait().await);
        assert_eq!(patience.next(), WAIT_FIRST * 2);
        stop.send_replace(true);
        assert!(patience.wait().await);
        assert!(!patience.wait().await);
    }

    #[tokio::test]
    async fn the_stop_signal_ends_a_wait() {
        let (stop, stopped) = watch::channel(false);
        let mut patience = patience(stopped, Duration::ZERO);
        patience.wait = WAIT_LAST;
        let waited = tokio::join!(patience.wait(), async { stop.send_replace(true) });
        assert!(waited.0);
        assert!(!patience.wait().await);
    }
}
