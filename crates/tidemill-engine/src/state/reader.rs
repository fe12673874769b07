//! The base of an operator, read.

use std::fmt::{self, Debug, Formatter};

use super::BUCKETS;
use super::cache::{View, ViewRange};
use crate::error::Result;

/// Reads the base of one operator as it was when the reader was made, also after the store has gone on. What it sees takes room
/// in the cache until it is dropped: one per batch.
#[derive(Debug, Clone)]
pub struct StateReader {
    view: View,
}

impl StateReader {
    pub(super) fn new(view: View) -> Self {
        Self { view }
    }

    /// The value of a key. Many keys are read in a third of the time where they are asked for in ascending order, bucket by bucket:
    /// what lies beside one another is read once.
    ///
    /// # Errors
    /// Where the cache can't be read.
    pub fn get(&self, bucket: u16, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.view.get(bucket, key)
    }

    /// True where it holds nothing.
    ///
    /// # Errors
    /// Where the cache can't be read.
    pub fn is_empty(&self) -> Result<bool> {
        let mut firsts = (0..BUCKETS).filter_map(|bucket| self.range(bucket, &[], None).next());
        firsts.next().transpose().map(|first| first.is_none())
    }

    /// Entries of a bucket with `from <= key < until`, in key order; `None` = to the end.
    pub fn range(&self, bucket: u16, from: &[u8], until: Option<&[u8]>) -> StateRange {
        StateRange {
            entries: self.view.range(bucket, from, until),
        }
    }
}

/// Entries in key order, read as they are asked for.
pub struct StateRange {
    entries: ViewRange,
}

impl Iterator for StateRange {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next()
    }
}

impl Debug for StateRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateRange").finish_non_exhaustive()
    }
}
