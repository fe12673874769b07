//! What the slices of a scan tell its fetch session: that they can take a chunk, and how urgently.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

/// How much a slice wants its next chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// It works on the last one; the next may be fetched meanwhile.
    Ahead,
    /// It waits.
    Waiting,
}

/// One slice's side of the counters that say whether it can take a chunk.
///
/// Both sides count chunks, so neither has to reset what the other sets.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// Set at the slice's first poll; nothing is fetched for it before.
    polled: AtomicBool,
    /// Chunks the slice took so far.
    taken: AtomicU64,
    waiting: AtomicBool,
}

impl Demand {
    /// What the slice wants, if it took all of the `delivered` chunks.
    pub(crate) fn want(&self, delivered: u64) -> Option<Want> {
        if !self.polled.load(Ordering::Acquire) || self.taken.load(Ordering::Acquire) != delivered {
            return None;
        }
        Some(if self.waiting.load(Ordering::Acquire) {
            Want::Waiting
        } else {
            Want::Ahead
        })
    }
}

/// A slice's handle to its demand. Its changes, and its end, wake all sessions of the scan.
#[derive(Debug)]
pub(crate) struct DemandHandle {
    demand: Arc<Demand>,
    changes: Arc<watch::Sender<()>>,
}

impl DemandHandle {
    /// The handle of one slice of the scan that `changes` belongs to.
    pub(crate) fn new(changes: &Arc<watch::Sender<()>>) -> Self {
        Self {
            demand: Arc::default(),
            changes: Arc::clone(changes),
        }
    }

    /// The counters, for the session.
    pub(crate) fn demand(&self) -> Arc<Demand> {
        Arc::clone(&self.demand)
    }

    /// The slice waits for a chunk.
    pub(crate) fn wait(&self) {
        self.demand.waiting.store(true, Ordering::Release);
        self.demand.polled.store(true, Ordering::Release);
        self.changes.send_replace(());
    }

    /// The slice took a chunk.
    pub(crate) fn took(&self) {
        self.demand.waiting.store(false, Ordering::Release);
        self.demand.taken.fetch_add(1, Ordering::AcqRel);
        self.changes.send_replace(());
    }
}

impl Drop for DemandHandle {
    fn drop(&mut self) {
        self.changes.send_replace(());
    }
}
