//! One output of one batch: run its slices, hand the rows to the sink, commit, and settle what went wrong.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::{FutureExt, StreamExt};
use tidemill_core::commit::{self, CommitPermit, SliceReport};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::loss::Loss;
use tidemill_core::next_batch;
use tidemill_core::plan::BatchPlan;
use tidemill_core::recover::LoggedPlan;
use tidemill_core::state::{self, StateVersions};
use tokio::task::JoinSet;

use super::losses::log_losses;
use super::patience::Patience;
use super::recovery::{ledger_record, take};
use super::states::States;
use super::{Driver, Output, ranges};
use crate::checkpoint::{Checkpoint, SinkCommit};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::{BatchRun, FEW_OFFSETS, StateReaders};
use crate::sink::{Claim, Committed, SinkBatch, SliceWriter};
use crate::sql::scan_run::ScanRun;

/// Runs of a batch whose user code fails, the first included.
const USER_CODE_RUNS_MAX: u32 = 4;
/// Runs of a batch that its sink's time limit ends (X19).
const TIME_LIMIT_RUNS_MAX: u32 = 2;
/// Runs of a batch that lose their sink while the checkpoint knows no newer epoch.
const FENCED_RUNS_MAX: u32 = 5;

impl Driver {
    /// Runs one output until it is committed. What may pass by itself is tried again for as long as it takes, with the
    /// reason in the log; the sink is fenced and its ledger asked before every further attempt (X20, X24).
    pub(super) async fn run_output(
        &mut self,
        at: usize,
        claim: &Claim,
        logged: &LoggedPlan,
        losses: &mut Vec<Loss>,
        findings: &mut Findings,
    ) -> Result<SinkCommit> {
        let begun = self.clock.elapsed();
        let mut patience = self.waiting.patience();
        let output = &mut self.outputs[at];
        let mut time_limits = 0;
        for attempt in 0.. {
            let attempted = Attempt {
                logged,
                losses,
                states: &self.states,
                number: attempt,
            };
            let error = match attempt_output(output, &self.checkpoint, claim, &attempted, findings).await {
                Ok(mut done) => {
                    done.millis = u64::try_from((self.clock.elapsed() - begun).as_millis()).unwrap_or(u64::MAX);
                    return Ok(done);
                }
                Err(error) if error.is_transient() => error,
                Err(error) if error.kind() == Kind::TimeLimit && time_limits + 1 < TIME_LIMIT_RUNS_MAX => {
                    time_limits += 1;
                    error
                }
                // By an older driver's last act, or by a newer driver: `settle` tells which.
                Err(error) if error.kind() == Kind::Fenced && attempt < FENCED_RUNS_MAX => error,
                Err(error) if error.kind() == Kind::UserCode && attempt + 1 < USER_CODE_RUNS_MAX => error,
                Err(error) if error.kind() == Kind::Loss => {
                    let more = ranges::losses(&self.sources, &logged.plan.without(losses)).await?;
                    if more.is_empty() {
                        return Err(in_batch(error, logged, &output.name));
                    }
                    log_losses(&self.checkpoint, self.clock.as_ref(), claim, logged, &more).await?;
                    losses.extend(more);
                    error
                }
                Err(error) => return Err(in_batch(error, logged, &output.name)),
            };
            if let Some(done) = settle(output, &self.checkpoint, claim, logged, attempt, error, &mut patience).await? {
                return Ok(done);
            }
        }
        Err(Error::new(Kind::Bug, "attempts ran out"))
    }
}

/// What the outputs of a batch find out one after another.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Bytes per record of each source.
    pub(super) record_bytes: BTreeMap<String, u64>,
    /// The versions of state that the first output to run each operator decided (X30).
    pub(super) states: StateVersions,
}

/// One run of a batch for one output.
#[derive(Debug, Clone, Copy)]
struct Attempt<'a> {
    logged: &'a LoggedPlan,
    /// What of the plan is gone.
    losses: &'a [Loss],
    states: &'a States,
    number: u32,
}

fn in_batch(error: Error, logged: &LoggedPlan, sink: &str) -> Error {
    let ranges: Vec<String> = logged
        .plan
        .ranges
        .iter()
        .take(8)
        .map(|range| format!("{} [{}, {})", range.partition, range.from, range.until))
        .collect();
    let more = logged.plan.ranges.len().saturating_sub(ranges.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Error::with_source(
        error.kind(),
        format!(
            "batch {} for sink {sink}, ranges {}{more}",
            logged.plan.batch_id,
            ranges.join(", ")
        ),
        error,
    )
}

/// After an unknown outcome, for as long as it takes: still ours? then fence again and ask the ledger. `Some` where the batch
/// is in it; `None` where it is not and may run again. Until the ledger has answered nothing runs: what became of the batch is
/// unknown, and a sink that is not fenced is not ours.
async fn settle(
    output: &mut Output,
    checkpoint: &Checkpoint,
    claim: &Claim,
    logged: &LoggedPlan,
    attempt: u32,
    mut error: Error,
    patience: &mut Patience,
) -> Result<Option<SinkCommit>> {
    loop {
        tracing::warn!(
            batch = logged.plan.batch_id,
            sink = output.name,
            attempt,
            error = error.chain(),
            retry_ms = u64::try_from(patience.next().as_millis()).unwrap_or(u64::MAX),
            "the batch was not committed; nothing is lost, intake waits"
        );
        checkpoint.look_for_newer(claim.epoch).await?;
        if !patience.wait().await {
            return Err(in_batch(error, logged, &output.name));
        }
        match take(output, checkpoint, claim).await {
            Ok(ledger) => return found(output, ledger, logged),
            Err(again) if again.is_transient() => error = again,
            Err(error) => return Err(error),
        }
    }
}

/// What the ledger says of the batch.
fn found(output: &Output, ledger: Option<LedgerRecord>, logged: &LoggedPlan) -> Result<Option<SinkCommit>> {
    match ledger {
        Some(record) if record.batch_id == logged.plan.batch_id && record.plan_hash == logged.hash => {
            tracing::info!(
                batch = logged.plan.batch_id,
                sink = output.name,
                "the ledger holds the batch after all"
            );
            Ok(Some(SinkCommit {
                rows: record.rows,
                found: true,
                ..SinkCommit::default()
            }))
        }
        Some(record) if record.batch_id > logged.plan.batch_id => Err(Error::new(
            Kind::Fenced,
            format!(
                "fenced: sink {} stands at batch {} already",
                output.name, record.batch_id
            ),
        )),
        _ => Ok(None),
    }
}

async fn attempt_output(
    output: &mut Output,
    checkpoint: &Checkpoint,
    claim: &Claim,
    attempt: &Attempt<'_>,
    findings: &mut Findings,
) -> Result<SinkCommit> {
    let mut record = ledger_record(claim, attempt.logged, &output.name, attempt.logged.plan.is_birth());
    if record.birth {
        if output.sink.exactly_once() {
            checkpoint.look_for_newer(claim.epoch).await?;
            failpoint::pass("sink.before-birth");
            output.sink.birth(&record).await?;
            failpoint::pass("sink.after-birth");
        }
        return Ok(SinkCommit::default());
    }
    record.losses = attempt.losses.to_vec();
    let plan = attempt.logged.plan.without(attempt.losses);
    let run = output.job.for_batch(&plan, &attempt.states.readers()?)?;
    let silent = !run.is_due() && !output.sink.exactly_once();
    let begun = if silent {
        None
    } else {
        failpoint::pass("sink.before-begin");
        let SinkBatch { writers, commit } = output.sink.begin(&plan, run.slices(), attempt.number).await?;
        failpoint::pass("sink.after-begin");
        run_slices(&run, writers, &plan).await?;
        Some(commit)
    };
    let finished = run.finish().await?;
    let permit = permit(&finished.scans, &plan, &mut findings.record_bytes).await?;
    attempt
        .states
        .stage(
            claim,
            plan.batch_id,
            attempt.number,
            finished.changes,
            &mut findings.states,
        )
        .await?;
    record.states = state::after(&plan.states, [&findings.states]);
    checkpoint.look_for_newer(claim.epoch).await?;
    failpoint::pass("sink.before-commit");
    let committed = match begun {
        Some(commit) => commit.commit(&permit, record).await?,
        None => Committed::default(),
    };
    failpoint::pass("sink.after-commit");
    Ok(SinkCommit {
        rows: committed.rows,
        files: committed.files,
        records_in: permit.records_in(),
        skipped: permit.skipped(),
        dead_lettered: permit.dead_lettered(),
        bytes: permit.bytes(),
        found: false,
        millis: 0,
    })
}

/// Runs a logged batch into a sink that only shows it.
pub(super) async fn show_output(
    output: &mut Output,
    logged: &LoggedPlan,
    losses: &[Loss],
    record_bytes: &mut BTreeMap<String, u64>,
) -> Result<()> {
    let plan = logged.plan.without(losses);
    let claim = Claim {
        app: plan.app.clone(),
        app_uuid: plan.app_uuid.clone(),
        epoch: plan.epoch,
        incarnation: plan.incarnation.clone(),
    };
    let shown = async {
        let run = output.job.for_batch(&plan, &StateReaders::new())?;
        let SinkBatch { writers, commit } = output.sink.begin(&plan, run.slices(), 0).await?;
        run_slices(&run, writers, &plan).await?;
        let permit = permit(&run.finish().await?.scans, &plan, record_bytes).await?;
        commit
            .commit(&permit, ledger_record(&claim, logged, &output.name, false))
            .await
    };
    shown
        .await
        .map(drop)
        .map_err(|error| in_batch(error, logged, &output.name))
}

/// Every scan must have read every range; the counts are those of each source's first scan.
async fn permit(
    scans: &[Arc<ScanRun>],
    plan: &BatchPlan,
    record_bytes: &mut BTreeMap<String, u64>,
) -> Result<CommitPermit> {
    let mut sources = Vec::new();
    let mut reports = Vec::new();
    for scan in scans {
        let of_scan = scan.finish().await?;
        let source = vec![scan.source().to_owned()];
        let unfinished = |error: commit::Unfinished| Error::new(Kind::Bug, error.to_string());
        let counted = commit::decide(plan, &source, &of_scan).map_err(unfinished)?;
        if !sources.contains(&source[0]) {
            let before = record_bytes.get(&source[0]).copied();
            if let Some(average) = next_batch::record_bytes(before, counted.bytes(), counted.records_in()) {
                record_bytes.insert(source[0].clone(), average);
            }
            sources.extend(source);
            reports.extend::<Vec<SliceReport>>(of_scan);
        }
    }
    commit::decide(plan, &sources, &reports).map_err(|error| Error::new(Kind::Bug, error.to_string()))
}

/// Executes all slices, each into its writer. Few records are read by one task: waking threads for them would cost more
/// than it saves. Of many, slices that read ranges and nothing else may wait for their turn; where an exchange lies between,
/// all must run at once or none ends.
async fn run_slices(run: &Arc<dyn BatchRun>, writers: Vec<Box<dyn SliceWriter>>, plan: &BatchPlan) -> Result<()> {
    let of_run = |slice, writer| run_slice(Arc::clone(run), slice, writer);
    if offsets(plan) <= FEW_OFFSETS {
        let slices = writers
            .into_iter()
            .enumerate()
            .map(|(slice, writer)| of_run(slice, writer));
        return match AssertUnwindSafe(try_join_all(slices)).catch_unwind().await {
            Ok(ended) => ended.map(drop),
            Err(_) => Err(Error::new(Kind::Bug, "a slice panicked")),
        };
    }
    let at_once = if run.exchanges() {
        writers.len()
    } else {
        plan.reduce_slices * 2
    };
    let mut running = JoinSet::new();
    let mut left = writers.into_iter().enumerate();
    loop {
        // Begun in order: the parts of a split range wait for each other, so none may hold up one before it.
        while running.len() < at_once.max(1)
            && let Some((slice, writer)) = left.next()
        {
            running.spawn(of_run(slice, writer));
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(ended) => ended.map_err(|error| Error::with_source(Kind::Bug, "a slice panicked", error))??,
        }
    }
}

fn offsets(plan: &BatchPlan) -> i64 {
    plan.ranges.iter().map(|range| range.until - range.from).sum()
}

async fn run_slice(run: Arc<dyn BatchRun>, slice: usize, mut writer: Box<dyn SliceWriter>) -> Result<()> {
    let mut rows = run.execute(slice)?;
    while let Some(rows) = rows.next().await {
        let rows = rows?;
        if rows.num_rows() > 0 {
            writer.write(rows).await?;
        }
    }
    writer.finish().await
}
