//! Typed programs that the bench runs as child processes. Each prints what it found as one JSON object on standard output; its log is
//! JSON on standard error.

#![expect(clippy::print_stdout, reason = "what a program finds is its output")]

mod counts;
mod keyed;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;
use tidemill::StreamingContext;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One typed program of the bench.
#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
struct Args {
    /// Folder of its checkpoint
    #[arg(long)]
    checkpoint: PathBuf,
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Bytes of the values of each partition, counted by a closure
    Bytes(Topic),
    /// Views per ad: JSON of three fields, filter, reduce_by_key
    Views(Topic),
    /// Words counted: generated rows through a shuffle with map-side combine
    Words {
        #[arg(long)]
        rows: u64,
        /// Different words
        #[arg(long)]
        words: u64,
    },
    /// A count kept per key: half of the records bring two new keys each, the other half touch one
    Keys {
        #[command(flatten)]
        topic: Topic,
        /// Different keys
        #[arg(long)]
        keys: u64,
        /// Records of a partition in a batch
        #[arg(long)]
        per_batch: u64,
    },
    /// Counts over a window that is reduced with an inverse
    Window {
        /// Slides in the window
        #[arg(long)]
        slides: u64,
        /// Slides to go on for when the window is full
        #[arg(long)]
        beyond: u64,
    },
}

/// A topic of the bench.
#[derive(Debug, clap::Args)]
struct Topic {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    /// Records in it
    #[arg(long)]
    records: u64,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .init();
    let Args { checkpoint, program } = Args::parse();
    let found = match program {
        Program::Bytes(topic) => counts::bytes(&checkpoint, &topic)?,
        Program::Views(topic) => counts::views(&checkpoint, &topic)?,
        Program::Words { rows, words } => counts::words(&checkpoint, rows, words)?,
        Program::Keys { topic, keys, per_batch } => keyed::keys(&checkpoint, &topic, keys, per_batch)?,
        Program::Window { slides, beyond } => keyed::window(&checkpoint, slides, beyond)?,
    };
    println!("{found}");
    Ok(())
}

/// Runs a program over all that is there.
fn catch_up(
    checkpoint: &Path,
    interval: Duration,
    declare: impl FnOnce(&StreamingContext) -> tidemill::Result<()>,
) -> Result<()> {
    let context = StreamingContext::builder("bench-typed", interval)
        .checkpoint(checkpoint)
        .until_caught_up()
        .get_or_create(declare)?;
    context.start()?;
    context.await_termination()?;
    Ok(())
}

/// `{name: value}`.
fn found(name: &str, value: impl Into<Value>) -> Value {
    Value::Object([(name.to_owned(), value.into())].into_iter().collect())
}
