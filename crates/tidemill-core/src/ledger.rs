//! What a sink remembers of the batches it holds (X7).

use serde::{Deserialize, Serialize};

use crate::loss::Loss;
use crate::plan::{BatchId, BatchPlan, Epoch};
use crate::position::Positions;
use crate::state::StateVersions;

/// One record of a sink's ledger. It becomes visible in the same atomic act as the batch's rows, and is the truth about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// The application's name.
    pub app: String,
    /// The application's uuid; another one in a sink is refused (X8).
    pub app_uuid: String,
    /// The sink's name.
    pub sink: String,
    /// The batch whose rows are visible. In a birth record: the last batch before the sink was born.
    pub batch_id: BatchId,
    /// True for the record of a sink's birth, which holds no rows (X9).
    #[serde(default)]
    pub birth: bool,
    /// The epoch of the driver that committed.
    pub epoch: Epoch,
    /// The incarnation of the driver that committed.
    pub incarnation: String,
    /// SHA-256 of the plan as logged, in hexadecimal.
    pub plan_hash: String,
    /// The whole plan.
    pub plan: BatchPlan,
    /// Positions after the batch.
    pub positions: Positions,
    /// What was gone before it was read, in ranges of the plan (X13).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// What the stateful operators hold after the batch, as far as this sink or those before it made it so (X30).
    #[serde(default, skip_serializing_if = "StateVersions::is_empty")]
    pub states: StateVersions,
    /// Rows made visible.
    pub rows: u64,
}
