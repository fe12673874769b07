//! The rows of the table of targets, each a workload with its check.

mod compressed;
mod kafka;
mod lag;
mod postgres;
mod small_batch;
mod standing;
mod throughput;
mod tls;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::data::Data;
use crate::expected::Expected;
use crate::pipeline::Pipeline;
use crate::process::{Finished, Process};
use crate::report::Run;
use crate::topics::Topics;

/// A run that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(900);

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Ad events as bytes, counted and measured
    Count,
    /// 100 random bytes each, counted and measured
    CountRaw,
    /// Ad events compressed with zstd, counted and measured; beside the plain decompressor
    CountZstd,
    /// The same with gzip
    CountGzip,
    /// JSON, views only, counted per ad
    JsonCount,
    /// The same events in Avro, views only, counted per ad
    AvroCount,
    /// JSON, views with all seven columns, to Parquet
    Parquet,
    /// JSON, all rows and columns, to PostgreSQL; each run followed by plain COPY of the same rows
    Postgres,
    /// Plain binary COPY alone
    PostgresCopy,
    /// JSON, all rows and columns, to JSON in another topic
    Kafka,
    /// 8 records per batch, at 20 ms and at 5 ms
    SmallBatch,
    /// From the start of the process to its first committed batch
    Start,
    /// 100 empty partitions at 1 s
    Idle,
    /// 1,000 empty partitions at 1 s, over three brokers of its own
    #[value(name = "idle-1000")]
    Idle1000,
    /// Lag in two partitions, JSON, views counted per ad: on one core, then on two
    Lag,
    /// Ad events as bytes from a broker of its own: without TLS, then with it
    Tls,
}

/// What rows share.
pub(crate) struct Bench {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// Folder for pipelines, checkpoints and file sinks. It goes away at the end: some file systems make files slowly for
    /// minutes after many were removed.
    folder: TempDir,
    /// The broker.
    pub(crate) topics: Topics,
    /// Its process, where it is known.
    broker_pid: Option<u32>,
    /// The database's URL, where there is one.
    pub(crate) postgres: Option<String>,
    /// How long rows that stand at an interval are measured.
    pub(crate) window: Duration,
    expected: OnceCell<Expected>,
    expected_lag: OnceCell<Expected>,
}

impl Row {
    /// Runs once. More than one result where the row measures more than one thing.
    ///
    /// # Errors
    /// Where a server or the data is missing, the run fails, or its answer is wrong.
    pub(crate) fn measure(self, bench: &Bench) -> Result<Vec<Run>> {
        match self {
            Self::Count => throughput::count(bench).map(|run| vec![run]),
            Self::CountRaw => throughput::count_raw(bench).map(|run| vec![run]),
            Self::CountZstd => compressed::zstd(bench).map(|run| vec![run]),
            Self::CountGzip => compressed::gzip(bench).map(|run| vec![run]),
            Self::JsonCount => throughput::json_count(bench).map(|run| vec![run]),
            Self::AvroCount => throughput::avro_count(bench).map(|run| vec![run]),
            Self::Parquet => throughput::parquet(bench).map(|run| vec![run]),
            Self::Postgres => postgres::beside_copy(bench),
            Self::PostgresCopy => postgres::copy_alone(bench).map(|run| vec![run]),
            Self::Kafka => kafka::to_kafka(bench).map(|run| vec![run]),
            Self::SmallBatch => [20, 5].into_iter().map(|ms| small_batch::at(bench, ms)).collect(),
            Self::Start => standing::start(bench).map(|run| vec![run]),
            Self::Idle => standing::idle(bench).map(|run| vec![run]),
            Self::Idle1000 => standing::idle_1000(bench).map(|run| vec![run]),
            Self::Lag => lag::one_core_and_two(bench),
            Self::Tls => tls::without_and_with(bench).map(|run| vec![run]),
        }
    }
}

impl Bench {
    /// A bench on these.
    pub(crate) fn new(
        binary: PathBuf,
        folder: TempDir,
        topics: Topics,
        broker_pid: Option<u32>,
        postgres: Option<String>,
        window: Duration,
    ) -> Self {
        Self {
            binary,
            folder,
            topics,
            broker_pid,
            postgres,
            window,
            expected: OnceCell::new(),
            expected_lag: OnceCell::new(),
        }
    }

    /// How many ad events are loaded, and what they come to.
    fn events(&self) -> Result<(u64, &Expected)> {
        let records = self.topics.loaded(Data::Events)?;
        Ok((records, self.expected.get_or_init(|| Expected::of(records))))
    }

    /// The same of another topic of ad events, which holds as many.
    fn events_in(&self, data: Data) -> Result<(u64, &Expected)> {
        let found = self.topics.loaded(data)?;
        let (records, expected) = self.events()?;
        anyhow::ensure!(
            found == records,
            "topic {} holds {found} records and {} {records}; fill both: tidemill-bench load",
            data.topic(),
            Data::Events.topic()
        );
        Ok((records, expected))
    }

    /// The same of the topic that is lagged behind, which holds as many as it was filled with.
    fn lag(&self) -> Result<(u64, &Expected)> {
        let records = self.topics.loaded(Data::Lag)?;
        Ok((records, self.expected_lag.get_or_init(|| Expected::of(records))))
    }

    fn broker_pid(&self) -> Result<u32> {
        self.broker_pid.context(
            "the broker's process is unknown: set TIDEMILL_TEST_KAFKA and TIDEMILL_TEST_KAFKA_PID \
             (eval \"$(scripts/servers start)\") and give no --kafka",
        )
    }

    fn postgres(&self) -> Result<&str> {
        self.postgres.as_deref().context(
            "PostgreSQL is missing: give --postgres URL or set TIDEMILL_TEST_POSTGRES (eval \"$(scripts/servers start)\")",
        )
    }

    /// Starts the pipeline and leaves it running.
    fn start(&self, pipeline: &Pipeline) -> Result<Process> {
        Process::start(&self.binary, &pipeline.file(), &[], &[], None, LIMIT)
    }

    /// Starts the pipeline over all that is there, on these cores where any are named.
    fn catch_up(&self, pipeline: &Pipeline, env: &[(&str, &str)], cores: Option<&str>) -> Result<Process> {
        let args = ["--until-caught-up"];
        Process::start(&self.binary, &pipeline.file(), &args, env, cores, LIMIT)
    }

    /// Runs the pipeline over all that is there.
    fn run(&self, pipeline: &Pipeline, env: &[(&str, &str)]) -> Result<Finished> {
        self.catch_up(pipeline, env, None)?.wait()
    }
}
