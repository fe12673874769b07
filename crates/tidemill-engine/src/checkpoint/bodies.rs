//! What the checkpoint's records hold, kind by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_core::loss::Loss;
use tidemill_core::plan::{BatchId, BatchPlan, Epoch};
use tidemill_core::state::StateVersions;

/// `app.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// The application's name.
    pub app: String,
    /// Drawn once.
    pub app_uuid: String,
    /// When, in milliseconds since 1970 UTC.
    pub created_ms: i64,
}

/// `epochs/<epoch>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The number.
    pub epoch: Epoch,
    /// The incarnation that took it.
    pub incarnation: String,
    /// When, in milliseconds since 1970 UTC.
    pub claimed_ms: i64,
}

/// What one sink committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCommit {
    /// Rows made visible.
    pub rows: u64,
    /// Files made visible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Records read for this sink.
    pub records_in: u64,
    /// Bad records left out.
    pub skipped: u64,
    /// Bad records left to the source's dead letters.
    #[serde(default)]
    pub dead_lettered: u64,
    /// Bytes of keys and values read.
    pub bytes: u64,
    /// True where a recovery found the batch in the sink's ledger already.
    #[serde(default)]
    pub found: bool,
    /// Milliseconds from the job's begin to its end.
    #[serde(default)]
    pub millis: u64,
}

/// `commits/<batch>.json`: written after the sinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The batch.
    pub batch_id: BatchId,
    /// The driver that wrote it.
    pub epoch: Epoch,
    /// Per sink.
    pub sinks: BTreeMap<String, SinkCommit>,
    /// Moving averages of bytes per record, per source.
    #[serde(default)]
    pub record_bytes: BTreeMap<String, u64>,
    /// What the stateful operators hold after the batch (X30).
    #[serde(default, skip_serializing_if = "StateVersions::is_empty")]
    pub states: StateVersions,
    /// When, in milliseconds since 1970 UTC.
    pub committed_ms: i64,
}

/// `losses/<batch>-<n>.json`: written before what is left of the batch is read (X13). Kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRecord {
    /// The batch whose ranges they were planned in.
    pub batch_id: BatchId,
    /// The driver that wrote it.
    pub epoch: Epoch,
    /// What was gone.
    pub losses: Vec<Loss>,
    /// When, in milliseconds since 1970 UTC.
    pub noticed_ms: i64,
}

/// `snapshots/<batch>.json`: the newest of the settled batches that were folded (X5).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) plan: BatchPlan,
    pub(super) plan_hash: String,
    pub(super) commit: CommitRecord,
}
