//! What a person ordered for a start: sinks that go on under another name, and sinks that are taken over (X8, X9).

use tidemill_core::plan::{BatchId, BatchPlan, LimitsInForce, Turn};
use tidemill_core::position::Positions;

use super::recovery::{Ledgers, Standing, take};
use super::{Driver, Running, Successor, into_commit_order};
use crate::error::Result;
use crate::sink::{Claim, Predecessor, SinkInput, SinkState};

/// The version of a plan's turn that this build writes.
pub(super) const TURN_VERSION: u32 = 1;

/// The other application that stands in the sink.
pub(super) fn predecessor(state: Option<&SinkState>, sink: &str, ours: &str) -> Option<Predecessor> {
    let state = state?;
    // The owner may be ours already where a crash came before the record of the takeover.
    let by_ledger = state.ledger.iter().map(|record| &record.app_uuid);
    let theirs = state.app_uuid.iter().chain(by_ledger).find(|uuid| *uuid != ours)?;
    Some(Predecessor {
        app_uuid: theirs.clone(),
        sink: sink.to_owned(),
    })
}

impl Driver {
    /// Batch ids go on above those of the sinks that are adopted, or their old records would count as the newest.
    pub(super) fn adopted_above(&self, ours: &str, ledgers: &Ledgers) -> Option<BatchId> {
        let adopted = |name: &&String| self.settings.ways_out.adopts(name);
        let theirs = |name: &String| {
            Some(
                ledgers
                    .get(name)?
                    .as_ref()
                    .filter(|record| record.app_uuid != ours)?
                    .batch_id,
            )
        };
        ledgers.keys().filter(adopted).filter_map(theirs).max()
    }

    /// A sentence for each adopted sink: what the other application knew.
    pub(super) fn left_behind(&self, standing: &Standing, ours: &str) -> Vec<String> {
        let of = |name: &String| {
            let state = standing.sinks.get(name)?;
            let from = predecessor(Some(state), name, ours)?;
            let record = state.ledger.as_ref().filter(|record| record.app_uuid == from.app_uuid);
            let positions: Vec<String> = record
                .into_iter()
                .flat_map(|record| record.positions.iter())
                .map(|at| format!("{} {} {}", at.source, at.partition, at.offset))
                .collect();
            let behind = match record {
                Some(record) => format!("batch {}, positions {}", record.batch_id, positions.join(", ")),
                None => "no ledger".to_owned(),
            };
            Some(format!(
                "sink {name} is taken over from application {}; left behind: {behind}. Its rows stay, and what this application \
                 reads anew comes beside them",
                from.app_uuid
            ))
        };
        self.settings.ways_out.adopt.iter().filter_map(of).collect()
    }

    /// Brings renamed sinks under their new names. The batch before is settled under the old one, whose fence this driver
    /// holds, so that nothing can follow there; a crash anywhere leaves one of the two names with the newest record.
    pub(super) async fn rename(&mut self, running: &Running) -> Result<()> {
        for at in 0..self.outputs.len() {
            let Some(Successor { name, mut sink }) = self.outputs[at].successor.take() else {
                continue;
            };
            let output = &mut self.outputs[at];
            sink.take_over(Predecessor {
                app_uuid: running.claim.app_uuid.clone(),
                sink: output.name.clone(),
            });
            sink.check(&SinkInput {
                schema: output.job.schema(),
                ordered: output.job.ordered(),
            })
            .await?;
            let was = std::mem::replace(&mut output.name, name.clone());
            output.sink = sink;
            take(output, &self.checkpoint, &running.claim).await?;
            self.birth(&running.claim, &running.last, &name).await?;
            tracing::info!(
                sink = name,
                was,
                after = running.last.plan.batch_id,
                "the sink was renamed"
            );
        }
        into_commit_order(&mut self.outputs);
        Ok(())
    }

    /// Begins adopted sinks by a plan of their own.
    pub(super) async fn adopt(&mut self, running: &mut Running, above: Option<BatchId>) -> Result<()> {
        let adopted = self.settings.ways_out.adopt.clone();
        let done = |turn: &Turn| adopted.iter().all(|name| turn.adopted.contains(name));
        if adopted.is_empty() || running.last.plan.turn.as_ref().is_some_and(done) {
            return Ok(());
        }
        let last = running.last.plan.batch_id;
        let turn = Turn {
            version: TURN_VERSION,
            follows: Some(last),
            adopted,
            ..Turn::default()
        };
        let batch = above.map_or(last, |above| above.max(last)) + 1;
        let before = running.positions.clone();
        self.turn(running, batch, before, turn).await
    }

    /// Logs a plan that reads nothing and settles it in all sinks; the stream goes on from `before`.
    pub(super) async fn turn(
        &mut self,
        running: &mut Running,
        batch: BatchId,
        before: Positions,
        turn: Turn,
    ) -> Result<()> {
        self.settle(running).await?;
        let plan = self.turn_plan(&running.claim, running, batch, before, turn);
        self.checkpoint.look_for_newer(running.claim.epoch).await?;
        let logged = self.checkpoint.log_plan(plan).await?;
        let all: Vec<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
        self.finish_batch(running, logged, Vec::new(), &all, std::time::Duration::ZERO)
            .await?;
        self.settle(running).await
    }

    fn turn_plan(&self, claim: &Claim, running: &Running, batch: BatchId, before: Positions, turn: Turn) -> BatchPlan {
        BatchPlan {
            app: claim.app.clone(),
            app_uuid: claim.app_uuid.clone(),
            epoch: claim.epoch,
            incarnation: claim.incarnation.clone(),
            batch_id: batch,
            batch_time_ms: self.next_time(running.last.plan.batch_time_ms),
            seed: 0,
            reduce_slices: self.settings.reduce_slices,
            before,
            ranges: Vec::new(),
            sinks: self.outputs.iter().map(|output| output.sink.identity()).collect(),
            tables: self.settings.tables.clone(),
            limits: LimitsInForce::default(),
            pipeline_hash: self.settings.pipeline_hash.clone(),
            query_hashes: self.query_hashes(),
            states: running.states.clone(),
            zero_ms: running.last.plan.zero_ms,
            turn: Some(turn),
        }
    }
}
