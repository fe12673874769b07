//! Records that the driver writes into the checkpoint, as soon as there is room for them.
//!
//! A full disk passes by itself: the driver takes in nothing more, says why, and tries again. What a failed attempt left
//! behind is settled by the next one, which finds the name taken and reads what stands there (X1).

use tidemill_core::plan::{BatchId, BatchPlan, Epoch};
use tidemill_core::recover::LoggedPlan;

use super::Driver;
use super::patience::Patience;
use crate::checkpoint::CommitRecord;
use crate::error::{Error, Result};

impl Driver {
    pub(super) async fn log_plan(&self, plan: BatchPlan) -> Result<LoggedPlan> {
        let (batch, epoch) = (plan.batch_id, plan.epoch);
        let mut patience = self.patience();
        loop {
            match self.checkpoint.log_plan(plan.clone()).await {
                Err(error) if error.is_transient() => {
                    self.not_written("plan", batch, epoch, error, &mut patience).await?;
                }
                done => return done,
            }
        }
    }

    pub(super) async fn log_commit(&self, commit: &CommitRecord) -> Result<()> {
        let mut patience = self.patience();
        loop {
            match self.checkpoint.log_commit(commit).await {
                Err(error) if error.is_transient() => {
                    self.not_written("commit record", commit.batch_id, commit.epoch, error, &mut patience)
                        .await?;
                }
                done => return done,
            }
        }
    }

    pub(super) async fn fold(&self, plan: &LoggedPlan, commit: &CommitRecord) -> Result<()> {
        let mut patience = self.patience();
        loop {
            match self.checkpoint.fold(plan, commit).await {
                Err(error) if error.is_transient() => {
                    self.not_written("snapshot", commit.batch_id, commit.epoch, error, &mut patience)
                        .await?;
                }
                done => return done,
            }
        }
    }

    /// Waits before a record is written again; fails where there is no time left for it, or a newer driver.
    async fn not_written(
        &self,
        what: &str,
        batch: BatchId,
        epoch: Epoch,
        error: Error,
        patience: &mut Patience,
    ) -> Result<()> {
        tracing::warn!(
            batch,
            error = error.chain(),
            retry_ms = u64::try_from(patience.next().as_millis()).unwrap_or(u64::MAX),
            "the {what} could not be written to the checkpoint; nothing is lost, intake waits"
        );
        self.checkpoint.look_for_newer(epoch).await?;
        if patience.wait().await {
            return Ok(());
        }
        let text = format!("batch {batch}: its {what} could not be written to the checkpoint within drain_timeout");
        Err(Error::with_source(error.kind(), text, error))
    }
}
