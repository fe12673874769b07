//! Versions of keyed state, as plans, ledgers and commit records name them (X30).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::BatchId;

/// A version of one operator's state: what it is after a batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateVersion {
    /// The batch after which the state is this.
    pub batch_id: BatchId,
    /// The file's name in the operator's folder of the checkpoint; each attempt of a batch writes another.
    pub name: String,
}

/// One version of each operator, by the operator's id.
pub type StateVersions = BTreeMap<String, StateVersion>;
