//! The column of record headers, record by record.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, BinaryBuilder, ListArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use tidemill_engine::source::header_field;

/// A growing column of headers, as [`RawRows::headers`](tidemill_engine::source::RawRows::headers) has it.
#[derive(Debug)]
pub(crate) struct Headers {
    ends: Vec<i32>,
    keys: StringBuilder,
    values: BinaryBuilder,
}

impl Headers {
    /// An empty column with room for `rows`.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self {
            ends,
            keys: StringBuilder::new(),
            values: BinaryBuilder::new(),
        }
    }

    /// Adds a header to the record under way. The protocol says UTF-8; a producer that does otherwise must not stop the
    /// stream.
    pub(crate) fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.keys.append_value(String::from_utf8_lossy(key));
        self.values.append_option(value);
    }

    /// Ends the record under way; `None` where a column can't hold so many headers.
    pub(crate) fn end_record(&mut self) -> Option<()> {
        self.ends.push(i32::try_from(self.keys.len()).ok()?);
        Some(())
    }

    /// The column.
    ///
    /// # Errors
    /// Where Arrow refuses it: a defect of this decoder.
    pub(crate) fn finish(mut self) -> Result<ListArray, String> {
        let item = header_field();
        let DataType::Struct(fields) = item.data_type().clone() else {
            return Err("headers are no struct".into());
        };
        let columns: Vec<ArrayRef> = vec![Arc::new(self.keys.finish()), Arc::new(self.values.finish())];
        let entries = StructArray::try_new(fields, columns, None).map_err(|error| error.to_string())?;
        ListArray::try_new(item, OffsetBuffer::new(self.ends.into()), Arc::new(entries), None)
            .map_err(|error| error.to_string())
    }
}
