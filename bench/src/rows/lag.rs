//! Much lag in few partitions: what a second core gives.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Bench;
use crate::cores::{self, Confined};
use crate::data::Data;
use crate::expected::Sums;
use crate::files;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::process::Finished;
use crate::report::{Run, per_second, rounded};
use crate::usage;

const OUT: &str = "bench-lag-out";

pub(super) fn one_core_and_two(bench: &Bench) -> Result<Vec<Run>> {
    ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "this row needs two cores"
    );
    let (records, _) = bench.lag()?;
    let one = on(bench, "lag-one-core", cores::ONE)?;
    let two = on(bench, "lag", cores::TWO)?;
    in_order(bench)?;
    let speed = |run: &OnCores| per_second(records, run.finished.wall);
    Ok(vec![
        one.run("lag-one-core", records, 1.0),
        two.run("lag", records, 2.0)
            .with("of_one_core", rounded(speed(&two) / speed(&one).max(1.0), 4)),
    ])
}

/// A run, and the CPU time that the broker used meanwhile.
struct OnCores {
    finished: Finished,
    broker_cpu: Duration,
}

impl OnCores {
    fn run(&self, name: &str, records: u64, cores: f64) -> Run {
        let used = self.finished.usage.user + self.finished.usage.system + self.broker_cpu;
        let busy = used.as_secs_f64() / self.finished.wall.as_secs_f64() / cores;
        Run::new(name)
            .with_throughput(records, &self.finished)
            .with("broker_cpu_s", rounded(self.broker_cpu.as_secs_f64(), 4))
            .with("cores_busy_percent", rounded(busy * 100.0, 1))
    }
}

/// Counts views per ad with broker and pipeline on the same cores.
fn on(bench: &Bench, name: &str, cores: &str) -> Result<OnCores> {
    let (records, expected) = bench.lag()?;
    let text = text(
        bench,
        "SELECT ad_id, count(*) AS views FROM events WHERE event_type = 'view' GROUP BY ad_id",
        "kind = \"file\"\npath = \"out\"\nformat = \"json\"",
    );
    let pipeline = Pipeline::write(bench.folder.path(), name, &text)?;
    let broker = bench.broker_pid()?;
    let confined = Confined::new(broker, cores)?;
    let before = usage::cpu_time(broker)?;
    let finished = bench.catch_up(&pipeline, &[], Some(cores))?.wait()?;
    let broker_cpu = usage::cpu_time(broker)?.saturating_sub(before);
    drop(confined);
    finished.read_exactly(records)?;
    let found = files::counts_by_ad(&files::committed(&pipeline.out())?, "views")?;
    Sums {
        time_ms: 0,
        ..expected.views.clone()
    }
    .compare(&found)?;
    Ok(OnCores { finished, broker_cpu })
}

/// Copies the views to a topic, in which those of a partition must lie in their order.
fn in_order(bench: &Bench) -> Result<()> {
    let (records, expected) = bench.lag()?;
    let brokers = bench.topics.brokers();
    let sink = format!("kind = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{OUT}\"\nformat = \"json\"");
    let text = text(
        bench,
        "SELECT ad_id, event_time FROM events WHERE event_type = 'view'",
        &sink,
    );
    let pipeline = Pipeline::write(bench.folder.path(), "lag-order", &text)?;
    bench.topics.make(OUT, Data::Lag.partitions())?;
    bench.run(&pipeline, &[])?.read_exactly(records)?;
    let found = bench.topics.read_in_order(OUT)?;
    Sums {
        time_ms: 0,
        ..expected.views.clone()
    }
    .compare(&found)?;
    bench.topics.remove(OUT)?;
    bench.topics.remove(&format!("tidemill-ledger-{}", pipeline.name()))
}

fn text<'a>(bench: &'a Bench, sql: &'a str, sink: &'a str) -> Text<'a> {
    Text {
        interval: Duration::from_secs(1),
        brokers: bench.topics.brokers(),
        topic: Data::Lag.topic(),
        format: SourceFormat::Json,
        properties: &[],
        sql,
        sink,
    }
}
