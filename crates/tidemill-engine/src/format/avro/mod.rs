//! Avro records into columns: one forward pass over each record, which reads what is wanted and steps over the rest.
//!
//! What counts as bad is a contract with users:
//!
//! - A record must be one value of the schema, from its first byte to its last. One without a value (a tombstone) is bad.
//! - A wanted field must be readable: in range, valid UTF-8, a branch and a symbol that exist. Of the others only the lengths
//!   and branches are looked at that lead to the next field; blocks of arrays and maps that give their size are jumped over.
//! - Confluent's header is a zero byte and four bytes of schema id, which is not looked up. Where the source does not say
//!   whether records have it, a record that begins with a zero byte is read both ways, by its structure alone and so without
//!   regard to what a query wants: the way on which it ends with its last byte is taken. It is bad where both do.
//!
//! Texts, bytes and fixeds are not copied: the columns are views into the buffers that were fetched.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray};
use arrow::datatypes::{DataType, Field, SchemaRef};

use self::column::Column;
use self::fault::{Fault, Why};
use self::schema::{Schema, TypeId};
use self::wire::Cursor;
use super::columns::METADATA_COLUMNS;
use super::each_record::{ReadRecord, decode_each};
use super::record::{Record, Side};
use super::{Decoded, Decoder, Format, distinct};
use crate::error::{Error, Kind, Result};
use crate::source::RawRows;

mod column;
mod fault;
mod keys;
mod schema;
mod symbols;
mod values;
mod wire;

/// Bytes of Confluent's header.
const HEADER_BYTES: usize = 5;

/// Whether Confluent's header, a zero byte and four bytes of schema id, stands before each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AvroHeader {
    /// Told by each record itself.
    Told,
    /// It does; a record without is bad.
    Always,
    /// It does not.
    Never,
}

/// Records that were written with one schema.
#[derive(Debug)]
pub struct AvroFormat {
    schema: Arc<Schema>,
    header: AvroHeader,
    columns: Vec<AvroColumn>,
}

#[derive(Debug)]
struct AvroColumn {
    /// Its place among the schema's fields.
    field: usize,
    /// Why it can't be read, where it can't.
    unreadable: Option<String>,
}

impl AvroFormat {
    /// Records of the schema `json`, the text of an `.avsc` file; and the table's columns, a column for each field. Fields
    /// named like the metadata columns that every table has are left out.
    ///
    /// A field of a type that has no Arrow type stands there as BINARY and is refused in a query, see
    /// [`Format::unreadable`].
    ///
    /// # Errors
    /// `Config`: what is wrong with the schema.
    pub fn new(json: &str, header: AvroHeader) -> Result<(Self, SchemaRef)> {
        let schema = Schema::parse(json).map_err(|problem| Error::new(Kind::Config, problem))?;
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            if METADATA_COLUMNS.contains(&field.name.as_str()) {
                continue;
            }
            let (arrow, unreadable) = match Column::new(&schema, &field.name, field.of) {
                Ok(column) => (Arc::clone(column.field()), None),
                Err(why) => {
                    let placeholder = Arc::new(Field::new(&field.name, DataType::BinaryView, true));
                    (placeholder, Some(format!("field {} can't be read: {why}", field.name)))
                }
            };
            fields.push(arrow);
            columns.push(AvroColumn {
                field: index,
                unreadable,
            });
        }
        let format = Self {
            schema: Arc::new(schema),
            header,
            columns,
        };
        Ok((format, Arc::new(arrow::datatypes::Schema::new(fields))))
    }
}

impl Format for AvroFormat {
    fn decoder(&self, wanted: &[usize]) -> Box<dyn Decoder> {
        let (distinct, outputs) = distinct(wanted);
        let fields: Vec<usize> = distinct.iter().map(|column| self.columns[*column].field).collect();
        let column = |field: &usize| {
            let field = &self.schema.fields()[*field];
            let column = Column::new(&self.schema, &field.name, field.of);
            column.expect("the scan has refused columns that can't be read")
        };
        let step = |(index, field): (usize, &schema::Field)| Step {
            of: field.of,
            column: fields.iter().position(|wanted| *wanted == index),
        };
        Box::new(AvroDecoder {
            schema: Arc::clone(&self.schema),
            header: self.header,
            steps: self.schema.fields().iter().enumerate().map(step).collect(),
            columns: fields.iter().map(column).collect(),
            outputs,
            side: Side::default(),
        })
    }

    fn validates_without_columns(&self) -> bool {
        true
    }

    fn unreadable(&self, column: usize) -> Option<&str> {
        self.columns[column].unreadable.as_deref()
    }
}

/// What to do with a field of the record.
#[derive(Debug, Clone, Copy)]
struct Step {
    of: TypeId,
    /// The column that takes it, if any.
    column: Option<usize>,
}

#[derive(Debug)]
struct AvroDecoder {
    schema: Arc<Schema>,
    header: AvroHeader,
    /// One for each field, in their order.
    steps: Vec<Step>,
    columns: Vec<Column>,
    /// The column of each wanted one.
    outputs: Vec<usize>,
    side: Side,
}

impl Decoder for AvroDecoder {
    fn decode(&mut self, rows: &RawRows) -> Decoded {
        decode_each(self, rows)
    }
}

impl ReadRecord for AvroDecoder {
    type Fault = Fault;

    fn begin(&mut self, rows: usize, side_block: u32) {
        self.side.block = side_block;
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    #[inline(always)]
    fn read(&mut self, record: Record<'_>, _row: usize) -> Result<(), Fault> {
        let begins_with_header = record.bytes.first() == Some(&0) && record.bytes.len() >= HEADER_BYTES;
        match self.header {
            AvroHeader::Told if begins_with_header => self.read_told(record),
            AvroHeader::Told | AvroHeader::Never => self.read_from(record, 0),
            AvroHeader::Always if begins_with_header => self.read_from(record, HEADER_BYTES),
            AvroHeader::Always => Err(Fault::NoHeader),
        }
    }

    #[cold]
    fn fill(&mut self, row: usize) {
        for column in &mut self.columns {
            column.truncate(row);
            column.push_filler();
        }
    }

    fn describe(&self, fault: Fault, record: &[u8]) -> String {
        fault.describe(&self.schema, record)
    }

    fn finish(&mut self, values: &BinaryViewArray) -> Vec<ArrayRef> {
        let blocks = self.side.blocks(values);
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(|column| column.finish(&blocks)).collect();
        self.outputs.iter().map(|at| Arc::clone(&columns[*at])).collect()
    }
}

impl AvroDecoder {
    /// Reads a record that may begin with a header.
    fn read_told(&mut self, record: Record<'_>) -> Result<(), Fault> {
        match self.ends_well(record, HEADER_BYTES) {
            Ok(()) if self.ends_well(record, 0).is_ok() => Err(Fault::TwoWays),
            Ok(()) => self.read_from(record, HEADER_BYTES),
            Err(headed) => self
                .read_from(record, 0)
                .map_err(|fault| match self.ends_well(record, 0) {
                    Ok(()) => fault,
                    Err(plain) => Fault::NoWay { plain, headed },
                }),
        }
    }

    /// Whether the bytes from `from` on have the structure of a record. On an error where they end to have it.
    fn ends_well(&self, record: Record<'_>, from: usize) -> Result<(), usize> {
        let mut cursor = Cursor::new(record.bytes, from);
        for step in &self.steps {
            let at = cursor.at;
            cursor.skip(&self.schema, step.of).map_err(|_why: Why| at)?;
        }
        if cursor.at == record.bytes.len() {
            Ok(())
        } else {
            Err(cursor.at)
        }
    }

    #[inline(always)]
    fn read_from(&mut self, record: Record<'_>, from: usize) -> Result<(), Fault> {
        let mut cursor = Cursor::new(record.bytes, from);
        for (field, step) in self.steps.iter().enumerate() {
            let at = cursor.at;
            let read = match step.column {
                None => cursor.skip(&self.schema, step.of),
                Some(column) => self.columns[column].read(&mut cursor, record, &mut self.side),
            };
            if let Err(why) = read {
                return Err(Fault::Field { field, why, at });
            }
        }
        if cursor.at == record.bytes.len() {
            Ok(())
        } else {
            Err(Fault::More { at: cursor.at })
        }
    }
}

#[cfg(test)]
mod tests;
