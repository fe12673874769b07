//! A typed program whose callback writes in its own transaction, keyed by `unique_id`, killed at every point of a batch.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidemill_tests::case::{Input, LIMIT};
use tidemill_tests::pipeline::{Finished, Run};
use tidemill_tests::servers;
use tidemill_tests::target::with_database;

/// The program, built as an example beside the binary under test.
fn program() -> PathBuf {
    let given = std::env::var_os("TIDEMILL_TEST_EXAMPLES").map(PathBuf::from);
    given
        .expect("TIDEMILL_TEST_EXAMPLES is not set: scripts/test sets it to the folder of the built examples")
        .join("postgres_exactly_once")
}

struct Program {
    folder: tempfile::TempDir,
    app: String,
}

impl Program {
    fn new() -> Result<Self> {
        let app = servers::unique("typed");
        let schema = app.replace('-', "_");
        with_database(async |client| Ok(client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?))?;
        Ok(Self {
            folder: tempfile::tempdir()?,
            app: schema,
        })
    }

    fn run(&self, failpoints: &str) -> Result<Finished> {
        let mut command = Command::new(program());
        let separator = if servers::postgres().contains('?') { '&' } else { '?' };
        let database = format!("{}{separator}options=-csearch_path%3D{}", servers::postgres(), self.app);
        command
            .env("KAFKA", servers::kafka())
            .env("TOPIC", &Input::small().topic)
            .env("DATABASE_URL", database)
            .env("CHECKPOINT", self.folder.path().join("checkpoint"))
            .env("TIDEMILL_FAILPOINTS", failpoints);
        Run::start(command)?.wait(LIMIT)
    }

    /// Number of rows, and of different numbers among them.
    fn counts(&self) -> Result<(i64, i64)> {
        let table = format!("{}.events_seen", self.app);
        with_database(async |client| {
            let query = format!("SELECT count(*), count(DISTINCT (partition, seq)) FROM {table}");
            let row = client.query_one(&query, &[]).await?;
            Ok((row.get(0), row.get(1)))
        })
    }
}

fn survives(point: &str) -> Result<()> {
    let program = Program::new()?;
    let killed = program.run(&format!("{point}=kill@2"))?;
    ensure!(
        killed.was_killed(),
        "{point} did not fire: {}\n{}",
        killed.status,
        killed.log_tail()
    );
    let finished = program.run("")?;
    ensure!(
        finished.code() == Some(0),
        "the run after it: {}\n{}",
        finished.status,
        finished.log_tail()
    );
    let records = i64::try_from(Input::small().truth.records()).context("a count")?;
    let counts = program.counts()?;
    ensure!(
        counts == (records, records),
        "rows and different rows {counts:?} of {records}"
    );
    Ok(())
}

#[test]
fn x29_a_program_with_its_own_transaction_survives_a_kill_at_every_point_of_a_batch() {
    let points = [
        "plan.before-log",
        "plan.after-log",
        "read.first-rows",
        "read.slice-end",
        "sink.before-begin",
        "sink.after-begin",
        "sink.before-commit",
        "sink.after-commit",
        "commit-log.before",
        "commit-log.after",
        "group.before-publish",
        "group.after-publish",
    ];
    for point in points {
        if let Err(error) = survives(point) {
            panic!("{point}: {error:?}");
        }
        eprintln!("typed: killed at {point}: clean");
    }
}
