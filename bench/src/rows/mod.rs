//! The rows of the table of targets, each a workload with its check.

mod ad_windows;
mod compressed;
mod kafka;
mod keyed_state;
mod lag;
mod log;
mod postgres;
mod small_batch;
mod standing;
mod throughput;
mod tls;
mod typed;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
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
/// The program of the typed rows, beside the binary.
const TYPED_BINARY: &str = "tidemill-bench-typed";

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
    /// A typed program that counts the bytes of the values
    TypedCount,
    /// A typed word count over generated rows
    TypedWords,
    /// A typed program that counts the views per ad
    TypedJson,
    /// Views and clicks per campaign and ten seconds, upserted into PostgreSQL
    AdWindows,
    /// State of many keys beside that of a hundredth of them; killed and started again
    KeyedState,
    /// A window with an inverse: 600 slides beside 60
    InverseWindow,
    /// Records into the write-ahead log by 1, 8 and 64 writers, beside the same bytes in blocks
    Log,
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
            Self::TypedCount => typed::count(bench).map(|run| vec![run]),
            Self::TypedWords => typed::words(bench).map(|run| vec![run]),
            Self::TypedJson => typed::json(bench).map(|run| vec![run]),
            Self::AdWindows => ad_windows::upserted(bench).map(|run| vec![run]),
            Self::KeyedState => keyed_state::few_and_many(bench),
            Self::InverseWindow => keyed_state::short_and_long(bench),
            Self::Log => log::beside_blocks(bench),
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
        Process::start(&self.binary, run_args(pipeline, &[]), &[], None, LIMIT)
    }

    /// Starts the pipeline over all that is there, on these cores where any are named.
    fn catch_up(&self, pipeline: &Pipeline, env: &[(&str, &str)], cores: Option<&str>) -> Result<Process> {
        let args = run_args(pipeline, &["--until-caught-up"]);
        Process::start(&self.binary, args, env, cores, LIMIT)
    }

    /// A place for the checkpoint of a typed program, where there is nothing yet.
    fn checkpoint(&self, name: &str) -> Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(self.folder.path())?;
        Ok(folder.keep().join("checkpoint"))
    }

    /// Starts the typed program of these arguments on a checkpoint.
    fn typed(&self, checkpoint: &Path, args: &[String]) -> Result<Process> {
        let binary = self.binary.with_file_name(TYPED_BINARY);
        let checkpoint = ["--checkpoint".into(), checkpoint.to_path_buf().into_os_string()];
        let args = checkpoint.into_iter().chain(args.iter().map(OsString::from));
        Process::start(&binary, args, &[], None, LIMIT)
            .with_context(|| format!("build it first: cargo build --release --locked -p {TYPED_BINARY}"))
    }

    /// Runs the pipeline over all that is there.
    fn run(&self, pipeline: &Pipeline, env: &[(&str, &str)]) -> Result<Finished> {
        self.catch_up(pipeline, env, None)?.wait()
    }
}

fn run_args(pipeline: &Pipeline, more: &[&str]) -> Vec<OsString> {
    let mut args = vec![
        "run".into(),
        pipeline.file().into_os_string(),
        "--log".into(),
        "json".into(),
    ];
    args.extend(more.iter().map(OsString::from));
    args
}
