//! How long the driver goes on trying what may pass by itself: for ever, until it is told to stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::time::Clock;

const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_LAST: Duration = Duration::from_secs(10);

/// Waits between attempts that double from 200 ms to 10 s. Once the stop signal is up, all of the driver's waits together
/// last no longer than `drain_timeout`.
#[derive(Debug)]
pub(super) struct Patience {
    waiting: Waiting,
    wait: Duration,
}

/// What all waits of one driver share.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    clock: Arc<dyn Clock>,
    stop: watch::Receiver<bool>,
    drain_timeout: Duration,
    /// When something that must be tried again first met the stop signal.
    drain_since: Arc<OnceLock<Duration>>,
}

impl Waiting {
    /// Waits on this clock, ended by the stop signal and the time for draining after it.
    pub(super) fn on(clock: Arc<dyn Clock>, stop: watch::Receiver<bool>, drain_timeout: Duration) -> Self {
        Self {
            clock,
            stop,
            drain_timeout,
            drain_since: Arc::default(),
        }
    }

    /// Patience for one thing to do.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            waiting: self.clone(),
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
        let Waiting {
            clock,
            stop,
            drain_timeout,
            drain_since,
        } = &mut self.waiting;
        if *stop.borrow() {
            let since = *drain_since.get_or_init(|| clock.elapsed());
            let left = (since + *drain_timeout).saturating_sub(clock.elapsed());
            if left.is_zero() {
                return false;
            }
            clock.sleep(wait.min(left)).await;
            return true;
        }
        let stopped = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                // Nobody is left to stop the driver.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = clock.sleep(wait) => {}
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
        Waiting::on(Arc::new(SystemClock::default()), stop, drain_timeout).patience()
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
