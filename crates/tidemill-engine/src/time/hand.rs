//! A clock that is moved by hand.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Clock;

/// Time as it is set. Who waits goes on when it has come.
#[derive(Debug)]
pub(crate) struct HandClock {
    now_ms: watch::Sender<u64>,
}

impl HandClock {
    /// A clock that shows so many milliseconds since 1970.
    pub(crate) fn at(now_ms: u64) -> Self {
        Self {
            now_ms: watch::Sender::new(now_ms),
        }
    }

    /// Moves the time on.
    pub(crate) fn advance(&self, millis: u64) {
        self.now_ms.send_modify(|now| *now += millis);
    }
}

#[async_trait]
impl Clock for HandClock {
    fn now_ms(&self) -> i64 {
        i64::try_from(*self.now_ms.borrow()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(*self.now_ms.borrow())
    }

    async fn sleep(&self, time: Duration) {
        let until = self.elapsed() + time;
        let mut now = self.now_ms.subscribe();
        now.wait_for(|now| Duration::from_millis(*now) >= until).await.unwrap();
    }
}
