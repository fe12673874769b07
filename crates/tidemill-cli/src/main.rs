//! The command `tidemill`: arguments to settings to a run.

mod args;
mod assemble;
mod check;
mod checkpoint;
mod init;
mod offsets;
mod open_place;
mod open_sink;
mod orders;
mod quickstart;
mod replay;
mod rewind;
mod run;
mod settings;

use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tidemill_engine::error::{Error, Kind};

use args::{Args, CheckpointCommand, Command};
use settings::{Problems, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What ends a command that did not succeed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    File(#[from] Problems),
    #[error("{}", .0.chain())]
    Engine(#[from] Error),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::File(_) => 2,
            Self::Engine(error) => match error.kind() {
                Kind::Config => 2,
                Kind::Fenced => 3,
                Kind::Loss => 4,
                Kind::Unavailable | Kind::TimeLimit | Kind::Data | Kind::Refused | Kind::UserCode | Kind::Bug => 1,
            },
            Self::Other(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let shown = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked && shown.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match run_command(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run_command(command: Command) -> Result<(), Failure> {
    tidemill_engine::failpoint::arm_from_env().map_err(|error| anyhow::anyhow!(error))?;
    let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from)?;
    match command {
        Command::Quickstart { records, dir } => quickstart::quickstart(records, dir),
        Command::Check { file, orders } => {
            let settings = load(&file)?;
            let ways_out = orders::ways_out(&settings, orders)?;
            runtime.block_on(check::check(&settings, ways_out))
        }
        Command::Run {
            file,
            until_caught_up,
            log,
            orders,
        } => {
            let settings = load(&file)?;
            let ways_out = orders::ways_out(&settings, orders)?;
            run::log_to_stderr(log);
            runtime.block_on(run::run(&settings, until_caught_up, ways_out))
        }
        Command::Offsets { file } => runtime.block_on(offsets::offsets(&load(&file)?)),
        Command::Checkpoint { what } => match what {
            CheckpointCommand::Show { file } => runtime.block_on(checkpoint::show(&load(&file)?)),
            CheckpointCommand::History { file } => runtime.block_on(checkpoint::history(&load(&file)?)),
            CheckpointCommand::Verify { file } => runtime.block_on(checkpoint::verify(&load(&file)?)),
            CheckpointCommand::Rebuild { file } => runtime.block_on(checkpoint::rebuild(&load(&file)?)),
        },
        Command::Init { dir } => init::init(&dir),
        Command::Rewind { file, to, yes } => runtime.block_on(rewind::rewind(&load(&file)?, to, yes)),
        Command::Replay { file, batch } => runtime.block_on(replay::replay(&load(&file)?, batch)),
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "tidemill", &mut std::io::stdout());
            Ok(())
        }
        Command::Worker(_) => Err(assemble::nothing("worker").into()),
        #[cfg(feature = "fault-injection")]
        Command::Failpoints => {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            for (name, kind) in tidemill_engine::failpoint::POINTS {
                writeln!(out, "{name} {kind}").map_err(anyhow::Error::from)?;
            }
            Ok(())
        }
    }
}

fn load(file: &Path) -> Result<Settings, Problems> {
    Settings::load(file, &|name| std::env::var(name).ok())
}
