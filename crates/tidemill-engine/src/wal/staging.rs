//! Records between their appenders and the thread that writes them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::Sequence;
use super::group::{Group, Placed};
use super::record::HEADER_BYTES;
use super::ticket::Ticket;
use crate::error::{Error, Kind, Result};

/// Buffers that are kept for the next groups.
const SPARE_BUFFERS: usize = 2;

/// Groups that wait to be written, bounded by their bytes.
#[derive(Debug)]
pub(super) struct Staging {
    group_bytes_max: usize,
    waiting_bytes_max: usize,
    /// A permit per byte that may still be handed in.
    room: Semaphore,
    // A leaf lock, held to copy a record in or to take a group out.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    /// Those that take no more.
    full: VecDeque<Group>,
    /// The one that records are added to.
    open: Group,
    spare: Vec<Vec<u8>>,
    closed: bool,
    ended: Option<Arc<Error>>,
}

impl Staging {
    pub(super) fn new(group_bytes_max: usize, waiting_bytes_max: usize, first: Sequence) -> Self {
        Self {
            group_bytes_max,
            waiting_bytes_max,
            room: Semaphore::new(waiting_bytes_max),
            waiting: Mutex::new(Waiting {
                full: VecDeque::new(),
                open: Group::new(Vec::new(), first),
                spare: Vec::new(),
                closed: false,
                ended: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a record takes of the room; one larger than all of it takes all.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.waiting_bytes_max)).unwrap_or(u32::MAX)
    }

    /// Hands a record in; waits until there is room for it. Where it is dropped before, nothing was handed in.
    pub(super) async fn hand_in(&self, body: &[u8], body_crc: u32) -> Result<Ticket> {
        let share = self.share(HEADER_BYTES + body.len());
        let Ok(room) = self.room.acquire_many(share).await else {
            return Err(self.refusal());
        };
        let mut waiting = self.lock();
        if waiting.closed || waiting.ended.is_some() {
            drop(waiting);
            return Err(self.refusal());
        }
        room.forget();
        let was_idle = waiting.full.is_empty() && waiting.open.is_empty();
        let ticket = waiting.add(body, body_crc, self.group_bytes_max);
        drop(waiting);
        if was_idle {
            self.changed.notify_one();
        }
        Ok(ticket)
    }

    fn refusal(&self) -> Error {
        match &self.lock().ended {
            Some(error) => Error::with_source(error.kind(), "the log has ended", Arc::clone(error)),
            None => Error::new(Kind::Unavailable, "the log is closed"),
        }
    }

    /// The next group to write, waited for; `None` where the log was closed and all is written.
    pub(super) fn take(&self) -> Option<Group> {
        let mut waiting = self.lock();
        loop {
            if let Some(group) = waiting.take() {
                return Some(group);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the group's appenders where it is, and gives its bytes back.
    pub(super) fn acknowledge(&self, group: Group, placed: Placed) {
        let share = self.share(group.bytes().len());
        let buffer = group.settle(Ok(placed));
        let mut waiting = self.lock();
        if waiting.spare.len() < SPARE_BUFFERS && buffer.capacity() <= self.group_bytes_max * 2 {
            waiting.spare.push(buffer);
        }
        drop(waiting);
        self.room.add_permits(share as usize);
    }

    /// Ends the log: all that wait and all that come later get this error.
    pub(super) fn end(&self, error: &Arc<Error>) {
        let mut waiting = self.lock();
        waiting.ended = Some(Arc::clone(error));
        let open = waiting.replace_open();
        let lost: Vec<Group> = waiting.full.drain(..).chain([open]).collect();
        drop(waiting);
        self.room.close();
        for group in lost {
            group.settle(Err(Arc::clone(error)));
        }
    }

    /// Takes no more; what was handed in is written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.changed.notify_one();
    }

    /// Records handed in and not taken to be written.
    #[cfg(test)]
    pub(super) fn records_waiting(&self) -> u64 {
        let waiting = self.lock();
        let first = waiting.full.front().map_or(waiting.open.first(), Group::first);
        waiting.open.next() - first
    }
}

impl Waiting {
    fn add(&mut self, body: &[u8], body_crc: u32, group_bytes_max: usize) -> Ticket {
        let bytes = self.open.bytes().len() + HEADER_BYTES + body.len();
        if bytes > group_bytes_max && !self.open.is_empty() {
            let full = self.replace_open();
            self.full.push_back(full);
        }
        self.open.add(body, body_crc)
    }

    fn take(&mut self) -> Option<Group> {
        if let Some(group) = self.full.pop_front() {
            return Some(group);
        }
        (!self.open.is_empty()).then(|| self.replace_open())
    }

    fn replace_open(&mut self) -> Group {
        let next = Group::new(self.spare.pop().unwrap_or_default(), self.open.next());
        std::mem::replace(&mut self.open, next)
    }
}
