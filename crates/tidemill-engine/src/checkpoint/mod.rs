//! The checkpoint: who the application is, which drivers there were, what was planned, what was committed.
//!
//! Limits: a plan and a commit record hold tens of kilobytes at most; beyond [`ENTRIES_KEPT`] settled batches they are
//! folded into a snapshot and removed (X5).

mod bodies;
pub mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_core::plan::{BatchId, BatchPlan, Epoch};
use tidemill_core::recover::LoggedPlan;
use tidemill_core::state::StateVersion;

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::state::{StateStore, VersionSummary};
use crate::store::{Put, Store, numbered, numbers};
use bodies::Snapshot;
use record::Record;

pub use bodies::{AppRecord, CommitRecord, EpochRecord, LossRecord, SinkCommit};

/// Settled batches whose plan and commit record are kept; folded when there are twice as many.
pub const ENTRIES_KEPT: u64 = 500;

/// What the checkpoint holds, read without touching anything.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Who it belongs to; `None` where there is no checkpoint yet.
    pub app: Option<AppRecord>,
    /// The highest epoch.
    pub epoch: Epoch,
    /// The newest plan.
    pub last_plan: Option<LoggedPlan>,
    /// The newest commit record.
    pub last_commit: Option<CommitRecord>,
}

/// The checkpoint in a store.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    store: Arc<dyn Store>,
}

impl Checkpoint {
    /// The checkpoint in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The same in what `wrap` makes of its store.
    pub(crate) fn through(self, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        Self {
            store: wrap(self.store),
        }
    }

    /// Where its records are.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Where it is, for messages.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// Writes, syncs and removes a probe.
    ///
    /// # Errors
    /// Where that is not possible.
    pub async fn probe(&self) -> Result<()> {
        let probed = self.store.probe().await;
        probed.map_err(|error| Error::with_source(error.kind(), format!("checkpoint {}", self.location()), error))
    }

    /// Reads what recovery needs.
    ///
    /// # Errors
    /// `Config` where a record is damaged, or other records are there without `app.json`.
    pub async fn read(&self) -> Result<Contents> {
        let app = self.app().await?;
        let snapshot = self.newest_snapshot().await?;
        let floor = snapshot.as_ref().map_or(0, |snapshot| snapshot.plan.batch_id);
        let last_plan = self.newest::<BatchPlan>("plan", "plans", floor).await?;
        let last_commit = self.newest::<CommitRecord>("commit", "commits", floor).await?;
        if app.is_none() && (last_plan.is_some() || last_commit.is_some() || snapshot.is_some()) {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "checkpoint {} has plans but no app.json: it is damaged. Restore it from a copy, or \
                     `tidemill checkpoint rebuild FILE`",
                    self.location()
                ),
            ));
        }
        let last_plan = last_plan.map(|record| LoggedPlan {
            plan: record.body,
            hash: record.hash,
        });
        let (snapshot_plan, snapshot_commit) = snapshot.map_or((None, None), |snapshot| {
            (
                Some(LoggedPlan {
                    plan: snapshot.plan,
                    hash: snapshot.plan_hash,
                }),
                Some(snapshot.commit),
            )
        });
        Ok(Contents {
            app,
            epoch: self.newest_epoch().await?,
            last_plan: last_plan.or(snapshot_plan),
            last_commit: last_commit.map(|record| record.body).or(snapshot_commit),
        })
    }

    /// `app.json`, which makes a folder a checkpoint.
    ///
    /// # Errors
    /// `Config` where it is damaged.
    pub async fn app(&self) -> Result<Option<AppRecord>> {
        Ok(self
            .get::<AppRecord>("app", "app.json")
            .await?
            .map(|record| record.body))
    }

    /// Writes a plan that a ledger kept into the plan log of a lost checkpoint (X7).
    ///
    /// # Errors
    /// `Config` where the plan does not come out as it was logged, or another plan stands under its id.
    pub async fn restore_plan(&self, logged: &LoggedPlan) -> Result<()> {
        let batch = logged.plan.batch_id;
        let (_, hash) = record::encode("plan", "", &logged.plan)?;
        if hash != logged.hash {
            let text = format!(
                "the plan of batch {batch} in the ledger has hash {}, but gives {hash}",
                logged.hash
            );
            return Err(Error::new(Kind::Config, text));
        }
        if self.put("plan", &numbered("plans", batch), &logged.plan).await? {
            return Ok(());
        }
        match self.plan(batch).await? {
            Some(there) if there.hash == logged.hash => Ok(()),
            _ => {
                let text = format!(
                    "{} holds another plan of batch {batch}; move the folder away and begin again",
                    self.location()
                );
                Err(Error::new(Kind::Config, text))
            }
        }
    }

    /// Writes `app.json` of a new application; an existing one is returned instead.
    ///
    /// # Errors
    /// Where it can't be written.
    pub async fn create(&self, app: AppRecord) -> Result<AppRecord> {
        self.put("app", "app.json", &app).await?;
        let back = self.get::<AppRecord>("app", "app.json").await?;
        back.map(|record| record.body)
            .ok_or_else(|| Error::new(Kind::Refused, "app.json vanished after it was written"))
    }

    /// The highest epoch claimed, 0 where there is none.
    ///
    /// # Errors
    /// Where it can't be read.
    pub async fn newest_epoch(&self) -> Result<Epoch> {
        self.store.newest("epochs").await
    }

    /// Claims an epoch above `above` (X6). Loses the race for a number to another driver by taking the next.
    ///
    /// # Errors
    /// Where it can't be written.
    pub async fn claim_epoch(&self, above: Epoch, incarnation: &str, now_ms: i64) -> Result<Epoch> {
        let mut epoch = above + 1;
        loop {
            failpoint::pass("epoch.before-claim");
            let body = EpochRecord {
                epoch,
                incarnation: incarnation.to_owned(),
                claimed_ms: now_ms,
            };
            if self.put("epoch", &numbered("epochs", epoch), &body).await? {
                failpoint::pass("epoch.after-claim");
                break;
            }
            epoch += 1;
        }
        for old in numbers(&self.store.list("epochs").await?).filter(|old| *old < epoch) {
            self.store.delete(&numbered("epochs", old)).await?;
        }
        Ok(epoch)
    }

    /// Fails with `Fenced` where a newer epoch than `own` was claimed (X4).
    ///
    /// # Errors
    /// `Fenced`, or where it can't be read.
    pub async fn look_for_newer(&self, own: Epoch) -> Result<()> {
        let newest = self.newest_epoch().await?;
        if newest > own {
            return Err(Error::new(
                Kind::Fenced,
                format!("fenced: epoch {newest} took over from this instance (epoch {own}); it wrote nothing more"),
            ));
        }
        Ok(())
    }

    /// Logs a plan before anything of it is read. Gives the plan to run: this one, or that of an older driver which logged
    /// the same id in its last act; it is adopted unchanged (X1). The same plan may be logged again after an unknown outcome.
    ///
    /// # Errors
    /// `Fenced` where a newer driver logged a plan under this id; `Unavailable` where there is no room.
    pub async fn log_plan(&self, plan: BatchPlan) -> Result<LoggedPlan> {
        failpoint::pass("plan.before-log");
        let path = numbered("plans", plan.batch_id);
        if self.put("plan", &path, &plan).await? {
            failpoint::pass("plan.after-log");
            let (_, hash) = record::encode("plan", "", &plan)?;
            return Ok(LoggedPlan { plan, hash });
        }
        match self.plan(plan.batch_id).await? {
            // Seed and incarnation tell: an earlier attempt of ours that seemed to fail.
            Some(own) if own.plan == plan => Ok(own),
            Some(older) if older.plan.epoch < plan.epoch && older.plan.pipeline_hash == plan.pipeline_hash => Ok(older),
            Some(other) => Err(Error::new(
                Kind::Fenced,
                format!(
                    "fenced: batch {} was planned by epoch {} already; this instance (epoch {}) wrote nothing more",
                    plan.batch_id, other.plan.epoch, plan.epoch
                ),
            )),
            None => Err(Error::new(
                Kind::Refused,
                format!("plan {path} vanished after it was found taken"),
            )),
        }
    }

    /// Writes a commit record; one that is there already is left as it is.
    ///
    /// # Errors
    /// Where it can't be written; `Unavailable` where there is no room.
    pub async fn log_commit(&self, commit: &CommitRecord) -> Result<()> {
        failpoint::pass("commit-log.before");
        self.put("commit", &numbered("commits", commit.batch_id), commit)
            .await?;
        failpoint::pass("commit-log.after");
        Ok(())
    }

    /// Logs what a batch lost, beside what is logged of it already.
    ///
    /// # Errors
    /// Where it can't be written; `Unavailable` where there is no room.
    pub async fn log_losses(&self, record: &LossRecord) -> Result<()> {
        let mut number = 0;
        while !self.put("loss", &loss_path(record.batch_id, number), record).await? {
            number += 1;
        }
        Ok(())
    }

    /// All that a batch lost.
    ///
    /// # Errors
    /// Where a record is damaged.
    pub async fn losses(&self, batch: BatchId) -> Result<Vec<LossRecord>> {
        let mut found = Vec::new();
        while let Some(record) = self.get::<LossRecord>("loss", &loss_path(batch, found.len())).await? {
            found.push(record.body);
        }
        Ok(found)
    }

    /// All that was ever lost, oldest first.
    ///
    /// # Errors
    /// Where a record is damaged.
    pub async fn all_losses(&self) -> Result<Vec<LossRecord>> {
        let mut all = Vec::new();
        for name in self.store.list("losses").await? {
            let record = self.get::<LossRecord>("loss", &format!("losses/{name}")).await?;
            all.extend(record.map(|record| record.body));
        }
        Ok(all)
    }

    /// One plan by its id.
    ///
    /// # Errors
    /// Where it is damaged.
    pub async fn plan(&self, batch: BatchId) -> Result<Option<LoggedPlan>> {
        let record = self.get::<BatchPlan>("plan", &numbered("plans", batch)).await?;
        Ok(record.map(|record| LoggedPlan {
            plan: record.body,
            hash: record.hash,
        }))
    }

    /// One commit record by its batch.
    ///
    /// # Errors
    /// Where it is damaged.
    pub async fn commit(&self, batch: BatchId) -> Result<Option<CommitRecord>> {
        Ok(self
            .get::<CommitRecord>("commit", &numbered("commits", batch))
            .await?
            .map(|record| record.body))
    }

    /// What a version of an operator's keyed state says of itself: what the operator is, what its keys and values hold.
    ///
    /// # Errors
    /// `Loss` where its file is missing or damaged.
    pub async fn state(&self, operator: &str, version: &StateVersion) -> Result<VersionSummary> {
        StateStore::summary(self.store.as_ref(), operator, version).await
    }

    /// The ids in the plan log, oldest first.
    ///
    /// # Errors
    /// Where it can't be listed.
    pub async fn planned(&self) -> Result<Vec<BatchId>> {
        Ok(numbers(&self.store.list("plans").await?).collect())
    }

    /// The newest snapshot's batch, 0 where there is none.
    ///
    /// # Errors
    /// Where it is damaged.
    pub async fn snapshot_batch(&self) -> Result<BatchId> {
        Ok(self
            .newest_snapshot()
            .await?
            .map_or(0, |snapshot| snapshot.plan.batch_id))
    }

    /// Folds plans and commit records up to the settled batch of `commit` into a snapshot and removes them (X5).
    ///
    /// # Errors
    /// Where a record can't be written or removed.
    pub async fn fold(&self, plan: &LoggedPlan, commit: &CommitRecord) -> Result<()> {
        let body = Snapshot {
            plan: plan.plan.clone(),
            plan_hash: plan.hash.clone(),
            commit: commit.clone(),
        };
        let batch = commit.batch_id;
        self.put("snapshot", &numbered("snapshots", batch), &body).await?;
        for folder in ["plans", "commits"] {
            for old in numbers(&self.store.list(folder).await?).filter(|old| *old + ENTRIES_KEPT <= batch) {
                self.store.delete(&numbered(folder, old)).await?;
            }
        }
        for old in numbers(&self.store.list("snapshots").await?).filter(|old| *old < batch) {
            self.store.delete(&numbered("snapshots", old)).await?;
        }
        Ok(())
    }

    async fn newest_snapshot(&self) -> Result<Option<Snapshot>> {
        let Some(newest) = numbers(&self.store.list("snapshots").await?).max() else {
            return Ok(None);
        };
        Ok(self
            .get::<Snapshot>("snapshot", &numbered("snapshots", newest))
            .await?
            .map(|record| record.body))
    }

    /// The newest record of a folder above `floor`. The listing is a hint (X2): names after it are tried until absent.
    async fn newest<T: DeserializeOwned>(&self, kind: &str, folder: &str, floor: u64) -> Result<Option<Record<T>>> {
        let names = self.store.list(folder).await?;
        let listed = numbers(&names).max();
        let mut newest = match listed {
            Some(listed) if listed >= floor => self.get::<T>(kind, &numbered(folder, listed)).await?,
            _ => None,
        };
        let mut next = listed.map_or(0, |listed| listed + 1).max(floor);
        while let Some(record) = self.get::<T>(kind, &numbered(folder, next)).await? {
            newest = Some(record);
            next += 1;
        }
        Ok(newest)
    }

    async fn get<T: DeserializeOwned>(&self, kind: &str, path: &str) -> Result<Option<Record<T>>> {
        match self.store.read(path).await? {
            Some(bytes) => record::decode(kind, path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Puts a record; true where it is ours (X1: "already exists" is settled by reading the nonce back).
    async fn put<T: Serialize>(&self, kind: &str, path: &str, body: &T) -> Result<bool> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let (bytes, _) = record::encode(kind, &nonce, body)?;
        match self.store.put_new(path, bytes).await? {
            Put::Created => Ok(true),
            Put::Exists => {
                let back = self.get::<serde_json::Value>(kind, path).await?;
                Ok(back.is_some_and(|record| record.nonce == nonce))
            }
        }
    }
}

fn loss_path(batch: BatchId, number: usize) -> String {
    format!("losses/{batch:020}-{number}.json")
}
