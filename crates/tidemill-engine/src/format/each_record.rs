//! The way of every format that reads one record after the other into columns.

use arrow::array::{Array, ArrayRef, BinaryViewArray};

use super::Decoded;
use super::bad::Bad;
use super::record::Record;
use crate::source::RawRows;

/// Reads single records into columns of its own.
pub(super) trait ReadRecord {
    /// Why a record is bad, cheap to make: it is put into words only for the first.
    type Fault;

    /// Makes room for so many rows. Text that does not stand in the input goes into the buffer of this number.
    fn begin(&mut self, rows: usize, side_block: u32);

    /// Reads one record into every column; on an error some may have got the row, or half of it.
    fn read(&mut self, record: Record<'_>, row: usize) -> Result<(), Self::Fault>;

    /// Gives a bad record's row to the columns that have not got it, whatever it holds.
    fn fill(&mut self, row: usize);

    /// The fault in words.
    fn describe(&self, fault: Self::Fault, record: &[u8]) -> String;

    /// Takes the rows read so far, as the wanted columns.
    fn finish(&mut self, values: &BinaryViewArray) -> Vec<ArrayRef>;
}

/// Decodes all rows. A row without a value is bad.
#[inline(always)]
pub(super) fn decode_each<R: ReadRecord>(reader: &mut R, rows: &RawRows) -> Decoded {
    let count = rows.offsets.len();
    let mut bad = Bad::default();
    let Some(values) = &rows.values else {
        reader.begin(count, 0);
        for row in 0..count {
            reader.fill(row);
            bad.add(row, || "its value was not fetched".to_owned());
        }
        return Decoded {
            columns: reader.finish(&BinaryViewArray::new_null(0)),
            bad: bad.finish(count),
        };
    };
    let blocks = values.data_buffers();
    let side_block = u32::try_from(blocks.len()).expect("views number their buffers in 32 bits");
    reader.begin(count, side_block);
    for (row, view) in values.views().iter().enumerate() {
        if values.is_null(row) {
            reader.fill(row);
            bad.add(row, || "no value".to_owned());
            continue;
        }
        let inline = view.to_le_bytes();
        let record = Record::of(*view, &inline, blocks);
        if let Err(fault) = reader.read(record, row) {
            reader.fill(row);
            bad.add(row, || reader.describe(fault, record.bytes));
        }
    }
    Decoded {
        columns: reader.finish(values),
        bad: bad.finish(count),
    }
}
