//! The immutable plan of one batch (X11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::position::{Positions, TopicPartition};
use crate::state::StateVersions;

/// An increasing number, never used twice. 0 is the start plan, which resolves first positions and reads nothing.
pub type BatchId = u64;

/// The number of a driver incarnation; a higher one fences all lower ones.
pub type Epoch = u64;

/// One half-open interval `[from, until)` of offsets of one partition: a slice of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangePlan {
    /// The source's name in the pipeline.
    pub source: String,
    /// The partition.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// The topic's id, where the broker gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// First offset.
    pub from: i64,
    /// The offset after the last.
    pub until: i64,
    /// Leader epoch at planning, -1 where unknown.
    pub leader_epoch: i32,
}

impl RangePlan {
    /// The number of offsets, an upper bound of the number of records: markers, aborted data and compaction leave gaps.
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }
}

/// A sink as a plan names it, without secrets (X9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkIdentity {
    /// The sink's name in the pipeline.
    pub name: String,
    /// `postgres`, `kafka`, `file`, `console` or `callback`.
    pub kind: String,
    /// Where it writes, without secrets.
    pub target: String,
}

/// A reference table as a plan names it (X11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableIdentity {
    /// The table's name in the pipeline.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// SHA-256 of their lengths and contents, in hexadecimal.
    pub sha256: String,
}

/// Bounds that were in force when the plan was cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitsInForce {
    /// Records of one partition in this batch, 0 = no bound.
    pub partition_records_max: u64,
    /// Bytes of one source in this batch.
    pub batch_bytes_max: u64,
    /// Why the ranges end where they do: `end` (everything there was), `rate`, `back-pressure` or `bytes`.
    pub reason: String,
}

/// Everything that decides the run of one batch. Written to the plan log before anything is read, never changed after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchPlan {
    /// The application's name.
    pub app: String,
    /// Drawn once when the checkpoint was made.
    pub app_uuid: String,
    /// The epoch of the driver that planned it.
    pub epoch: Epoch,
    /// The incarnation of the driver that planned it.
    pub incarnation: String,
    /// This batch.
    pub batch_id: BatchId,
    /// Batch time in milliseconds since 1970 UTC, strictly increasing.
    pub batch_time_ms: i64,
    /// Seed of everything random.
    pub seed: u64,
    /// Number of slices after a shuffle.
    pub reduce_slices: usize,
    /// Positions before this batch.
    pub before: Positions,
    /// What is read.
    pub ranges: Vec<RangePlan>,
    /// Where it goes, in commit order.
    pub sinks: Vec<SinkIdentity>,
    /// Reference tables as they were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableIdentity>,
    /// Bounds in force.
    pub limits: LimitsInForce,
    /// Hash of what the pipeline computes (queries and source columns), to tell a changed pipeline.
    pub pipeline_hash: String,
    /// Per sink the hash of what it is given, without its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query_hashes: BTreeMap<String, String>,
    /// What the stateful operators hold before this batch (X30).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: StateVersions,
    /// Where batch times are counted from, in milliseconds since 1970 UTC: they are this and whole intervals. `None` where they are
    /// whatever the clock said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_ms: Option<i64>,
    /// Set where this plan reads nothing, and the stream goes on from [`before`](BatchPlan::before) by a person's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
}

/// A person's order, in the plan that carries it out (X8, X32).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The version of this part, 1.
    pub version: u32,
    /// The batch before; none where the application begins with this plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<BatchId>,
    /// The batch whose positions the stream goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound_to: Option<BatchId>,
    /// Sinks that are taken over from another application.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<String>,
}

impl BatchPlan {
    /// True where the plan reads nothing and its sinks write birth records: they begin, or begin anew, after it.
    pub fn is_birth(&self) -> bool {
        self.batch_id == 0 || self.turn.is_some()
    }

    /// True where `sink` had no ledger of ours before this plan.
    pub fn bears(&self, sink: &str) -> bool {
        match &self.turn {
            None => self.batch_id == 0,
            Some(turn) => turn.follows.is_none() || turn.adopted.iter().any(|name| name == sink),
        }
    }

    /// The batch before this one; none where the application began with it. Ids are left out where a sink was adopted that
    /// stood at a higher one.
    pub fn follows(&self) -> Option<BatchId> {
        match &self.turn {
            Some(turn) => turn.follows,
            None => self.batch_id.checked_sub(1),
        }
    }

    /// The positions after this batch.
    pub fn after(&self) -> Positions {
        let mut after = self.before.clone();
        for range in &self.ranges {
            after.set(crate::PartitionPosition {
                source: range.source.clone(),
                partition: range.partition.clone(),
                topic_id: range.topic_id.clone(),
                offset: range.until,
                leader_epoch: range.leader_epoch,
            });
        }
        after
    }

    /// True where at least one range holds an offset.
    pub fn reads_anything(&self) -> bool {
        self.ranges.iter().any(|range| range.until > range.from)
    }
}
