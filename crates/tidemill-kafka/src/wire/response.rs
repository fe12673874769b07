//! Reads the fields of a response. Every length and count is compared with what is left before anything is made for it.

use bytes::Bytes;
use uuid::Uuid;

/// A response that ends too early or contradicts itself; says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What is left of a response.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    flexible: bool,
}

type Field<T> = Result<T, Malformed>;

impl<'a> Fields<'a> {
    /// Fields of a response in the compact encoding (`flexible`) or the old one.
    pub(crate) fn new(data: &'a [u8], flexible: bool) -> Self {
        Self { rest: data, flexible }
    }

    /// Bytes not yet read.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Field<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Field<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A 16-bit number.
    pub(crate) fn int16(&mut self) -> Field<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// A 32-bit number.
    pub(crate) fn int32(&mut self) -> Field<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// A 64-bit number.
    pub(crate) fn int64(&mut self) -> Field<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self) -> Field<bool> {
        Ok(self.array::<1>()? != [0])
    }

    /// A topic id; all zeros stand for none.
    pub(crate) fn uuid(&mut self) -> Field<Option<Uuid>> {
        let id = Uuid::from_bytes(self.array()?);
        Ok(if id.is_nil() { None } else { Some(id) })
    }

    /// An unsigned number of variable length.
    pub(crate) fn unsigned_varint(&mut self) -> Field<u32> {
        let mut value = 0u64;
        for index in 0..5 {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| Malformed("a number is too large"));
            }
        }
        Err(Malformed("a number has no end"))
    }

    /// The number before an array or bytes, `None` for null. Nothing says yet that so much follows.
    pub(crate) fn declared(&mut self) -> Field<Option<u32>> {
        if self.flexible {
            return Ok(self.unsigned_varint()?.checked_sub(1));
        }
        match self.int32()? {
            -1 => Ok(None),
            count => u32::try_from(count)
                .map(Some)
                .map_err(|_| Malformed("a count is negative")),
        }
    }

    /// The number of elements of an array, each of at least `element_bytes_min`; `None` for a null array.
    pub(crate) fn count(&mut self, element_bytes_min: usize) -> Field<Option<usize>> {
        let Some(count) = self.declared()? else { return Ok(None) };
        let count = count as usize;
        if count > self.rest.len() / element_bytes_min.max(1) {
            return Err(Malformed("it declares more elements than it has bytes for"));
        }
        Ok(Some(count))
    }

    /// An array; a null one is empty.
    pub(crate) fn list<T>(
        &mut self,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Field<T>,
    ) -> Field<Vec<T>> {
        let count = self.count(element_bytes_min)?.unwrap_or(0);
        // Elements in memory are larger than on the wire, so room grows with what is really read.
        let mut list = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    /// A text; `None` for null.
    pub(crate) fn text(&mut self) -> Field<Option<&'a str>> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.int16()?)
        };
        if length < 0 {
            return Ok(None);
        }
        let bytes = self.take(length as usize)?;
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A text that must be there.
    pub(crate) fn required_text(&mut self) -> Field<&'a str> {
        self.text()?.ok_or(Malformed("a text is missing"))
    }

    /// Passes over the tagged fields that end every structure of the compact encoding.
    pub(crate) fn tags(&mut self) -> Field<()> {
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                self.unsigned_varint()?;
                let length = self.unsigned_varint()?;
                self.take(length as usize)?;
            }
        }
        Ok(())
    }
}

/// A whole response body.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// The bytes after the response header.
    pub(crate) bytes: Bytes,
    /// The version it was asked for in.
    pub(crate) version: i16,
    /// Who sent it.
    pub(crate) broker: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_room_is_made() {
        let hostile = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3];
        let refused = Malformed("it declares more elements than it has bytes for");
        assert_eq!(
            Fields::new(&hostile, true).list(1, |fields| fields.int16()),
            Err(refused)
        );
        assert_eq!(
            Fields::new(&[0x7f, 0xff, 0xff, 0xff, 0], false).list(1, |fields| fields.int16()),
            Err(refused)
        );
    }

    #[test]
    fn endless_tags_end() {
        assert!(
            Fields::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0], true)
                .tags()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(data: Vec<u8>, flexible: bool) {
            let mut fields = Fields::new(&data, flexible);
            while fields.left() > 0 {
                let before = fields.left();
                let _ = fields.text().is_ok() | fields.tags().is_ok() | fields.uuid().is_ok();
                let _ = fields.list(2, |fields| fields.int16()).is_ok() | fields.boolean().is_ok();
                if fields.left() == before {
                    break;
                }
            }
        }
    }
}
