//! What a batch with state costs, beside one with less of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::typed::{found, of_topic};
use crate::figures;
use crate::process::{Line, Process};
use crate::report::{Run, rounded};

/// Batches of a whole run: half of them bring keys, the others touch them.
const BATCHES: u64 = 100;
const PARTITIONS: u64 = 8;
/// Batches after which the program is killed.
const KILLS: [u64; 2] = [60, 70];
const PATIENCE: Duration = Duration::from_secs(600);
/// Slides of the shorter window.
const SHORT: u64 = 60;
const LONG: u64 = 600;
/// Slides that are measured when a window is full.
const MEASURED: u64 = 300;

/// As many keys as records, and a hundredth of them.
pub(super) fn few_and_many(bench: &Bench) -> Result<Vec<Run>> {
    let (records, _) = bench.events()?;
    let few = keys(bench, "keyed-state-few", records, records / 100)?;
    let many = keys(bench, "keyed-state", records, records)?;
    let ratio = many.batch_ms / few.batch_ms.max(1e-3);
    Ok(vec![
        few.run("keyed-state-few"),
        many.run("keyed-state").with("of_few_keys", rounded(ratio, 3)),
    ])
}

/// One program with a state per key: killed twice, the second time without what it kept beside the checkpoint.
struct Keyed {
    keys: u64,
    touched_per_batch: u64,
    /// Median of the batches that touch keys.
    batch_ms: f64,
    /// From the start of the process to its first batch's end, with the local cache and without.
    restarts: [Duration; 2],
    peak_bytes: u64,
}

impl Keyed {
    fn run(&self, name: &str) -> Run {
        let [restart, from_checkpoint] = self.restarts.map(|time| rounded(time.as_secs_f64(), 3));
        Run::new(name)
            .with("keys", self.keys)
            .with("touched_per_batch", self.touched_per_batch)
            .with("batch_ms", rounded(self.batch_ms, 1))
            .with("restart_s", restart)
            .with("restart_from_checkpoint_s", from_checkpoint)
            .with("peak_mib", rounded(self.peak_bytes as f64 / f64::from(1 << 20), 1))
    }
}

fn keys(bench: &Bench, name: &str, records: u64, keys: u64) -> Result<Keyed> {
    let per_batch = records / PARTITIONS / BATCHES;
    ensure!(
        per_batch > 0 && records == per_batch * PARTITIONS * BATCHES,
        "{records} records make no {BATCHES} equal batches"
    );
    let mut args = of_topic(bench, "keys", records);
    args.extend([
        "--keys".to_owned(),
        keys.to_string(),
        "--per-batch".to_owned(),
        per_batch.to_string(),
    ]);
    let checkpoint = bench.checkpoint(name)?;
    let start = || bench.typed(&checkpoint, &args);

    let first = until(start()?, KILLS[0])?.kill()?;
    let mut touching = batch_times(&first.log, BATCHES / 2 + 1)?;
    let second = until(start()?, KILLS[1])?;
    let restart = first_batch(&second)?;
    let second = second.kill()?;
    touching.extend(batch_times(&second.log, KILLS[0] + 2)?);
    let cache = checkpoint.join("state-cache");
    std::fs::remove_dir_all(&cache).with_context(|| format!("remove {}", cache.display()))?;
    let third = start()?;
    let third = until(third, KILLS[1] + 1)?;
    let from_checkpoint = first_batch(&third)?;
    let third = third.wait()?;
    touching.extend(batch_times(&third.log, KILLS[1] + 2)?);
    let (known, touched) = (found(&third)?, third.batch_records()?.iter().sum::<u64>());
    ensure!(
        known["known"] == touched,
        "wrong: {touched} records touched a key, {known} met a known one"
    );
    let peaks = [first.usage, second.usage, third.usage].map(|usage| usage.peak_bytes);
    Ok(Keyed {
        keys,
        touched_per_batch: per_batch * PARTITIONS,
        batch_ms: figures::median(&touching).context("no batch touched a key")?,
        restarts: [restart, from_checkpoint],
        peak_bytes: peaks.into_iter().max().unwrap_or_default(),
    })
}

/// Lets it run until a batch is committed.
fn until(process: Process, batch: u64) -> Result<Process> {
    process.wait_for_log("its batch", PATIENCE, |log| {
        log.iter()
            .any(|line| line.is_batch() && line.value["batch"].as_u64() >= Some(batch))
    })?;
    Ok(process)
}

/// From the start of the process to the end of its first batch.
fn first_batch(process: &Process) -> Result<Duration> {
    let mut at: Option<Instant> = None;
    process.wait_for_log("a batch", PATIENCE, |log| {
        at = log.iter().find(|line| line.is_batch()).map(|line| line.at);
        at.is_some()
    })?;
    at.map(|at| at.duration_since(process.started())).context("no batch")
}

/// Milliseconds that each batch from this one on took.
fn batch_times(log: &[Line], from: u64) -> Result<Vec<f64>> {
    let batches = log.iter().filter(|line| line.is_batch());
    batches
        .filter(|line| line.value["batch"].as_u64() >= Some(from))
        .map(|line| Ok(line.number("plan_ms")? + line.number("run_ms")? + line.number("settle_ms")?))
        .collect()
}

pub(super) fn short_and_long(bench: &Bench) -> Result<Vec<Run>> {
    let [short, long] = [SHORT, LONG].map(|slides| window(bench, slides));
    let (short, long) = (short?, long?);
    let run = |name, slides, batch_ms| {
        Run::new(name)
            .with("slides", slides)
            .with("batch_ms", rounded(batch_ms, 2))
    };
    Ok(vec![
        run("inverse-window-short", SHORT, short),
        run("inverse-window", LONG, long).with("of_short_window", rounded(long / short.max(1e-3), 3)),
    ])
}

/// The median of the batch times when the window is full, in milliseconds.
fn window(bench: &Bench, slides: u64) -> Result<f64> {
    let args = [
        "window",
        "--slides",
        &slides.to_string(),
        "--beyond",
        &MEASURED.to_string(),
    ]
    .map(str::to_owned);
    let checkpoint = bench.checkpoint("inverse-window")?;
    let finished = bench.typed(&checkpoint, &args)?.wait()?;
    let windows = found(&finished)?["windows"]
        .as_u64()
        .context("no windows were counted")?;
    ensure!(windows >= slides + MEASURED, "only {windows} windows");
    figures::median(&batch_times(&finished.log, slides + 1)?).context("no batch had a full window")
}
