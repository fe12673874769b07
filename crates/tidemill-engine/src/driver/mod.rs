//! The driver: one loop that owns the state, reads facts, asks `tidemill-core`, and executes the answer.

mod batch;
mod check;
mod events;
mod held_back;
mod lag;
mod losses;
mod pace;
mod parts;
mod patience;
mod patient_store;
mod publisher;
mod ranges;
mod rebuild;
mod recovery;
mod replay;
mod rewind;
mod settle;
mod states;
mod ticks;
mod turns;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_core::loss::Loss;
use tidemill_core::next_batch;
use tidemill_core::plan::BatchPlan;
use tidemill_core::position::Positions;
use tidemill_core::recover::LoggedPlan;
use tidemill_core::state::{self, StateVersions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::checkpoint::{Checkpoint, CommitRecord, SinkCommit};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sink::Claim;
use crate::store::Store;
use crate::time::Clock;
use batch::Findings;
use held_back::HeldBack;
use lag::LagClock;
use losses::log_losses;
use pace::Pace;
use parts::into_commit_order;
use patience::Waiting;
use patient_store::PatientStore;
use publisher::Publisher;
use ranges::{Ends, NextRanges};
use settle::Unlogged;
use states::States;
use ticks::Ticks;

pub use check::{Checked, all_of};
pub use events::{BatchInfo, Event, Listener, OutputInfo};
pub use parts::{DriverSettings, DriverSource, Output, Successor, TickPolicy};
pub use recovery::Standing;
pub use replay::Replayed;
pub use rewind::{Rewind, SinkAgain};

/// How often an idle instance looks whether another one took over.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Milliseconds as batch times count them.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Batches committed by this process.
    pub batches: u64,
    /// Records read, counted once per output.
    pub records_in: u64,
    /// Rows made visible.
    pub rows_out: u64,
    /// Bad records left out.
    pub skipped: u64,
    /// Bad records given to the dead letters.
    pub dead_lettered: u64,
}

/// How far a run has come, for a progress bar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Offsets behind us since the start of this process.
    pub done: u64,
    /// Offsets there were to read at the start (until caught up), or are known now.
    pub total: u64,
}

/// The running application.
#[derive(Debug)]
pub struct Driver {
    settings: DriverSettings,
    clock: Arc<dyn Clock>,
    checkpoint: Checkpoint,
    sources: Vec<DriverSource>,
    outputs: Vec<Output>,
    states: States,
    listener: Option<Arc<dyn Listener>>,
    stop: watch::Receiver<bool>,
    waiting: Waiting,
    progress: watch::Sender<Progress>,
}

/// What a started driver carries from batch to batch.
#[derive(Debug)]
struct Running {
    claim: Claim,
    last: LoggedPlan,
    positions: Positions,
    record_bytes: BTreeMap<String, u64>,
    /// What the stateful operators hold after the last batch.
    states: StateVersions,
    /// What sinks that hold the batch to be finished have decided of it.
    decided: StateVersions,
    /// What the slowest sink with a time limit takes within it, by its last batch with input.
    sink_bytes_max: Option<u64>,
    yields_without_input: bool,
    /// True where retention may have passed a position: at the start, and after it did.
    may_be_overtaken: bool,
    /// True where a position was taken that no later look would find again: it is to be logged, with ranges or without.
    must_be_logged: bool,
    lag: LagClock,
    held_back: HeldBack,
    pace: Pace,
    publisher: Publisher,
    /// The last batch, while its commit record is not written.
    unlogged: Option<Unlogged>,
    summary: Summary,
}

impl Driver {
    /// A driver over its parts. `stop` turning true drains it; outputs are put into commit order.
    pub fn new(
        settings: DriverSettings,
        clock: Arc<dyn Clock>,
        checkpoint: Checkpoint,
        sources: Vec<DriverSource>,
        mut outputs: Vec<Output>,
        stop: watch::Receiver<bool>,
    ) -> (Self, watch::Receiver<Progress>) {
        into_commit_order(&mut outputs);
        let (progress, watched) = watch::channel(Progress::default());
        let waiting = Waiting::on(Arc::clone(&clock), stop.clone(), settings.drain_timeout);
        let patient = |store| -> Arc<dyn Store> { Arc::new(PatientStore::new(store, waiting.clone())) };
        let checkpoint = checkpoint.through(patient);
        (
            Self {
                settings,
                clock,
                checkpoint,
                sources,
                outputs,
                states: States::default(),
                listener: None,
                stop,
                waiting,
                progress,
            },
            watched,
        )
    }

    /// The driver with somebody who hears of what happens.
    #[must_use]
    pub fn heard_by(mut self, listener: Arc<dyn Listener>) -> Self {
        self.listener = Some(listener);
        self
    }

    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(listener) = &self.listener {
            listener.hear(event());
        }
    }

    /// Tells of a batch; a plan that sinks are born by is none.
    fn tell_of(&self, plan: &BatchPlan, event: impl FnOnce() -> Event) {
        if !plan.is_birth() {
            self.tell(event);
        }
    }

    /// Starts, recovers, and runs batches until it is stopped, caught up (where asked to), or fails.
    ///
    /// # Errors
    /// What ended it; see [`Kind`] for what to do. Everything committed before stays.
    pub async fn run(self) -> Result<Summary> {
        // A task of the runtime: on the thread that waits for it, every answer of a broker or disk would first have to wake
        // that thread. It ends where this future is dropped.
        let mut task = JoinSet::new();
        task.spawn(self.run_to_end());
        match task.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => Err(Error::new(Kind::Bug, "the driver's task was cancelled")),
        }
    }

    async fn run_to_end(mut self) -> Result<Summary> {
        let mut running = self.start().await?;
        self.tell(|| Event::Started {
            at_ms: self.clock.now_ms(),
        });
        let ended = self.run_batches(&mut running).await;
        // Whatever ended it: the last batch is settled, and what is not run again should not look as if it were to be.
        let settled = self.settle(&mut running).await;
        ended.and(settled)?;
        running.publisher.finish(self.clock.as_ref()).await;
        Ok(running.summary)
    }

    async fn run_batches(&mut self, running: &mut Running) -> Result<()> {
        let targets = if self.settings.until_caught_up {
            Some(self.all_ends(true).await?)
        } else {
            None
        };
        let total = self.lag_of(&running.positions, targets.as_ref());
        self.report_progress(total, total);
        let mut looked = self.clock.elapsed();
        let mut ticks = Ticks::new(self.settings.ticks, self.settings.interval, looked);
        loop {
            if *self.stop.borrow() {
                return Ok(());
            }
            if !self.settings.until_caught_up {
                let until = ticks.until(self.clock.as_ref(), running.last.plan.batch_time_ms);
                if !until.wait.is_zero() {
                    self.settle(running).await?;
                }
                running.pace.waited(until.late);
                if !self.waited(until.wait).await {
                    return Ok(());
                }
                ticks.take(self.clock.elapsed());
            }
            let Some(next) = self.next_ranges(running, targets.as_ref()).await? else {
                self.settle(running).await?;
                continue;
            };
            let time_ms = self.next_time(running.last.plan.batch_time_ms);
            let window_end = self.window_end(running, time_ms).await?;
            let nothing = next.ranges.is_empty() && !running.must_be_logged && window_end.is_none();
            if nothing && self.settings.until_caught_up {
                return Ok(());
            }
            if !nothing || running.yields_without_input {
                self.one_batch(running, next, window_end.unwrap_or(time_ms)).await?;
                self.report_progress(total, self.lag_of(&running.positions, targets.as_ref()));
                looked = self.clock.elapsed();
                continue;
            }
            self.settle(running).await?;
            if self.clock.elapsed() - looked >= IDLE_LOOK {
                // Without batches nothing else would tell this instance that another one took over.
                self.checkpoint.look_for_newer(running.claim.epoch).await?;
                looked = self.clock.elapsed();
            }
        }
    }

    fn report_progress(&self, total: u64, left: u64) {
        self.progress.send_replace(Progress {
            done: total.saturating_sub(left),
            total,
        });
    }

    /// Waits for the next tick; false where the stop came first.
    async fn waited(&mut self, wait: Duration) -> bool {
        if !wait.is_zero() {
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                () = clock.sleep(wait) => {}
                _ = self.stop.changed() => {}
            }
        }
        !*self.stop.borrow()
    }

    /// The time of the batch after `last_ms`.
    fn next_time(&self, last_ms: i64) -> i64 {
        match self.settings.ticks {
            TickPolicy::Merged => next_batch::batch_time(self.clock.now_ms(), Some(last_ms)),
            TickPolicy::Every => last_ms.saturating_add(millis(self.settings.interval)),
        }
    }

    fn lag_of(&self, positions: &Positions, ends: Option<&Ends>) -> u64 {
        let Some(ends) = ends else { return 0 };
        let mut lag = 0;
        for (source, ends) in ends {
            for end in ends {
                let at = positions
                    .get(source, &end.partition)
                    .map_or(end.end, |position| position.offset);
                lag += u64::try_from(end.end - at).unwrap_or(0);
            }
        }
        lag
    }

    async fn one_batch(&mut self, running: &mut Running, next: NextRanges, batch_time_ms: i64) -> Result<()> {
        let plan = BatchPlan {
            app: self.settings.app.clone(),
            app_uuid: running.claim.app_uuid.clone(),
            epoch: running.claim.epoch,
            incarnation: running.claim.incarnation.clone(),
            batch_id: running.last.plan.batch_id + 1,
            batch_time_ms,
            seed: rand::random(),
            reduce_slices: self.settings.reduce_slices,
            before: running.positions.clone(),
            ranges: next.ranges,
            sinks: self.outputs.iter().map(|output| output.sink.identity()).collect(),
            tables: self.settings.tables.clone(),
            limits: next.limits,
            pipeline_hash: self.settings.pipeline_hash.clone(),
            query_hashes: self.query_hashes(),
            states: running.states.clone(),
            zero_ms: running.last.plan.zero_ms,
            turn: None,
        };
        self.checkpoint.look_for_newer(running.claim.epoch).await?;
        let begun = self.clock.elapsed();
        let unlogged = running.unlogged.take();
        let (logged, written) = tokio::join!(self.checkpoint.log_plan(plan), async {
            match &unlogged {
                Some(last) => self.checkpoint.log_commit(&last.commit).await,
                None => Ok(()),
            }
        });
        let planned = self.clock.elapsed() - begun;
        written?;
        if let Some(last) = unlogged {
            self.settled(running, last, Duration::ZERO).await?;
        }
        let logged = logged?;
        running.must_be_logged = false;
        if !next.losses.is_empty() {
            log_losses(
                &self.checkpoint,
                self.clock.as_ref(),
                &running.claim,
                &logged,
                &next.losses,
            )
            .await?;
        }
        let missing: Vec<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
        self.finish_batch(running, logged, next.losses, &missing, planned).await
    }

    fn query_hashes(&self) -> BTreeMap<String, String> {
        self.outputs
            .iter()
            .map(|output| (output.name.clone(), output.query_hash.clone()))
            .collect()
    }

    /// Runs a logged plan, without what is lost of it, for the sinks that lack it, and goes on from its positions. Its commit
    /// record is left to be written.
    async fn finish_batch(
        &mut self,
        running: &mut Running,
        logged: LoggedPlan,
        mut losses: Vec<Loss>,
        missing: &[String],
        planned: Duration,
    ) -> Result<()> {
        let begun = self.clock.elapsed();
        let batch = logged.plan.batch_id;
        let mut commit = CommitRecord {
            batch_id: batch,
            epoch: running.claim.epoch,
            sinks: BTreeMap::new(),
            record_bytes: BTreeMap::new(),
            states: StateVersions::new(),
            committed_ms: 0,
        };
        let mut findings = Findings {
            record_bytes: running.record_bytes.clone(),
            states: std::mem::take(&mut running.decided),
        };
        if failpoint::sabotaged("commit-record-before-output") {
            self.checkpoint.log_commit(&commit).await?;
        }
        let mut info = BatchInfo::of(&logged.plan, self.clock.now_ms());
        self.tell_of(&logged.plan, || Event::BatchSubmitted(info.clone()));
        info.started_ms = Some(self.clock.now_ms());
        self.tell_of(&logged.plan, || Event::BatchStarted(info.clone()));
        let mut failed = None;
        for at in 0..self.outputs.len() {
            let name = self.outputs[at].name.clone();
            if !missing.contains(&name) {
                let found = SinkCommit {
                    found: true,
                    ..SinkCommit::default()
                };
                commit.sinks.insert(name, found);
                continue;
            }
            match self
                .told_output(at, running, &logged, &mut losses, &mut findings, &mut info)
                .await
            {
                Ok(done) => {
                    commit.sinks.insert(name, done);
                }
                // The outputs beside it have what they need: the batch is theirs, whatever this closure does.
                Err(error) if error.kind() == Kind::UserCode => {
                    failed.get_or_insert(error);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        info.ended_ms = Some(self.clock.now_ms());
        self.tell_of(&logged.plan, || Event::BatchCompleted(info.clone()));
        if let Some(error) = failed {
            return Err(error);
        }
        let worked = self.clock.elapsed() - begun;
        running.record_bytes.clone_from(&findings.record_bytes);
        running.states = state::after(&logged.plan.states, [&findings.states]);
        commit.record_bytes = findings.record_bytes;
        commit.states.clone_from(&running.states);
        commit.committed_ms = self.clock.now_ms();
        running
            .pace
            .completed(&logged.plan, planned + worked, self.clock.elapsed());
        running.positions = logged.plan.after();
        running.may_be_overtaken = !losses.is_empty();
        running.publisher.settled(&running.positions);
        running.sink_bytes_max = self.bytes_within_limits(&commit).or(running.sink_bytes_max);
        running.summary.batches += u64::from(batch > 0);
        let counts = self.counts(&commit);
        running.summary.records_in += counts.records_in;
        running.summary.rows_out += counts.rows;
        running.summary.skipped += counts.skipped;
        running.summary.dead_lettered += counts.dead_lettered;
        running.last = logged.clone();
        running.unlogged = Some(Unlogged {
            logged,
            commit,
            planned,
            worked,
        });
        Ok(())
    }

    /// Runs an output, and tells of it.
    async fn told_output(
        &mut self,
        at: usize,
        running: &Running,
        logged: &LoggedPlan,
        losses: &mut Vec<Loss>,
        findings: &mut Findings,
        batch: &mut BatchInfo,
    ) -> Result<SinkCommit> {
        let mut info = OutputInfo {
            batch_time_ms: logged.plan.batch_time_ms,
            id: at,
            name: self.outputs[at].name.clone(),
            started_ms: self.clock.now_ms(),
            ended_ms: None,
            failure: None,
        };
        self.tell_of(&logged.plan, || Event::OutputStarted(info.clone()));
        let done = self.run_output(at, &running.claim, logged, losses, findings).await;
        info.ended_ms = Some(self.clock.now_ms());
        info.failure = done.as_ref().err().map(Error::chain);
        self.tell_of(&logged.plan, || Event::OutputCompleted(info.clone()));
        batch.outputs.insert(info.name.clone(), info);
        done
    }

    /// X19: what the sinks that have a time limit take in a safe part of it, by this batch; `None` where it tells nothing.
    fn bytes_within_limits(&self, commit: &CommitRecord) -> Option<u64> {
        self.outputs
            .iter()
            .filter_map(|output| {
                let limit = u64::try_from(output.sink.time_limit()?.as_millis()).unwrap_or(u64::MAX);
                let took = commit.sinks.get(&output.name).filter(|took| took.bytes > 0)?;
                Some(next_batch::bytes_within(limit, took.bytes, took.millis))
            })
            .min()
    }
}
