//! The base of an operator, read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;

/// Keys with their bucket, and their values.
pub(super) type Base = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

/// Reads the base of one operator as it was when the reader was made, also after the store has gone on.
#[derive(Debug, Clone)]
pub struct StateReader {
    base: Arc<Base>,
}

impl StateReader {
    pub(super) fn new(base: Arc<Base>) -> Self {
        Self { base }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn get(&self, bucket: u16, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.base.get(&(bucket, key.to_vec())).cloned())
    }

    /// Entries of a bucket with `from <= key < until`, in key order; `None` = to the end.
    pub fn range(&self, bucket: u16, from: &[u8], until: Option<&[u8]>) -> StateRange {
        let entries = self.base.range((bucket, from.to_vec())..);
        let within =
            entries.take_while(|((at, key), _)| *at == bucket && until.is_none_or(|until| key.as_slice() < until));
        let found: Vec<_> = within.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        StateRange {
            entries: found.into_iter(),
        }
    }
}

/// Entries in key order.
#[derive(Debug)]
pub struct StateRange {
    entries: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
}

impl Iterator for StateRange {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(Ok)
    }
}
