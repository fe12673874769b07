//! Records that the driver writes into the checkpoint, as soon as there is room for them.
//!
//! A full disk passes by itself: the driver takes in nothing more, says why, and tries again. What a failed attempt left
//! behind is settled by the next one, which finds the name taken and reads what stands there (X1).

use tidemill_core::loss::Loss;
use tidemill_core::plan::{BatchId, BatchPlan, Epoch};
use tidemill_core::recover::LoggedPlan;

use super::Driver;
use super::patience::Patience;
use crate::checkpoint::{Checkpoint, CommitRecord, LossRecord};
use crate::error::{Error, Result};
use crate::sink::Claim;
use crate::time::Clock;

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

/// Logs ranges as lost, before what is left of the batch is read (X13).
pub(super) async fn log_losses(
    checkpoint: &Checkpoint,
    clock: &dyn Clock,
    claim: &Claim,
    logged: &LoggedPlan,
    losses: &[Loss],
) -> Result<()> {
    let record = LossRecord {
        batch_id: logged.plan.batch_id,
        epoch: claim.epoch,
        losses: losses.to_vec(),
        noticed_ms: clock.now_ms(),
    };
    checkpoint.look_for_newer(claim.epoch).await?;
    checkpoint.log_losses(&record).await?;
    for loss in losses {
        tracing::warn!(
            batch = record.batch_id,
            source = loss.source,
            partition = %loss.partition,
            from = loss.from,
            until = loss.until,
            "LOST: retention removed these offsets before they were read; the loss is recorded"
        );
    }
    Ok(())
}
