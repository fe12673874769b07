//! The field names of records, and which of them comes next.

use std::collections::HashMap;

use super::fault::Fault;
use super::scan::skip_space;
use super::string::JsonString;

/// How many spellings of field names are remembered; more are read the slow way.
const SPELLINGS_MAX: usize = 1024;
/// The longest spelling that is remembered.
const SPELLING_BYTES_MAX: usize = 256;

/// A remembered field name, or one of [`Keys`]' constants.
pub(super) type KeyId = usize;

/// A field name found in a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// What to ask for the key after this one with.
    pub(super) id: KeyId,
    /// The place of its column among the wanted ones, or [`Keys::UNWANTED`].
    pub(super) column: usize,
    /// The index after the colon.
    pub(super) end: usize,
}

/// Records of one topic mostly have the same fields in the same order. So each name remembers which one followed it last
/// time, and the guess is compared with the record in one go, quotes and colon included.
#[derive(Debug)]
pub(super) struct Keys {
    known: Vec<Known>,
    by_spelling: HashMap<Box<[u8]>, KeyId>,
    wanted: HashMap<Box<[u8]>, usize>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Known {
    /// `"name":`, as records spell it.
    spelled: Box<[u8]>,
    /// Its first sixteen bytes, and which of them count: most names are told by one comparison.
    head: u128,
    head_mask: u128,
    column: usize,
    next: KeyId,
}

impl Keys {
    /// Before the first field.
    pub(super) const START: KeyId = 0;
    /// A name that is not remembered.
    const UNKNOWN: KeyId = 1;
    /// No guess.
    const NONE: KeyId = usize::MAX;
    /// No wanted column.
    pub(super) const UNWANTED: usize = usize::MAX;

    /// Knows nothing yet but the names of the wanted columns.
    pub(super) fn new<'a>(wanted: impl Iterator<Item = &'a str>) -> Self {
        // The places of START and UNKNOWN; nothing is ever followed by them.
        let nameless = || Known::new(Box::default(), Self::UNWANTED);
        Self {
            known: vec![nameless(), nameless()],
            by_spelling: HashMap::new(),
            wanted: wanted
                .enumerate()
                .map(|(column, name)| (Box::from(name.as_bytes()), column))
                .collect(),
            scratch: Vec::new(),
        }
    }

    /// The field name at `at`, if it is the one that followed `before` the last time.
    #[inline(always)]
    pub(super) fn guess(&self, before: KeyId, bytes: &[u8], at: usize) -> Option<Key> {
        let id = self.known[before].next;
        let guess = self.known.get(id)?;
        let rest = bytes.get(at..)?;
        let spelled = &guess.spelled;
        let right = match rest.first_chunk() {
            Some(chunk) if spelled.len() <= 16 => (u128::from_le_bytes(*chunk) ^ guess.head) & guess.head_mask == 0,
            _ => rest.starts_with(spelled),
        };
        right.then_some(Key {
            id,
            column: guess.column,
            end: at + spelled.len(),
        })
    }

    /// The field name at `at`, which is not the one guessed.
    #[cold]
    pub(super) fn look_up(&mut self, before: KeyId, bytes: &[u8], at: usize) -> Result<Key, Fault> {
        let fault = |wanted| Fault::Record { wanted, at };
        if bytes.get(at) != Some(&b'"') {
            return Err(fault("a field name"));
        }
        let string = JsonString::at(bytes, at).map_err(|_| fault("a field name"))?;
        let colon = skip_space(bytes, string.end);
        if bytes.get(colon) != Some(&b':') {
            return Err(Fault::Record {
                wanted: "a colon",
                at: colon,
            });
        }
        let end = colon + 1;
        if let Some(id) = self.by_spelling.get(string.raw) {
            self.known[before].next = *id;
            return Ok(Key {
                id: *id,
                column: self.known[*id].column,
                end,
            });
        }
        let name = string.text(&mut self.scratch).map_err(|_| fault("a field name"))?;
        let column = self.wanted.get(name).copied().unwrap_or(Self::UNWANTED);
        if self.known.len() >= SPELLINGS_MAX || string.raw.len() > SPELLING_BYTES_MAX {
            return Ok(Key {
                id: Self::UNKNOWN,
                column,
                end,
            });
        }
        let id = self.known.len();
        let spelled = [b"\"", string.raw, b"\":"].concat().into_boxed_slice();
        self.known.push(Known::new(spelled, column));
        self.by_spelling.insert(Box::from(string.raw), id);
        self.known[before].next = id;
        Ok(Key { id, column, end })
    }
}

impl Known {
    fn new(spelled: Box<[u8]>, column: usize) -> Self {
        let mut head = [0; 16];
        let mut mask = [0; 16];
        for (index, byte) in spelled.iter().take(16).enumerate() {
            head[index] = *byte;
            mask[index] = 0xFF;
        }
        let (head, head_mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        Self {
            spelled,
            head,
            head_mask,
            column,
            next: Keys::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &mut Keys, before: KeyId, bytes: &[u8]) -> Result<Key, Fault> {
        match keys.guess(before, bytes, 0) {
            Some(key) => Ok(key),
            None => keys.look_up(before, bytes, 0),
        }
    }

    fn names(keys: &mut Keys, record: &str) -> Vec<usize> {
        let mut before = Keys::START;
        let mut columns = Vec::new();
        for part in record.split(',') {
            let key = read(keys, before, part.as_bytes()).unwrap();
            before = key.id;
            columns.push(key.column);
        }
        columns
    }

    #[test]
    fn names_are_found_in_any_order_and_spelling() {
        const NO: usize = Keys::UNWANTED;
        let mut keys = Keys::new(["a", "é", ""].into_iter());
        for _ in 0..3 {
            assert_eq!(names(&mut keys, r#""a":,"b":,"é":"#), [0, NO, 1]);
            assert_eq!(names(&mut keys, r#""b":,"a":"#), [NO, 0]);
            assert_eq!(
                names(&mut keys, r#""\u0061":,"a" :,"\u00e9":,"":,"ab":"#),
                [0, 0, 1, 2, NO]
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut keys = Keys::new(["a"].into_iter());
        for number in 0..3 * SPELLINGS_MAX {
            assert_eq!(names(&mut keys, &format!(r#""k{number}":,"a":"#)), [Keys::UNWANTED, 0]);
        }
        assert_eq!(
            names(&mut keys, &format!(r#""{}":"#, "x".repeat(SPELLING_BYTES_MAX + 1))),
            [Keys::UNWANTED]
        );
        assert_eq!(keys.known.len(), SPELLINGS_MAX);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let mut keys = Keys::new(["a"].into_iter());
        for text in ["", "a", "1", "\"a", "\"a\"", "\"a\",", "\"\\x\":", "\0", "\0\0"] {
            assert!(read(&mut keys, Keys::START, text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
