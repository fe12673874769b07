//! From a cold process to the first new batch (X6): read and refuse, claim, fence, read again, decide.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchId, BatchPlan, LimitsInForce, Turn};
use tidemill_core::position::{Positions, TopicPartition};
use tidemill_core::recover::{self, Facts, LoggedPlan, Recovery, SinkFacts};
use tidemill_core::start::{self, PartitionBounds, StartPolicy};
use tidemill_core::state::{self, StateVersions};
use tidemill_core::ways_out;

use super::held_back::HeldBack;
use super::lag::LagClock;
use super::pace::Pace;
use super::publisher::Publisher;
use super::ranges::partition_bounds;
use super::states::{self, States};
use super::ticks::zero;
use super::turns::{TURN_VERSION, predecessor};
use super::{Driver, DriverSource, Output, Running, Summary, TickPolicy};
use crate::checkpoint::{AppRecord, Checkpoint, Contents};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sink::{Claim, SinkInput, SinkState};

/// Where a pipeline stands, read without touching anything; what `offsets` and `checkpoint show` print.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What the checkpoint holds.
    pub contents: Contents,
    /// What each sink holds, by name.
    pub sinks: BTreeMap<String, SinkState>,
}

/// The newest ledger record of each sink, by its name.
pub(super) type Ledgers = BTreeMap<String, Option<LedgerRecord>>;

impl Standing {
    pub(super) fn ledgers(&self) -> Ledgers {
        let newest = |(name, state): (&String, &SinkState)| (name.clone(), state.ledger.clone());
        self.sinks.iter().map(newest).collect()
    }
}

impl Driver {
    pub(super) async fn inspect(&mut self) -> Result<Standing> {
        let contents = self.checkpoint.read().await?;
        if let Some(app) = &contents.app
            && app.app != self.settings.app
        {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "checkpoint {} belongs to the pipeline {}, not to {}: give this pipeline a checkpoint of its own",
                    self.checkpoint.location(),
                    app.app,
                    self.settings.app
                ),
            ));
        }
        let sinks = self.inspect_sinks().await?;
        Ok(Standing { contents, sinks })
    }

    /// What the sinks hold, whatever the checkpoint says.
    pub(super) async fn inspect_sinks(&mut self) -> Result<BTreeMap<String, SinkState>> {
        let mut sinks = BTreeMap::new();
        for output in &mut self.outputs {
            output
                .sink
                .check(&SinkInput {
                    schema: output.job.schema(),
                    ordered: output.job.ordered(),
                })
                .await?;
            sinks.insert(output.name.clone(), output.sink.inspect(&self.settings.app).await?);
        }
        Ok(sinks)
    }

    /// Takes the application over, brings it to a settled batch, and carries out what a person ordered.
    pub(super) async fn start(&mut self) -> Result<Running> {
        for source in &self.sources {
            source.source.ends(false).await?;
        }
        let (standing, app) = self.acceptable().await?;
        self.refuse_states(&standing).await?;
        for text in self.left_behind(&standing, &app.app_uuid) {
            tracing::warn!("{text}");
        }
        let (claim, read) = self.claim(&standing, app).await?;
        let contents = self.checkpoint.read().await?;
        let decision = match recover::decide(&self.facts(&claim.app_uuid, &contents, &read)) {
            Ok(decision) => decision,
            Err(refused) => {
                // A newer driver may have moved on between our fence and this reading.
                self.checkpoint.look_for_newer(claim.epoch).await?;
                return Err(refusal(refused));
            }
        };
        let above = self.adopted_above(&claim.app_uuid, &read);
        let mut running = self.recovered(claim, contents, &read, decision, above).await?;
        self.rename(&running).await?;
        self.adopt(&mut running, above).await?;
        Ok(running)
    }

    /// Claims an epoch above all others, takes every sink, and gives the ledgers as they are after that (X6).
    pub(super) async fn claim(&mut self, standing: &Standing, app: AppRecord) -> Result<(Claim, Ledgers)> {
        let app = self.checkpoint.create(app).await?;
        self.claim_sinks(standing, app.app_uuid).await
    }

    /// The same for an application that has no `app.json` yet.
    pub(super) async fn claim_sinks(&mut self, standing: &Standing, app_uuid: String) -> Result<(Claim, Ledgers)> {
        let early = standing.ledgers();
        let above = standing
            .sinks
            .values()
            .map(|state| state.epoch)
            .max()
            .unwrap_or(0)
            .max(standing.contents.epoch);
        let incarnation = uuid::Uuid::new_v4().to_string();
        let epoch = self
            .checkpoint
            .claim_epoch(above, &incarnation, self.clock.now_ms())
            .await?;
        let claim = Claim {
            app: self.settings.app.clone(),
            app_uuid,
            epoch,
            incarnation,
        };
        tracing::info!(
            app = claim.app,
            epoch,
            checkpoint = self.checkpoint.location(),
            "started"
        );

        let mut read = BTreeMap::new();
        for output in &mut self.outputs {
            if self.settings.ways_out.adopts(&output.name)
                && let Some(from) = predecessor(standing.sinks.get(&output.name), &output.name, &claim.app_uuid)
            {
                output.sink.take_over(from);
            }
            read.insert(output.name.clone(), take(output, &self.checkpoint, &claim).await?);
        }
        let ledgers = if failpoint::sabotaged("ledger-before-fence") {
            early
        } else {
            read
        };
        Ok((claim, ledgers))
    }

    /// Reads checkpoint and sinks, and refuses what must be refused before anything is touched. Another driver may be at
    /// work meanwhile, so that what was read first no longer fits what was read last: a refusal counts when two readings
    /// in a row give it.
    pub(super) async fn acceptable(&mut self) -> Result<(Standing, AppRecord)> {
        let mut before: Option<String> = None;
        loop {
            let standing = self.inspect().await?;
            let app = standing.contents.app.clone().unwrap_or_else(|| AppRecord {
                app: self.settings.app.clone(),
                app_uuid: uuid::Uuid::new_v4().to_string(),
                created_ms: self.clock.now_ms(),
            });
            let error = match self.accept(&standing, &app) {
                Ok(Recovery::Fresh) => {
                    self.first_positions().await?;
                    return Ok((standing, app));
                }
                Ok(_) => return Ok((standing, app)),
                Err(error) => error,
            };
            // A first start draws another uuid each time: the message without it tells whether anything changed.
            let text = error.to_string().replace(&app.app_uuid, "");
            if before.as_ref() == Some(&text) {
                return Err(error);
            }
            before = Some(text);
        }
    }

    fn accept(&self, standing: &Standing, app: &AppRecord) -> Result<Recovery> {
        for (name, state) in &standing.sinks {
            if !self.settings.ways_out.adopts(name) {
                self.refuse_foreign(app, name, state)?;
            }
        }
        let facts = self.facts(&app.app_uuid, &standing.contents, &standing.ledgers());
        let owner = |output: &Output| {
            standing
                .sinks
                .get(&output.name)
                .and_then(|state| state.app_uuid.clone())
        };
        let owners: Vec<_> = self.outputs.iter().map(owner).collect();
        ways_out::applicable(&facts, &owners).map_err(refusal)?;
        recover::decide(&facts).map_err(refusal)
    }

    fn refuse_foreign(&self, app: &AppRecord, name: &str, state: &SinkState) -> Result<()> {
        match &state.app_uuid {
            Some(theirs) if *theirs != app.app_uuid => Err(refusal(recover::Refusal::Foreign {
                sink: name.to_owned(),
                theirs: theirs.clone(),
                ours: app.app_uuid.clone(),
            })),
            _ => Ok(()),
        }
    }

    pub(super) fn facts(&self, app_uuid: &str, contents: &Contents, ledgers: &Ledgers) -> Facts {
        let sinks = self
            .outputs
            .iter()
            .map(|output| SinkFacts {
                identity: output.sink.identity(),
                exactly_once: output.sink.exactly_once(),
                dead_letters: output.dead_letters,
                ledger: ledgers.get(&output.name).cloned().flatten(),
                query_hash: output.query_hash.clone(),
            })
            .collect();
        Facts {
            app_uuid: app_uuid.to_owned(),
            last_plan: contents.last_plan.clone(),
            settled: contents.last_commit.as_ref().map(|commit| commit.batch_id),
            sinks,
            pipeline_hash: self.settings.pipeline_hash.clone(),
            tables: self.settings.tables.clone(),
            ways_out: self.settings.ways_out.clone(),
        }
    }

    pub(super) async fn recovered(
        &mut self,
        claim: Claim,
        contents: Contents,
        ledgers: &Ledgers,
        decision: Recovery,
        above: Option<BatchId>,
    ) -> Result<Running> {
        let last_commit = contents.last_commit;
        let committed = last_commit
            .as_ref()
            .map(|commit| (commit.batch_id, commit.states.clone()));
        let decided = |batch| decided(batch, committed.as_ref(), ledgers);
        let sink_bytes_max = last_commit.as_ref().and_then(|commit| self.bytes_within_limits(commit));
        let record_bytes = last_commit.map(|commit| commit.record_bytes).unwrap_or_default();
        let backpressure = self.settings.backpressure.filter(|_| !self.settings.until_caught_up);
        let pace =
            Pace::new(&self.sources, backpressure).map_err(|error| Error::new(Kind::Config, error.to_string()))?;
        let every_tick = self.settings.ticks == TickPolicy::Every;
        let publisher = Publisher::start(&self.sources);
        let running = |last: LoggedPlan| Running {
            claim: claim.clone(),
            positions: last.plan.after(),
            last,
            record_bytes,
            states: StateVersions::new(),
            decided: StateVersions::new(),
            sink_bytes_max,
            yields_without_input: every_tick,
            may_be_overtaken: true,
            must_be_logged: false,
            lag: LagClock::default(),
            held_back: HeldBack::default(),
            pace,
            publisher,
            unlogged: None,
            summary: Summary::default(),
        };
        let mut running = match decision {
            Recovery::Fresh => {
                let first = self.first_plan(&claim, above).await?;
                self.open_states(&StateVersions::new()).await?;
                let logged = self.checkpoint.log_plan(first).await?;
                let mut running = running(logged.clone());
                let all: Vec<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
                self.finish_batch(&mut running, logged, Vec::new(), &all, Duration::ZERO)
                    .await?;
                self.settle(&mut running).await?;
                running
            }
            Recovery::Continue { last, births } => {
                tracing::info!(batch = last.plan.batch_id, "going on after the last settled batch");
                let mut running = running(last.clone());
                running.states = state::after(&last.plan.states, [&decided(last.plan.batch_id)]);
                self.open_states(&running.states).await?;
                for name in births {
                    self.birth(&running.claim, &last, &name).await?;
                }
                running
            }
            Recovery::Finish {
                plan,
                missing,
                births,
                from_ledger,
            } => {
                tracing::warn!(
                    batch = plan.plan.batch_id,
                    sinks = missing.join(", "),
                    from_ledger,
                    "the last batch was not settled; running it as planned for the sinks that lack it"
                );
                let missing = if failpoint::sabotaged("no-ledger-check") {
                    self.outputs.iter().map(|output| output.name.clone()).collect()
                } else {
                    missing
                };
                let mut running = running(plan.clone());
                running.decided = decided(plan.plan.batch_id);
                self.open_states(&plan.plan.states).await?;
                let known = self.checkpoint.losses(plan.plan.batch_id).await?;
                let losses = known.into_iter().flat_map(|record| record.losses).collect();
                self.finish_batch(&mut running, plan.clone(), losses, &missing, Duration::ZERO)
                    .await?;
                self.settle(&mut running).await?;
                for name in births {
                    self.birth(&running.claim, &plan, &name).await?;
                }
                running
            }
        };
        let forgotten = &self.settings.ways_out.forget_states;
        running.states.retain(|operator, _| !forgotten.contains(operator));
        self.tidy(running.last.plan.batch_id).await;
        for output in &self.outputs {
            running.yields_without_input |= output.job.yields_without_input().await?;
        }
        Ok(running)
    }

    /// State that the outputs can't go on from is refused before anything is touched (X6).
    async fn refuse_states(&self, standing: &Standing) -> Result<()> {
        let Some(last) = &standing.contents.last_plan else {
            return Ok(());
        };
        let committed = standing.contents.last_commit.as_ref();
        let committed = committed.map(|commit| (commit.batch_id, commit.states.clone()));
        let decided = decided(last.plan.batch_id, committed.as_ref(), &standing.ledgers());
        let versions = state::after(&last.plan.states, [&decided]);
        let forgotten = &self.settings.ways_out.forget_states;
        states::acceptable(&self.checkpoint, &self.outputs, &versions, forgotten).await
    }

    async fn open_states(&mut self, versions: &StateVersions) -> Result<()> {
        let forgotten = &self.settings.ways_out.forget_states;
        let settings = self.settings.state.as_ref();
        self.states = States::open(settings, &self.checkpoint, &self.outputs, versions, forgotten).await?;
        Ok(())
    }

    /// Where the sources begin on a first start.
    pub(super) async fn first_positions(&self) -> Result<Positions> {
        let mut first = Positions::default();
        for source in &self.sources {
            let mut bounds: Vec<_> = source
                .source
                .ends(true)
                .await?
                .into_iter()
                .map(partition_bounds)
                .collect();
            answer(source, &mut bounds).await?;
            let resolved = start::resolve(&source.name, &source.start, &bounds)
                .map_err(|error| Error::new(Kind::Config, error.to_string()))?;
            for position in resolved.iter() {
                first.set(position.clone());
            }
        }
        Ok(first)
    }

    /// Plan 0: first positions, resolved once and logged (X9). Its id is above those of the sinks that are adopted.
    async fn first_plan(&self, claim: &Claim, above: Option<BatchId>) -> Result<BatchPlan> {
        let before = self.first_positions().await?;
        let now = self.clock.now_ms();
        let zero = match self.settings.ticks {
            TickPolicy::Merged => None,
            TickPolicy::Every => Some(zero(now, self.settings.interval)),
        };
        Ok(BatchPlan {
            app: claim.app.clone(),
            app_uuid: claim.app_uuid.clone(),
            epoch: claim.epoch,
            incarnation: claim.incarnation.clone(),
            batch_id: above.map_or(0, |above| above + 1),
            batch_time_ms: zero.unwrap_or(now),
            seed: 0,
            reduce_slices: self.settings.reduce_slices,
            before,
            ranges: Vec::new(),
            sinks: self.outputs.iter().map(|output| output.sink.identity()).collect(),
            tables: self.settings.tables.clone(),
            limits: LimitsInForce::default(),
            pipeline_hash: self.settings.pipeline_hash.clone(),
            query_hashes: self.query_hashes(),
            states: StateVersions::new(),
            zero_ms: zero,
            turn: above.map(|_| Turn {
                version: TURN_VERSION,
                adopted: self.settings.ways_out.adopt.clone(),
                ..Turn::default()
            }),
        })
    }

    pub(super) async fn birth(&mut self, claim: &Claim, last: &LoggedPlan, name: &str) -> Result<()> {
        let Some(output) = self.outputs.iter_mut().find(|output| output.name == name) else {
            return Ok(());
        };
        if output.sink.exactly_once() {
            tracing::info!(
                sink = name,
                after = last.plan.batch_id,
                "a new sink begins after this batch"
            );
            let record = ledger_record(claim, last, name, true);
            failpoint::pass("sink.before-birth");
            output.sink.birth(&record).await?;
            failpoint::pass("sink.after-birth");
        }
        Ok(())
    }
}

/// What the commits of a batch decided of the operators' state (X30), as the checkpoint and the sinks tell it.
pub(super) fn decided(
    batch: BatchId,
    committed: Option<&(BatchId, StateVersions)>,
    ledgers: &Ledgers,
) -> StateVersions {
    let by_record = committed
        .filter(|(committed, _)| *committed == batch)
        .map(|(_, states)| states);
    let by_ledger = ledgers.values().flatten().filter(|record| record.batch_id == batch);
    let all = by_ledger.map(|record| &record.states).chain(by_record);
    let mut decided = state::after(&StateVersions::new(), all);
    decided.retain(|_, version| version.batch_id == batch);
    decided
}

/// Asks the brokers what the start policy needs to know beyond the bounds.
async fn answer(source: &DriverSource, bounds: &mut [PartitionBounds]) -> Result<()> {
    let answers: Vec<(TopicPartition, Option<i64>)> = match source.start {
        StartPolicy::Earliest | StartPolicy::Latest | StartPolicy::Offsets(_) => return Ok(()),
        StartPolicy::Since(millis) => source.source.since(millis).await?,
        StartPolicy::Committed => {
            let partitions: Vec<_> = bounds.iter().map(|bound| bound.partition.clone()).collect();
            let offsets = source.source.published(&partitions).await?;
            partitions.into_iter().zip(offsets).collect()
        }
    };
    let answers: BTreeMap<_, _> = answers.into_iter().collect();
    for bound in bounds {
        bound.answer = answers.get(&bound.partition).copied().flatten();
    }
    Ok(())
}

/// How often a sink is taken back from an older driver whose last act came late.
const TAKE_BACKS_MAX: u32 = 5;

/// Fences a sink and reads its ledger after that. A sink that fences us while the checkpoint knows no newer epoch was
/// taken by an older driver in its last act: it is taken back (X22).
pub(super) async fn take(output: &mut Output, checkpoint: &Checkpoint, claim: &Claim) -> Result<Option<LedgerRecord>> {
    let mut back = 0;
    loop {
        failpoint::pass("sink.before-fence");
        checkpoint.look_for_newer(claim.epoch).await?;
        let fenced = match output.sink.fence(claim).await {
            Ok(()) => {
                failpoint::pass("sink.after-fence");
                match output.sink.ledger().await {
                    Err(error) if error.kind() == Kind::Fenced => error,
                    read => return read,
                }
            }
            Err(error) if error.kind() == Kind::Fenced => error,
            Err(error) => return Err(error),
        };
        checkpoint.look_for_newer(claim.epoch).await?;
        back += 1;
        if back > TAKE_BACKS_MAX {
            return Err(fenced);
        }
        tracing::warn!(
            sink = output.name,
            error = fenced.chain(),
            "taking the sink back from an older instance"
        );
    }
}

/// The ledger record of a plan for a sink.
pub(super) fn ledger_record(claim: &Claim, logged: &LoggedPlan, sink: &str, birth: bool) -> LedgerRecord {
    LedgerRecord {
        app: claim.app.clone(),
        app_uuid: claim.app_uuid.clone(),
        sink: sink.to_owned(),
        batch_id: logged.plan.batch_id,
        birth,
        epoch: claim.epoch,
        incarnation: claim.incarnation.clone(),
        plan_hash: logged.hash.clone(),
        positions: logged.plan.after(),
        plan: logged.plan.clone(),
        losses: Vec::new(),
        states: logged.plan.states.clone(),
        rows: 0,
    }
}

pub(super) fn refusal(refusal: recover::Refusal) -> Error {
    let kind = if refusal.is_loss() { Kind::Loss } else { Kind::Config };
    Error::new(kind, refusal.to_string())
}
