//! The driver: one loop that owns the state, reads facts, asks `tidemill-core`, and executes the answer.

mod batch;
mod check;
mod lag;
mod patience;
mod publisher;
mod records;
mod recovery;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidemill_core::next_batch::{self, PartitionEnd, SourceLimits};
use tidemill_core::plan::{BatchId, BatchPlan, LimitsInForce, RangePlan};
use tidemill_core::position::{PartitionPosition, Positions};
use tidemill_core::recover::LoggedPlan;
use tidemill_core::start::{PartitionBounds, StartPolicy};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::checkpoint::{Checkpoint, CommitRecord, ENTRIES_KEPT};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sink::{Claim, Sink};
use crate::source::{PartitionEnds, Source};
use crate::sql::template::Template;
use crate::time::Clock;
use lag::LagClock;
use publisher::Publisher;

pub use check::{Checked, all_of};
pub use recovery::Standing;

/// How often an idle instance looks whether another one took over.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What the driver needs to know of one source beside reading it.
#[derive(Debug)]
pub struct DriverSource {
    /// The source's name in the pipeline.
    pub name: String,
    /// Where its records are.
    pub source: Arc<dyn Source>,
    /// Where it begins on the first start.
    pub start: StartPolicy,
    /// Records per second and partition, `None` = no bound.
    pub rate_max: Option<u64>,
    /// Bytes of one batch.
    pub batch_bytes_max: u64,
}

/// One output: a query and where its rows go.
#[derive(Debug)]
pub struct Output {
    /// The sink's name in the pipeline.
    pub name: String,
    /// The query.
    pub template: Template,
    /// The sink.
    pub sink: Box<dyn Sink>,
}

/// Settings of the loop.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// The application's name.
    pub app: String,
    /// Time between batches.
    pub interval: Duration,
    /// How long a drain may take before the process gives the batch up; it is then run again at the next start.
    pub drain_timeout: Duration,
    /// Slices after a shuffle.
    pub reduce_slices: usize,
    /// Hash of what the pipeline computes.
    pub pipeline_hash: String,
    /// Every tick is a batch, with or without data.
    pub every_tick: bool,
    /// Take the end offsets at start, process to them without waiting for ticks, and end.
    pub until_caught_up: bool,
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
    stop: watch::Receiver<bool>,
    /// When something that must be tried again first met the stop signal.
    drain_since: Arc<OnceLock<Duration>>,
    progress: watch::Sender<Progress>,
}

/// What a started driver carries from batch to batch.
#[derive(Debug)]
struct Running {
    claim: Claim,
    last: LoggedPlan,
    positions: Positions,
    record_bytes: BTreeMap<String, u64>,
    /// What the slowest sink with a time limit takes within it, by its last batch with input.
    sink_bytes_max: Option<u64>,
    yields_without_input: bool,
    lag: LagClock,
    publisher: Publisher,
    /// The last batch, while its commit record is not written.
    unlogged: Option<Unlogged>,
    summary: Summary,
}

/// A batch that all its sinks hold. The next plan may be logged beside its commit record: that a later plan is there says
/// as much as the record does.
#[derive(Debug)]
struct Unlogged {
    logged: LoggedPlan,
    commit: CommitRecord,
    planned: Duration,
    worked: Duration,
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
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        let (progress, watched) = watch::channel(Progress::default());
        (
            Self {
                settings,
                clock,
                checkpoint,
                sources,
                outputs,
                stop,
                drain_since: Arc::default(),
                progress,
            },
            watched,
        )
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
        let ended = self.run_batches(&mut running).await;
        // Whatever ended it: the last batch is settled, and what is not run again should not look as if it were to be.
        let settled = self.settle(&mut running).await;
        ended.and(settled)?;
        running.publisher.finish(self.clock.as_ref()).await;
        Ok(running.summary)
    }

    async fn run_batches(&mut self, running: &mut Running) -> Result<()> {
        let targets = if self.settings.until_caught_up {
            Some(self.all_ends().await?)
        } else {
            None
        };
        let total = self.lag_of(&running.positions, targets.as_ref());
        self.report_progress(total, total);
        let mut next_tick = self.clock.elapsed();
        let mut looked = next_tick;
        loop {
            if *self.stop.borrow() {
                return Ok(());
            }
            if !self.settings.until_caught_up {
                if next_tick > self.clock.elapsed() {
                    self.settle(running).await?;
                }
                self.wait_for(&mut next_tick).await;
                if *self.stop.borrow() {
                    return Ok(());
                }
            }
            let Some((ranges, limits)) = self.next_ranges(running, targets.as_ref()).await? else {
                self.settle(running).await?;
                continue;
            };
            let nothing = ranges.is_empty();
            if nothing && self.settings.until_caught_up {
                return Ok(());
            }
            if !nothing || running.yields_without_input {
                self.one_batch(running, ranges, limits).await?;
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

    /// Waits for the tick; ticks that are overdue become one.
    async fn wait_for(&mut self, next_tick: &mut Duration) {
        let now = self.clock.elapsed();
        if *next_tick > now {
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                () = clock.sleep(*next_tick - now) => {}
                _ = self.stop.changed() => return,
            }
            *next_tick += self.settings.interval;
        } else {
            *next_tick = now + self.settings.interval;
        }
    }

    async fn all_ends(&self) -> Result<BTreeMap<String, Vec<PartitionEnds>>> {
        let asked = self
            .sources
            .iter()
            .map(|source| async move { (source.name.clone(), source.source.ends(false).await) });
        let mut all = BTreeMap::new();
        for (name, ends) in futures::future::join_all(asked).await {
            all.insert(name, ends?);
        }
        Ok(all)
    }

    fn lag_of(&self, positions: &Positions, ends: Option<&BTreeMap<String, Vec<PartitionEnds>>>) -> u64 {
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

    /// The ranges of the next batch; `None` where the brokers could not be asked and the loop should go round.
    async fn next_ranges(
        &self,
        running: &mut Running,
        targets: Option<&BTreeMap<String, Vec<PartitionEnds>>>,
    ) -> Result<Option<(Vec<RangePlan>, LimitsInForce)>> {
        let ends = match targets {
            Some(targets) => targets.clone(),
            None => match self.all_ends().await {
                Ok(ends) => ends,
                Err(error) if error.is_transient() => {
                    tracing::warn!(
                        error = error.chain(),
                        "end offsets can't be read; trying again at the next tick"
                    );
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        let mut ranges = Vec::new();
        let mut in_force = LimitsInForce {
            reason: "end".to_owned(),
            ..LimitsInForce::default()
        };
        for source in &self.sources {
            let found = ends.get(&source.name).map_or(&[][..], Vec::as_slice);
            self.meet_new_partitions(source, found, &mut running.positions).await?;
            let limits = SourceLimits {
                partition_records_max: source
                    .rate_max
                    .map(|rate| records_per_batch(rate, self.settings.interval)),
                batch_bytes_max: source.batch_bytes_max,
                sink_bytes_max: running.sink_bytes_max.map(|all| all / self.sources.len() as u64),
                record_bytes: running
                    .record_bytes
                    .get(&source.name)
                    .copied()
                    .unwrap_or(next_batch::RECORD_BYTES_GUESS),
            };
            let found: Vec<PartitionEnd> = found.iter().map(partition_end).collect();
            let (cut, limits) = next_batch::cut(&source.name, &running.positions, &found, &limits)
                .map_err(|stop| Error::new(Kind::Loss, stop.to_string()))?;
            ranges.extend(cut);
            if limits.reason != "end" {
                in_force = limits;
            }
        }
        running.lag.saw(self.clock.now_ms(), &ends);
        Ok(Some((ranges, in_force)))
    }

    /// A partition that was added while we ran, or stood still, begins at its first offset.
    async fn meet_new_partitions(
        &self,
        source: &DriverSource,
        ends: &[PartitionEnds],
        positions: &mut Positions,
    ) -> Result<()> {
        if ends
            .iter()
            .all(|end| positions.get(&source.name, &end.partition).is_some())
        {
            return Ok(());
        }
        for end in source.source.ends(true).await? {
            if positions.get(&source.name, &end.partition).is_none() {
                tracing::info!(source = source.name, partition = %end.partition, from = end.earliest, "new partition");
                positions.set(PartitionPosition {
                    source: source.name.clone(),
                    partition: end.partition,
                    topic_id: end.topic_id,
                    offset: end.earliest,
                    leader_epoch: end.leader_epoch,
                });
            }
        }
        Ok(())
    }

    async fn one_batch(&mut self, running: &mut Running, ranges: Vec<RangePlan>, limits: LimitsInForce) -> Result<()> {
        let plan = BatchPlan {
            app: self.settings.app.clone(),
            app_uuid: running.claim.app_uuid.clone(),
            epoch: running.claim.epoch,
            incarnation: running.claim.incarnation.clone(),
            batch_id: running.last.plan.batch_id + 1,
            batch_time_ms: next_batch::batch_time(self.clock.now_ms(), Some(running.last.plan.batch_time_ms)),
            seed: rand::random(),
            reduce_slices: self.settings.reduce_slices,
            before: running.positions.clone(),
            ranges,
            sinks: self.outputs.iter().map(|output| output.sink.identity()).collect(),
            limits,
            pipeline_hash: self.settings.pipeline_hash.clone(),
        };
        self.checkpoint.look_for_newer(running.claim.epoch).await?;
        let begun = self.clock.elapsed();
        let unlogged = running.unlogged.take();
        let (logged, written) = tokio::join!(self.log_plan(plan), async {
            match &unlogged {
                Some(last) => self.log_commit(&last.commit).await,
                None => Ok(()),
            }
        });
        let planned = self.clock.elapsed() - begun;
        written?;
        if let Some(last) = unlogged {
            self.settled(running, last, Duration::ZERO).await?;
        }
        let logged = logged?;
        let missing: Vec<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
        self.finish_batch(running, logged, &missing, planned).await
    }

    /// Runs a logged plan for the sinks that lack it, and goes on from its positions. Its commit record is left to be written.
    async fn finish_batch(
        &mut self,
        running: &mut Running,
        logged: LoggedPlan,
        missing: &[String],
        planned: Duration,
    ) -> Result<()> {
        let begun = self.clock.elapsed();
        let batch = logged.plan.batch_id;
        let mut commit = CommitRecord {
            batch_id: batch,
            epoch: running.claim.epoch,
            sinks: BTreeMap::new(),
            record_bytes: running.record_bytes.clone(),
            committed_ms: 0,
        };
        if failpoint::sabotaged("commit-record-before-output") {
            self.checkpoint.log_commit(&commit).await?;
        }
        for at in 0..self.outputs.len() {
            let name = self.outputs[at].name.clone();
            let done = if missing.contains(&name) {
                self.run_output(at, &running.claim, &logged, &mut running.record_bytes)
                    .await?
            } else {
                crate::checkpoint::SinkCommit {
                    found: true,
                    ..crate::checkpoint::SinkCommit::default()
                }
            };
            commit.sinks.insert(name, done);
        }
        let worked = self.clock.elapsed() - begun;
        commit.record_bytes = running.record_bytes.clone();
        commit.committed_ms = self.clock.now_ms();
        running.positions = logged.plan.after();
        running.publisher.settled(&running.positions);
        running.sink_bytes_max = self.bytes_within_limits(&commit).or(running.sink_bytes_max);
        running.summary.batches += u64::from(batch > 0);
        for sink in commit.sinks.values() {
            running.summary.records_in += sink.records_in;
            running.summary.rows_out += sink.rows;
            running.summary.skipped += sink.skipped;
        }
        running.last = logged.clone();
        running.unlogged = Some(Unlogged {
            logged,
            commit,
            planned,
            worked,
        });
        Ok(())
    }

    /// Writes the commit record of the last batch, where that is still to be done.
    async fn settle(&mut self, running: &mut Running) -> Result<()> {
        let Some(last) = running.unlogged.take() else {
            return Ok(());
        };
        let begun = self.clock.elapsed();
        self.log_commit(&last.commit).await?;
        let took = self.clock.elapsed() - begun;
        self.settled(running, last, took).await
    }

    /// What follows the commit record of a batch, which took `took` where nothing else was done beside it.
    async fn settled(&mut self, running: &mut Running, last: Unlogged, took: Duration) -> Result<()> {
        let batch = last.logged.plan.batch_id;
        if batch == 0 {
            return Ok(());
        }
        if batch.is_multiple_of(ENTRIES_KEPT) {
            self.fold(&last.logged, &last.commit).await?;
            self.tidy(batch).await;
        }
        let stages = [last.planned, last.worked, took];
        self.log_batch(running, &last.logged.plan, &last.commit, stages);
        Ok(())
    }

    /// What is left behind only takes room: a failure is a warning.
    async fn tidy(&mut self, settled: BatchId) {
        for output in &mut self.outputs {
            if let Err(error) = output.sink.tidy(settled).await {
                tracing::warn!(sink = output.name, error = error.chain(), "old files were not removed");
            }
        }
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

    fn log_batch(&self, running: &mut Running, plan: &BatchPlan, commit: &CommitRecord, stages: [Duration; 3]) {
        let records: u64 = commit.sinks.values().map(|sink| sink.records_in).sum();
        let rows: u64 = commit.sinks.values().map(|sink| sink.rows).sum();
        let skipped: u64 = commit.sinks.values().map(|sink| sink.skipped).sum();
        let lag = running.lag.lag(self.clock.now_ms(), &running.positions);
        let [planned, worked, settled] = stages.map(|stage| stage.as_secs_f64() * 1_000.0);
        tracing::info!(
            batch = plan.batch_id,
            records,
            rows,
            skipped,
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

fn records_per_batch(rate: u64, interval: Duration) -> u64 {
    let micros = u128::from(rate) * interval.as_micros() / 1_000_000;
    u64::try_from(micros).unwrap_or(u64::MAX).max(1)
}

fn partition_end(end: &PartitionEnds) -> PartitionEnd {
    PartitionEnd {
        partition: end.partition.clone(),
        topic_id: end.topic_id.clone(),
        leader_epoch: end.leader_epoch,
        end: end.end,
    }
}

fn partition_bounds(end: PartitionEnds) -> PartitionBounds {
    PartitionBounds {
        partition: end.partition,
        topic_id: end.topic_id,
        leader_epoch: end.leader_epoch,
        earliest: end.earliest,
        end: end.end,
    }
}
