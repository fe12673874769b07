//! X17: bad records in a sink of their own, each once; in = out + skipped + dead letters.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::records::Record;
use tidemill_tests::servers;
use tidemill_tests::target::{Kind, Target};

use crate::sheet::{files, head, numbers, rows, sink, source, topic};

const COLUMNS: &str = "n BIGINT, word VARCHAR, spare BIGINT";

fn good(n: i64) -> Record {
    Record::of(0, format!("{{\"n\":{n},\"word\":\"w{n}\",\"spare\":1}}"))
}

/// Every fifth of `count` records is bad, and knows its number.
fn mixed(count: i64) -> Vec<Record> {
    (0..count)
        .map(|n| {
            if n % 5 == 4 {
                Record::of(0, format!("bad {n}"))
            } else {
                good(n)
            }
        })
        .collect()
}

fn to_topic(topic: &str) -> String {
    format!("on_bad_record = {{ dead_letter = {{ topic = \"{topic}\" }} }}\n")
}

fn new_topic() -> String {
    let topic = servers::unique("dead");
    java::create_topic(&topic, 2, &[]).unwrap();
    topic
}

/// The numbers of the bad records in the topic of dead letters, sorted.
fn dead(topic: &str) -> Vec<i64> {
    let number = |letter: &Value| letter["value"].as_str()?.strip_prefix("bad ")?.parse().ok();
    let mut numbers: Vec<i64> = java::dump(topic)
        .unwrap()
        .iter()
        .map(|letter| number(letter).unwrap_or_else(|| panic!("{letter}")))
        .collect();
    numbers.sort_unstable();
    numbers
}

fn sorted(pipeline: &Pipeline, target: &Target) -> Vec<i64> {
    let mut numbers = numbers(&target.rows(pipeline.folder()).unwrap(), "n");
    numbers.sort_unstable();
    numbers
}

fn split(count: i64) -> (Vec<i64>, Vec<i64>) {
    (0..count).partition(|n| n % 5 != 4)
}

fn batch_lines(ended: &Finished) -> Vec<Value> {
    ended
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "batch")
        .collect()
}

#[test]
fn x17_a_dead_letter_is_the_record_as_it_came_with_its_place_and_reason() {
    let letters = new_topic();
    let bad = Record {
        key: Some(b"k".to_vec()),
        headers: vec![("a".to_owned(), b"1".to_vec()), ("a".to_owned(), b"2".to_vec())],
        ..Record::of(0, br#"{"n":"many"}"#.as_slice())
    };
    let tombstone = Record {
        key: Some(b"gone".to_vec()),
        ..Record::default()
    };
    let topic = topic("dead", 1, &[good(0), bad, good(2), tombstone]);
    let target = files();
    let text = head("dead")
        + &source("events", &topic, COLUMNS, &to_topic(&letters))
        + &sink("out", "SELECT n, word FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let ended = pipeline
        .start(&["--until-caught-up", "--log", "json"], &[])
        .and_then(|run| run.wait(LIMIT))
        .unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert_eq!(sorted(&pipeline, &target), [0, 2]);

    let seen = java::dump(&letters).unwrap();
    let of_key = |key: &str| seen.iter().find(|letter| letter["key"] == key).unwrap();
    let header = |letter: &Value, name: &str| {
        let headers = letter["headers"].as_array().unwrap();
        let of_name: Vec<Value> = headers
            .iter()
            .filter(|header| header["name"] == name)
            .map(|header| header["value"].clone())
            .collect();
        of_name
    };
    assert_eq!(seen.len(), 2, "{seen:?}");
    let letter = of_key("k");
    assert_eq!(letter["value"], r#"{"n":"many"}"#);
    assert_eq!(header(letter, "a"), ["1", "2"]);
    assert_eq!(header(letter, "tidemill.source"), ["events"]);
    assert_eq!(header(letter, "tidemill.topic"), [topic.as_str()]);
    assert_eq!(header(letter, "tidemill.partition"), ["0"]);
    assert_eq!(header(letter, "tidemill.offset"), ["1"]);
    let reason = header(letter, "tidemill.reason");
    let reason = reason[0].as_str().unwrap();
    assert!(reason.contains("column n BIGINT: found a string"), "{reason}");
    let letter = of_key("gone");
    assert_eq!(letter["value"], Value::Null);
    assert_eq!(header(letter, "tidemill.offset"), ["3"]);
    assert_eq!(header(letter, "tidemill.reason"), ["no value"]);

    let line = batch_lines(&ended).remove(0);
    let counts = [
        &line["records"],
        &line["rows"],
        &line["skipped"],
        &line["dead_lettered"],
    ];
    assert_eq!(counts, [&json!(4), &json!(2), &json!(0), &json!(2)], "{line}");
    let show = pipeline.ask(&["checkpoint", "show"]).unwrap().stdout;
    assert!(
        show.contains("sink out: 2 rows of 4 records, 0 skipped, 2 dead-lettered"),
        "{show}"
    );
    assert!(show.contains("sink events.dead_letter: 2 rows of 4 records"), "{show}");
}

#[test]
fn x17_dead_letters_in_files_show_text_as_text_and_bytes_as_base64() {
    let bytes = Record {
        key: Some(b"\xff\x00".to_vec()),
        ..Record::of(0, b"{\"n\":\xfe".as_slice())
    };
    let topic = topic("dead", 1, &[good(0), Record::of(0, "hello"), bytes]);
    let target = files();
    let text = head("dead")
        + &source(
            "events",
            &topic,
            COLUMNS,
            "on_bad_record = { dead_letter = { path = \"letters\" } }",
        )
        + &sink("out", "SELECT n, word FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(sorted(&pipeline, &target), [0]);
    let letters = tidemill_tests::target::rows_of_files(&pipeline.folder().join("letters")).unwrap();
    assert_eq!(letters.len(), 2, "{letters:?}");
    let of = |offset: i64| letters.iter().find(|letter| letter["offset"] == offset).unwrap();
    assert_eq!(of(1)["value"], "hello");
    assert_eq!(of(1)["value_base64"], Value::Null);
    assert_eq!((&of(1)["topic"], &of(1)["partition"]), (&json!(topic), &json!(0)));
    assert!(
        of(1)["reason"].as_str().unwrap().contains("wanted an object"),
        "{}",
        of(1)
    );
    assert_eq!((&of(2)["value"], &of(2)["key"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&of(2)["key_base64"], &of(2)["value_base64"]),
        (&json!("/wA"), &json!("eyJuIjr+"))
    );
}

/// What is bad for a query that reads `spare` is left out of the one that doesn't, too.
#[test]
fn x17_a_record_is_dead_for_all_sinks_or_for_none() {
    let letters = new_topic();
    let bad = Record::of(0, r#"{"n":1,"word":"w","spare":"none"}"#);
    let topic = topic("dead", 1, &[good(0), bad, good(2)]);
    let (one, other) = (
        files(),
        Target::create(Kind::Postgres, "n BIGINT, spare BIGINT").unwrap(),
    );
    let text = head("dead")
        + &source("events", &topic, COLUMNS, &to_topic(&letters))
        + &sink("one", "SELECT n FROM events", &one)
        + &sink("other", "SELECT n, spare FROM events", &other);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline
        .run_to_end(&[("DATABASE_URL", &servers::postgres())], LIMIT)
        .unwrap();
    assert_eq!(sorted(&pipeline, &one), [0, 2]);
    assert_eq!(sorted(&pipeline, &other), [0, 2]);
    assert_eq!(java::dump(&letters).unwrap().len(), 1);
}

#[test]
fn x17_a_batch_that_stopped_at_a_bad_record_goes_on_with_dead_letters() {
    let topic = topic("dead", 1, &mixed(30));
    for kind in Kind::ALL {
        let letters = new_topic();
        let target = Target::create(kind, "n BIGINT, word VARCHAR").unwrap();
        let rate = "max_rate_per_partition = 100\n";
        let text = head("dead")
            + &source("events", &topic, COLUMNS, rate)
            + &sink("out", "SELECT n, word FROM events", &target);
        let pipeline = Pipeline::write(&text).unwrap();
        let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
        assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
        assert!(
            ended.stderr.contains("dead_letter"),
            "the way out: {}",
            ended.log_tail()
        );
        let keeping = text.replace(rate, &(rate.to_owned() + &to_topic(&letters)));
        std::fs::write(pipeline.file(), keeping).unwrap();
        pipeline.run_to_end(&[], LIMIT).unwrap();
        let (out, bad) = split(30);
        assert_eq!(sorted(&pipeline, &target), out, "{}", kind.name());
        assert_eq!(dead(&letters), bad, "{}", kind.name());
    }
}

/// SIGKILL around the commit of the dead letters, and of the sink after them, in the second batch.
#[test]
fn x17_dead_letters_are_exact_across_kills() {
    let topic = topic("dead", 1, &mixed(40));
    let mut fired = BTreeSet::new();
    for point in [
        "sink.after-begin",
        "sink.before-commit",
        "sink.after-commit",
        "kafka.after-end",
    ] {
        for pass in [2, 3, 4] {
            let letters = new_topic();
            let target = files();
            let text = head("dead")
                + &source(
                    "events",
                    &topic,
                    COLUMNS,
                    &("max_rate_per_partition = 100\n".to_owned() + &to_topic(&letters)),
                )
                + &sink("out", "SELECT n, word FROM events", &target);
            let pipeline = Pipeline::write(&text).unwrap();
            let armed = format!("{point}=kill@{pass}");
            let killed = pipeline
                .start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])
                .and_then(|run| run.wait(LIMIT))
                .unwrap();
            if killed.was_killed() {
                fired.insert(armed.clone());
            }
            pipeline.run_to_end(&[], LIMIT).unwrap();
            let (out, bad) = split(40);
            assert_eq!(sorted(&pipeline, &target), out, "{armed}");
            assert_eq!(dead(&letters), bad, "{armed}");
        }
    }
    assert_eq!(fired.len(), 12, "{fired:?}");
}

#[test]
fn rows_of_dead_letters_are_counted_by_check_as_a_sink() {
    let letters = new_topic();
    let topic = topic("dead", 1, &mixed(5));
    let text = head("dead")
        + &source("events", &topic, COLUMNS, &to_topic(&letters))
        + &sink("out", "SELECT n FROM events", &files());
    let pipeline = Pipeline::write(&text).unwrap();
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    assert!(
        checked.stdout.contains("sink events.dead_letter: kafka"),
        "{}",
        checked.stdout
    );
    let missing = text.replace(&letters, "no-such-topic-for-dead-letters");
    std::fs::write(pipeline.file(), missing).unwrap();
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(1), "{}", checked.log_tail());
    assert!(
        checked.stderr.contains("no-such-topic-for-dead-letters"),
        "{}",
        checked.log_tail()
    );
    assert!(rows(&pipeline, &files()).is_empty());
}
