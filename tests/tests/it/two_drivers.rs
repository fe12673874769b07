//! Two drivers of one application: at any time only one of them commits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tidemill_tests::case::{Case, Input, LIMIT, failpoints};
use tidemill_tests::oracle::Truth;
use tidemill_tests::s3::S3;
use tidemill_tests::target::{Kind, Target};
use tidemill_tests::{java, servers};

/// Makes a fresh sink.
type Sinks<'a> = &'a dyn Fn() -> Result<Target>;

/// The exit code of a driver that a newer one has fenced.
const FENCED: i32 = 3;

/// Freezes a driver in its second batch at `point`, lets a second one finish its work, and thaws the first.
fn zombie_loses(sinks: Sinks<'_>, point: &str) -> Result<()> {
    let case = Case::with_target(sinks()?, Input::small(), 200)?;
    let armed = format!("{point}=stop@2");
    let mut zombie = case.pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])?;
    if !zombie.wait_frozen(LIMIT)? {
        let ended = zombie.wait(LIMIT)?;
        ensure!(false, "{point} did not fire: {}\n{}", ended.status, ended.log_tail());
        return Ok(());
    }
    case.finish().context("the second driver")?;
    zombie.signal(Signal::CONT);
    let zombie = zombie.wait(LIMIT)?;
    ensure!(
        zombie.code() == Some(FENCED),
        "the zombie: {}\n{}",
        zombie.status,
        zombie.log_tail()
    );
    let verdict = case.judge()?;
    ensure!(verdict.is_clean(), "after the zombie's end: {verdict}");
    Ok(())
}

/// The points of a batch. A run passes the others once or not at all after its start.
const IN_A_BATCH: [&str; 7] = [
    "plan.",
    "read.",
    "sink.before-begin",
    "sink.after-begin",
    "sink.before-commit",
    "sink.after-commit",
    "commit-log.",
];

fn zombies(kind: Kind) {
    zombies_of(kind, &|| Case::fresh(kind));
}

fn zombies_of(kind: Kind, sinks: Sinks<'_>) {
    let own = format!("{}.", kind.name());
    let points: Vec<String> = failpoints(kind)
        .expect("the binary lists its failpoints")
        .into_iter()
        .filter(|point| point.starts_with(&own) || IN_A_BATCH.iter().any(|prefix| point.starts_with(prefix)))
        .collect();
    assert!(points.len() > 4, "too few points: {points:?}");
    let mut failed = Vec::new();
    for point in &points {
        match zombie_loses(sinks, point) {
            Ok(()) => eprintln!("{}: frozen at {point}: fenced, clean", kind.name()),
            Err(error) => failed.push(format!("{point}: {error:?}")),
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} points:\n{}",
        failed.len(),
        points.len(),
        failed.join("\n\n")
    );
}

#[test]
fn a_zombie_writes_no_files() {
    zombies(Kind::File);
}

/// The checkpoint is in the bucket too.
#[test]
fn a_zombie_writes_no_bucket() {
    zombies_of(Kind::File, &|| Target::bucket(&S3::shared()));
}

#[test]
fn a_zombie_writes_no_table() {
    zombies(Kind::Postgres);
}

#[test]
fn a_zombie_writes_no_topic() {
    zombies(Kind::Kafka);
}

/// Two drivers that start together: the newest is never fenced, so at least one finishes.
fn started_together(kind: Kind) {
    started_together_with(kind, &|| Case::fresh(kind));
}

fn started_together_with(kind: Kind, sinks: Sinks<'_>) {
    for round in 0..5 {
        let case = sinks().and_then(|target| Case::with_target(target, Input::small(), 200));
        let case = case.expect("a pipeline");
        let start = || case.pipeline.start_to_end(&[]).expect("it starts");
        let both = [start(), start()].map(|run| run.wait(LIMIT).expect("it ends"));
        let codes = both.each_ref().map(|end| end.code());
        let allowed = codes.iter().all(|code| matches!(code, Some(0 | FENCED)));
        assert!(
            allowed && codes.contains(&Some(0)),
            "{}, round {round}: {codes:?}\n{}\n--\n{}",
            kind.name(),
            both[0].log_tail(),
            both[1].log_tail()
        );
        case.judge()
            .expect("the sink can be read")
            .assert_clean(&format!("{}, round {round}", kind.name()));
    }
}

#[test]
fn two_drivers_started_together_write_files_once() {
    started_together(Kind::File);
}

#[test]
fn two_drivers_started_together_write_a_bucket_once() {
    started_together_with(Kind::File, &|| Target::bucket(&S3::shared()));
}

#[test]
fn two_drivers_started_together_write_a_table_once() {
    started_together(Kind::Postgres);
}

#[test]
fn two_drivers_started_together_write_a_topic_once() {
    started_together(Kind::Kafka);
}

/// Drivers that take over from each other, with the predecessor alive, while records keep coming.
fn relay(kind: Kind) {
    const RECORDS: u64 = 6000;
    let topic = servers::unique("relay");
    java::create_topic(&topic, 3, &[]).expect("a topic");
    let input = Input {
        topic: topic.clone(),
        truth: Truth::of_load(RECORDS, 3),
    };
    let case = Case::new(kind, &input, 200).expect("a pipeline");
    let mut load = java::spawn("Load", &[&topic, &RECORDS.to_string(), "3", "--pace", "800"]).expect("Load starts");
    let mut driver = case.pipeline.start(&[], &[]).expect("it starts");
    for turn in 0..8 {
        assert!(
            driver.runs_for(Duration::from_millis(700)).expect("its state"),
            "turn {turn}: ended by itself"
        );
        let next = case.pipeline.start(&[], &[]).expect("it starts");
        let fenced = std::mem::replace(&mut driver, next).wait(LIMIT).expect("it ends");
        assert_eq!(
            fenced.code(),
            Some(FENCED),
            "{}, turn {turn}\n{}",
            kind.name(),
            fenced.log_tail()
        );
    }
    assert!(load.wait().expect("Load ends").success());
    // The last one drains what has come since: by the first SIGTERM a batch is finished, by a new run all of them.
    driver.signal(Signal::TERM);
    let drained = driver.wait(LIMIT).expect("it ends");
    assert_eq!(drained.code(), Some(0), "{}", drained.log_tail());
    case.finish().expect("a clean end");
}

#[test]
fn a_relay_of_drivers_writes_files_once() {
    relay(Kind::File);
}

#[test]
fn a_relay_of_drivers_writes_a_table_once() {
    relay(Kind::Postgres);
}

#[test]
fn a_relay_of_drivers_writes_a_topic_once() {
    relay(Kind::Kafka);
}

/// Proves that these tests can fail: a successor that reads the ledger before it takes the fence misses what its frozen
/// predecessor commits in between, and runs that batch again.
#[test]
fn x06_a_ledger_read_before_the_fence_is_caught() {
    let case = Case::new(Kind::Kafka, Input::small(), 200).expect("a pipeline");
    let armed = "sink.before-commit=stop@2,sink.after-commit=stop@2";
    let mut first = case
        .pipeline
        .start_to_end(&[("TIDEMILL_FAILPOINTS", armed)])
        .expect("it starts");
    assert!(
        first.wait_frozen(LIMIT).expect("it lives"),
        "the first driver did not freeze before its commit"
    );
    let env = [
        ("TIDEMILL_FAILPOINTS", "epoch.before-claim=stop@1"),
        ("TIDEMILL_SABOTAGE", "ledger-before-fence"),
    ];
    let mut second = case.pipeline.start_to_end(&env).expect("it starts");
    assert!(
        second.wait_frozen(LIMIT).expect("it lives"),
        "the second driver did not freeze before its claim"
    );
    first.signal(Signal::CONT);
    assert!(
        first.wait_frozen(LIMIT).expect("it lives"),
        "the first driver did not freeze after its commit"
    );
    first.kill().expect("it ends");
    second.signal(Signal::CONT);
    let second = second.wait(LIMIT).expect("it ends");
    let verdict = case.judge().expect("the sink can be read");
    assert!(
        second.code() != Some(0) || verdict.duplicated > 0,
        "not caught: {verdict}\n{}",
        second.log_tail()
    );
}
