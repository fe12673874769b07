//! One record of a Kafka stream: a view into the fetched buffers.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryArray, BinaryViewArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StringViewArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};
use tidemill_engine::error::{Error, Kind, Result};

/// The columns that a block of records is read from, in this order.
pub(crate) const COLUMNS: &str = "_topic, _partition, _offset, _timestamp, _key, _headers, value";

/// Some records of one partition, as they were fetched.
#[derive(Debug)]
pub(crate) struct Block {
    topics: StringViewArray,
    partitions: Int32Array,
    offsets: Int64Array,
    timestamps: TimestampMillisecondArray,
    keys: BinaryViewArray,
    headers: ListArray,
    values: BinaryViewArray,
}

impl Block {
    pub(crate) fn new(rows: &RecordBatch) -> Result<Self> {
        let bug = || Error::new(Kind::Bug, "a record block has other columns than it was asked for");
        Ok(Self {
            topics: rows.column(0).as_string_view_opt().ok_or_else(bug)?.clone(),
            partitions: rows.column(1).as_primitive_opt::<Int32Type>().ok_or_else(bug)?.clone(),
            offsets: rows.column(2).as_primitive_opt::<Int64Type>().ok_or_else(bug)?.clone(),
            timestamps: rows
                .column(3)
                .as_primitive_opt::<TimestampMillisecondType>()
                .ok_or_else(bug)?
                .clone(),
            keys: rows.column(4).as_binary_view_opt().ok_or_else(bug)?.clone(),
            headers: rows.column(5).as_list_opt::<i32>().ok_or_else(bug)?.clone(),
            values: rows.column(6).as_binary_view_opt().ok_or_else(bug)?.clone(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }
}

/// One record: topic, partition, offset, key, value, headers, timestamp. Cheap to clone; keeps its fetched buffer alive.
///
/// ```no_run
/// # use tidemill::prelude::*;
/// # fn declare(events: DStream<Record>) {
/// events
///     .filter(|record| !record.is_tombstone())
///     .map(|record| (record.topic().to_owned(), record.partition(), record.offset(), record.value().len()))
///     .print(10);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Record {
    block: Arc<Block>,
    row: usize,
}

impl Record {
    pub(crate) fn new(block: Arc<Block>, row: usize) -> Self {
        Self { block, row }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.block.topics.value(self.row)
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.block.partitions.value(self.row)
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.block.offsets.value(self.row)
    }

    /// Milliseconds since 1970 UTC.
    pub fn timestamp_ms(&self) -> i64 {
        self.block.timestamps.value(self.row)
    }

    /// The key, `None` where the record has none.
    pub fn key(&self) -> Option<&[u8]> {
        self.block
            .keys
            .is_valid(self.row)
            .then(|| self.block.keys.value(self.row))
    }

    /// The value; empty for a tombstone, see [`is_tombstone`](Self::is_tombstone).
    pub fn value(&self) -> &[u8] {
        if self.is_tombstone() {
            &[]
        } else {
            self.block.values.value(self.row)
        }
    }

    /// True where the record has no value.
    pub fn is_tombstone(&self) -> bool {
        self.block.values.is_null(self.row)
    }

    /// Headers in order; keys may repeat.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let headers = self.block.headers.value(self.row);
        let headers = headers.as_struct();
        let keys: &StringArray = headers.column(0).as_string();
        let values: &BinaryArray = headers.column(1).as_binary();
        (0..headers.len())
            .map(|at| {
                (
                    keys.value(at).to_owned(),
                    values.is_valid(at).then(|| values.value(at).to_vec()),
                )
            })
            .collect()
    }
}
