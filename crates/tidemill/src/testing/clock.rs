//! A clock that is moved by hand.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_engine::time::Clock;
use tokio::sync::oneshot;

/// A program in which nothing happens for so long, and which waits for no time, hangs.
const STILL_MAX: Duration = Duration::from_secs(60);

/// Time as somebody sets it, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct ManualClock {
    // A leaf lock, held to look and to move.
    state: Mutex<Moment>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Moment {
    now_ms: i64,
    next_sleeper: u64,
    sleepers: BTreeMap<(i64, u64), oneshot::Sender<()>>,
}

impl ManualClock {
    fn lock(&self) -> MutexGuard<'_, Moment> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the time on, and wakes whoever waited for it.
    pub(super) fn move_to(&self, now_ms: i64) {
        let mut moment = self.lock();
        moment.now_ms = moment.now_ms.max(now_ms);
        let later = moment.sleepers.split_off(&(now_ms + 1, 0));
        for (_, sleeper) in std::mem::replace(&mut moment.sleepers, later) {
            // Who has stopped waiting needs no waking.
            let _gone = sleeper.send(());
        }
        self.changed.notify_all();
    }

    /// Tells that something happened which who waits for idleness should look at.
    pub(super) fn nudge(&self) {
        let _moment = self.lock();
        self.changed.notify_all();
    }

    /// Waits until `done` gives something. It is asked after every change, with the time that the first sleeper waits for.
    pub(super) fn wait_until<R>(&self, mut done: impl FnMut(Option<i64>) -> Option<R>) -> R {
        let mut moment = self.lock();
        loop {
            moment.sleepers.retain(|_, sleeper| !sleeper.is_closed());
            let first = moment.sleepers.keys().next().map(|(deadline, _)| *deadline);
            if let Some(result) = done(first) {
                return result;
            }
            let waited = self.changed.wait_timeout(moment, STILL_MAX);
            let (next, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            assert!(
                !timed_out.timed_out(),
                "the program neither ends nor waits for a time, and nothing happened for {STILL_MAX:?}"
            );
            moment = next;
        }
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.lock().now_ms
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.now_ms()).unwrap_or(0))
    }

    async fn sleep(&self, time: Duration) {
        let woken = {
            let mut moment = self.lock();
            let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1);
            let (send, woken) = oneshot::channel();
            let key = (moment.now_ms.saturating_add(millis), moment.next_sleeper);
            moment.next_sleeper += 1;
            moment.sleepers.insert(key, send);
            self.changed.notify_all();
            woken
        };
        // The clock outlives who waits on it.
        let _woken = woken.await;
    }
}
