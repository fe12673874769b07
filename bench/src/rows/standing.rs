//! Starting, and standing idle.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tidemill_kafka::Compression;
use tidemill_kafka::embedded::feed::Records;

use super::Bench;
use crate::expected::{self, Expected, Sums};
use crate::files;
use crate::own_server::OwnServer;
use crate::pace;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::report::{Run, rounded};
use crate::topics::{self, Fill, Topics};

const START: &str = "bench-start";
const START_RECORDS: u64 = 1_000;
const IDLE: &str = "bench-idle";
const IDLE_PARTITIONS: i32 = 100;
/// From the log's "started" to the beginning of the measurement.
const SETTLE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

const VIEWS: &str = "SELECT ad_id, count(*) AS views FROM events WHERE event_type = 'view' GROUP BY ad_id";

pub(super) fn start(bench: &Bench) -> Result<Run> {
    let fill = Fill {
        topic: START,
        partitions: topics::PARTITIONS,
        stream: Records::AdEvents(expected::ad_events()),
        records: START_RECORDS,
        compression: Compression::Lz4,
    };
    bench.topics.fill(fill, |_| ())?;
    let text = text(bench.topics.brokers(), START);
    let pipeline = Pipeline::write(bench.folder.path(), "start", &text)?;
    let manifest = files::manifest(&pipeline.out(), 1);
    let process = bench.start(&pipeline)?;
    while !manifest.exists() {
        if process.log_has_ended() {
            process.wait()?;
            bail!("wrong: it ended well without {}", manifest.display());
        }
        if process.started().elapsed() > PATIENCE {
            bail!("no first batch within {PATIENCE:?}");
        }
        pace::wait_until(Instant::now() + Duration::from_micros(500));
    }
    let took = process.started().elapsed();
    let finished = process.stop()?;
    finished.read_exactly(START_RECORDS)?;
    let found = files::counts_by_ad(&files::committed(&pipeline.out())?, "views")?;
    Sums {
        time_ms: 0,
        ..Expected::of(START_RECORDS).views
    }
    .compare(&found)?;
    Ok(Run::new("start")
        .with_process(&finished)
        .with("records", START_RECORDS)
        .with("start_s", rounded(took.as_secs_f64(), 4)))
}

pub(super) fn idle(bench: &Bench) -> Result<Run> {
    let run = idle_at(bench, "idle", &bench.topics, IDLE_PARTITIONS)?;
    bench.topics.remove(IDLE)?;
    Ok(run)
}

pub(super) fn idle_1000(bench: &Bench) -> Result<Run> {
    let cluster = OwnServer::start("cluster")?;
    let topics = Topics::connect(cluster.brokers()?)?;
    idle_at(bench, "idle-1000", &topics, 1_000)
}

fn idle_at(bench: &Bench, name: &str, topics: &Topics, partitions: i32) -> Result<Run> {
    topics.make(IDLE, partitions)?;
    let text = text(topics.brokers(), IDLE);
    let pipeline = Pipeline::write(bench.folder.path(), name, &text)?;
    let process = bench.start(&pipeline)?;
    process.wait_for_log("it has started", PATIENCE, |log| {
        log.iter().any(|line| line.value["message"] == "started")
    })?;
    pace::wait_until(Instant::now() + SETTLE);
    let (begun, before) = (Instant::now(), process.cpu_time()?);
    pace::wait_until(begun + bench.window);
    let (time, used) = (begun.elapsed(), process.cpu_time()?.saturating_sub(before));
    let finished = process.stop()?;
    finished.read_exactly(0)?;
    Ok(Run::new(name)
        .with_process(&finished)
        .with("partitions", partitions)
        .with("measured_s", rounded(time.as_secs_f64(), 3))
        .with("measured_cpu_s", rounded(used.as_secs_f64(), 6))
        .with(
            "of_a_core_percent",
            rounded(used.as_secs_f64() / time.as_secs_f64() * 100.0, 4),
        ))
}

fn text<'a>(brokers: &'a str, topic: &'a str) -> Text<'a> {
    Text {
        interval: Duration::from_secs(1),
        brokers,
        topic,
        format: SourceFormat::Json,
        properties: &[],
        sql: VIEWS,
        sink: "kind = \"file\"\npath = \"out\"\nformat = \"json\"",
    }
}
