//! Brings events to the listeners, on a thread of its own.

use std::fmt::{self, Debug};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use tidemill_engine::driver::{Event, Listener};
use tidemill_engine::error::{Error, Kind, Result};

use super::StreamingListener;

/// Events that wait at most.
const EVENTS_MAX: usize = 10_000;

type Listeners = Arc<Mutex<Vec<Arc<dyn StreamingListener>>>>;

/// The listeners of a program, and the events that wait for them.
#[derive(Default)]
pub(crate) struct ListenerBus {
    // A leaf lock, held to add and to copy.
    listeners: Listeners,
    /// Nothing before the start and after the end. A leaf lock, held to put an event in and to end it.
    delivery: Mutex<Option<Delivery>>,
    thread: OnceLock<ThreadId>,
    dropped: AtomicU64,
}

struct Delivery {
    events: SyncSender<Event>,
    thread: JoinHandle<()>,
}

impl Debug for ListenerBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerBus")
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ListenerBus {
    pub(crate) fn add(&self, listener: impl StreamingListener) {
        lock(&self.listeners).push(Arc::new(listener));
    }

    /// Begins to deliver.
    pub(crate) fn start(&self) -> Result<()> {
        let (events, waiting) = sync_channel(EVENTS_MAX);
        let listeners = Arc::clone(&self.listeners);
        let thread = std::thread::Builder::new()
            .name("tidemill-listeners".to_owned())
            .spawn(move || deliver(&waiting, &listeners))
            .map_err(|error| Error::with_source(Kind::Refused, "start the listeners' thread", error))?;
        // A program is started once.
        let _first = self.thread.set(thread.thread().id());
        *lock(&self.delivery) = Some(Delivery { events, thread });
        Ok(())
    }

    /// Delivers what waits, and nothing after that.
    pub(crate) fn finish(&self) {
        let Some(Delivery { events, thread }) = lock(&self.delivery).take() else {
            return;
        };
        drop(events);
        if thread.join().is_err() {
            tracing::error!("the listeners' thread panicked");
        }
        let dropped = self.dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "listeners were too slow for some events");
        }
    }

    /// Events that no listener heard of, since too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// True in a listener.
    pub(crate) fn is_delivering_here(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }
}

impl Listener for ListenerBus {
    fn hear(&self, event: Event) {
        let delivery = lock(&self.delivery);
        let Some(delivery) = delivery.as_ref() else {
            return;
        };
        if let Err(TrySendError::Full(_)) = delivery.events.try_send(event)
            && self.dropped.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(waiting = EVENTS_MAX, "listeners are too slow: events are dropped");
        }
    }
}

fn deliver(events: &Receiver<Event>, listeners: &Listeners) {
    for event in events {
        let all = lock(listeners).clone();
        for listener in all {
            let told = std::panic::catch_unwind(AssertUnwindSafe(|| tell(listener.as_ref(), &event)));
            if told.is_err() {
                tracing::error!(?event, "a listener panicked");
            }
        }
    }
}

fn tell(listener: &dyn StreamingListener, event: &Event) {
    match event {
        Event::Started { at_ms } => listener.streaming_started(*at_ms),
        Event::BatchSubmitted(batch) => listener.batch_submitted(batch),
        Event::BatchStarted(batch) => listener.batch_started(batch),
        Event::BatchCompleted(batch) => listener.batch_completed(batch),
        Event::OutputStarted(output) => listener.output_started(output),
        Event::OutputCompleted(output) => listener.output_completed(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Noting {
        heard: SyncSender<i64>,
        /// Answered before each event ends.
        go: Mutex<Receiver<()>>,
    }

    impl StreamingListener for Noting {
        fn streaming_started(&self, at_ms: i64) {
            self.heard.send(at_ms).unwrap();
            // Nobody holds it up any longer.
            let _over = lock(&self.go).recv();
        }
    }

    fn noting() -> (Noting, Receiver<i64>, SyncSender<()>) {
        let (heard, hears) = sync_channel(2 * EVENTS_MAX);
        let (release, go) = sync_channel(0);
        let listener = Noting {
            heard,
            go: Mutex::new(go),
        };
        (listener, hears, release)
    }

    fn started(at_ms: i64) -> Event {
        Event::Started { at_ms }
    }

    #[test]
    fn lis_06_nothing_is_delivered_after_the_end() {
        let (listener, hears, release) = noting();
        drop(release);
        let bus = ListenerBus::default();
        bus.add(listener);
        bus.hear(started(1));
        bus.start().unwrap();
        bus.hear(started(2));
        bus.hear(started(3));
        bus.finish();
        bus.hear(started(4));
        bus.finish();
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn events_beyond_those_that_may_wait_are_dropped_and_counted() {
        let (listener, hears, release) = noting();
        let bus = ListenerBus::default();
        bus.add(listener);
        bus.start().unwrap();
        bus.hear(started(0));
        assert_eq!(hears.recv().unwrap(), 0);
        // The listener holds one; the queue takes as many as may wait.
        let count = i64::try_from(EVENTS_MAX).unwrap() + 3;
        (1..=count).for_each(|number| bus.hear(started(number)));
        assert_eq!(bus.dropped(), 3);
        drop(release);
        bus.finish();
        assert_eq!(hears.try_iter().last(), Some(count - 3));
    }

    struct Panicking;

    impl StreamingListener for Panicking {
        fn streaming_started(&self, _at_ms: i64) {
            panic!("a listener's own fault");
        }
    }

    #[test]
    fn a_panic_in_a_listener_keeps_nothing_from_the_others() {
        let (listener, hears, release) = noting();
        drop(release);
        let bus = ListenerBus::default();
        bus.add(Panicking);
        bus.add(listener);
        bus.start().unwrap();
        bus.hear(started(1));
        bus.hear(started(2));
        bus.finish();
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
