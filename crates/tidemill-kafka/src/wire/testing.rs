//! Writes responses in the compact encoding for tests.

use uuid::Uuid;

/// A response body that grows field by field.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
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
        self.bytes(text.map(str::as_bytes))
    }

    pub(crate) fn bytes(self, bytes: Option<&[u8]>) -> Self {
        let mut writer = self.unsigned_varint(bytes.map_or(0, |bytes| bytes.len() as u32 + 1));
        writer.bytes.extend(bytes.unwrap_or_default());
        writer
    }

    /// An array with an element for each of `items`.
    pub(crate) fn list<T>(self, items: impl IntoIterator<Item = T>, write: impl Fn(Self, T) -> Self) -> Self {
        let items: Vec<T> = items.into_iter().collect();
        let counted = self.unsigned_varint(items.len() as u32 + 1);
        items.into_iter().fold(counted, write)
    }

    /// No tagged fields.
    pub(crate) fn tags(self) -> Self {
        self.unsigned_varint(0)
    }
}
