//! What the slices of a scan tell its fetch session: that they can take a chunk, and how urgently.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

/// Chunks that may lie ready for a slice while it works on another. A slice takes a chunk in the time of a request or two:
/// with one chunk ahead it would wait for each answer that another slice's came before.
pub(crate) const AHEAD_CHUNKS_MAX: u64 = 3;

/// How much a slice wants its next chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// It has work, and room for chunks that are fetched meanwhile.
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
    /// What the slice wants after `delivered` chunks, if it has room.
    pub(crate) fn want(&self, delivered: u64) -> Option<Want> {
        let ahead = delivered - self.taken.load(Ordering::Acquire);
        if !self.polled.load(Ordering::Acquire) || ahead >= AHEAD_CHUNKS_MAX {
            return None;
        }
        Some(if ahead == 0 && self.waiting.load(Ordering::Acquire) {
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
