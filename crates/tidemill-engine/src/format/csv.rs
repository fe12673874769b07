//! CSV records into columns: one record, one row, by RFC 4180.
//!
//! What counts as bad is a contract with users:
//!
//! - A record must have as many fields as there are columns. One without a value (a tombstone) is bad.
//! - A field stands in quotes as a whole or not at all; a quote within is written twice. What follows a closing quote, and a
//!   quote or a line break in a field without quotes, make the record bad; one line break may end it.
//! - An empty field without quotes is NULL, one of two quotes is an empty text.
//! - A value is read as the JSON text of the same type is, without a string's quotes, and nothing is trimmed. Fields that the
//!   query does not use are not looked at beyond finding their end.
//! - With a header, the first line of each record is one, and is stepped over.
//!
//! Text is not copied unless it has quotes inside: the columns are views into the buffers that were fetched.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray};
use arrow::datatypes::SchemaRef;

use super::columns::sql_name;
use super::each_record::{ReadRecord, decode_each};
use super::excerpt::excerpt;
use super::json::column::Column;
use super::json::fault::Why;
use super::record::{Record, Side};
use super::{Decoded, Decoder, Format, distinct};
use crate::error::{Error, Kind, Result};
use crate::source::RawRows;

const QUOTE: u8 = b'"';

/// Records that are one line of CSV each.
#[derive(Debug)]
pub struct CsvFormat {
    schema: SchemaRef,
    delimiter: u8,
    header: bool,
}

impl CsvFormat {
    /// Records with these columns in this order, as [`parse_columns`](super::parse_columns) gives them. With `header` the first
    /// line of each record is stepped over.
    ///
    /// # Errors
    /// `Config`, naming each column whose type CSV has no values for.
    pub fn new(schema: SchemaRef, delimiter: u8, header: bool) -> Result<Self> {
        let fields = schema.fields().iter();
        let problems: Vec<String> = fields
            .filter(|field| !Column::can_hold(field.data_type()))
            .map(|field| {
                let data_type = sql_name(field.data_type());
                format!("column {}: {data_type} can't be read from csv", field.name())
            })
            .collect();
        if problems.is_empty() {
            Ok(Self {
                schema,
                delimiter,
                header,
            })
        } else {
            let way_out = "VARCHAR takes any text; format = \"raw\" gives the whole value as BINARY";
            Err(Error::new(Kind::Config, format!("{}; {way_out}", problems.join("; "))))
        }
    }
}

impl Format for CsvFormat {
    fn decoder(&self, wanted: &[usize]) -> Box<dyn Decoder> {
        let (wanted, outputs) = distinct(wanted);
        let column = |index: &usize| {
            let column = Column::new(self.schema.field(*index));
            column.expect("the format was made of columns that can be read")
        };
        let of = |field| wanted.iter().position(|wanted| *wanted == field);
        Box::new(CsvDecoder {
            schema: Arc::clone(&self.schema),
            delimiter: self.delimiter,
            header: self.header,
            fields: (0..self.schema.fields().len()).map(of).collect(),
            columns: wanted.iter().map(column).collect(),
            outputs,
            side: Side::default(),
            unquoted: Vec::new(),
        })
    }

    fn validates_without_columns(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct CsvDecoder {
    schema: SchemaRef,
    delimiter: u8,
    header: bool,
    /// For each field the column that takes it, if any.
    fields: Vec<Option<usize>>,
    columns: Vec<Column>,
    /// The column of each wanted one.
    outputs: Vec<usize>,
    side: Side,
    /// A field without the quotes that were doubled in it.
    unquoted: Vec<u8>,
}

/// Why a record is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// So many fields.
    Fields(usize),
    /// What was found at this byte.
    Found(&'static str, usize),
    /// A wanted field, and where it begins.
    Column { field: usize, why: Why, at: usize },
}

/// A field of a record.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// Its bytes, quotes around them left out.
    from: usize,
    to: usize,
    quoted: bool,
    /// True where it has quotes inside, each written twice.
    doubled: bool,
    /// The delimiter after it, or the record's end.
    end: usize,
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, rows: &RawRows) -> Decoded {
        decode_each(self, rows)
    }
}

impl ReadRecord for CsvDecoder {
    type Fault = Fault;

    fn begin(&mut self, rows: usize, side_block: u32) {
        self.side.block = side_block;
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    fn read(&mut self, record: Record<'_>, _row: usize) -> Result<(), Fault> {
        let bytes = without_line_end(record.bytes);
        let mut at = if self.header { line_end(bytes)? } else { 0 };
        let mut field = 0;
        loop {
            let cell = self.cell(bytes, at)?;
            if let Some(Some(column)) = self.fields.get(field) {
                let column = *column;
                self.read_cell(column, record, cell)
                    .map_err(|why| Fault::Column { field, why, at })?;
            }
            field += 1;
            if cell.end == bytes.len() {
                break;
            }
            at = cell.end + 1;
        }
        if field == self.fields.len() {
            Ok(())
        } else {
            Err(Fault::Fields(field))
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
        let (what, at) = match fault {
            Fault::Fields(found) => {
                let wanted = self.fields.len();
                return format!("{found} fields, wanted {wanted}, in {}", excerpt(record, 0));
            }
            Fault::Found(what, at) => (format!("found {what}"), at),
            Fault::Column { field, why, at } => {
                let field = self.schema.field(field);
                let what = match why {
                    Why::Missing => "found nothing where it is NOT NULL",
                    Why::Range => "found a value that it can't hold",
                    Why::Utf8 => "found text that is not UTF-8",
                    Why::TooLong => "found more text with quotes inside than fits into one step",
                    _ => "found something else",
                };
                let data_type = sql_name(field.data_type());
                (format!("column {} {data_type}: {what}", field.name()), at)
            }
        };
        format!("{what} at byte {at} of {}", excerpt(record, at))
    }

    fn finish(&mut self, values: &BinaryViewArray) -> Vec<ArrayRef> {
        let blocks = self.side.blocks(values);
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(|column| column.finish(&blocks)).collect();
        self.outputs.iter().map(|at| Arc::clone(&columns[*at])).collect()
    }
}

impl CsvDecoder {
    fn read_cell(&mut self, column: usize, record: Record<'_>, cell: Cell) -> Result<(), Why> {
        let column = &mut self.columns[column];
        let Cell { from, to, .. } = cell;
        if from == to && !cell.quoted {
            return column.push_missing();
        }
        if !cell.doubled {
            return column.read_cell(record, from, to, &mut self.side);
        }
        self.unquoted.clear();
        let mut rest = &record.bytes[from..to];
        while let Some(at) = memchr::memchr(QUOTE, rest) {
            self.unquoted.extend_from_slice(&rest[..=at]);
            rest = &rest[at + 2..];
        }
        self.unquoted.extend_from_slice(rest);
        let copy = Record {
            bytes: &self.unquoted,
            place: None,
        };
        column.read_cell(copy, 0, copy.bytes.len(), &mut self.side)
    }

    /// The field that begins at `at`.
    fn cell(&self, bytes: &[u8], at: usize) -> Result<Cell, Fault> {
        if bytes.get(at) == Some(&QUOTE) {
            return self.quoted_cell(bytes, at);
        }
        let special = |byte: &u8| *byte == self.delimiter || matches!(*byte, QUOTE | b'\n' | b'\r');
        let rest = bytes.get(at..).unwrap_or_default();
        let to = rest.iter().position(special).map_or(bytes.len(), |length| at + length);
        match bytes.get(to) {
            None => {}
            Some(byte) if *byte == self.delimiter => {}
            Some(&QUOTE) => return Err(Fault::Found("a quote in a field without quotes around it", to)),
            Some(_) => return Err(Fault::Found("a line break outside quotes", to)),
        }
        Ok(Cell {
            from: at,
            to,
            quoted: false,
            doubled: false,
            end: to,
        })
    }

    fn quoted_cell(&self, bytes: &[u8], at: usize) -> Result<Cell, Fault> {
        let from = at + 1;
        let mut to = from;
        let mut doubled = false;
        loop {
            let rest = bytes.get(to..).unwrap_or_default();
            to += memchr::memchr(QUOTE, rest).ok_or(Fault::Found("a quote that does not close", at))?;
            match bytes.get(to + 1) {
                Some(&QUOTE) => {
                    doubled = true;
                    to += 2;
                }
                Some(byte) if *byte != self.delimiter => {
                    return Err(Fault::Found("more behind a closing quote", to + 1));
                }
                _ => break,
            }
        }
        Ok(Cell {
            from,
            to,
            quoted: true,
            doubled,
            end: to + 1,
        })
    }
}

/// The record without the line break that may end it.
fn without_line_end(record: &[u8]) -> &[u8] {
    let line = record.strip_suffix(b"\n").unwrap_or(record);
    if line.len() < record.len() {
        line.strip_suffix(b"\r").unwrap_or(line)
    } else {
        line
    }
}

/// The byte after the first line.
fn line_end(record: &[u8]) -> Result<usize, Fault> {
    let mut in_quotes = false;
    for (at, byte) in record.iter().enumerate() {
        match byte {
            &QUOTE => in_quotes = !in_quotes,
            b'\n' if !in_quotes => return Ok(at + 1),
            _ => {}
        }
    }
    Err(Fault::Found("no line behind the header", record.len()))
}

#[cfg(test)]
mod tests;
