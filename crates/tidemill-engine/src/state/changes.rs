//! What a batch changes of an operator's state.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;

use super::reader::{StateRange, StateReader};
use crate::error::Result;

/// What became of a key: its new value, or `None` where it was removed.
pub(super) type Change = Option<Vec<u8>>;

/// What becomes of a key: its bucket, the key, its new value or `None`.
pub(super) type Entry<'a> = (u16, &'a [u8], Option<&'a [u8]>);

/// Bytes that an entry takes in a version's file beside key and value.
const ENTRY_BYTES: usize = 8;

/// What a batch changes: per bucket, key to new value, or to `None` where the key is removed. In memory as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    buckets: BTreeMap<u16, BTreeMap<Vec<u8>, Change>>,
}

impl Changes {
    /// Gives a key its new value; `None` removes it.
    pub fn set(&mut self, bucket: u16, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.buckets.entry(bucket).or_default().insert(key, value);
    }

    /// Takes over all of `other`, which wins where both change a key.
    pub fn merge(&mut self, other: Self) {
        for (bucket, entries) in other.buckets {
            match self.buckets.entry(bucket) {
                btree_map::Entry::Vacant(none) => drop(none.insert(entries)),
                btree_map::Entry::Occupied(mut some) => some.get_mut().extend(entries),
            }
        }
    }

    /// What became of a key: `None` where it is not changed, `Some(None)` where it is removed.
    pub fn get(&self, bucket: u16, key: &[u8]) -> Option<Option<&[u8]>> {
        self.buckets.get(&bucket)?.get(key).map(Option::as_deref)
    }

    /// The value of a key after these changes on `base`.
    ///
    /// # Errors
    /// Where the base can't be read.
    pub fn value_on(&self, base: &StateReader, bucket: u16, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.get(bucket, key) {
            Some(changed) => Ok(changed.map(<[u8]>::to_vec)),
            None => base.get(bucket, key),
        }
    }

    /// Entries of a bucket with `from <= key < until` after these changes on `base`, in key order; `None` = to the end.
    pub fn range_on(&self, base: &StateReader, bucket: u16, from: &[u8], until: Option<&[u8]>) -> Changed<'_> {
        Changed {
            base: base.range(bucket, from, until).peekable(),
            changes: self.range(bucket, from, until).peekable(),
        }
    }

    /// Changes of a bucket with `from <= key < until`, in key order; `None` = to the end.
    fn range(&self, bucket: u16, from: &[u8], until: Option<&[u8]>) -> btree_map::Range<'_, Vec<u8>, Change> {
        static NONE: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
        let entries = self.buckets.get(&bucket).unwrap_or(&NONE);
        // A range that ends before it begins would panic.
        let until = until.map(|until| until.max(from));
        let end = until.map_or(Bound::Unbounded, Bound::Excluded);
        match until {
            Some(until) if until == from => NONE.range::<Vec<u8>, _>(..),
            _ => entries.range::<[u8], _>((Bound::Included(from), end)),
        }
    }

    /// Keys that are changed.
    pub fn len(&self) -> usize {
        self.buckets.values().map(BTreeMap::len).sum()
    }

    /// True where nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.buckets.values().all(BTreeMap::is_empty)
    }

    /// All of them in ascending order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let entries = self
            .buckets
            .iter()
            .flat_map(|(bucket, entries)| entries.iter().map(move |entry| (*bucket, entry)));
        entries.map(|(bucket, (key, value))| (bucket, key.as_slice(), value.as_deref()))
    }

    /// Bytes that they take in a version's file.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |(_, key, value): Entry<'_>| (ENTRY_BYTES + key.len() + value.map_or(0, <[u8]>::len)) as u64;
        self.entries().map(bytes).sum()
    }

    /// Per bucket its changes in key order; buckets without any are left out.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u16, &BTreeMap<Vec<u8>, Change>)> {
        let all = self.buckets.iter().map(|(bucket, entries)| (*bucket, entries));
        all.filter(|(_, entries)| !entries.is_empty())
    }
}

/// Entries of the base with changes laid over them, in key order.
#[derive(Debug)]
pub struct Changed<'a> {
    base: Peekable<StateRange>,
    changes: Peekable<btree_map::Range<'a, Vec<u8>, Change>>,
}

impl Iterator for Changed<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let changed = self.changes.peek().map(|(key, _)| key.as_slice());
            match (self.base.peek(), changed) {
                (Some(Ok((key, _))), Some(changed)) if key.as_slice() == changed => drop(self.base.next()),
                (Some(Ok((key, _))), Some(changed)) if key.as_slice() > changed => {}
                (Some(_), _) => return self.base.next(),
                (None, _) => {}
            }
            let (key, value) = self.changes.next()?;
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
