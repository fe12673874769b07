//! The end of a batch: its commit record, what follows from it, and the line that tells of it.

use std::time::Duration;

use tidemill_core::plan::{BatchId, BatchPlan};
use tidemill_core::recover::LoggedPlan;

use super::{Driver, Running};
use crate::checkpoint::{CommitRecord, ENTRIES_KEPT};
use crate::error::Result;

/// A batch that all its sinks hold. The next plan may be logged beside its commit record: that a later plan is there says
/// as much as the record does.
#[derive(Debug)]
pub(super) struct Unlogged {
    pub(super) logged: LoggedPlan,
    pub(super) commit: CommitRecord,
    pub(super) planned: Duration,
    pub(super) worked: Duration,
}

/// What a batch read and wrote, over all its sinks. The sinks of dead letters read the same records once more and are
/// counted only by what they hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) records_in: u64,
    pub(super) rows: u64,
    pub(super) skipped: u64,
    pub(super) dead_lettered: u64,
}

impl Driver {
    /// Writes the commit record of the last batch, where that is still to be done.
    pub(super) async fn settle(&mut self, running: &mut Running) -> Result<()> {
        let Some(last) = running.unlogged.take() else {
            return Ok(());
        };
        let begun = self.clock.elapsed();
        self.checkpoint.log_commit(&last.commit).await?;
        let took = self.clock.elapsed() - begun;
        self.settled(running, last, took).await
    }

    /// What follows the commit record of a batch, which took `took` where nothing else was done beside it.
    pub(super) async fn settled(&mut self, running: &mut Running, last: Unlogged, took: Duration) -> Result<()> {
        let batch = last.logged.plan.batch_id;
        if batch == 0 {
            return Ok(());
        }
        self.states.settled(batch, &last.commit.states).await?;
        if batch.is_multiple_of(ENTRIES_KEPT) {
            self.checkpoint.fold(&last.logged, &last.commit).await?;
            self.tidy(batch).await;
        }
        let stages = [last.planned, last.worked, took];
        self.log_batch(running, &last.logged.plan, &last.commit, stages);
        Ok(())
    }

    /// What is left behind only takes room: a failure is a warning.
    pub(super) async fn tidy(&mut self, settled: BatchId) {
        for output in &mut self.outputs {
            if let Err(error) = output.sink.tidy(settled).await {
                tracing::warn!(sink = output.name, error = error.chain(), "old files were not removed");
            }
        }
    }

    pub(super) fn counts(&self, commit: &CommitRecord) -> Counts {
        let mut counts = Counts::default();
        for output in &self.outputs {
            let Some(sink) = commit.sinks.get(&output.name) else {
                continue;
            };
            if output.dead_letters {
                counts.dead_lettered += sink.rows;
            } else {
                counts.records_in += sink.records_in;
                counts.rows += sink.rows;
                counts.skipped += sink.skipped;
            }
        }
        counts
    }

    fn log_batch(&self, running: &mut Running, plan: &BatchPlan, commit: &CommitRecord, stages: [Duration; 3]) {
        let counts = self.counts(commit);
        let lag = running.lag.lag(self.clock.now_ms(), &running.positions);
        let [planned, worked, settled] = stages.map(|stage| stage.as_secs_f64() * 1_000.0);
        tracing::info!(
            batch = plan.batch_id,
            records = counts.records_in,
            rows = counts.rows,
            skipped = counts.skipped,
            dead_lettered = counts.dead_lettered,
            ranges = plan.ranges.len(),
            lag_records = lag.records,
            lag_seconds = lag.seconds,
            limit = plan.limits.reason,
            limit_partition_records = plan.limits.partition_records_max,
            limit_batch_bytes = plan.limits.batch_bytes_max,
            plan_ms = planned,
            run_ms = worked,
            settle_ms = settled,
            "batch"
        );
    }
}
