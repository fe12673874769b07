//! The source trait: what a batch needs of something that can be read by range, again and again.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, ListArray, TimestampMillisecondArray};
use async_trait::async_trait;
use futures::stream::BoxStream;
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;

use crate::error::Result;

/// Where one partition begins and ends now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionEnds {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id in its usual text form, where the broker gives one.
    pub topic_id: Option<String>,
    /// The partition's leader epoch, -1 where unknown.
    pub leader_epoch: i32,
    /// First offset that can still be read. Only filled where [`Source::ends`] was asked for it, else -1.
    pub earliest: i64,
    /// The offset after the last readable record: the last stable offset under `read_committed`, else the high watermark.
    pub end: i64,
}

/// Which parts of a record a scan wants; what is not wanted is not built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawColumns {
    /// Record keys.
    pub key: bool,
    /// Record values.
    pub value: bool,
    /// Record timestamps.
    pub timestamp: bool,
    /// Record headers.
    pub headers: bool,
}

/// Consecutive records of one partition, column by column. Keys and values are views over the fetched buffers.
#[derive(Debug, Clone)]
pub struct RawRows {
    /// Offset of each record, increasing. Always there; its length is the number of rows.
    pub offsets: Int64Array,
    /// Keys, null where a record has none.
    pub keys: Option<BinaryViewArray>,
    /// Values, null for a tombstone.
    pub values: Option<BinaryViewArray>,
    /// Milliseconds since 1970 UTC.
    pub timestamps: Option<TimestampMillisecondArray>,
    /// Headers in order, repeated keys kept: list of struct {key: Utf8 not null, value: Binary nullable}, never null.
    /// The list's field is [`header_field`].
    pub headers: Option<ListArray>,
    /// The position after these rows: the next offset to read, beyond markers and gaps.
    pub position: i64,
    /// Bytes of keys and values of these records, wanted or not.
    pub bytes: u64,
}

impl RawRows {
    /// One of them by itself. Its bytes are not known.
    pub fn row(&self, row: usize) -> Self {
        let offsets = self.offsets.slice(row, 1);
        Self {
            position: offsets.value(0) + 1,
            offsets,
            keys: self.keys.as_ref().map(|keys| keys.slice(row, 1)),
            values: self.values.as_ref().map(|values| values.slice(row, 1)),
            timestamps: self.timestamps.as_ref().map(|times| times.slice(row, 1)),
            headers: self.headers.as_ref().map(|headers| headers.slice(row, 1)),
            bytes: 0,
        }
    }
}

/// The item field of [`RawRows::headers`].
pub fn header_field() -> Arc<arrow::datatypes::Field> {
    use arrow::datatypes::{DataType, Field, Fields};
    let fields = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ]);
    Arc::new(Field::new("item", DataType::Struct(fields), false))
}

/// The rows of one range. The last item's `position` is at or beyond the range's `until`; items may be empty.
pub type RangeStream = BoxStream<'static, Result<RawRows>>;

/// All ranges of one source in one scan of one batch. Opened together, so that one fetch serves many of them.
pub trait Scan: Debug + Send + Sync {
    /// The rows of the range with this index. Each range is taken once; nothing is fetched before the first poll.
    fn stream(&self, range: usize) -> RangeStream;
}

/// Something that can be read by range, again and again, with the same result.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// All partitions with their ends now; with their earliest offsets too where `with_earliest` is set.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::error::Kind::Unavailable) where no broker answers in time, `Refused` where a topic or right is missing.
    async fn ends(&self, with_earliest: bool) -> Result<Vec<PartitionEnds>>;

    /// Per partition the first offset whose timestamp, in milliseconds since 1970 UTC, is `millis` or later; `None` where
    /// no record is that young.
    ///
    /// # Errors
    /// As [`Source::ends`].
    async fn since(&self, millis: i64) -> Result<Vec<(TopicPartition, Option<i64>)>>;

    /// The offsets after the last record of each partition, readable or not: beyond [`PartitionEnds::end`] where an open
    /// transaction holds readers back.
    ///
    /// # Errors
    /// As [`Source::ends`].
    async fn high_watermarks(&self) -> Result<Vec<(TopicPartition, i64)>>;

    /// Where the records of these leader epochs and of those before them end. An end below a position that was read under
    /// the epoch shows that the log was cut. Partitions that are gone are left out.
    ///
    /// # Errors
    /// As [`Source::ends`].
    async fn epoch_ends(&self, epochs: &[(TopicPartition, i32)]) -> Result<Vec<(TopicPartition, i64)>>;

    /// What a person should know of the source beyond its ends, one sentence each; asked by `tidemill check` only.
    ///
    /// # Errors
    /// As [`Source::ends`].
    async fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Opens the ranges of a batch for one scan.
    fn scan(&self, ranges: Vec<RangePlan>, columns: RawColumns) -> Arc<dyn Scan>;

    /// Publishes positions for monitors (X18), as (partition, next offset). Nothing reads them back.
    ///
    /// # Errors
    /// Whatever went wrong; the caller warns and goes on.
    async fn publish(&self, positions: &[(TopicPartition, i64)]) -> Result<()>;

    /// The group offsets of `partitions` as last published, where there are any, for display.
    ///
    /// # Errors
    /// As [`Source::ends`].
    async fn published(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>>;
}
