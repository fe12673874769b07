//! Builds the columns of a chunk, record by record.

use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, NullBufferBuilder, TimestampMillisecondArray, make_view};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use tidemill_engine::source::{RawColumns, RawRows};

use super::headers::Headers;
use super::varint::Cursor;

const INLINE_BYTES: usize = 12;

/// What the records of one batch have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchFrame {
    /// Offset that deltas count from.
    pub(crate) base_offset: i64,
    /// Last offset of the batch.
    pub(crate) last_offset: i64,
    /// Timestamp that deltas count from.
    pub(crate) base_timestamp: i64,
    /// Timestamp of all records, where the broker set it.
    pub(crate) append_time: Option<i64>,
    /// Buffer that views point into.
    pub(crate) buffer: u32,
    /// Where the records begin in that buffer.
    pub(crate) start: usize,
}

/// Growing columns.
#[derive(Debug)]
pub(crate) struct Columns {
    from: i64,
    until: i64,
    /// Of keys and values of the records taken.
    bytes: u64,
    offsets: Vec<i64>,
    timestamps: Option<Vec<i64>>,
    keys: Option<Views>,
    values: Option<Views>,
    headers: Option<Headers>,
}

/// Views over bytes, and which of them are null.
#[derive(Debug)]
struct Views {
    views: Vec<u128>,
    nulls: NullBufferBuilder,
}

impl Views {
    fn with_capacity(rows: usize) -> Self {
        Self {
            views: Vec::with_capacity(rows),
            nulls: NullBufferBuilder::new(rows),
        }
    }

    #[inline(always)]
    fn push(&mut self, data: &[u8], part: Option<(usize, usize)>, frame: &BatchFrame) {
        let Some((start, length)) = part else {
            self.views.push(0);
            self.nulls.append_null();
            return;
        };
        let bytes = &data[start..start + length];
        self.nulls.append_non_null();
        let place = (frame.start + start) as u32;
        self.views.push(match bytes.first_chunk::<4>() {
            Some(prefix) if length > INLINE_BYTES => {
                length as u128
                    | (u32::from_le_bytes(*prefix) as u128) << 32
                    | (frame.buffer as u128) << 64
                    | (place as u128) << 96
            }
            _ => make_view(bytes, frame.buffer, place),
        });
    }

    /// The column over `buffers`.
    ///
    /// # Errors
    /// In debug builds, where Arrow refuses it: a defect of this decoder.
    fn finish(mut self, buffers: &Arc<[Buffer]>) -> Result<BinaryViewArray, String> {
        let (views, buffers) = (ScalarBuffer::from(self.views), Arc::clone(buffers));
        let nulls = self.nulls.finish();
        if cfg!(debug_assertions) {
            return BinaryViewArray::try_new(views, buffers, nulls).map_err(|error| error.to_string());
        }
        Ok(cut_from_its_buffers(views, buffers, nulls))
    }
}

#[expect(
    unsafe_code,
    reason = "the checking constructor reads the beginning of every value a second time, when it has left the cache"
)]
fn cut_from_its_buffers(
    views: ScalarBuffer<u128>,
    buffers: Arc<[Buffer]>,
    nulls: Option<NullBuffer>,
) -> BinaryViewArray {
    // SAFETY: `Views::push` made every view of a slice of the bytes that begin at `frame.start` of buffer `frame.buffer`, with
    // that slice's own length and first bytes; views and nulls are pushed in pairs. Debug builds check it.
    unsafe { BinaryViewArray::new_unchecked(views, buffers, nulls) }
}

impl Columns {
    /// For about `rows` records of the offsets `[from, until)`; all others are passed over.
    pub(crate) fn new(wanted: RawColumns, rows: usize, from: i64, until: i64) -> Self {
        Self {
            from,
            until,
            bytes: 0,
            offsets: Vec::with_capacity(rows),
            timestamps: wanted.timestamp.then(|| Vec::with_capacity(rows)),
            keys: wanted.key.then(|| Views::with_capacity(rows)),
            values: wanted.value.then(|| Views::with_capacity(rows)),
            headers: wanted.headers.then(|| Headers::with_capacity(rows)),
        }
    }

    /// Adds the `count` records in `data`.
    ///
    /// # Errors
    /// Records that can't be read, with the reason. Columns are then of no use.
    pub(crate) fn push_batch(&mut self, data: &[u8], count: u32, frame: &BatchFrame) -> Result<(), String> {
        let mut cursor = Cursor::new(data);
        let mut before = frame.base_offset - 1;
        for index in 0..count {
            before = self.push_record(data, &mut cursor, before, frame).ok_or_else(|| {
                format!(
                    "record {index} of {count} is damaged at byte {} of {}",
                    cursor.at(),
                    data.len()
                )
            })?;
        }
        if cursor.is_done() {
            Ok(())
        } else {
            Err(format!("{} bytes follow its last record", cursor.left()))
        }
    }

    /// Adds the next record; gives its offset.
    #[inline(always)]
    fn push_record(&mut self, data: &[u8], cursor: &mut Cursor<'_>, before: i64, frame: &BatchFrame) -> Option<i64> {
        let length = usize::try_from(cursor.varint()?).ok()?;
        let end = cursor.at() + length;
        cursor.skip(1)?;
        let timestamp_delta = cursor.varlong()?;
        let offset = frame.base_offset + i64::from(cursor.varint()?);
        if offset <= before || offset > frame.last_offset {
            return None;
        }
        let key = part(cursor)?;
        let value = part(cursor)?;
        let headers = u32::try_from(cursor.varint()?).ok()?;
        let wanted = offset >= self.from && offset < self.until;
        if headers > 0 {
            self.push_headers(cursor, headers, wanted)?;
        }
        if cursor.at() != end {
            return None;
        }
        if !wanted {
            return Some(offset);
        }
        self.offsets.push(offset);
        self.bytes += key.map_or(0, |(_, length)| length as u64) + value.map_or(0, |(_, length)| length as u64);
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.push(
                frame
                    .append_time
                    .unwrap_or(frame.base_timestamp.wrapping_add(timestamp_delta)),
            );
        }
        if let Some(keys) = &mut self.keys {
            keys.push(data, key, frame);
        }
        if let Some(values) = &mut self.values {
            values.push(data, value, frame);
        }
        if let Some(headers) = &mut self.headers {
            headers.end_record()?;
        }
        Some(offset)
    }

    #[inline(never)]
    fn push_headers(&mut self, cursor: &mut Cursor<'_>, count: u32, wanted: bool) -> Option<()> {
        for _ in 0..count {
            let key_bytes = cursor.length()??;
            let key = cursor.take(key_bytes)?;
            let value = match cursor.length()? {
                Some(length) => Some(cursor.take(length)?),
                None => None,
            };
            if let (true, Some(headers)) = (wanted, &mut self.headers) {
                headers.push(key, value);
            }
        }
        Some(())
    }

    /// The rows, over `buffers`.
    ///
    /// # Errors
    /// Where Arrow refuses the columns: a defect of this decoder.
    pub(crate) fn finish(self, buffers: Vec<Buffer>, position: i64) -> Result<RawRows, String> {
        let buffers: Arc<[Buffer]> = buffers.into();
        Ok(RawRows {
            offsets: Int64Array::from(self.offsets),
            keys: self.keys.map(|keys| keys.finish(&buffers)).transpose()?,
            values: self.values.map(|values| values.finish(&buffers)).transpose()?,
            timestamps: self.timestamps.map(TimestampMillisecondArray::from),
            headers: self.headers.map(Headers::finish).transpose()?,
            position,
            bytes: self.bytes,
        })
    }
}

/// Where a key or value lies: start and length, or that there is none.
#[inline(always)]
fn part(cursor: &mut Cursor<'_>) -> Option<Option<(usize, usize)>> {
    match cursor.length()? {
        None => Some(None),
        Some(length) => Some(Some((cursor.skip(length)?, length))),
    }
}
