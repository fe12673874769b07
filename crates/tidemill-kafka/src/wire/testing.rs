//! Writes responses in the compact encoding for tests.

use uuid::Uuid;

/// A response body that grows field by field, in the compact encoding unless made [`old`](Self::old).
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    is_old: bool,
}

impl Writer {
    /// One in the encoding of before the compact one, where `is_old`.
    #[cfg(test)]
    pub(crate) fn old(is_old: bool) -> Self {
        Self {
            is_old,
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(crate) fn int8(mut self, value: i8) -> Self {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn int16(mut self, value: i16) -> Self {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn int32(mut self, value: i32) -> Self {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn int64(mut self, value: i64) -> Self {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn uuid(mut self, id: Option<Uuid>) -> Self {
        self.bytes.extend(id.unwrap_or_default().as_bytes());
        self
    }

    pub(crate) fn unsigned_varint(mut self, mut value: u32) -> Self {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
        self
    }

    pub(crate) fn text(self, text: Option<&str>) -> Self {
        if self.is_old {
            let writer = self.int16(text.map_or(-1, |text| text.len() as i16));
            return writer.raw(text.unwrap_or_default().as_bytes());
        }
        self.bytes(text.map(str::as_bytes))
    }

    pub(crate) fn bytes(self, bytes: Option<&[u8]>) -> Self {
        self.count(bytes.map(<[u8]>::len)).raw(bytes.unwrap_or_default())
    }

    fn count(self, count: Option<usize>) -> Self {
        if self.is_old {
            self.int32(count.map_or(-1, |count| count as i32))
        } else {
            self.unsigned_varint(count.map_or(0, |count| count as u32 + 1))
        }
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// An array with an element for each of `items`.
    pub(crate) fn list<T>(self, items: impl IntoIterator<Item = T>, write: impl Fn(Self, T) -> Self) -> Self {
        let items: Vec<T> = items.into_iter().collect();
        let counted = self.count(Some(items.len()));
        items.into_iter().fold(counted, write)
    }

    /// No tagged fields; the old encoding has none.
    pub(crate) fn tags(self) -> Self {
        if self.is_old { self } else { self.unsigned_varint(0) }
    }
}
