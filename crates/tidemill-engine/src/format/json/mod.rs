//! JSON records into columns: one forward pass over each record, which reads what is wanted and steps over the rest.
//!
//! What counts as bad is a contract with users:
//!
//! - A record must be an object. One without a value (a tombstone) is bad: `no value`.
//! - A wanted column must be readable: right type, in range, valid UTF-8, known escapes, complete. Fields that the query
//!   does not use are not looked at beyond finding their end, and once every wanted column is found the rest of the record
//!   is not read at all, except that it must end with `}`.
//! - A missing field and `null` are NULL; in a `NOT NULL` column they make the record bad.
//! - Of a repeated field the first counts. (Stopping early would make "the last" depend on which columns a query uses.)
//! - BOOLEAN takes true and false. Integers take integral numbers in any spelling (`1`, `1.0`, `1e3`). REAL and DOUBLE take
//!   numbers that they can hold as finite ones. DECIMAL takes numbers, and strings that hold one, and rounds half away
//!   from zero. DATE takes "YYYY-MM-DD". TIMESTAMP takes integral numbers as epoch milliseconds, and ISO 8601 strings, UTC
//!   where they name no zone. VARCHAR takes strings, and any other value as the JSON text it is written in.
//! - BINARY is refused, since JSON has no bytes.
//!
//! Text without escapes is not copied: the columns are views into the buffers that were fetched.

use arrow::array::{ArrayRef, BinaryViewArray};
use arrow::datatypes::{Field, SchemaRef};

use self::column::Column;
use self::fault::Fault;
use self::keys::Keys;
use self::scan::{skip_space, value_end};
use super::columns::sql_name;
use super::each_record::{ReadRecord, decode_each};
use super::record::{Record, Side};
use super::{Decoded, Decoder, Format};
use crate::error::{Error, Kind, Result};
use crate::source::RawRows;

pub(super) mod column;
pub(super) mod fault;
mod keys;
mod scan;
mod string;

/// Records that are JSON objects.
#[derive(Debug)]
pub struct JsonFormat {
    schema: SchemaRef,
}

impl JsonFormat {
    /// Records with these columns, as [`parse_columns`](super::parse_columns) gives them.
    ///
    /// # Errors
    /// `Config`, naming each column whose type JSON has no values for.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let problems: Vec<String> = schema
            .fields()
            .iter()
            .filter(|field| !Column::can_hold(field.data_type()))
            .map(|field| {
                format!(
                    "column {}: {} can't be read from json",
                    field.name(),
                    sql_name(field.data_type())
                )
            })
            .collect();
        if problems.is_empty() {
            Ok(Self { schema })
        } else {
            let way_out = "VARCHAR takes any value; format = \"raw\" gives the whole value as BINARY";
            Err(Error::new(Kind::Config, format!("{}; {way_out}", problems.join("; "))))
        }
    }
}

impl Format for JsonFormat {
    fn decoder(&self, wanted: &[usize]) -> Box<dyn Decoder> {
        let fields: Vec<Field> = wanted.iter().map(|index| self.schema.field(*index).clone()).collect();
        let column = |field| Column::new(field).expect("the format was made of columns that can be read");
        Box::new(JsonDecoder {
            keys: Keys::new(fields.iter().map(|field| field.name().as_str())),
            columns: fields.iter().map(column).collect(),
            side: Side::default(),
            fields,
        })
    }

    fn validates_without_columns(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct JsonDecoder {
    fields: Vec<Field>,
    columns: Vec<Column>,
    keys: Keys,
    side: Side,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, rows: &RawRows) -> Decoded {
        decode_each(self, rows)
    }
}

impl ReadRecord for JsonDecoder {
    type Fault = Fault;

    fn begin(&mut self, rows: usize, side_block: u32) {
        self.side.block = side_block;
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    #[inline(always)]
    fn read(&mut self, record: Record<'_>, row: usize) -> Result<(), Fault> {
        let bytes = record.bytes;
        let mut at = skip_space(bytes, 0);
        if bytes.get(at) != Some(&b'{') {
            return Err(Fault::Record {
                wanted: "an object",
                at,
            });
        }
        let mut missing = self.columns.len();
        if missing == 0 {
            return closes(bytes, at + 1);
        }
        at = skip_space(bytes, at + 1);
        if bytes.get(at) == Some(&b'}') {
            return self.end(bytes, at, row, missing);
        }
        let mut key = Keys::START;
        loop {
            let found = match self.keys.guess(key, bytes, at) {
                Some(found) => found,
                None => self.keys.look_up(key, bytes, at)?,
            };
            key = found.id;
            at = skip_space(bytes, found.end);
            match self.columns.get_mut(found.column) {
                Some(column) if column.rows() == row => {
                    let fault = |why| Fault::Column {
                        column: found.column,
                        why,
                        at,
                    };
                    at = column.read(record, at, &mut self.side).map_err(fault)?;
                    missing -= 1;
                }
                _ => at = value_end(bytes, at).ok_or(Fault::Record { wanted: "a value", at })?,
            }
            at = skip_space(bytes, at);
            match bytes.get(at) {
                Some(b',') if missing == 0 => return closes(bytes, at + 1),
                Some(b',') => at = skip_space(bytes, at + 1),
                Some(b'}') => return self.end(bytes, at, row, missing),
                _ => {
                    return Err(Fault::Record {
                        wanted: "a comma or the object's end",
                        at,
                    });
                }
            }
        }
    }

    #[cold]
    fn fill(&mut self, row: usize) {
        self.columns
            .iter_mut()
            .filter(|column| column.rows() == row)
            .for_each(Column::push_filler);
    }

    fn describe(&self, fault: Fault, record: &[u8]) -> String {
        fault.describe(&self.fields, record)
    }

    fn finish(&mut self, values: &BinaryViewArray) -> Vec<ArrayRef> {
        let blocks = self.side.blocks(values);
        self.columns.iter_mut().map(|column| column.finish(&blocks)).collect()
    }
}

impl JsonDecoder {
    /// The object ends at `at`: nothing may follow, and what it lacked is null.
    #[inline(always)]
    fn end(&mut self, bytes: &[u8], at: usize, row: usize, missing: usize) -> Result<(), Fault> {
        let after = skip_space(bytes, at + 1);
        if after < bytes.len() {
            return Err(Fault::Record {
                wanted: "nothing more",
                at: after,
            });
        }
        if missing == 0 {
            return Ok(());
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            if column.rows() == row {
                column
                    .push_missing()
                    .map_err(|why| Fault::Column { column: index, why, at })?;
            }
        }
        Ok(())
    }
}

/// All that is asked of the rest of a record from `at` on when nothing in it is wanted: its last byte is `}`.
#[inline(always)]
fn closes(bytes: &[u8], at: usize) -> Result<(), Fault> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.last() == Some(&b'}') || rest.trim_ascii_end().last() == Some(&b'}') {
        Ok(())
    } else {
        Err(Fault::Record {
            wanted: "the object's end",
            at: bytes.len(),
        })
    }
}

#[cfg(test)]
mod tests;
