//! What stands between durable and acknowledged.

use std::fmt::Debug;

use async_trait::async_trait;
use tidemill_core::plan::Epoch;

use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// The look for a newer epoch (X31): once per group, after its fsync and before anybody is told.
#[async_trait]
pub trait Gate: Debug + Send + Sync {
    /// Passes where this driver is still the newest.
    ///
    /// # Errors
    /// `Fenced` where a newer one took over; `Unavailable` where nobody answers: it is asked again.
    async fn pass(&self) -> Result<()>;
}

/// The look into the checkpoint.
#[derive(Debug, Clone)]
pub struct EpochGate {
    /// Where epochs are claimed.
    pub checkpoint: Checkpoint,
    /// The driver's own.
    pub epoch: Epoch,
}

#[async_trait]
impl Gate for EpochGate {
    async fn pass(&self) -> Result<()> {
        self.checkpoint.look_for_newer(self.epoch).await
    }
}
