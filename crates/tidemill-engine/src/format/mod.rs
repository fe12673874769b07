//! Turning raw records into columns.

use std::fmt::Debug;

use arrow::array::{ArrayRef, BooleanArray};

use crate::source::RawRows;

mod avro;
mod bad;
pub mod columns;
mod csv;
mod each_record;
mod excerpt;
mod json;
mod moment;
mod number;
mod raw;
mod record;
#[cfg(test)]
mod testing;
mod views;

pub use self::avro::{AvroFormat, AvroHeader};
pub use self::csv::CsvFormat;
pub use columns::{parse as parse_columns, sql_name};
pub use json::JsonFormat;
pub use raw::RawFormat;

/// The columns of some records, and which of them were bad.
#[derive(Debug)]
pub struct Decoded {
    /// One array per wanted column, all of the rows' length. The values at bad rows are meaningless.
    pub columns: Vec<ArrayRef>,
    /// Set where any record was bad.
    pub bad: Option<BadRecords>,
}

/// The bad records among some rows.
#[derive(Debug)]
pub struct BadRecords {
    /// True for each record that can be kept.
    pub keep: BooleanArray,
    /// How many were bad.
    pub count: usize,
    /// The row of the first bad record.
    pub first_row: usize,
    /// Why the first was bad, naming the column, with at most 120 characters of the record.
    pub first_reason: String,
}

/// Reads the wanted columns out of record values. One per slice; may keep buffers and guesses between calls.
pub trait Decoder: Debug + Send {
    /// Decodes all rows. Never fails as a whole: what can't be read is a bad record.
    fn decode(&mut self, rows: &RawRows) -> Decoded;
}

/// A format bound to a table's columns: makes decoders for the columns that a scan wants.
pub trait Format: Debug + Send + Sync {
    /// A decoder for the value columns `wanted`, indexes into the table's own columns, in that order.
    fn decoder(&self, wanted: &[usize]) -> Box<dyn Decoder>;

    /// True where a record can be bad although none of its columns is wanted, so that values are needed in any case.
    fn validates_without_columns(&self) -> bool;

    /// Why this value column can't be read although the table has it, naming it. A scan that wants it is refused.
    fn unreadable(&self, _column: usize) -> Option<&str> {
        None
    }
}

/// Each wanted column once, and for each wanted one its place among these: a column may be wanted twice.
fn distinct(wanted: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut columns: Vec<usize> = Vec::with_capacity(wanted.len());
    let mut outputs = Vec::with_capacity(wanted.len());
    for column in wanted {
        let known = columns.iter().position(|known| known == column);
        outputs.push(known.unwrap_or(columns.len()));
        if known.is_none() {
            columns.push(*column);
        }
    }
    (columns, outputs)
}
