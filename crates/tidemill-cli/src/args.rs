//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Micro-batch stream processing for Apache Kafka, exactly once.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Embedded broker, sample stream, exactly-once output, two crashes on the way, a proof at the end
    Quickstart {
        /// Events to produce
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// Folder for the pipeline file, its checkpoint and its output; a temporary one by default
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Find everything that can be known before starting; touches nothing but a probe in the checkpoint and file sinks
    Check {
        /// The pipeline file
        file: PathBuf,
    },
    /// Run a pipeline until it is told to stop
    Run {
        /// The pipeline file
        file: PathBuf,
        /// Take the end offsets now, process to them without waiting for ticks, and exit
        #[arg(long)]
        until_caught_up: bool,
        /// How log lines look on standard error
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log: LogFormat,
    },
    /// Per partition: position, end offset, lag in records and seconds, group offset
    Offsets {
        /// The pipeline file
        file: PathBuf,
    },
    /// Look into the checkpoint
    Checkpoint {
        /// What to show
        #[command(subcommand)]
        what: CheckpointCommand,
    },
    /// A commented pipeline file to start from
    Init {
        /// The folder that gets pipeline.toml
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Go back to an earlier batch (not in this version)
    #[command(hide = true)]
    Rewind(Later),
    /// Run one past batch again (not in this version)
    #[command(hide = true)]
    Replay(Later),
    /// Shell completions, on standard output
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// A worker of the cluster (not in this version)
    #[command(hide = true)]
    Worker(Later),
    /// The names of the failpoints of this build, with the sink kind that passes each
    #[cfg(feature = "fault-injection")]
    #[command(hide = true)]
    Failpoints,
}

/// Anything: the command is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Later {
    /// Ignored.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

/// What to show of a checkpoint.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Who it belongs to, the last plan, the last commit, positions
    Show {
        /// The pipeline file
        file: PathBuf,
    },
    /// One line per batch still kept
    History {
        /// The pipeline file
        file: PathBuf,
    },
    /// Reads every record and checks version, checksum and order
    Verify {
        /// The pipeline file
        file: PathBuf,
    },
    /// Restore a lost checkpoint from the ledgers (not in this version)
    #[command(hide = true)]
    Rebuild(Later),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}
