//! Where a source begins, and what keeps a pipeline from starting.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::records::{Record, produce};

use crate::sheet::{files, head, rows, sink, source, source_at, topic};

const COLUMNS: &str = "n BIGINT";
/// What a start may take that finds something missing; the process itself comes on top.
const TEN_SECONDS: Duration = Duration::from_secs(11);

/// Two partitions with the numbers `from..until` each.
fn numbered(from: i64, until: i64) -> Vec<Record> {
    (0..2)
        .flat_map(|partition| (from..until).map(move |n| Record::of(partition, format!("{{\"n\":{n}}}"))))
        .collect()
}

fn copying(topic: &str, start: &str) -> (Pipeline, tidemill_tests::target::Target) {
    let target = files();
    let text = head("start")
        + &source("events", topic, COLUMNS, &format!("start = {start}"))
        + &sink("out", "SELECT _partition AS p, _offset AS o, n FROM events", &target);
    (Pipeline::write(&text).unwrap(), target)
}

fn seen(partition: i32, offsets: std::ops::Range<i64>) -> Vec<serde_json::Value> {
    offsets
        .map(|offset| json!({"p": partition, "o": offset, "n": offset}))
        .collect()
}

fn sorted(mut rows: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    rows.sort_by_key(serde_json::Value::to_string);
    rows
}

#[test]
fn latest_takes_what_came_after_and_nothing_before() {
    let topic = topic("latest", 2, &numbered(0, 10));
    let (pipeline, target) = copying(&topic, "\"latest\"");
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert!(rows(&pipeline, &target).is_empty());
    produce(&topic, &numbered(10, 15)).unwrap();
    // Once started, the end of that moment is where it stands: what came meanwhile is not skipped.
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(
        rows(&pipeline, &target),
        sorted([seen(0, 10..15), seen(1, 10..15)].concat())
    );
}

#[test]
fn given_offsets_are_the_first_that_are_read() {
    let topic = topic("offsets", 2, &numbered(0, 10));
    let (pipeline, target) = copying(
        &topic,
        &format!("{{ offsets = {{ \"{topic}\" = {{ \"0\" = 7, \"1\" = 10 }} }} }}"),
    );
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows(&pipeline, &target), seen(0, 7..10));
    produce(&topic, &numbered(10, 12)).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(
        rows(&pipeline, &target),
        sorted([seen(0, 7..12), seen(1, 10..12)].concat())
    );
}

/// Expects `run` and `check` to end with `code`, naming all of `named`, and nothing to be left behind.
fn refused(pipeline: &Pipeline, code: i32, named: &[&str]) {
    let begun = Instant::now();
    let run = pipeline
        .start_to_end(&[])
        .and_then(|run| run.wait(LIMIT))
        .expect("it ends");
    let took = begun.elapsed();
    assert!(took < TEN_SECONDS, "took {took:?}\n{}", run.log_tail());
    let check = pipeline.ask(&["check"]).expect("it ends");
    for (what, ended) in [("run", &run), ("check", &check)] {
        assert_eq!(ended.code(), Some(code), "{what}: {}", ended.log_tail());
        let error = error_of(ended);
        for name in named {
            assert!(error.contains(name), "{what} does not name {name}: {error}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(pipeline.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["pipeline.toml"], "a refused start leaves nothing behind");
}

fn error_of(ended: &Finished) -> &str {
    let error = ended.stderr.lines().rev().find(|line| line.starts_with("error: "));
    error.unwrap_or_else(|| panic!("no error line: {}", ended.log_tail()))
}

#[test]
fn given_offsets_that_do_not_fit_are_all_named() {
    let topic = topic("misfit", 2, &numbered(0, 10));
    let (pipeline, _) = copying(
        &topic,
        &format!("{{ offsets = {{ \"{topic}\" = {{ \"0\" = 11, \"7\" = 1 }} }} }}"),
    );
    refused(
        &pipeline,
        2,
        &[
            &format!("{topic}/0: 11 is outside of 0 to 10"),
            &format!("{topic}/1 has no offset"),
            &format!("{topic}/7 does not exist"),
        ],
    );
}

#[test]
fn a_missing_topic_is_named() {
    let (pipeline, _) = copying("there-is-no-such-topic", "\"earliest\"");
    refused(
        &pipeline,
        1,
        &["topic there-is-no-such-topic does not exist", "create it"],
    );
}

fn reading_from(broker: &str) -> Pipeline {
    let text = head("start")
        + &source_at(broker, "events", "any", COLUMNS, "")
        + &sink("out", "SELECT n FROM events", &files());
    Pipeline::write(&text).unwrap()
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refused(
        &reading_from(&format!("127.0.0.1:{port}")),
        1,
        &[&format!("127.0.0.1:{port}"), "refused"],
    );
}

#[test]
fn a_broker_that_takes_connections_and_says_nothing_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = silent.local_addr().unwrap().to_string();
    refused(&reading_from(&broker), 1, &[&broker]);
}

#[test]
fn a_database_that_is_not_there_is_named_without_its_password() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let topic = topic("no-database", 1, &[]);
    let text = head("start")
        + &source("events", &topic, COLUMNS, "")
        + &format!(
            "[sinks.out]\nfrom = \"events\"\nkind = \"postgres\"\nurl = \"postgres://me:secret-word@127.0.0.1:{port}/shop\"\n\
             table = \"t\"\n"
        );
    // The word stands in the file, so that only what is printed is looked at.
    let pipeline = Pipeline::write(&text).unwrap();
    let run = pipeline
        .start_to_end(&[])
        .and_then(|run| run.wait(TEN_SECONDS))
        .unwrap();
    assert_eq!(run.code(), Some(1), "{}", run.log_tail());
    assert!(
        error_of(&run).contains(&format!("127.0.0.1:{port}/shop")),
        "{}",
        run.log_tail()
    );
    assert!(!(run.stderr + &run.stdout).contains("secret-word"));
}
