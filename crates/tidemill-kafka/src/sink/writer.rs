//! The sink stage of one batch: a writer per slice, and its end.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, RangePlan};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{BatchCommit, Committed, SinkBatch, SliceWriter};
use tidemill_engine::time::{Clock, SystemClock};
use tokio::sync::oneshot;

use super::GiveUp;
use super::config::KafkaSinkConfig;
use super::messages::{MessageEncoder, Messages};
use super::pack::Packer;
use super::producer::Transactions;

/// Encoded bytes at which records are packed and go to the producer.
const BUFFER_BYTES: usize = 512 * 1024;

/// Where the rows of one slice go, and after whom.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Taken modulo the topic's partitions for rows without a key.
    partition: i32,
    /// Answered when the slice before this one in the same source partition has handed everything over.
    after: Option<oneshot::Receiver<()>>,
    done: Option<oneshot::Sender<()>>,
}

/// One lane per slice. Where slices keep the order of their partitions and there is one per planned range (or one per
/// range that is not empty), a lane is the range's partition, and the parts of a split range follow each other (X14).
/// Otherwise it is the slice's number.
pub(super) fn lanes(plan: &BatchPlan, slices: usize, ordered: bool) -> Vec<Lane> {
    let all: Vec<&RangePlan> = plan.ranges.iter().collect();
    let filled: Vec<&RangePlan> = plan.ranges.iter().filter(|range| range.until > range.from).collect();
    let ranges = [all, filled]
        .into_iter()
        .find(|ranges| ordered && ranges.len() == slices);
    let Some(ranges) = ranges else {
        return (0..slices)
            .map(|slice| Lane {
                partition: i32::try_from(slice).unwrap_or(i32::MAX),
                ..Lane::default()
            })
            .collect();
    };
    let mut lanes: Vec<Lane> = Vec::with_capacity(slices);
    let mut latest: HashMap<_, usize> = HashMap::new();
    for (slice, range) in ranges.into_iter().enumerate() {
        let mut lane = Lane {
            partition: range.partition.partition,
            ..Lane::default()
        };
        if let Some(before) = latest.insert((&range.source, &range.partition), slice) {
            let (done, after) = oneshot::channel();
            lanes[before].done = Some(done);
            lane.after = Some(after);
        }
        lanes.push(lane);
    }
    lanes
}

/// Ends the batch's transaction. Dropped without a commit it gives the producer up.
#[derive(Debug)]
pub(super) struct BatchEnd {
    producer: Transactions,
    give_up: GiveUp,
    batch: u64,
}

impl BatchEnd {
    /// The writers and the end of batch number `batch` of `producer`.
    pub(super) fn begin(
        producer: Transactions,
        batch: u64,
        encoder: &Arc<MessageEncoder>,
        config: &KafkaSinkConfig,
        partitions: i32,
        lanes: Vec<Lane>,
    ) -> SinkBatch {
        let writers = lanes
            .into_iter()
            .map(|lane| {
                Box::new(KafkaSliceWriter {
                    producer: producer.clone(),
                    batch,
                    encoder: Arc::clone(encoder),
                    partition: lane.partition % partitions,
                    partitions,
                    after: lane.after,
                    done: lane.done,
                    pending: Messages::default(),
                    packer: Packer::new(&config.topic, config.compression, config.batch_bytes_max()),
                }) as Box<dyn SliceWriter>
            })
            .collect();
        let give_up = GiveUp(Some(producer.clone()));
        let commit = Box::new(Self {
            producer,
            give_up,
            batch,
        });
        SinkBatch { writers, commit }
    }
}

#[async_trait]
impl BatchCommit for BatchEnd {
    async fn commit(mut self: Box<Self>, permit: &CommitPermit, record: LedgerRecord) -> Result<Committed> {
        if permit.batch_id() != record.batch_id {
            return Err(Error::new(
                Kind::Bug,
                format!(
                    "a permit for batch {} came with the record of batch {}",
                    permit.batch_id(),
                    record.batch_id
                ),
            ));
        }
        let rows = self.producer.commit(self.batch, record).await?;
        self.give_up.0 = None;
        Ok(Committed {
            rows,
            files: Vec::new(),
        })
    }
}

/// Encodes the rows of one slice and hands them over by the buffer.
#[derive(Debug)]
struct KafkaSliceWriter {
    producer: Transactions,
    batch: u64,
    encoder: Arc<MessageEncoder>,
    partition: i32,
    partitions: i32,
    after: Option<oneshot::Receiver<()>>,
    done: Option<oneshot::Sender<()>>,
    pending: Messages,
    packer: Packer,
}

impl KafkaSliceWriter {
    async fn wait_for_turn(&mut self) -> Result<()> {
        if let Some(after) = self.after.take()
            && after.await.is_err()
        {
            return Err(Error::new(
                Kind::Unavailable,
                "an earlier part of the same partition was given up",
            ));
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let packed = self.packer.pack(&self.pending, SystemClock::default().now_ms())?;
        self.pending.clear();
        self.producer.send(self.batch, packed).await
    }
}

#[async_trait]
impl SliceWriter for KafkaSliceWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.wait_for_turn().await?;
        let mut row = 0;
        while row < rows.num_rows() {
            row = self.encoder.encode(
                &rows,
                row,
                self.partition,
                self.partitions,
                BUFFER_BYTES,
                &mut self.pending,
            )?;
            if self.pending.size() >= BUFFER_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.wait_for_turn().await?;
        self.hand_over().await?;
        if let Some(done) = self.done.take() {
            // The next part may have been given up already.
            let _unheard = done.send(());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidemill_core::position::{Positions, TopicPartition};
    use tidemill_core::state::StateVersions;

    use super::*;

    fn plan(ranges: &[(i32, i64, i64)]) -> BatchPlan {
        BatchPlan {
            app: "app".to_owned(),
            app_uuid: "uuid".to_owned(),
            epoch: 1,
            incarnation: "one".to_owned(),
            batch_id: 1,
            batch_time_ms: 0,
            seed: 0,
            reduce_slices: 1,
            before: Positions::default(),
            ranges: ranges
                .iter()
                .map(|&(partition, from, until)| RangePlan {
                    source: "events".to_owned(),
                    partition: TopicPartition::new("t", partition),
                    topic_id: None,
                    from,
                    until,
                    leader_epoch: -1,
                })
                .collect(),
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: Default::default(),
            pipeline_hash: String::new(),
            query_hashes: std::collections::BTreeMap::new(),
            states: StateVersions::new(),
            zero_ms: None,
            turn: None,
        }
    }

    fn shape(lanes: &[Lane]) -> Vec<(i32, bool, bool)> {
        lanes
            .iter()
            .map(|lane| (lane.partition, lane.after.is_some(), lane.done.is_some()))
            .collect()
    }

    #[test]
    fn ordered_slices_follow_their_partition_and_split_ranges_each_other() {
        let plan = plan(&[(3, 0, 5), (7, 0, 5), (3, 5, 9), (4, 2, 2)]);
        assert_eq!(
            shape(&lanes(&plan, 4, true)),
            [(3, false, true), (7, false, false), (3, true, false), (4, false, false)]
        );
        assert_eq!(
            shape(&lanes(&plan, 3, true)),
            [(3, false, true), (7, false, false), (3, true, false)]
        );
    }

    #[test]
    fn other_slices_go_by_their_number() {
        let plan = plan(&[(3, 0, 5), (7, 0, 5)]);
        assert_eq!(shape(&lanes(&plan, 2, false)), [(0, false, false), (1, false, false)]);
        assert_eq!(
            shape(&lanes(&plan, 3, true)),
            [(0, false, false), (1, false, false), (2, false, false)]
        );
    }
}
