//! Avro's binary encoding, byte by byte, with every length held against what is left of the record.

use super::fault::Why;
use super::schema::{Schema, Shape, TypeId};

/// How deep a value may nest that is stepped over. Only types that hold themselves reach it.
const DEPTH_MAX: usize = 64;

/// A place in a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// A zigzag number of up to ten bytes.
    #[inline(always)]
    pub(super) fn long(&mut self) -> Result<i64, Why> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1))
            }
            _ => self.longer(),
        }
    }

    fn longer(&mut self) -> Result<i64, Why> {
        let mut value = 0u64;
        for (index, byte) in self.bytes[self.at.min(self.bytes.len())..].iter().enumerate() {
            // The tenth byte holds the last bit.
            if index == 9 && *byte > 1 {
                return Err(Why::Number);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.at += index + 1;
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Why::Truncated)
    }

    /// Steps over a number; up to eight bytes of it are looked at together.
    #[inline(always)]
    fn skip_long(&mut self) -> Result<(), Why> {
        const LAST: u64 = 0x8080_8080_8080_8080;
        let next = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>());
        let ends = next.map_or(0, |bytes| !u64::from_le_bytes(*bytes) & LAST);
        if ends == 0 {
            return self.long().map(|_| ());
        }
        self.at += ends.trailing_zeros() as usize / 8 + 1;
        Ok(())
    }

    /// The next so many bytes, which must be text.
    #[inline(always)]
    pub(super) fn text(&mut self, length: usize) -> Result<&'a [u8], Why> {
        const LETTERS: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;
        let next = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<16>());
        let text = self.take(length)?;
        // Short text without letters beyond ASCII, as most is, is told by one look at it and some of what follows.
        if let Some(bytes) = next
            && length <= 16
            && (length == 0 || u128::from_le_bytes(*bytes) << (8 * (16 - length)) & LETTERS == 0)
        {
            return Ok(text);
        }
        std::str::from_utf8(text).map_err(|_| Why::Utf8)?;
        Ok(text)
    }

    /// A number that fits 32 bits.
    #[inline(always)]
    pub(super) fn int(&mut self) -> Result<i32, Why> {
        i32::try_from(self.long()?).map_err(|_beyond| Why::Range)
    }

    /// A length before its bytes; so many bytes are there.
    #[inline(always)]
    pub(super) fn length(&mut self) -> Result<usize, Why> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_negative| Why::Length)?;
        if length > self.bytes.len() - self.at {
            return Err(Why::Truncated);
        }
        Ok(length)
    }

    /// The next so many bytes.
    #[inline(always)]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Why> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..length));
        let taken = taken.ok_or(Why::Truncated)?;
        self.at += length;
        Ok(taken)
    }

    /// The next bytes as an array.
    #[inline(always)]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk().ok_or(Why::Truncated)?)
    }

    /// How many items the next block of an array or a map has, and where it ends where it says so; `None` after the last.
    pub(super) fn block(&mut self) -> Result<Option<(u64, Option<usize>)>, Why> {
        let count = self.long()?;
        match count {
            0 => Ok(None),
            1.. => Ok(Some((count.unsigned_abs(), None))),
            _ => {
                let size = self.length()?;
                Ok(Some((count.unsigned_abs(), Some(self.at + size))))
            }
        }
    }

    /// Steps over a value.
    #[inline]
    pub(super) fn skip(&mut self, schema: &Schema, of: TypeId) -> Result<(), Why> {
        match &schema.get(of).shape {
            Shape::String | Shape::Bytes => {
                let length = self.length()?;
                self.at += length;
                Ok(())
            }
            Shape::Long | Shape::Int | Shape::Enum(_) => self.skip_long(),
            _ => self.skip_other(schema, of, 0),
        }
    }

    fn skip_other(&mut self, schema: &Schema, of: TypeId, depth: usize) -> Result<(), Why> {
        if depth > DEPTH_MAX {
            return Err(Why::Deep);
        }
        if schema.is_empty(of) {
            return Ok(());
        }
        match &schema.get(of).shape {
            Shape::Null => Ok(()),
            Shape::Boolean => self.take(1).map(|_| ()),
            Shape::Int | Shape::Long | Shape::Enum(_) => self.skip_long(),
            Shape::Float => self.take(4).map(|_| ()),
            Shape::Double => self.take(8).map(|_| ()),
            Shape::Fixed(size) => self.take(*size).map(|_| ()),
            Shape::Bytes | Shape::String => {
                let length = self.length()?;
                self.at += length;
                Ok(())
            }
            Shape::Record(fields) => fields
                .iter()
                .try_for_each(|field| self.skip_other(schema, field.of, depth + 1)),
            Shape::Union(branches) => {
                let branch = usize::try_from(self.long()?).ok().and_then(|at| branches.get(at));
                self.skip_other(schema, *branch.ok_or(Why::Branch)?, depth + 1)
            }
            Shape::Array(item) => self.skip_blocks(
                |cursor| cursor.skip_other(schema, *item, depth + 1),
                schema.is_empty(*item),
            ),
            Shape::Map(value) => self.skip_blocks(
                |cursor| {
                    let length = cursor.length()?;
                    cursor.at += length;
                    cursor.skip_other(schema, *value, depth + 1)
                },
                false,
            ),
        }
    }

    /// Items that are not empty take a byte each at least, so that a count beyond the record ends with the record.
    fn skip_blocks(&mut self, item: impl Fn(&mut Self) -> Result<(), Why>, items_are_empty: bool) -> Result<(), Why> {
        while let Some((count, end)) = self.block()? {
            match end {
                Some(end) => self.at = end,
                None if items_are_empty => {}
                None => (0..count).try_for_each(|_| item(self))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Result<i64, Why> {
        let mut cursor = Cursor::new(bytes, 0);
        let value = cursor.long()?;
        assert_eq!(cursor.at, bytes.len());
        Ok(value)
    }

    #[test]
    fn numbers_are_zigzag_of_up_to_ten_bytes() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x01], -1),
            (&[0x02], 1),
            (&[0x7f], -64),
            (&[0x80, 0x01], 64),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MIN),
            (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MAX),
        ] {
            assert_eq!(long(bytes), Ok(value));
        }
        assert_eq!(long(&[]), Err(Why::Truncated));
        assert_eq!(long(&[0x80]), Err(Why::Truncated));
        assert_eq!(long(&[0xff; 9]), Err(Why::Truncated));
        assert_eq!(
            long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(Why::Number)
        );
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x10], 0).int(), Err(Why::Range));
    }

    #[test]
    fn a_number_is_stepped_over_as_it_is_read() {
        let tails: [&[u8]; 3] = [&[], &[0xff; 3], &[0; 20]];
        for bytes in 1..=11 {
            for last in [0, 1, 2, 0x7f] {
                for tail in tails {
                    let number = [&vec![0x80; bytes - 1][..], &[last], tail].concat();
                    let (mut read, mut skipped) = (Cursor::new(&number, 0), Cursor::new(&number, 0));
                    assert_eq!(read.long().map(|_| ()), skipped.skip_long(), "{number:?}");
                    assert_eq!(read.at, skipped.at, "{number:?}");
                }
            }
        }
    }

    #[test]
    fn text_is_checked_however_short_and_wherever_it_ends() {
        for length in 0..40 {
            for tail in [0, 1, 30] {
                let ascii = [vec![b'a'; length], vec![0xff; tail]].concat();
                let mut cursor = Cursor::new(&ascii, 0);
                assert_eq!(cursor.text(length), Ok(&ascii[..length]));
                for at in 0..length {
                    let mut broken = ascii.clone();
                    broken[at] = 0xff;
                    assert_eq!(Cursor::new(&broken, 0).text(length), Err(Why::Utf8), "{at} of {length}");
                }
                if length >= 2 {
                    let mut letter = ascii.clone();
                    letter[length - 2..length].copy_from_slice("\u{e9}".as_bytes());
                    assert_eq!(Cursor::new(&letter, 0).text(length), Ok(&letter[..length]));
                    assert_eq!(
                        Cursor::new(&letter, 0).text(length - 1),
                        Err(Why::Utf8),
                        "half a letter"
                    );
                }
            }
        }
        assert_eq!(Cursor::new(b"ab", 0).text(3), Err(Why::Truncated));
    }

    #[test]
    fn lengths_are_held_against_the_record() {
        assert_eq!(Cursor::new(&[0x04, 1, 2], 0).length(), Ok(2));
        assert_eq!(Cursor::new(&[0x06, 1, 2], 0).length(), Err(Why::Truncated));
        assert_eq!(Cursor::new(&[0x01, 1, 2], 0).length(), Err(Why::Length));
    }

    #[test]
    fn nothing_but_a_bounded_depth_is_stepped_over() {
        let json = r#"{"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]},
            {"name":"nulls","type":{"type":"array","items":"null"}}]}"#;
        let schema = Schema::parse(json).unwrap();
        let next = schema.fields()[0].of;
        // A list of one, and its null.
        assert!(Cursor::new(&[0x02, 0x00, 0x00], 0).skip(&schema, next).is_ok());
        assert_eq!(Cursor::new(&[0x02; 1000], 0).skip(&schema, next), Err(Why::Deep));
        // As many nulls as a number can say take no time.
        let nulls = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00];
        let mut cursor = Cursor::new(&nulls, 0);
        assert!(cursor.skip(&schema, schema.fields()[1].of).is_ok());
        assert_eq!(cursor.at, nulls.len());
    }
}
