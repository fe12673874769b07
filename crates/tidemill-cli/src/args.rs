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
        /// Orders of the start that is checked
        #[command(flatten)]
        orders: Orders,
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
        /// Orders of this start
        #[command(flatten)]
        orders: Orders,
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
    /// Go back to the positions before an earlier batch; says what that does to each sink, and does it with --yes
    Rewind {
        /// The pipeline file
        file: PathBuf,
        /// The batch that is to come again, and all after it
        #[arg(long, value_name = "BATCH")]
        to: u64,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Run one past batch again as it was planned, to the console; commits nothing, touches nothing
    Replay {
        /// The pipeline file
        file: PathBuf,
        /// The batch
        #[arg(long, value_name = "BATCH")]
        batch: u64,
    },
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

/// Ways out where sinks and checkpoint no longer fit. Each is refused where it has nothing to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Orders {
    /// Take over a sink that another application of this name owns; its positions are left behind
    #[arg(long, value_name = "SINK")]
    pub adopt: Vec<String>,
    /// Give up the last batch in a sink that left the file before it was settled there
    #[arg(long, value_name = "SINK")]
    pub drop_sink: Vec<String>,
    /// A sink was renamed in the file: it goes on where it stood
    #[arg(long, value_name = "OLD=NEW")]
    pub rename_sink: Vec<String>,
    /// A sink points elsewhere, or its place was emptied: it begins anew there after the last batch
    #[arg(long, value_name = "SINK")]
    pub new_target: Vec<String>,
    /// A running query was edited or left the file: what it has counted so far is given up
    #[arg(long, value_name = "OPERATOR")]
    pub forget_state: Vec<String>,
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
    /// Restores a lost checkpoint from the ledgers of the sinks
    Rebuild {
        /// The pipeline file
        file: PathBuf,
    },
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}
