//! A lost checkpoint made again from the ledgers of the sinks (X7).

use std::collections::BTreeMap;

use tidemill_core::plan::BatchId;
use tidemill_core::recover::{self, Recovery};

use super::Driver;
use super::recovery::{Standing, decided, refusal};
use crate::checkpoint::{AppRecord, CommitRecord, Contents, LossRecord, SinkCommit};
use crate::error::{Error, Kind, Result};

impl Driver {
    /// Restores who the application is, its newest plan, and whether that is settled. `app.json` is written last: what a
    /// crash leaves behind is no checkpoint yet, and a second attempt completes it. Gives the batch, and whether it is
    /// settled.
    ///
    /// # Errors
    /// `Config` where there is a checkpoint, no ledger, or ledgers of more than one application.
    pub async fn rebuild(mut self) -> Result<(BatchId, bool)> {
        let place = self.checkpoint.location();
        if self.checkpoint.app().await?.is_some() {
            let text =
                format!("there is a checkpoint at {place}; only a lost one is rebuilt. Move it away if it is damaged");
            return Err(Error::new(Kind::Config, text));
        }
        let mut standing = Standing {
            contents: Contents::default(),
            sinks: self.inspect_sinks().await?,
        };
        let mut owner: Option<(String, String)> = None;
        for (sink, state) in &standing.sinks {
            let Some(record) = &state.ledger else { continue };
            match &owner {
                Some((first, uuid)) if *uuid != record.app_uuid => {
                    let text = format!(
                        "sink {first} belongs to application {uuid}, sink {sink} to {}: leave one of them out of the file, rebuild, \
                         then take it over with `tidemill run FILE --adopt`",
                        record.app_uuid
                    );
                    return Err(Error::new(Kind::Config, text));
                }
                Some(_) => {}
                None => owner = Some((sink.clone(), record.app_uuid.clone())),
            }
        }
        let Some((_, app_uuid)) = owner else {
            let text = "no sink of the file holds a ledger of this application: there is nothing to rebuild from";
            return Err(Error::new(Kind::Config, text));
        };
        standing.contents.epoch = self.checkpoint.newest_epoch().await?;
        let app = AppRecord {
            app: self.settings.app.clone(),
            app_uuid,
            created_ms: self.clock.now_ms(),
        };
        // Whoever still runs with the lost checkpoint commits nothing after this.
        let (claim, ledgers) = self.claim_sinks(&standing, app.app_uuid.clone()).await?;
        let facts = self.facts(&app.app_uuid, &standing.contents, &ledgers);
        let (plan, settled) = match recover::decide(&facts).map_err(refusal)? {
            Recovery::Finish { plan, missing, .. } => {
                let ledgered = |name: &String| ledgers.get(name).is_some_and(Option::is_some);
                let settled = !missing.iter().any(ledgered);
                (plan, settled)
            }
            _ => return Err(Error::new(Kind::Bug, "ledgers without a plan")),
        };
        let batch = plan.plan.batch_id;
        self.checkpoint.restore_plan(&plan).await?;
        let losses: Vec<_> = ledgers
            .values()
            .flatten()
            .filter(|record| record.batch_id == batch)
            .max_by_key(|record| record.losses.len())
            .map(|record| record.losses.clone())
            .unwrap_or_default();
        if !losses.is_empty() && self.checkpoint.losses(batch).await?.is_empty() {
            let record = LossRecord {
                batch_id: batch,
                epoch: claim.epoch,
                losses,
                noticed_ms: self.clock.now_ms(),
            };
            self.checkpoint.log_losses(&record).await?;
        }
        if settled {
            let found = |(name, record): (&String, &Option<_>)| {
                let record: &tidemill_core::LedgerRecord = record.as_ref()?;
                let rows = if record.batch_id == batch { record.rows } else { 0 };
                let commit = SinkCommit {
                    rows,
                    found: true,
                    ..SinkCommit::default()
                };
                Some((name.clone(), commit))
            };
            let commit = CommitRecord {
                batch_id: batch,
                epoch: claim.epoch,
                sinks: ledgers.iter().filter_map(found).collect(),
                record_bytes: BTreeMap::new(),
                states: decided(batch, None, &ledgers),
                committed_ms: self.clock.now_ms(),
            };
            self.checkpoint.log_commit(&commit).await?;
        }
        self.checkpoint.look_for_newer(claim.epoch).await?;
        self.checkpoint.create(app).await?;
        Ok((batch, settled))
    }
}
