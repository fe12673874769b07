//! The keys of maps, and offsets as lists and maps have them.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer};

use super::fault::Why;
use super::wire::Cursor;

/// Keys of maps: DataFusion's functions take them as plain text only.
#[derive(Debug)]
pub(super) struct Keys {
    offsets: Vec<i32>,
    text: Vec<u8>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            text: Vec::new(),
        }
    }
}

impl Keys {
    /// Adds the key at the cursor.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Why> {
        let length = cursor.length()?;
        let text = cursor.text(length)?;
        let end = i32::try_from(self.text.len() + length).map_err(|_beyond| Why::TooLong)?;
        self.text.extend_from_slice(text);
        self.offsets.push(end);
        Ok(())
    }

    /// Forgets all but the first so many.
    pub(super) fn truncate(&mut self, keys: usize) {
        self.text.truncate(ending(&mut self.offsets, keys));
    }

    /// Takes the keys as an array.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let text = Buffer::from(std::mem::take(&mut self.text));
        Arc::new(StringArray::new(taken(&mut self.offsets), text, None))
    }
}

/// Cuts offsets to so many rows; gives where the last of them ends.
pub(super) fn ending(offsets: &mut Vec<i32>, rows: usize) -> usize {
    offsets.truncate(rows + 1);
    offsets.last().map_or(0, |end| *end as usize)
}

/// Takes the offsets; those of no rows are left.
pub(super) fn taken(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into())
}
