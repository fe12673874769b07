//! Text and binary columns as views: short values inside the view, longer ones where they stand already.

use std::sync::Arc;

use arrow::array::{BinaryViewArray, StringViewArray};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

use super::record::{Record, Side};

/// The longest text that stands inside its view.
const INLINE_BYTES_MAX: usize = 12;

/// Views under construction. For text, everything pushed is valid UTF-8: the pushing side has checked it.
#[derive(Debug, Default)]
pub(super) struct Views {
    views: Vec<u128>,
    /// True where any view points into a buffer.
    points: bool,
}

impl Views {
    pub(super) fn reserve(&mut self, rows: usize) {
        self.views.reserve_exact(rows);
    }

    /// Adds `length` bytes of the record from `from`.
    #[inline(always)]
    pub(super) fn push_part(&mut self, record: Record<'_>, from: usize, length: usize) {
        let view = match record.place {
            Some((block, start)) if length > INLINE_BYTES_MAX => {
                self.points = true;
                pointing(record.bytes, from, length, block, start + from as u32)
            }
            _ => inline(record.bytes, from, length),
        };
        self.views.push(view);
    }

    /// Adds the side text from `from` to its end. True where the view does not point to it, so that it can be removed.
    pub(super) fn push_side(&mut self, side: &Side, from: usize) -> bool {
        let length = side.text.len() - from;
        if length <= INLINE_BYTES_MAX {
            self.views.push(inline(&side.text, from, length));
            return true;
        }
        self.points = true;
        self.views
            .push(pointing(&side.text, from, length, side.block, from as u32));
        false
    }

    /// Adds `length` bytes of a record that may be a copy, which stands in no buffer though it is long: then they go to the side
    /// text. `None` where that has no room.
    pub(super) fn push_cell(&mut self, record: Record<'_>, from: usize, length: usize, side: &mut Side) -> Option<()> {
        if record.place.is_some() || length <= INLINE_BYTES_MAX {
            self.push_part(record, from, length);
            return Some(());
        }
        let start = side.text.len();
        i32::try_from(start + length).ok()?;
        side.text.extend_from_slice(&record.bytes[from..from + length]);
        self.push_side(side, start);
        Some(())
    }

    /// Adds an empty value.
    pub(super) fn push_empty(&mut self) {
        self.views.push(0);
    }

    /// Adds the value of a view that was made for this array before.
    pub(super) fn push_again(&mut self, view: u128) {
        self.points |= view as u32 as usize > INLINE_BYTES_MAX;
        self.views.push(view);
    }

    /// The last view.
    pub(super) fn last(&self) -> Option<u128> {
        self.views.last().copied()
    }

    /// Forgets all but the first `rows` views.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.views.truncate(rows);
    }

    /// Takes the views as an array of bytes over `blocks`.
    pub(super) fn finish_binary(&mut self, blocks: &Arc<[Buffer]>, nulls: Option<NullBuffer>) -> BinaryViewArray {
        let (views, blocks) = self.take(blocks);
        BinaryViewArray::new(views, blocks, nulls)
    }

    fn take(&mut self, blocks: &Arc<[Buffer]>) -> (ScalarBuffer<u128>, Arc<[Buffer]>) {
        let views = ScalarBuffer::from(std::mem::take(&mut self.views));
        let points = std::mem::take(&mut self.points);
        let blocks = if points { Arc::clone(blocks) } else { Arc::from([]) };
        (views, blocks)
    }

    /// Takes the views as an array of text over `blocks`; holds none of them where no view points into any.
    pub(super) fn finish(&mut self, blocks: &Arc<[Buffer]>, nulls: Option<NullBuffer>) -> StringViewArray {
        let (views, blocks) = self.take(blocks);
        if cfg!(debug_assertions) {
            return StringViewArray::new(views, blocks, nulls);
        }
        checked_before(views, blocks, nulls)
    }
}

#[expect(
    unsafe_code,
    reason = "the safe constructor reads all text a second time to check it; it was checked while it was scanned"
)]
fn checked_before(views: ScalarBuffer<u128>, blocks: Arc<[Buffer]>, nulls: Option<NullBuffer>) -> StringViewArray {
    // SAFETY: every view was made by `inline` or `pointing` from a slice that lies in its block, holds valid UTF-8
    // and gave its own length and first bytes; there are as many nulls as views, since rows are pushed in pairs.
    // Debug builds go through the checking constructor.
    unsafe { StringViewArray::new_unchecked(views, blocks, nulls) }
}

/// The bytes of a word that a text of this length fills.
const FILLED: [u128; INLINE_BYTES_MAX + 1] = {
    let mut masks = [0; INLINE_BYTES_MAX + 1];
    let mut length = 0;
    while length <= INLINE_BYTES_MAX {
        masks[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// Length and bytes, zeros behind. `length` is at most [`INLINE_BYTES_MAX`].
#[inline(always)]
fn inline(bytes: &[u8], from: usize, length: usize) -> u128 {
    match bytes[from..].first_chunk::<16>() {
        Some(chunk) => (u128::from_le_bytes(*chunk) & FILLED[length]) << 32 | length as u128,
        None => {
            let mut view = [0; 16];
            view[0] = length as u8;
            view[4..4 + length].copy_from_slice(&bytes[from..from + length]);
            u128::from_le_bytes(view)
        }
    }
}

/// Length, first four bytes, block and offset.
#[inline(always)]
fn pointing(bytes: &[u8], from: usize, length: usize, block: u32, offset: u32) -> u128 {
    let text = &bytes[from..from + length];
    let prefix = u32::from_le_bytes(*text.first_chunk().expect("longer than what stands inside a view"));
    u128::from(offset) << 96 | u128::from(block) << 64 | u128::from(prefix) << 32 | length as u128
}
