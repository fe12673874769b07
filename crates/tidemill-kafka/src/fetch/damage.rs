//! What is wrong with a batch.

use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind};

/// A batch that can't be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record batch at offset {offset} can't be read: {reason}")]
pub(crate) struct Damage {
    /// The batch's base offset as it says itself.
    pub(crate) offset: i64,
    reason: String,
}

impl Damage {
    /// The batch at `offset` can't be read because of `reason`.
    pub(crate) fn new(offset: i64, reason: impl Into<String>) -> Self {
        Self {
            offset,
            reason: reason.into(),
        }
    }

    /// The engine's error, naming the partition.
    pub(crate) fn of(self, partition: &TopicPartition) -> Error {
        Error::new(Kind::Data, format!("{partition}: {self}"))
    }
}
