//! Typed programs over all that is there.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Bench;
use crate::data::Data;
use crate::expected::Sums;
use crate::process::Finished;
use crate::report::Run;

/// Rows that the word count generates.
const WORD_ROWS: u64 = 7_000_000;
const WORDS: u64 = 10_000;

pub(super) fn count(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let (finished, found) = run(bench, "typed-count", &of_topic(bench, "bytes", records))?;
    finished.read_exactly(records)?;
    ensure!(
        found["bytes"] == expected.value_bytes,
        "wrong: expected {} bytes, found {found}",
        expected.value_bytes
    );
    Ok(Run::new("typed-count").with_throughput(records, &finished))
}

pub(super) fn json(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let (finished, found) = run(bench, "typed-json", &of_topic(bench, "views", records))?;
    finished.read_exactly(records)?;
    let by_ad: BTreeMap<String, u64> = serde_json::from_value(found["views"].clone())?;
    let found = Sums {
        records: by_ad.values().sum(),
        by_ad,
        time_ms: 0,
    };
    Sums {
        time_ms: 0,
        ..expected.views.clone()
    }
    .compare(&found)?;
    Ok(Run::new("typed-json").with_throughput(records, &finished))
}

pub(super) fn words(bench: &Bench) -> Result<Run> {
    let args = ["words", "--rows", &WORD_ROWS.to_string(), "--words", &WORDS.to_string()].map(str::to_owned);
    let (finished, found) = run(bench, "typed-words", &args)?;
    let counts = found["words"].as_object().context("no words were printed")?;
    ensure!(
        counts.len() as u64 == WORDS && counts.values().all(|count| *count == WORD_ROWS / WORDS),
        "wrong: expected {WORDS} words, {} of each: {found}",
        WORD_ROWS / WORDS
    );
    Ok(Run::new("typed-words").with_throughput(WORD_ROWS, &finished))
}

/// The arguments of a program that reads the ad events.
pub(super) fn of_topic(bench: &Bench, program: &str, records: u64) -> Vec<String> {
    let (brokers, topic) = (bench.topics.brokers(), Data::Events.topic());
    let args = [
        program,
        "--brokers",
        brokers,
        "--topic",
        topic,
        "--records",
        &records.to_string(),
    ];
    args.map(str::to_owned).to_vec()
}

/// What a program printed at its end.
pub(super) fn found(finished: &Finished) -> Result<Value> {
    serde_json::from_str(&finished.stdout).with_context(|| format!("the program printed {:?}", finished.stdout))
}

fn run(bench: &Bench, name: &str, args: &[String]) -> Result<(Finished, Value)> {
    let finished = bench.typed(&bench.checkpoint(name)?, args)?.wait()?;
    let found = found(&finished)?;
    Ok((finished, found))
}
