//! The bytes of one record, where they stand, and text that stands nowhere yet.

use std::sync::Arc;

use arrow::array::BinaryViewArray;
use arrow::buffer::Buffer;

/// One record as a column sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// The record's bytes.
    pub(super) bytes: &'a [u8],
    /// Which of the input's buffers it stands in, and where it begins there. Records of up to 12 bytes stand in none.
    pub(super) place: Option<(u32, u32)>,
}

impl<'a> Record<'a> {
    /// The bytes of a value: inside its view where it is short, else in a buffer.
    #[inline(always)]
    pub(super) fn of(view: u128, inline: &'a [u8; 16], blocks: &'a [Buffer]) -> Self {
        let length = view as u32 as usize;
        if length <= 12 {
            return Record {
                bytes: &inline[4..4 + length],
                place: None,
            };
        }
        let (block, start) = ((view >> 64) as u32, (view >> 96) as u32);
        let bytes = &blocks[block as usize].as_slice()[start as usize..start as usize + length];
        Record {
            bytes,
            place: Some((block, start)),
        }
    }
}

/// Bytes that do not stand in the input as they are wanted, shared by the columns of one decoding.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// The bytes.
    pub(super) text: Vec<u8>,
    /// Its number among the buffers of the views: it comes after the input's.
    pub(super) block: u32,
    /// For values that are read out of text and then forgotten.
    pub(super) scratch: Vec<u8>,
}

impl Side {
    /// The buffers that views over `values` and these bytes point into; takes the bytes.
    pub(super) fn blocks(&mut self, values: &BinaryViewArray) -> Arc<[Buffer]> {
        let side = std::mem::take(&mut self.text);
        if side.is_empty() {
            values.clone().into_parts().1
        } else {
            let fetched = values.data_buffers().iter().cloned();
            fetched.chain([Buffer::from(side)]).collect()
        }
    }
}
