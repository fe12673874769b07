//! SIGKILL at every named point of a batch, and again during the recovery.

use anyhow::{Context, Result, bail, ensure};
use tidemill_tests::case::{Case, Input, LIMIT, failpoints};
use tidemill_tests::chance::Chance;
use tidemill_tests::s3::S3;
use tidemill_tests::target::{Kind, Target};

/// Offsets of each partition in a batch: the small topic takes at least four batches.
const PER_BATCH: u64 = 200;

/// Makes a fresh sink.
type Sinks<'a> = &'a dyn Fn() -> Result<Target>;

/// Kills a fresh pipeline at `point` and gives the case, dead. The second pass is tried first, since it has a batch behind
/// it; points that a run passes only once are killed at the first.
fn killed_at(sinks: Sinks<'_>, point: &str) -> Result<(Case<'static>, u32)> {
    for pass in [2, 1] {
        let case = Case::with_target(sinks()?, Input::small(), PER_BATCH)?;
        let armed = format!("{point}=kill@{pass}");
        let finished = case
            .pipeline
            .start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])?
            .wait(LIMIT)?;
        if finished.was_killed() {
            return Ok((case, pass));
        }
        ensure!(
            finished.code() == Some(0),
            "armed with {armed}: {}\n{}",
            finished.status,
            finished.log_tail()
        );
        let verdict = case.judge()?;
        ensure!(verdict.is_clean(), "armed with {armed}, which did not fire: {verdict}");
    }
    bail!("{point} did not fire")
}

fn survives(sinks: Sinks<'_>, point: &str) -> Result<u32> {
    let (case, pass) = killed_at(sinks, point)?;
    let between = case.judge_prefix().context("between kill and restart")?;
    ensure!(between.is_clean(), "between kill and restart: {between}");
    case.finish()?;
    Ok(pass)
}

/// All points are tried before the test fails, so that one finding doesn't hide the next.
fn every_point(kind: Kind) {
    every_point_of(kind, &|| Case::fresh(kind));
}

fn every_point_of(kind: Kind, sinks: Sinks<'_>) {
    let mut points = failpoints(kind).expect("the binary lists its failpoints");
    let in_bucket = sinks().expect("a sink").checkpoint().contains("s3://");
    // These are between the steps of putting a name into a folder of local disk.
    points.retain(|point| !(in_bucket && point.starts_with("store.")));
    let mut failed = Vec::new();
    for point in &points {
        match survives(sinks, point) {
            Ok(pass) => eprintln!("{}: killed at {point}, pass {pass}: clean", kind.name()),
            Err(error) => failed.push(format!("{point}: {error:?}")),
        }
    }
    let survived = points.len() - failed.len();
    eprintln!("{}: {survived} of {} points survived", kind.name(), points.len());
    assert!(
        failed.is_empty(),
        "{} of {} points:\n{}",
        failed.len(),
        points.len(),
        failed.join("\n\n")
    );
}

#[test]
fn files_survive_a_kill_at_every_point() {
    every_point(Kind::File);
}

#[test]
fn files_in_folders_survive_a_kill_at_every_point() {
    every_point_of(Kind::File, &|| Target::folders(&["part"]));
}

/// The checkpoint is in the bucket too.
#[test]
fn a_bucket_survives_a_kill_at_every_point() {
    every_point_of(Kind::File, &|| Target::bucket(&S3::shared()));
}

#[test]
fn a_table_survives_a_kill_at_every_point() {
    every_point(Kind::Postgres);
}

#[test]
fn a_topic_survives_a_kill_at_every_point() {
    every_point(Kind::Kafka);
}

/// A kill at a drawn point of a batch, then one at a drawn point of the run that recovers from it.
fn drawn_pairs(kind: Kind, pairs: u32) {
    let points = failpoints(kind).expect("the binary lists its failpoints");
    let mut chance = Chance::announced(&format!("pairs of kills, {}", kind.name()));
    let mut draw = || points[usize::try_from(chance.below(points.len() as u64)).expect("an index")].clone();
    let mut second_kills = 0;
    for _ in 0..pairs {
        let (first, second) = (draw(), draw());
        let outcome = || -> Result<bool> {
            let (case, _) = killed_at(&|| Case::fresh(kind), &first)?;
            let armed = format!("{second}=kill@1");
            let recovery = case
                .pipeline
                .start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])?
                .wait(LIMIT)?;
            ensure!(
                recovery.was_killed() || recovery.code() == Some(0),
                "the recovery: {}\n{}",
                recovery.status,
                recovery.log_tail()
            );
            case.finish()?;
            Ok(recovery.was_killed())
        };
        match outcome() {
            Ok(killed) => second_kills += u32::from(killed),
            Err(error) => panic!("{}: {first}, then {second}: {error:?}", kind.name()),
        }
    }
    eprintln!(
        "{}: {pairs} pairs survived, the second kill fired in {second_kills}",
        kind.name()
    );
    assert!(second_kills > 0, "no second kill fired in {pairs} pairs");
}

#[test]
fn files_survive_a_kill_during_recovery() {
    drawn_pairs(Kind::File, 8);
}

#[test]
fn a_table_survives_a_kill_during_recovery() {
    drawn_pairs(Kind::Postgres, 8);
}

#[test]
fn a_topic_survives_a_kill_during_recovery() {
    drawn_pairs(Kind::Kafka, 8);
}

/// Proves that these tests can fail: with a deliberate fault, a kill at one of the points leaves rows lost or doubled, or a
/// pipeline that refuses to go on. Either is what [`Case::finish`] fails for.
fn is_caught(sabotage: &str, kind: Kind) {
    let mut seen = Vec::new();
    for point in [
        "sink.before-commit",
        "sink.after-commit",
        "commit-log.before",
        "commit-log.after",
    ] {
        let case = Case::new(kind, Input::small(), PER_BATCH).expect("a pipeline");
        let armed = format!("{point}=kill@2");
        let env = [("TIDEMILL_FAILPOINTS", armed.as_str()), ("TIDEMILL_SABOTAGE", sabotage)];
        let killed = case
            .pipeline
            .start_to_end(&env)
            .and_then(|run| run.wait(LIMIT))
            .expect("it ends");
        assert!(
            killed.was_killed(),
            "{point} did not fire: {}\n{}",
            killed.status,
            killed.log_tail()
        );
        let again = case
            .pipeline
            .start_to_end(&[("TIDEMILL_SABOTAGE", sabotage)])
            .and_then(|run| run.wait(LIMIT));
        let again = again.expect("it ends");
        let verdict = case.judge().expect("the sink can be read");
        if again.code() != Some(0) || !verdict.is_clean() {
            eprintln!(
                "{sabotage}, {}: caught by a kill at {point}: {}, {verdict}\n{}",
                kind.name(),
                again.status,
                again.log_tail()
            );
            return;
        }
        seen.push(format!("{point}: {}, {verdict}", again.status));
    }
    panic!("{sabotage} is caught by no kill:\n{}", seen.join("\n"));
}

#[test]
fn a_commit_record_written_before_its_output_is_caught() {
    is_caught("commit-record-before-output", Kind::Postgres);
}

#[test]
fn a_recovery_that_asks_no_ledger_is_caught() {
    is_caught("no-ledger-check", Kind::Postgres);
    is_caught("no-ledger-check", Kind::Kafka);
}
