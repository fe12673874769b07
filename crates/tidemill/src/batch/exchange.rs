//! Rows that cross from slice to slice: encoded, sorted into the slices they go to by the hash of their key.
//!
//! What does not fit the memory of the program goes to a temporary file, piece by piece.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::state::bucket_of;

use crate::codec;
use crate::scope::Scope;

/// Rows of one slice for one other are gathered up to here before they are put down.
const PIECE_BYTES: usize = 256 << 10;

/// Rows that one slice has for all others.
pub(crate) struct Sorter {
    scope: Arc<Scope>,
    layout: Layout,
    filling: Vec<Vec<u8>>,
    pieces: Vec<Vec<Piece>>,
    failed: Option<Error>,
}

#[derive(Debug)]
enum Piece {
    Held(Vec<u8>),
    Spilled { file: Arc<File>, at: u64, bytes: usize },
}

/// The slice that a key's hash goes to, so that a slice holds whole buckets.
fn slice_of(hash: u64, slices: usize) -> usize {
    usize::from(bucket_of(hash)) % slices.max(1)
}

/// The slice of a key, of so many; none where the key is of another type.
type SliceOf = dyn Fn(&dyn Any, usize) -> Option<usize> + Send + Sync;

/// Gives the slice of a key: what a program says of its own keys.
#[derive(Clone)]
pub(crate) struct Partitioner(Arc<SliceOf>);

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Partitioner")
    }
}

impl Partitioner {
    pub(crate) fn of<K: 'static>(slice_of: impl Fn(&K, usize) -> usize + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |key, slices| {
            Some(slice_of(key.downcast_ref::<K>()?, slices))
        }))
    }
}

/// How rows are dealt out over slices by their key: by its hash where no partitioner says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    slices: usize,
    partitioner: Option<Partitioner>,
}

impl Layout {
    pub(crate) fn new(slices: usize, partitioner: Option<Partitioner>) -> Self {
        Self {
            slices: slices.max(1),
            partitioner,
        }
    }

    pub(crate) fn slices(&self) -> usize {
        self.slices
    }

    /// The slice of a key, which is encoded in `bytes`.
    fn slice<K: 'static>(&self, key: &K, bytes: &[u8]) -> Result<usize> {
        let Some(Partitioner(slice_of_key)) = &self.partitioner else {
            return Ok(slice_of(codec::hash(bytes), self.slices));
        };
        match slice_of_key(key, self.slices) {
            Some(slice) if slice < self.slices => Ok(slice),
            Some(slice) => Err(Error::new(
                Kind::UserCode,
                format!(
                    "the partitioner gives slice {slice}, but there are {}, counted from 0",
                    self.slices
                ),
            )),
            None => Err(Error::new(Kind::Bug, "a partitioner of another type of keys")),
        }
    }
}

impl Sorter {
    pub(crate) fn new(scope: &Arc<Scope>, layout: &Layout) -> Self {
        let slices = layout.slices();
        Self {
            scope: Arc::clone(scope),
            layout: layout.clone(),
            filling: vec![Vec::new(); slices],
            pieces: (0..slices).map(|_| Vec::new()).collect(),
            failed: None,
        }
    }

    /// Adds a row. After an error nothing more is added; [`done`](Self::done) tells of it.
    pub(crate) fn add<K: codec::Data, V: codec::Data>(&mut self, key: &K, value: &V) {
        if self.failed.is_none()
            && let Err(error) = self.try_add(key, value)
        {
            self.failed = Some(error);
        }
    }

    fn try_add<K: codec::Data, V: codec::Data>(&mut self, key: &K, value: &V) -> Result<()> {
        // Where the row goes is known once its key is encoded: behind those for the first slice, moved if it belongs elsewhere.
        let first = &mut self.filling[0];
        let begin = first.len();
        codec::put(key, first)?;
        let slice = self.layout.slice(key, &first[begin..])?;
        codec::put(value, first)?;
        if slice > 0 {
            let (first, others) = self.filling.split_at_mut(1);
            others[slice - 1].extend_from_slice(&first[0][begin..]);
            first[0].truncate(begin);
        }
        if self.filling[slice].len() >= PIECE_BYTES {
            self.put_down(slice)?;
        }
        Ok(())
    }

    fn put_down(&mut self, slice: usize) -> Result<()> {
        let bytes = std::mem::take(&mut self.filling[slice]);
        if !bytes.is_empty() {
            self.pieces[slice].push(self.scope.spill().put(bytes)?);
        }
        Ok(())
    }

    /// Everything that was added, by the slice it goes to.
    ///
    /// # Errors
    /// `UserCode` where a value could not be encoded, `Unavailable` where there was no room.
    pub(crate) fn done(mut self) -> Result<Sorted> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        for slice in 0..self.pieces.len() {
            self.put_down(slice)?;
        }
        Ok(Sorted(self.pieces))
    }
}

/// What one slice has for all others.
#[derive(Debug)]
pub(crate) struct Sorted(Vec<Vec<Piece>>);

impl Sorted {
    /// Gives each row for `slice` to `row`, which takes it from the front of the bytes.
    pub(crate) fn rows(&self, slice: usize, mut row: impl FnMut(&mut &[u8]) -> Result<()>) -> Result<()> {
        for piece in &self.0[slice] {
            let mut read = Vec::new();
            let mut bytes = match piece {
                Piece::Held(bytes) => bytes.as_slice(),
                Piece::Spilled { file, at, bytes } => {
                    read.resize(*bytes, 0);
                    file.read_exact_at(&mut read, *at)
                        .map_err(|error| no_room("read", error))?;
                    read.as_slice()
                }
            };
            while !bytes.is_empty() {
                row(&mut bytes)?;
            }
        }
        Ok(())
    }
}

/// Where rows go that are too many for the memory.
#[derive(Debug)]
pub(crate) struct Spill {
    held_bytes_max: usize,
    // A leaf lock, held while a piece is written.
    state: Mutex<SpillState>,
}

#[derive(Debug, Default)]
struct SpillState {
    held_bytes: usize,
    file: Option<(Arc<File>, u64)>,
}

impl Spill {
    pub(crate) fn new(held_bytes_max: usize) -> Self {
        Self {
            held_bytes_max,
            state: Mutex::default(),
        }
    }

    pub(crate) fn held_bytes_max(&self) -> usize {
        self.held_bytes_max
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Piece> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.held_bytes + bytes.len() <= self.held_bytes_max {
            state.held_bytes += bytes.len();
            return Ok(Piece::Held(bytes));
        }
        if state.file.is_none() {
            let file = tempfile::tempfile().map_err(|error| no_room("make", error))?;
            state.file = Some((Arc::new(file), 0));
        }
        let Some((file, end)) = &mut state.file else {
            return Err(Error::new(Kind::Bug, "no file to spill to"));
        };
        let at = *end;
        (&**file).write_all(&bytes).map_err(|error| no_room("write", error))?;
        *end += bytes.len() as u64;
        Ok(Piece::Spilled {
            file: Arc::clone(file),
            at,
            bytes: bytes.len(),
        })
    }
}

fn no_room(what: &str, error: std::io::Error) -> Error {
    let folder = std::env::temp_dir();
    Error::with_source(
        Kind::Unavailable,
        format!(
            "{what} the file for rows that memory does not hold, in {}",
            folder.display()
        ),
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(held_bytes_max: usize, rows: u64) -> (Vec<(u64, String)>, usize) {
        let scope = Scope::for_tests(3, held_bytes_max);
        let mut sorter = Sorter::new(&scope, &scope.layout());
        for number in 0..rows {
            sorter.add(&number, &format!("value {number}"));
        }
        let sorted = sorter.done().unwrap();
        let spilled = sorted
            .0
            .iter()
            .flatten()
            .filter(|piece| matches!(piece, Piece::Spilled { .. }))
            .count();
        let mut back = Vec::new();
        for slice in 0..3 {
            sorted
                .rows(slice, |bytes| {
                    let key: u64 = codec::take(bytes)?;
                    assert_eq!(slice_of(codec::hash(&codec::key_bytes(&key)?), 3), slice);
                    back.push((key, codec::take(bytes)?));
                    Ok(())
                })
                .unwrap();
        }
        back.sort_unstable();
        (back, spilled)
    }

    #[test]
    fn what_memory_does_not_hold_comes_back_from_a_file() {
        let expected: Vec<_> = (0..100_000).map(|number| (number, format!("value {number}"))).collect();
        assert_eq!(sorted(usize::MAX, 100_000), (expected.clone(), 0));
        let (back, spilled) = sorted(PIECE_BYTES, 100_000);
        assert!(back == expected && spilled > 0, "{} rows, {spilled} pieces", back.len());
    }
}
