//! Measures the binary `tidemill` as a whole process, as a user would run it, and checks every answer.

mod cores;
mod data;
mod database;
mod expected;
mod figures;
mod files;
mod machine;
mod own_server;
mod pace;
mod pipeline;
mod plain_decompressor;
mod process;
mod report;
mod rows;
mod stored;
mod topics;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use data::Data;
use report::{Output, TARGETS};
use rows::{Bench, Row};
use topics::{Fill, Topics};

/// Measures the binary tidemill as a whole process.
#[derive(Debug, Parser)]
#[command(name = "tidemill-bench", version, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill the topics that rows read; one that holds so many records already is left alone
    Load {
        /// What to load; without any all of it
        #[arg(value_enum)]
        data: Vec<Data>,
        /// Records per topic
        #[arg(long, default_value_t = 10_000_000)]
        records: u64,
        /// The broker, host:port; by default the one in TIDEMILL_TEST_KAFKA
        #[arg(long)]
        kafka: Option<String>,
    },
    /// Run rows and check their answers; without a ROW all of them
    Run {
        /// What to measure
        #[arg(value_enum)]
        row: Vec<Row>,
        /// Runs of each row
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        /// Standard output carries only JSON lines; lines for people go to standard error
        #[arg(long)]
        json: bool,
        /// The binary; by default release/tidemill in CARGO_TARGET_DIR, or in target
        #[arg(long)]
        bin: Option<PathBuf>,
        /// The broker, host:port; by default the one in TIDEMILL_TEST_KAFKA
        #[arg(long)]
        kafka: Option<String>,
        /// The database, postgres://…; by default the one in TIDEMILL_TEST_POSTGRES
        #[arg(long)]
        postgres: Option<String>,
        /// Folder on a local disk for checkpoints and file sinks; by default the one for temporary files
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Seconds that small-batch and idle are measured for
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Load { data, records, kafka } => load(&all_without(data), records, kafka),
        Command::Run {
            row,
            runs,
            json,
            bin,
            kafka,
            postgres,
            dir,
            seconds,
        } => bench(bin, kafka, postgres, dir, seconds)
            .and_then(|bench| run(&bench, &all_without(row), runs, Output { json })),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = Output { json: true }.person(&format!("tidemill-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What was named; all there is where nothing was.
fn all_without<T: ValueEnum + Clone>(named: Vec<T>) -> Vec<T> {
    if named.is_empty() {
        T::value_variants().to_vec()
    } else {
        named
    }
}

fn load(data: &[Data], records: u64, kafka: Option<String>) -> Result<()> {
    let topics = Topics::connect(&broker(kafka)?)?;
    let output = Output { json: false };
    for data in data {
        let topic = data.topic();
        let tenth = (records / 10).max(10_000);
        let mut next = tenth;
        let fill = Fill {
            topic,
            partitions: data.partitions(),
            stream: data.stream(),
            records,
            compression: data.compression(),
        };
        let wrote = topics.fill(fill, |written| {
            if written >= next {
                next += tenth;
                let _closed = output.person(&format!("{topic}: {written} of {records} records"));
            }
        })?;
        let what = if wrote { "holds" } else { "held already" };
        output.person(&format!("{topic} {what} {records} records"))?;
    }
    Ok(())
}

fn bench(
    bin: Option<PathBuf>,
    kafka: Option<String>,
    postgres: Option<String>,
    dir: Option<PathBuf>,
    seconds: u64,
) -> Result<Bench> {
    let binary = bin.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        target.join("release").join("tidemill")
    });
    // The pid that is exported is that of the broker which is exported.
    let broker_pid = match kafka {
        Some(_) => None,
        None => variable("TIDEMILL_TEST_KAFKA_PID").map(|pid| pid.parse()).transpose()?,
    };
    let topics = Topics::connect(&broker(kafka)?)?;
    let postgres = postgres.or_else(|| variable("TIDEMILL_TEST_POSTGRES"));
    let folder = dir.unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("tidemill-bench-")
        .tempdir_in(&folder)
        .with_context(|| format!("make a folder in {}", folder.display()))?;
    Ok(Bench::new(
        binary,
        folder,
        topics,
        broker_pid,
        postgres,
        Duration::from_secs(seconds),
    ))
}

fn run(bench: &Bench, rows: &[Row], runs: u32, output: Output) -> Result<()> {
    let versions = machine::versions(&bench.binary)?;
    for row in rows {
        let mut measured = Vec::new();
        for number in 1..=runs {
            let name = row
                .to_possible_value()
                .map_or_else(String::new, |value| value.get_name().to_owned());
            for run in row
                .measure(bench)
                .with_context(|| format!("{name}, run {number} of {runs}"))?
            {
                output.program(&run.line(number, &versions))?;
                measured.push(run);
            }
        }
        for line in TARGETS.iter().filter_map(|target| target.verdict(&measured)) {
            output.person(&line)?;
        }
    }
    Ok(())
}

fn broker(given: Option<String>) -> Result<String> {
    given.or_else(|| variable("TIDEMILL_TEST_KAFKA")).context(
        "no Kafka broker is named: give --kafka HOST:PORT or set TIDEMILL_TEST_KAFKA (eval \"$(scripts/servers start)\")",
    )
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
