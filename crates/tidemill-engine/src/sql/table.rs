//! A source as a table: its declared columns, and the metadata columns that a query names.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};

use crate::format::Format;
use crate::source::{RawColumns, Source, header_field};

/// What a bad record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBadRecord {
    /// Stops the stream, naming it.
    Stop,
    /// Leaves it out and counts it.
    Skip,
    /// Leaves it out, counts it, and gives it to the table of the source's dead letters.
    DeadLetter,
}

/// A column that every Kafka table has beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataColumn {
    /// `_topic VARCHAR`
    Topic,
    /// `_partition INT`
    Partition,
    /// `_offset BIGINT`
    Offset,
    /// `_timestamp TIMESTAMP(3)`
    Timestamp,
    /// `_key BINARY`
    Key,
    /// `_headers`: list of (key, value) in order, keys may repeat.
    Headers,
}

impl MetadataColumn {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Topic,
        Self::Partition,
        Self::Offset,
        Self::Timestamp,
        Self::Key,
        Self::Headers,
    ];

    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Topic => "_topic",
            Self::Partition => "_partition",
            Self::Offset => "_offset",
            Self::Timestamp => "_timestamp",
            Self::Key => "_key",
            Self::Headers => "_headers",
        }
    }

    /// The column as a field.
    pub(super) fn field(self) -> Field {
        let (kind, nullable) = match self {
            Self::Topic => (DataType::Utf8View, false),
            Self::Partition => (DataType::Int32, false),
            Self::Offset => (DataType::Int64, false),
            Self::Timestamp => (DataType::Timestamp(TimeUnit::Millisecond, None), false),
            Self::Key => (DataType::BinaryView, true),
            Self::Headers => (DataType::List(header_field()), false),
        };
        Field::new(self.name(), kind, nullable)
    }
}

/// Where a column of a scan comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The declared column with this index.
    Value(usize),
    /// A metadata column.
    Metadata(MetadataColumn),
}

/// What a scan takes of the records that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Take {
    /// Those that can be read, as these columns.
    Records(Vec<Column>),
    /// Those that can't, as these columns of [`dead_letters::schema`](super::dead_letters::schema).
    DeadLetters(Vec<usize>),
}

impl Take {
    /// The declared columns among them.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let Self::Records(columns) = self else {
            return Vec::new();
        };
        columns
            .iter()
            .filter_map(|column| match column {
                Column::Value(index) => Some(*index),
                Column::Metadata(_) => None,
            })
            .collect()
    }

    /// The parts of a record that they need.
    pub(super) fn raw_columns(&self, decodes: bool) -> RawColumns {
        let Self::Records(columns) = self else {
            return RawColumns {
                key: true,
                value: true,
                timestamp: true,
                headers: true,
            };
        };
        let has = |wanted| columns.contains(&Column::Metadata(wanted));
        RawColumns {
            key: has(MetadataColumn::Key),
            value: decodes,
            timestamp: has(MetadataColumn::Timestamp),
            headers: has(MetadataColumn::Headers),
        }
    }
}

/// A source bound to its format: the table that queries name.
#[derive(Debug, Clone)]
pub struct SourceTable {
    /// The table's name.
    pub name: String,
    /// Where records come from.
    pub source: Arc<dyn Source>,
    /// How values are read.
    pub format: Arc<dyn Format>,
    /// What a bad record does.
    pub on_bad_record: OnBadRecord,
    /// Declared columns.
    pub columns: SchemaRef,
    /// Declared columns, by index, that are read of every record whatever a query wants, so that a record is bad for all
    /// outputs or for none.
    pub checked: Vec<usize>,
}

impl SourceTable {
    /// The declared columns that are read for `take`, the wanted ones first.
    pub(super) fn decoded(&self, take: &Take) -> Vec<usize> {
        let mut decoded = take.wanted();
        for column in &self.checked {
            if !decoded.contains(column) {
                decoded.push(*column);
            }
        }
        decoded
    }
}
