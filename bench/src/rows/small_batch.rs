//! What a batch of 8 records costs beside its records.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::figures::percentile;
use crate::files;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::process::Line;
use crate::report::{Run, rounded};
use crate::topics;

const TOPIC: &str = "bench-small";
const RECORDS: u32 = 8;
/// At the beginning, not measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long it may take to catch up after the last record.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn at(bench: &Bench, interval_ms: u64) -> Result<Run> {
    let interval = Duration::from_millis(interval_ms);
    let name = format!("small-batch-{interval_ms}ms");
    let text = Text {
        interval,
        brokers: bench.topics.brokers(),
        topic: TOPIC,
        format: SourceFormat::Json,
        properties: &[],
        sql: "SELECT * FROM events",
        sink: "kind = \"file\"\npath = \"out\"\nformat = \"json\"",
    };
    bench.topics.make(TOPIC, topics::PARTITIONS)?;
    let pipeline = Pipeline::write(bench.folder.path(), &name, &text)?;
    let process = bench.start(&pipeline)?;
    process.wait_for_log("it has started", Duration::from_secs(30), |log| {
        log.iter().any(|line| line.value["message"] == "started")
    })?;
    let begun = Instant::now();
    let written = bench.topics.trickle(TOPIC, RECORDS, interval, WARM_UP + bench.window)?;
    let read = |log: &[Line]| {
        let records = log
            .iter()
            .filter(|line| line.is_batch())
            .filter_map(|line| line.value["records"].as_u64());
        records.sum::<u64>() >= written
    };
    let lag = Instant::now();
    process.wait_for_log("all records were committed", PATIENCE, read)?;
    let lag = lag.elapsed();
    let finished = process.stop()?;
    finished.read_exactly(written)?;
    let rows = files::rows(&files::committed(&pipeline.out())?);
    if rows != written {
        bail!("wrong: {written} records were written, the sink holds {rows}");
    }
    let (times, ticks) = in_window(&finished.log, begun + WARM_UP, bench.window, interval)?;
    let figure = |percent| -> Result<f64> {
        Ok(rounded(
            percentile(&times, percent).context("no batch in the measured time")?,
            3,
        ))
    };
    bench.topics.remove(TOPIC)?;
    Ok(Run::new(name)
        .with_process(&finished)
        .with("interval_ms", interval_ms)
        .with("records", written)
        .with("batches", times.len())
        .with("of_ticks", rounded(times.len() as f64 / ticks, 4))
        .with("p50_ms", figure(50.0)?)
        .with("p99_ms", figure(99.0)?)
        .with("max_ms", figure(100.0)?)
        .with("behind_at_end_ms", rounded(lag.as_secs_f64() * 1_000.0, 1)))
}

/// Plan, run and settle together of each batch whose line came in the window, and how many ticks the window has.
fn in_window(log: &[Line], from: Instant, window: Duration, interval: Duration) -> Result<(Vec<f64>, f64)> {
    let mut times = Vec::new();
    for line in log
        .iter()
        .filter(|line| line.is_batch() && line.at >= from && line.at < from + window)
    {
        times.push(line.number("plan_ms")? + line.number("run_ms")? + line.number("settle_ms")?);
    }
    Ok((times, window.as_secs_f64() / interval.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn batches_of_the_window_are_summed_up_from_their_stages() {
        let begun = Instant::now();
        let line = |ms: u64, value| Line {
            at: begun + Duration::from_millis(ms),
            value,
            text: String::new(),
        };
        let batch = |n, run| json!({"message": "batch", "batch": n, "plan_ms": 1.0, "run_ms": run, "settle_ms": 0.5});
        let log = [
            line(5, batch(1, 100.0)),
            line(15, batch(2, 2.0)),
            line(16, json!({"message": "something else", "batch": 2})),
            line(29, batch(3, 3.0)),
            line(30, batch(4, 100.0)),
        ];
        let ms = Duration::from_millis;
        let (times, ticks) = in_window(&log, begun + ms(10), ms(20), ms(5)).unwrap();
        assert_eq!((times, ticks), (vec![3.5, 4.5], 4.0));
        let broken = [line(15, json!({"message": "batch", "batch": 1, "plan_ms": 1.0}))];
        assert!(in_window(&broken, begun, ms(20), ms(5)).is_err());
    }
}
