//! What was lost before it was read, put on record.

use tidemill_core::loss::Loss;
use tidemill_core::recover::LoggedPlan;

use crate::checkpoint::{Checkpoint, LossRecord};
use crate::error::Result;
use crate::sink::Claim;
use crate::time::Clock;

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
