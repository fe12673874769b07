//! Which records are bad, while they are read.

use arrow::array::{BooleanArray, BooleanBufferBuilder};

use super::BadRecords;

/// The bad records so far; costs nothing while there are none.
#[derive(Debug, Default)]
pub(super) struct Bad {
    keep: Option<BooleanBufferBuilder>,
    count: usize,
    first_row: usize,
    first_reason: String,
}

impl Bad {
    #[cold]
    /// Adds the bad record at `row`, which comes after all that were added.
    pub(super) fn add(&mut self, row: usize, reason: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first_row = row;
            self.first_reason = reason();
        }
        let keep = self.keep.get_or_insert_with(|| BooleanBufferBuilder::new(row + 1));
        keep.append_n(row - keep.len(), true);
        keep.append(false);
        self.count += 1;
    }

    /// What to tell of so many rows.
    pub(super) fn finish(self, rows: usize) -> Option<BadRecords> {
        let mut keep = self.keep?;
        keep.append_n(rows - keep.len(), true);
        let keep = BooleanArray::new(keep.build(), None);
        Some(BadRecords {
            keep,
            count: self.count,
            first_row: self.first_row,
            first_reason: self.first_reason,
        })
    }
}
