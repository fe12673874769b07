//! Values in memory as a source: each stands at an offset of a partition, and a batch reads ranges of them like any other.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, ListArray, TimestampMillisecondArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::Result;
use tidemill_engine::source::{PartitionEnds, RangeStream, RawColumns, RawRows, Scan, Source, header_field};

/// How far the values of each partition reach now.
pub(crate) trait Reach: Send + Sync {
    /// The offset after the last value of each partition that the next batch may read.
    fn ends(&self) -> Vec<i64>;

    /// A range that ends here is about to be read.
    fn opened(&self, _until: i64) {}
}

/// A source whose records are offsets only; what stands there is known to who made it.
pub(crate) struct MemorySource {
    topic: String,
    reach: Arc<dyn Reach>,
}

impl Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySource")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl MemorySource {
    pub(crate) fn new(topic: impl Into<String>, reach: Arc<dyn Reach>) -> Self {
        Self {
            topic: topic.into(),
            reach,
        }
    }

    fn partitions(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        let named = |(number, end): (usize, i64)| {
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            (TopicPartition::new(&self.topic, number), end)
        };
        self.reach.ends().into_iter().enumerate().map(named)
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn ends(&self, _with_earliest: bool) -> Result<Vec<PartitionEnds>> {
        let ends = |(partition, end)| PartitionEnds {
            partition,
            topic_id: None,
            leader_epoch: -1,
            earliest: 0,
            end,
        };
        Ok(self.partitions().map(ends).collect())
    }

    async fn since(&self, _millis: i64) -> Result<Vec<(TopicPartition, Option<i64>)>> {
        Ok(self.partitions().map(|(partition, _)| (partition, None)).collect())
    }

    async fn high_watermarks(&self) -> Result<Vec<(TopicPartition, i64)>> {
        Ok(self.partitions().collect())
    }

    async fn epoch_ends(&self, _epochs: &[(TopicPartition, i32)]) -> Result<Vec<(TopicPartition, i64)>> {
        Ok(Vec::new())
    }

    fn scan(&self, ranges: Vec<RangePlan>, columns: RawColumns) -> Arc<dyn Scan> {
        for range in &ranges {
            self.reach.opened(range.until);
        }
        Arc::new(MemoryScan { ranges, columns })
    }

    async fn publish(&self, _positions: &[(TopicPartition, i64)]) -> Result<()> {
        Ok(())
    }

    async fn published(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        Ok(vec![None; partitions.len()])
    }
}

#[derive(Debug)]
struct MemoryScan {
    ranges: Vec<RangePlan>,
    columns: RawColumns,
}

pub(super) fn no_headers(count: usize) -> ListArray {
    let entries = new_empty_array(header_field().data_type());
    ListArray::new(header_field(), OffsetBuffer::new_zeroed(count), entries, None)
}

impl Scan for MemoryScan {
    fn stream(&self, range: usize) -> RangeStream {
        let range = &self.ranges[range];
        let count = usize::try_from(range.offsets()).unwrap_or(usize::MAX);
        let nothing = || BinaryViewArray::new_null(count);
        let rows = RawRows {
            offsets: Int64Array::from_iter_values(range.from..range.until),
            keys: self.columns.key.then(nothing),
            values: self.columns.value.then(nothing),
            timestamps: self
                .columns
                .timestamp
                .then(|| TimestampMillisecondArray::from(vec![0; count])),
            headers: self.columns.headers.then(|| no_headers(count)),
            position: range.until,
            bytes: range.offsets(),
        };
        async move { Ok(rows) }.into_stream().boxed()
    }
}
