//! `tidemill quickstart`: the whole promise in one command, on an embedded broker.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tidemill_kafka::embedded::ad_events::AdEvents;
use tidemill_kafka::embedded::broker::{EmbeddedBroker, log_start_check, partitions_for};
use tidemill_kafka::embedded::feed::{FeedOptions, Records, feed};

use crate::Failure;

const TOPIC: &str = "events";
const SEED: u64 = 1;
/// At most this long may the whole pipeline take once the stream has ended.
const PATIENCE: Duration = Duration::from_secs(300);

/// Produces, runs the pipeline as a child, kills it twice, lets it finish, and recounts.
pub(crate) fn quickstart(records: u64, dir: Option<PathBuf>) -> Result<(), Failure> {
    let temporary = tempfile::tempdir().map_err(anyhow::Error::from)?;
    let keep = dir.is_some();
    let dir = dir.unwrap_or_else(|| temporary.path().to_path_buf());
    let proof = run(records, &dir)?;
    let mut out = std::io::stdout().lock();
    let shown = if keep {
        dir.display().to_string()
    } else {
        "--dir D keeps it".to_owned()
    };
    writeln!(
        out,
        "produced {}\nin the sink {}\nlost {}\nduplicated {}\nthe pipeline file, its checkpoint and its output: {shown}\n\
         next: README.md, then docs/formats.md for what was written",
        proof.produced, proof.in_sink, proof.lost, proof.duplicated
    )
    .map_err(anyhow::Error::from)?;
    if proof.lost == 0 && proof.duplicated == 0 {
        Ok(())
    } else {
        Err(anyhow::anyhow!(
            "{} records lost, {} doubled: please report this",
            proof.lost,
            proof.duplicated
        )
        .into())
    }
}

struct Proof {
    produced: u64,
    in_sink: u64,
    lost: u64,
    duplicated: u64,
}

fn run(records: u64, dir: &Path) -> anyhow::Result<Proof> {
    ensure!(records > 0, "--records must be 1 or more");
    let partitions = partitions_for(records);
    let broker = EmbeddedBroker::start(&[(TOPIC, partitions)])?;
    let brokers = broker.bootstrap_servers().to_owned();
    let file = pipeline_file(dir, &brokers)?;
    eprintln!(
        "embedded broker at {brokers}, topic {TOPIC} with {partitions} partitions; pipeline {}",
        file.display()
    );

    let fed = Arc::new(AtomicU64::new(0));
    let feeder = {
        let (brokers, fed) = (brokers.clone(), Arc::clone(&fed));
        std::thread::spawn(move || {
            let events = Records::AdEvents(AdEvents::new(SEED).with_seq());
            // Spread over a few seconds, so that the pipeline is at work while the stream runs.
            let options = FeedOptions {
                rate: Some((records / 4).max(1_000)),
                ..FeedOptions::default()
            };
            feed(&brokers, TOPIC, partitions, events, 0..records, &options, |n| {
                fed.store(n, Ordering::Relaxed)
            })
        })
    };
    for (time, share) in [("first", 4), ("second", 2)] {
        let mut child = start(&file, false)?;
        let manifests = manifests(dir)?.len();
        let worked = wait(PATIENCE, || {
            Ok(
                fed.load(Ordering::Relaxed) * share >= records && manifests_more(dir, manifests)?
                    || feeder.is_finished() && manifests_more(dir, manifests)?
                    || child.try_wait()?.is_some(),
            )
        })?;
        ensure!(worked, "the pipeline committed nothing in {} s", PATIENCE.as_secs());
        ensure!(
            child.try_wait()?.is_none(),
            "the pipeline ended by itself; its log is above"
        );
        child.kill().context("SIGKILL")?;
        child.wait()?;
        eprintln!("killed the pipeline with SIGKILL for the {time} time");
    }
    let produced = feeder.join().map_err(|_| anyhow::anyhow!("the producer panicked"))??;
    let mut child = start(&file, true)?;
    let ended = child.wait()?;
    ensure!(ended.success(), "the pipeline ended with {ended}");
    for bounds in log_start_check(&brokers, TOPIC)? {
        ensure!(
            bounds.earliest == 0,
            "the embedded broker dropped records of partition {} below {}: no verdict. Use fewer --records",
            bounds.partition,
            bounds.earliest
        );
    }
    recount(dir, produced.records)
}

fn pipeline_file(dir: &Path, brokers: &str) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let file = dir.join("quickstart.toml");
    for taken in ["checkpoint", "out"] {
        if dir.join(taken).exists() {
            bail!(
                "{} is there already: give --dir an empty folder",
                dir.join(taken).display()
            );
        }
    }
    let text = format!(
        r#"name       = "quickstart"
interval   = "200ms"
checkpoint = "checkpoint"

[sources.events]
kind    = "kafka"
brokers = "{brokers}"
topics  = ["{TOPIC}"]
format  = "json"
columns = "seq BIGINT, user_id VARCHAR, ad_id VARCHAR, event_type VARCHAR, event_time TIMESTAMP(3)"

[queries.seen]
sql = "SELECT seq, ad_id, event_type, event_time FROM events"

[sinks.out]
from   = "seen"
kind   = "file"
path   = "out"
format = "json"
"#
    );
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn start(file: &Path, until_caught_up: bool) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(binary);
    command.arg("run").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    if until_caught_up {
        command.arg("--until-caught-up");
    }
    command.spawn().context("start the pipeline")
}

fn manifests(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = dir.join("out/_tidemill");
    let mut found = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit()) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn manifests_more(dir: &Path, before: usize) -> anyhow::Result<bool> {
    Ok(manifests(dir)?.len() > before + 2)
}

/// Waits for a condition; false where it did not come in time.
#[expect(
    clippy::disallowed_methods,
    reason = "a person waits for a child process; no runtime is at hand"
)]
fn wait(patience: Duration, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < patience {
        if condition()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// Reads the sink as any reader would, by the manifests, and shares no code with the pipeline.
fn recount(dir: &Path, produced: u64) -> anyhow::Result<Proof> {
    let mut seen = vec![0_u8; usize::try_from(produced).context("too many records to recount")?];
    let mut in_sink = 0;
    let mut files = BTreeSet::new();
    for manifest in manifests(dir)? {
        let text = std::fs::read_to_string(&manifest)?;
        let manifest: serde_json::Value = serde_json::from_str(&text).context("read a manifest")?;
        for file in manifest["files"].as_array().into_iter().flatten() {
            let path = file["path"].as_str().context("a file without a path")?;
            ensure!(files.insert(path.to_owned()), "{path} stands in two manifests");
            let lines = std::io::BufReader::new(std::fs::File::open(dir.join("out").join(path))?).lines();
            for line in lines {
                let row: serde_json::Value = serde_json::from_str(&line?)?;
                let seq = row["seq"].as_u64().context("a row without its number")?;
                let seen = usize::try_from(seq).ok().and_then(|seq| seen.get_mut(seq));
                let seen = seen.with_context(|| format!("row {seq} was never produced"))?;
                *seen = seen.saturating_add(1);
                in_sink += 1;
            }
        }
    }
    let lost = seen.iter().filter(|times| **times == 0).count() as u64;
    let duplicated = seen.iter().map(|times| u64::from(times.saturating_sub(1))).sum();
    Ok(Proof {
        produced,
        in_sink,
        lost,
        duplicated,
    })
}
