//! Messages of librdkafka, copied into columns.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{BinaryViewBuilder, Int64Array, TimestampMillisecondArray};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers as _};
use tidemill_engine::source::{RawColumns, RawRows};

use crate::fetch::headers::Headers;

/// Bytes and rows that are handed on together.
const BYTES_MAX: u64 = 1 << 20;
const ROWS_MAX: usize = 1 << 14;

/// Rows that were taken from the queue and not handed on.
#[derive(Debug)]
pub(super) struct Gathered {
    offsets: Vec<i64>,
    timestamps: Option<Vec<i64>>,
    keys: Option<BinaryViewBuilder>,
    values: Option<BinaryViewBuilder>,
    headers: Option<Headers>,
    bytes: u64,
}

impl Gathered {
    pub(super) fn new(wanted: RawColumns) -> Self {
        Self {
            offsets: Vec::new(),
            timestamps: wanted.timestamp.then(Vec::new),
            keys: wanted.key.then(BinaryViewBuilder::new),
            values: wanted.value.then(BinaryViewBuilder::new),
            headers: wanted.headers.then(|| Headers::with_capacity(0)),
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX || self.offsets.len() >= ROWS_MAX
    }

    /// Adds a message.
    ///
    /// # Errors
    /// Headers that librdkafka's binding can't show.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<(), String> {
        let (key, value) = (message.key(), message.payload());
        self.offsets.push(message.offset());
        self.bytes += [key, value]
            .into_iter()
            .flatten()
            .map(|part| part.len() as u64)
            .sum::<u64>();
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.push(message.timestamp().to_millis().unwrap_or(-1));
        }
        if let Some(keys) = &mut self.keys {
            keys.append_option(key);
        }
        if let Some(values) = &mut self.values {
            values.append_option(value);
        }
        if let Some(headers) = &mut self.headers {
            // The binding panics at a key that is no UTF-8.
            let pushed = catch_unwind(AssertUnwindSafe(|| {
                for header in message.headers().iter().flat_map(|headers| headers.iter()) {
                    headers.push(header.key.as_bytes(), header.value);
                }
                headers.end_record()
            }));
            match pushed {
                Ok(Some(())) => {}
                Ok(None) => return Err("too many headers".to_owned()),
                Err(_) => {
                    return Err(
                        "a header's key is no UTF-8, which this reader can't show; use reader = \"native\"".to_owned(),
                    );
                }
            }
        }
        Ok(())
    }

    /// The rows, read up to `position`.
    ///
    /// # Errors
    /// Where Arrow refuses the columns: a defect of this reader.
    pub(super) fn finish(self, position: i64) -> Result<RawRows, String> {
        Ok(RawRows {
            offsets: Int64Array::from(self.offsets),
            keys: self.keys.map(|mut keys| keys.finish()),
            values: self.values.map(|mut values| values.finish()),
            timestamps: self.timestamps.map(TimestampMillisecondArray::from),
            headers: self.headers.map(Headers::finish).transpose()?,
            position,
            bytes: self.bytes,
        })
    }
}
