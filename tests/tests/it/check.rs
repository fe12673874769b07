//! `tidemill check`: everything that can be known before starting, and nothing touched.

use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::records::Record;
use tidemill_tests::target::{Kind, Target};
use tidemill_tests::{java, servers};

use crate::sheet::{files, head, sink, source, topic};

const ANYBODY: &str = "User:*";
const NOBODY: &str = "User:nobody";

fn numbers() -> [Record; 2] {
    [Record::of(0, "{\"n\":1}"), Record::of(0, "{\"n\":2}")]
}

fn copying(app: &str, topic: &str, target: &Target) -> Pipeline {
    let text = head(app) + &source("events", topic, "n BIGINT", "") + &sink("out", "SELECT n FROM events", target);
    Pipeline::write(&text).unwrap()
}

/// The name in the pipeline file.
fn app(pipeline: &Pipeline) -> String {
    let text = std::fs::read_to_string(pipeline.file()).unwrap();
    text.lines().next().unwrap().split('"').nth(1).unwrap().to_owned()
}

fn check(pipeline: &Pipeline) -> Finished {
    let checked = pipeline.ask(&["check"]).unwrap();
    let left: Vec<_> = std::fs::read_dir(pipeline.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["pipeline.toml"], "a check leaves nothing behind");
    checked
}

fn fine(checked: &Finished, said: &[&str]) {
    assert_eq!(checked.code(), Some(0), "{}{}", checked.stdout, checked.stderr);
    assert!(
        checked.stdout.trim_end().ends_with("a first start"),
        "{}",
        checked.stdout
    );
    for text in said {
        assert!(checked.stdout.contains(text), "{text} is not in\n{}", checked.stdout);
    }
}

/// The check refuses with all of these, and a run does before its first batch.
fn refused(pipeline: &Pipeline, code: i32, said: &[&str]) {
    let checked = check(pipeline);
    assert_eq!(checked.code(), Some(code), "{}{}", checked.stdout, checked.stderr);
    assert!(!checked.stdout.contains("is fine"), "{}", checked.stdout);
    for text in said {
        assert!(checked.stderr.contains(text), "{text} is not in\n{}", checked.stderr);
    }
}

fn run_refuses_too(pipeline: &Pipeline, said: &str) {
    let ended = pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
    assert!(ended.stderr.contains(said), "{}", ended.log_tail());
    assert!(!ended.stderr.contains("started"), "{}", ended.log_tail());
}

#[test]
fn a_record_of_each_source_goes_through_the_queries() {
    let events = topic("checked", 2, &numbers());
    let target = files();
    fine(
        &check(&copying("check", &events, &target)),
        &[
            "source events: 2 partitions, up to 2 records",
            "source events: a record went through its queries",
            "can be written and synced",
        ],
    );
    let empty = topic("empty", 1, &[]);
    fine(
        &check(&copying("check", &empty, &target)),
        &["source events: holds no record that could be tried"],
    );
}

#[test]
fn a_record_that_the_queries_cannot_take_is_found() {
    let events = topic("checked", 1, &[Record::of(0, "{\"n\":\"one\"}")]);
    let place = format!("{events}/0 offset 0");
    refused(&copying("check", &events, &files()), 1, &[&place, "on_bad_record"]);
    let zero = topic("checked", 1, &[Record::of(0, "{\"n\":0}")]);
    let text = head("check")
        + &source("events", &zero, "n BIGINT", "")
        + &sink("out", "SELECT 1 / n AS x FROM events", &files());
    refused(
        &Pipeline::write(&text).unwrap(),
        1,
        &["query of sink out", "Divide by zero"],
    );
}

#[test]
fn the_right_to_read_a_topic_is_looked_for() {
    let events = topic("unread", 1, &numbers());
    java::allow("TOPIC", &events, ANYBODY, "DESCRIBE").unwrap();
    let pipeline = copying("check", &events, &files());
    let said = format!("topic {events}: the right to Read is missing");
    refused(&pipeline, 1, &[&said, "kafka-acls.sh"]);
    run_refuses_too(&pipeline, &said);
    // Without the right to see it, a topic is as good as missing.
    let hidden = topic("hidden", 1, &numbers());
    java::allow("TOPIC", &hidden, NOBODY, "READ").unwrap();
    refused(
        &copying("check", &hidden, &files()),
        1,
        &[&hidden, "TopicAuthorizationFailed"],
    );
}

#[test]
fn the_right_to_write_the_sinks_topic_is_looked_for() {
    let events = topic("events", 1, &numbers());
    let target = Target::create(Kind::Kafka, "").unwrap();
    java::allow("TOPIC", target.place(), ANYBODY, "DESCRIBE").unwrap();
    let pipeline = copying("check", &events, &target);
    let said = format!("sink out: topic {}: the right to Write is missing", target.place());
    refused(&pipeline, 1, &[&said]);
    run_refuses_too(&pipeline, &said);
}

#[test]
fn the_right_to_the_transactional_id_is_looked_for_as_far_as_it_can_be() {
    let events = topic("events", 1, &numbers());
    let pipeline = copying("check", &events, &Target::create(Kind::Kafka, "").unwrap());
    let id = format!("tidemill-{}-out", app(&pipeline));
    java::allow("TRANSACTIONAL_ID", &id, NOBODY, "WRITE").unwrap();
    let said = format!("transactional id {id}");
    refused(&pipeline, 1, &[&said, "grant Write on the transactional id"]);
    run_refuses_too(&pipeline, &said);
}

#[test]
fn x18_a_group_that_positions_cannot_be_published_to_is_a_warning() {
    let events = topic("events", 1, &numbers());
    let pipeline = copying("check", &events, &files());
    java::allow("GROUP", &app(&pipeline), ANYBODY, "DESCRIBE").unwrap();
    fine(
        &check(&pipeline),
        &["warning: positions can't be published", "the right to Read is missing"],
    );
    let hidden = copying("check", &events, &files());
    java::allow("GROUP", &app(&hidden), NOBODY, "READ").unwrap();
    fine(
        &check(&hidden),
        &["warning: positions can't be published", "GroupAuthorizationFailed"],
    );
}

#[test]
fn a_kafka_sinks_limits_are_told_and_its_ledger_topic_is_not_made() {
    let events = topic("events", 1, &numbers());
    let pipeline = copying("check", &events, &Target::create(Kind::Kafka, "").unwrap());
    let ledger = format!("tidemill-ledger-{}", app(&pipeline));
    let made = format!("ledger topic {ledger} is made at the first start");
    let checked = check(&pipeline);
    fine(
        &checked,
        &["a batch may take 900 s", "a producer in doubt is replaced", &made],
    );
    let topics = java::run("Topics", &["list"]).unwrap();
    assert!(!topics.contains(&ledger), "the ledger topic was made");
}

#[test]
fn all_problems_are_named_at_once() {
    let events = topic("events", 1, &numbers());
    let (gone, nowhere) = (servers::unique("gone"), servers::unique("nowhere"));
    let kafka = format!(
        "[sinks.there]\nsql = \"SELECT n FROM events\"\nkind = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{nowhere}\"\n",
        servers::kafka()
    );
    let text = head("check").replace("\"checkpoint\"", "\"pipeline.toml/checkpoint\"")
        + &source("events", &events, "n BIGINT", "")
        + &source("more", &gone, "n BIGINT", "")
        + &kafka
        + &sink("here", "SELECT n FROM more", &files());
    refused(
        &Pipeline::write(&text).unwrap(),
        1,
        &[
            &format!("topic {gone} does not exist"),
            &format!("topic {nowhere} does not exist"),
            "pipeline.toml",
        ],
    );
}
