//! Kills at random times, until the input is drained, while a reader looks on.

use std::time::Duration;

use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::chance::Chance;
use tidemill_tests::target::Kind;

/// Kills that are to hit a running process.
const KILLS: u32 = 15;

/// A kill lands anywhere from the first instructions of the process to well after its first commits. Where the pipeline
/// finishes under the storm, a new one goes on with it, so that the number of kills is always reached.
fn storm(kind: Kind) {
    let mut chance = Chance::announced(&format!("storm, {}", kind.name()));
    let input = Input::load(60_000, 100).expect("a topic");
    let (mut kills, mut finished) = (0, 0);
    let (mut looks, mut midway) = (0, 0);
    let mut latest = Duration::from_millis(1500);
    while kills < KILLS {
        let case = Case::new(kind, &input, 100).expect("a pipeline");
        let onlooker = case.watch().expect("an onlooker");
        loop {
            let mut run = case.pipeline.start_to_end(&[]).expect("it starts");
            let at = chance.between(Duration::ZERO, latest);
            if kills < KILLS && run.runs_for(at).expect("its state") {
                let killed = run.kill().expect("it ends");
                if killed.was_killed() {
                    kills += 1;
                } else {
                    assert_eq!(killed.code(), Some(0), "{}", killed.log_tail());
                }
                continue;
            }
            let end = run.wait(LIMIT).expect("it ends");
            assert_eq!(end.code(), Some(0), "{}", end.log_tail());
            break;
        }
        let context = format!("{} after {kills} kills, seed {}", kind.name(), chance.seed());
        let watched = onlooker.finish().unwrap_or_else(|error| panic!("{context}: {error:?}"));
        case.judge().expect("the sink can be read").assert_clean(&context);
        looks += watched.looks;
        midway += watched.midway;
        finished += 1;
        // A pipeline that is faster than the kills gets earlier ones.
        latest = (latest / 2).max(Duration::from_millis(100));
        assert!(finished < 100, "the kills don't hit: {kills} in {finished} pipelines");
    }
    assert!(
        midway >= KILLS / 3,
        "only {midway} of {looks} looks saw the work half done"
    );
    eprintln!(
        "{}: {kills} kills, {finished} pipelines drained, {looks} looks ({midway} midway), all clean",
        kind.name()
    );
}

#[test]
fn files_survive_a_storm() {
    storm(Kind::File);
}

#[test]
fn a_table_survives_a_storm() {
    storm(Kind::Postgres);
}

#[test]
fn a_topic_survives_a_storm() {
    storm(Kind::Kafka);
}
