//! Says once that reading is interrupted, and once that it goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The interruptions of one scan, shared by its slices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage {
    /// A leaf lock, taken only when a slice is interrupted or goes on.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    interrupted: usize,
    since: Option<Instant>,
}

/// One slice's interruption.
#[derive(Debug)]
pub(crate) struct Interruption {
    outage: Outage,
}

impl Outage {
    /// A slice is interrupted because of `reason`; the first one is logged.
    pub(crate) fn interrupt(&self, reason: &str) -> Interruption {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.interrupted += 1;
        if state.since.is_none() {
            state.since = Some(Instant::now());
            tracing::warn!(
                reason,
                "reading from kafka is interrupted; trying again until it goes on"
            );
        }
        Interruption { outage: self.clone() }
    }
}

impl Interruption {
    /// The slice goes on; the last one is logged.
    pub(crate) fn end(self) {
        let mut state = self.outage.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.interrupted == 1
            && let Some(since) = state.since.take()
        {
            tracing::warn!(seconds = since.elapsed().as_secs_f32(), "reading from kafka goes on");
        }
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        self.outage
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .interrupted -= 1;
    }
}
