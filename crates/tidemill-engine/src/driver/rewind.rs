//! Going back to the positions of an earlier batch (X32).

use std::collections::BTreeMap;

use tidemill_core::plan::{BatchId, Turn};
use tidemill_core::position::Positions;
use tidemill_core::recover::{self, LoggedPlan, Recovery};
use tidemill_core::rewind;
use tidemill_core::state::StateVersions;

use super::Driver;
use super::ranges::partition_bounds;
use super::recovery::{Standing, refusal};
use super::turns::TURN_VERSION;
use crate::error::{Error, Kind, Result};
use crate::sink::Again;

/// What a rewind does.
#[derive(Debug)]
pub struct Rewind {
    /// The batch whose positions the stream goes back to.
    pub to: BatchId,
    /// The last batch.
    pub last: BatchId,
    /// Where it goes on.
    pub before: Positions,
    /// Where it stands now.
    pub now: Positions,
    /// What becomes of the rows, per sink.
    pub sinks: Vec<SinkAgain>,
    /// The id of the plan that does it, where it was done.
    pub done: Option<BatchId>,
}

/// What becomes of the rows of one sink.
#[derive(Debug)]
pub struct SinkAgain {
    /// The sink.
    pub name: String,
    /// What happens to rows that come again.
    pub again: Again,
    /// Rows that it was given from that batch on, as far as commit records tell.
    pub rows: u64,
}

/// Only the state of the last batch is kept.
fn refuse_states(states: &StateVersions) -> Result<()> {
    let Some(operator) = states.keys().next() else {
        return Ok(());
    };
    let text =
        format!("operator {operator} keeps state, and only that of the last batch is kept: there is no going back");
    Err(Error::new(Kind::Config, text))
}

impl Driver {
    /// Says what going back to `to` does, and does it where `yes` is set, fenced like a run.
    ///
    /// # Errors
    /// `Config` where the batch can't be gone back to, naming why; `Loss` where retention took its offsets; those of a start.
    pub async fn rewind(mut self, to: BatchId, yes: bool) -> Result<Rewind> {
        let (standing, app) = self.acceptable().await?;
        let last = self.settled_plan(&app.app_uuid, &standing)?;
        refuse_states(&last.plan.states)?;
        standing
            .contents
            .last_commit
            .iter()
            .try_for_each(|commit| refuse_states(&commit.states))?;
        let before = self.target(to, &last).await?;
        let mut rewind = Rewind {
            to,
            last: last.plan.batch_id,
            before,
            now: last.plan.after(),
            sinks: self.again(to, last.plan.batch_id).await?,
            done: None,
        };
        if !yes {
            return Ok(rewind);
        }
        let (claim, ledgers) = self.claim(&standing, app).await?;
        let contents = self.checkpoint.read().await?;
        let decision = match recover::decide(&self.facts(&claim.app_uuid, &contents, &ledgers)) {
            Ok(Recovery::Continue { last: now, births }) if now == last => Recovery::Continue { last: now, births },
            decided => {
                self.checkpoint.look_for_newer(claim.epoch).await?;
                decided.map_err(refusal)?;
                let text = format!(
                    "batch {} was the last when this began, others followed; begin again",
                    rewind.last
                );
                return Err(Error::new(Kind::Refused, text));
            }
        };
        let mut running = self.recovered(claim, contents, &ledgers, decision, None).await?;
        // The commit record of the last batch may have been missing, and a ledger told it.
        refuse_states(&running.states)?;
        let turn = Turn {
            version: TURN_VERSION,
            follows: Some(rewind.last),
            rewound_to: Some(to),
            ..Turn::default()
        };
        self.turn(&mut running, rewind.last + 1, rewind.before.clone(), turn)
            .await?;
        rewind.done = Some(running.last.plan.batch_id);
        Ok(rewind)
    }

    /// The last plan, which must be settled.
    fn settled_plan(&self, app_uuid: &str, standing: &Standing) -> Result<LoggedPlan> {
        match recover::decide(&self.facts(app_uuid, &standing.contents, &standing.ledgers())).map_err(refusal)? {
            Recovery::Continue { last, .. } => Ok(last),
            Recovery::Fresh => Err(Error::new(
                Kind::Config,
                "nothing was ever run; there is nothing to go back to",
            )),
            Recovery::Finish { plan, .. } => Err(Error::new(
                Kind::Config,
                format!(
                    "batch {} is not settled: `tidemill run FILE --until-caught-up` finishes it, then rewind",
                    plan.plan.batch_id
                ),
            )),
        }
    }

    /// The positions to go back to, all of which must still be there.
    async fn target(&self, to: BatchId, last: &LoggedPlan) -> Result<Positions> {
        let config = |refused: rewind::Refusal| {
            let kind = if refused.is_loss() { Kind::Loss } else { Kind::Config };
            Error::new(kind, refused.to_string())
        };
        let mut later = Vec::new();
        let kept = self.checkpoint.planned().await?;
        rewind::kept(to, last.plan.batch_id, &kept).map_err(config)?;
        for batch in kept.into_iter().filter(|batch| *batch >= to) {
            later.extend(self.checkpoint.plan(batch).await?.map(|logged| logged.plan));
        }
        let before = rewind::positions(&later, &last.plan.after());
        let mut bounds = BTreeMap::new();
        for source in &self.sources {
            let ends = source.source.ends(true).await?;
            bounds.insert(source.name.clone(), ends.into_iter().map(partition_bounds).collect());
        }
        rewind::readable(&before, &bounds).map_err(config)?;
        Ok(before)
    }

    async fn again(&self, to: BatchId, last: BatchId) -> Result<Vec<SinkAgain>> {
        let mut rows: BTreeMap<String, u64> = BTreeMap::new();
        for batch in to..=last {
            let commit = self.checkpoint.commit(batch).await?;
            for (sink, done) in commit.into_iter().flat_map(|commit| commit.sinks) {
                *rows.entry(sink).or_default() += done.rows;
            }
        }
        let of = |output: &super::Output| SinkAgain {
            name: output.name.clone(),
            again: output.sink.again(),
            rows: rows.get(&output.name).copied().unwrap_or(0),
        };
        Ok(self.outputs.iter().map(of).collect())
    }
}
