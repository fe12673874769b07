//! Items of the block that is being filled.

use std::sync::Arc;

use super::aligned_timer::AlignedTimer;
use super::block::{Block, BlockId, Item};
use crate::error::{Error, Kind, Result};

/// The buffer, and whether it takes any more.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    stream: u32,
    bytes_max: usize,
    items: Vec<T>,
    bytes: usize,
    part: u32,
    pub(super) timer: AlignedTimer,
    taking: Taking,
}

/// Whether items are taken.
#[derive(Debug, Clone)]
enum Taking {
    Yes,
    Stopped,
    Ended(Arc<Error>),
}

impl<T: Item> Buffer<T> {
    pub(super) fn new(stream: u32, bytes_max: usize, timer: AlignedTimer) -> Self {
        Self {
            stream,
            bytes_max,
            items: Vec::new(),
            bytes: 0,
            part: 0,
            timer,
            taking: Taking::Yes,
        }
    }

    /// Fails where nothing is taken any more.
    pub(super) fn check(&self) -> Result<()> {
        match &self.taking {
            Taking::Yes => Ok(()),
            Taking::Stopped => Err(Error::new(Kind::Unavailable, "the block generator is stopped")),
            Taking::Ended(error) => Err(ended(error)),
        }
    }

    /// True where so many bytes more would be too many for one block.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        !self.items.is_empty() && self.bytes.saturating_add(bytes) > self.bytes_max
    }

    /// Adds items; gives them back as they lie there.
    pub(super) fn add(&mut self, items: impl IntoIterator<Item = T>, bytes: usize) -> &[T] {
        let from = self.items.len();
        self.items.extend(items);
        self.bytes += bytes;
        &self.items[from..]
    }

    /// The block of what was added; none of nothing.
    pub(super) fn cut(&mut self) -> Option<Block<T>> {
        if self.items.is_empty() {
            return None;
        }
        let id = BlockId {
            stream: self.stream,
            begun_ms: self.timer.begun_ms(),
            part: self.part,
        };
        self.part += 1;
        self.bytes = 0;
        Some(Block {
            id,
            items: std::mem::take(&mut self.items),
        })
    }

    /// Goes on to the next interval.
    pub(super) fn tick(&mut self, now_ms: i64) {
        self.timer.take(now_ms);
        self.part = 0;
    }

    /// Takes nothing more. The first reason stands.
    pub(super) fn stop(&mut self) {
        if matches!(self.taking, Taking::Yes) {
            self.taking = Taking::Stopped;
        }
    }

    /// Takes nothing more, for this reason.
    pub(super) fn end(&mut self, error: Arc<Error>) {
        self.taking = Taking::Ended(error);
    }

    /// Why it ended.
    pub(super) fn outcome(&self) -> Result<()> {
        match &self.taking {
            Taking::Ended(error) => Err(ended(error)),
            Taking::Yes | Taking::Stopped => Ok(()),
        }
    }
}

fn ended(error: &Arc<Error>) -> Error {
    Error::with_source(error.kind(), "a block could not be stored", Arc::clone(error))
}
