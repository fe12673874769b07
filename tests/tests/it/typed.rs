//! Typed programs killed at every point of a batch and at random times: one whose callback writes in its own transaction, keyed by
//! `unique_id`, and one that writes to the sinks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tidemill_tests::case::{Input, LIMIT, failpoints};
use tidemill_tests::chance::Chance;
use tidemill_tests::oracle::{self, Row};
use tidemill_tests::pipeline::{Finished, Run};
use tidemill_tests::servers;
use tidemill_tests::target::{Kind, Target, with_database};

/// What every batch passes, whatever its outputs are.
const IN_A_BATCH: [&str; 12] = [
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

/// The exit code of a driver that a newer one has fenced.
const FENCED: i32 = 3;

/// A program, built as an example beside the binary under test, on the small topic or another one.
fn program(example: &str, topic: &str, database: &str, failpoints: &str) -> Command {
    let given = std::env::var_os("TIDEMILL_TEST_EXAMPLES").map(PathBuf::from);
    let folder =
        given.expect("TIDEMILL_TEST_EXAMPLES is not set: scripts/test sets it to the folder of the built examples");
    let mut command = Command::new(folder.join(example));
    command
        .env("KAFKA", servers::kafka())
        .env("TOPIC", topic)
        .env("DATABASE_URL", database)
        .env("TIDEMILL_FAILPOINTS", failpoints);
    command
}

/// The program with its own transaction, in a schema of its own.
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
        let separator = if servers::postgres().contains('?') { '&' } else { '?' };
        let database = format!("{}{separator}options=-csearch_path%3D{}", servers::postgres(), self.app);
        let mut command = program("postgres_exactly_once", &Input::small().topic, &database, failpoints);
        command.env("CHECKPOINT", self.folder.path().join("checkpoint"));
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
    for point in IN_A_BATCH {
        if let Err(error) = survives(point) {
            panic!("{point}: {error:?}");
        }
        eprintln!("typed: killed at {point}: clean");
    }
}

/// The program that writes to sinks, with fresh ones.
struct Sinks<'a> {
    folder: tempfile::TempDir,
    app: String,
    input: &'a Input,
    /// In the order in which they commit a batch.
    targets: Vec<Target>,
    /// The table that totals are upserted into, after all of them.
    totals: Option<String>,
}

impl<'a> Sinks<'a> {
    fn of(kinds: &[Kind], input: &'a Input) -> Result<Self> {
        let columns = "seq BIGINT, part TEXT, aborted BOOLEAN, number BIGINT";
        let targets = kinds.iter().map(|kind| Target::create(*kind, columns));
        Ok(Self {
            folder: tempfile::tempdir()?,
            app: servers::unique("typed"),
            input,
            targets: targets.collect::<Result<_>>()?,
            totals: None,
        })
    }

    fn with_totals(mut self) -> Self {
        self.totals = Some(servers::unique("totals").replace('-', "_"));
        self
    }

    /// Starts it with the failpoints, and for as long as it takes to catch up.
    fn start(&self, failpoints: &str) -> Result<Run> {
        let in_sink = |target: &Target| match target.kind() {
            Kind::File => format!("files:{}", self.folder.path().join(target.place()).display()),
            kind => format!("{}:{}", kind.name(), target.place()),
        };
        let mut sinks: Vec<String> = self.targets.iter().map(in_sink).collect();
        sinks.extend(self.totals.iter().map(|table| format!("totals:{table}")));
        let mut command = program(
            "exactly_once_sinks",
            &self.input.topic,
            &servers::postgres(),
            failpoints,
        );
        command
            .env("APP", &self.app)
            .env("SINKS", sinks.join(","))
            .env("CHECKPOINT", self.folder.path().join("checkpoint"));
        Run::start(command)
    }

    /// Kills it at a point, and gives the number of rows in each sink; what is there must be right as far as it goes.
    fn kill_at(&self, failpoint: &str) -> Result<Vec<usize>> {
        let killed = self.start(failpoint)?.wait(LIMIT)?;
        ensure!(
            killed.was_killed(),
            "{failpoint} did not fire: {}\n{}",
            killed.status,
            killed.log_tail()
        );
        let mut counts = Vec::new();
        for target in &self.targets {
            let rows = self.rows(target)?;
            let verdict = oracle::judge_prefix(&self.input.truth, &rows);
            ensure!(
                verdict.is_clean(),
                "{} after {failpoint}: {verdict}",
                target.kind().name()
            );
            counts.push(rows.len());
        }
        Ok(counts)
    }

    /// The rows of a sink, each of which must have the number that its event has among those of its partition.
    fn rows(&self, target: &Target) -> Result<Vec<Row>> {
        let numbered = |row: &serde_json::Value| {
            let read = Row::from_json(row).map_err(anyhow::Error::msg)?;
            let number = row["number"].as_i64().with_context(|| format!("no number in {row}"))?;
            ensure!(number == read.seq + 1, "counted wrongly: {row}");
            Ok(read)
        };
        target.rows(self.folder.path())?.iter().map(numbered).collect()
    }

    /// Runs to the end without faults and judges.
    fn finish(&self) -> Result<()> {
        let finished = self.start("")?.wait(LIMIT)?;
        ensure!(
            finished.code() == Some(0),
            "the run without faults: {}\n{}",
            finished.status,
            finished.log_tail()
        );
        self.judge()
    }

    fn judge(&self) -> Result<()> {
        for target in &self.targets {
            let verdict = oracle::judge(&self.input.truth, &self.rows(target)?);
            ensure!(verdict.is_clean(), "{}: {verdict}", target.kind().name());
        }
        let Some(table) = &self.totals else { return Ok(()) };
        let select = format!("SELECT part, events FROM {table}");
        let rows = with_database(async |database| Ok(database.query(&select, &[]).await?))?;
        let totals: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let records = self.input.truth.records() as i64;
        ensure!(
            rows.len() == 3 && totals.values().all(|total| *total == records / 3),
            "totals {totals:?} of {records} in three partitions"
        );
        Ok(())
    }
}

/// A kill at every point that a batch with this sink passes, while two states are kept.
fn every_point(kind: Kind) {
    let own = failpoints(kind).expect("the binary lists its failpoints");
    let own = own
        .iter()
        .map(String::as_str)
        .filter(|point| point.starts_with(kind.name()));
    let state = ["state.before-stage", "state.after-stage"];
    for point in IN_A_BATCH.into_iter().chain(state).chain(own) {
        let survives = || {
            let sinks = Sinks::of(&[kind], Input::small())?;
            sinks.kill_at(&format!("{point}=kill@2"))?;
            sinks.finish()
        };
        if let Err(error) = survives() {
            panic!("{}, {point}: {error:?}", kind.name());
        }
        eprintln!("typed, {}: killed at {point}: clean", kind.name());
    }
}

#[test]
fn files_of_a_program_survive_a_kill_at_every_point_of_a_batch() {
    every_point(Kind::File);
}

#[test]
fn a_table_of_a_program_survives_a_kill_at_every_point_of_a_batch() {
    every_point(Kind::Postgres);
}

#[test]
fn a_topic_of_a_program_survives_a_kill_at_every_point_of_a_batch() {
    every_point(Kind::Kafka);
}

/// X15, X30: the sinks commit in their order, and the first decides what the state is.
#[test]
fn x15_a_kill_between_the_commits_of_two_sinks_of_a_program_leaves_each_exact() {
    use Kind::{File, Kafka, Postgres};
    for kinds in [[File, Postgres], [Postgres, Kafka], [Kafka, File]] {
        let sinks = Sinks::of(&kinds, Input::small()).unwrap();
        // The first of them has committed batch 2.
        let counts = sinks.kill_at("sink.after-commit=kill@3").unwrap();
        assert!(0 < counts[1] && counts[1] < counts[0], "{kinds:?}: {counts:?}");
        sinks.finish().unwrap_or_else(|error| panic!("{kinds:?}: {error:?}"));
    }
}

#[test]
fn three_sinks_and_totals_of_a_program_survive_a_kill_between_any_two_commits() {
    for committed in 1..=4 {
        let sinks = Sinks::of(&Kind::ALL, Input::small()).unwrap().with_totals();
        sinks
            .kill_at(&format!("sink.after-commit=kill@{}", 4 + committed))
            .unwrap();
        sinks
            .finish()
            .unwrap_or_else(|error| panic!("after {committed} commits of batch 2: {error:?}"));
    }
}

/// Kills that are to hit a running program.
const KILLS: u32 = 12;

#[test]
fn three_sinks_and_totals_of_a_program_survive_kills_at_random_times() {
    let mut chance = Chance::announced("kills of a program with three sinks");
    let input = Input::load(15_000, 100).unwrap();
    let (mut kills, mut finished) = (0, 0);
    let mut latest = Duration::from_millis(2_000);
    while kills < KILLS {
        let sinks = Sinks::of(&Kind::ALL, &input).unwrap().with_totals();
        loop {
            let mut run = sinks.start("").unwrap();
            let at = chance.between(Duration::ZERO, latest);
            if kills == KILLS || !run.runs_for(at).unwrap() {
                let end = run.wait(LIMIT).unwrap();
                assert_eq!(end.code(), Some(0), "{}", end.log_tail());
                break;
            }
            kills += u32::from(run.kill().unwrap().was_killed());
        }
        let context = format!("after {kills} kills, seed {}", chance.seed());
        sinks.judge().unwrap_or_else(|error| panic!("{context}: {error:?}"));
        finished += 1;
        // A program that is faster than the kills gets earlier ones.
        latest = (latest / 2).max(Duration::from_millis(100));
        assert!(finished < 100, "the kills don't hit: {kills} in {finished} programs");
    }
    eprintln!("typed: {kills} kills, {finished} programs caught up, all clean");
}

/// Freezes a program in its second batch, lets a second one finish its work, and thaws the first.
fn zombie_loses(kinds: &[Kind], point: &str) -> Result<()> {
    let sinks = Sinks::of(kinds, Input::small())?;
    let mut zombie = sinks.start(point)?;
    ensure!(zombie.wait_frozen(LIMIT)?, "{point} did not fire\n{}", zombie.log());
    sinks.finish().context("the second program")?;
    zombie.signal(Signal::CONT);
    let zombie = zombie.wait(LIMIT)?;
    ensure!(
        zombie.code() == Some(FENCED),
        "the zombie: {}\n{}",
        zombie.status,
        zombie.log_tail()
    );
    sinks.judge().context("after the zombie's end")
}

#[test]
fn a_frozen_program_is_fenced_by_the_one_that_took_over() {
    for kind in Kind::ALL {
        for point in [
            "plan.after-log",
            "state.after-stage",
            "sink.after-begin",
            "sink.before-commit",
            "sink.after-commit",
        ] {
            let outcome = zombie_loses(&[kind], &format!("{point}=stop@2"));
            outcome.unwrap_or_else(|error| panic!("{}, {point}: {error:?}", kind.name()));
        }
    }
}

#[test]
fn a_program_frozen_between_the_commits_of_two_sinks_is_fenced_in_the_second() {
    use Kind::{File, Kafka, Postgres};
    for kinds in [[File, Postgres], [Postgres, Kafka], [Kafka, File]] {
        let outcome = zombie_loses(&kinds, "sink.after-commit=stop@3");
        outcome.unwrap_or_else(|error| panic!("{kinds:?}: {error:?}"));
    }
}

/// The newest is never fenced, so at least one catches up.
#[test]
fn two_programs_started_together_write_once() {
    for round in 0..5 {
        let sinks = Sinks::of(&Kind::ALL, Input::small()).unwrap().with_totals();
        let both = [sinks.start("").unwrap(), sinks.start("").unwrap()].map(|run| run.wait(LIMIT).unwrap());
        let codes = both.each_ref().map(Finished::code);
        assert!(
            codes.iter().all(|code| matches!(code, Some(0 | FENCED))) && codes.contains(&Some(0)),
            "round {round}: {codes:?}\n{}\n--\n{}",
            both[0].log_tail(),
            both[1].log_tail()
        );
        sinks.judge().unwrap_or_else(|error| panic!("round {round}: {error:?}"));
    }
}
