//! Records that can't be read: named where they stop the stream, counted where they are left out.

use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;
use tidemill_tests::target::{Kind, Target};

use crate::sheet::{files, head, numbers, rows, sink, source, topic};

const COLUMNS: &str = "n BIGINT, word VARCHAR, spare BIGINT";
const SQL: &str = "SELECT n, word FROM events";
const SINK_COLUMNS: &str = "n BIGINT, word VARCHAR";

fn good(n: i64) -> Record {
    Record::of(0, format!("{{\"n\":{n},\"word\":\"w{n}\",\"spare\":1}}"))
}

/// Records that are bad, each with what the reason must say.
fn bad() -> Vec<(Record, &'static str)> {
    let of = |value: &[u8]| Record::of(0, value);
    let tombstone = Record {
        key: Some(b"k".to_vec()),
        ..Record::default()
    };
    vec![
        (of(b"[1,2]"), "wanted an object"),
        (of(b"17"), "wanted an object"),
        (of(b""), "wanted an object"),
        (of(br#"{"n":"many","word":"w"}"#), "column n BIGINT: found a string"),
        (of(br#"{"n":1.5e400,"word":"w"}"#), "column n BIGINT"),
        (
            of(br#"{"n":5,"word":"cut"#),
            "column word VARCHAR: found a string that does not end",
        ),
        (of(br#"{"n":5,"word":"w","spare":"#), "wanted the object's end"),
        (
            of(b"{\"n\":5,\"word\":\"\xff\xfe\"}"),
            "column word VARCHAR: found text that is not UTF-8",
        ),
        (tombstone, "no value"),
    ]
}

/// Records that look odd and are read, each with its row.
fn odd() -> Vec<(Record, Value)> {
    vec![
        // Fields that the query doesn't use aren't looked at.
        (
            Record::of(0, r#"{"n":900,"spare":"none"}"#),
            json!({"n": 900, "word": null}),
        ),
        (
            Record::of(0, b"{\"n\":901,\"other\":\"\xff\"}".as_slice()),
            json!({"n": 901, "word": null}),
        ),
        (
            Record::of(0, r#" {"word":null,"more":{"n":1}} "#),
            json!({"n": null, "word": null}),
        ),
        (
            Record::of(0, r#"{"n":902,"word":{"a":1}}"#),
            json!({"n": 902, "word": "{\"a\":1}"}),
        ),
    ]
}

fn pipeline(topic: &str, more: &str, target: &Target) -> String {
    head("bad") + &source("events", topic, COLUMNS, more) + &sink("out", SQL, target)
}

/// One bad record at offset 15, in the second batch of ten offsets.
const BAD_AT: usize = 15;
const TEN_PER_BATCH: &str = "max_rate_per_partition = 100\n";

fn with_one_bad(bad: &Record) -> Vec<Record> {
    let mut records: Vec<Record> = (0..30).map(good).collect();
    records[BAD_AT] = bad.clone();
    records
}

#[test]
fn every_kind_of_bad_record_stops_the_stream_and_is_named() {
    for (record, reason) in bad() {
        let topic = topic("stop", 1, &with_one_bad(&record));
        let target = files();
        let pipeline = Pipeline::write(&pipeline(&topic, TEN_PER_BATCH, &target)).unwrap();
        let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
        assert_eq!(ended.code(), Some(1), "{reason}: {}", ended.log_tail());
        let place = format!("bad record in source events at {topic}/0 offset {BAD_AT}: ");
        let error = ended.stderr.lines().last().unwrap();
        assert!(error.contains(&place) && error.contains(reason), "{reason}: {error}");
        assert!(error.contains("batch 2 for sink out"), "{error}");
        let mut seen = numbers(&rows(&pipeline, &target), "n");
        seen.sort_unstable();
        assert_eq!(
            seen,
            (0..10).collect::<Vec<_>>(),
            "{reason}: the batch before, and nothing of this one"
        );
    }
}

#[test]
fn nothing_of_a_stopped_batch_is_visible_in_any_sink_and_skip_is_a_way_out() {
    let (tombstone, _) = bad().pop().unwrap();
    let topic = topic("way-out", 1, &with_one_bad(&tombstone));
    for kind in Kind::ALL {
        let target = Target::create(kind, SINK_COLUMNS).unwrap();
        let text = pipeline(&topic, TEN_PER_BATCH, &target);
        let pipeline = Pipeline::write(&text).unwrap();
        // It stops there again and again, however often it is started.
        for _ in 0..2 {
            let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
            assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
            let mut seen = numbers(&target.rows(pipeline.folder()).unwrap(), "n");
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>(), "{}", kind.name());
        }
        // What the message offers must work although the batch was planned before.
        let skipping = text.replace(TEN_PER_BATCH, &format!("{TEN_PER_BATCH}on_bad_record = \"skip\"\n"));
        std::fs::write(pipeline.file(), skipping).unwrap();
        pipeline.run_to_end(&[], LIMIT).unwrap();
        let mut seen = numbers(&target.rows(pipeline.folder()).unwrap(), "n");
        seen.sort_unstable();
        let all: Vec<i64> = (0..30).filter(|n| *n != BAD_AT as i64).collect();
        assert_eq!(seen, all, "{}", kind.name());
    }
}

#[test]
fn skipped_records_are_counted_in_log_and_checkpoint() {
    let mut records: Vec<Record> = (0..20).map(good).collect();
    records.extend(bad().into_iter().map(|(record, _)| record));
    records.extend(odd().into_iter().map(|(record, _)| record));
    let (all, bad) = (records.len(), bad().len());
    let topic = topic("skip", 1, &records);
    let target = files();
    let pipeline = Pipeline::write(&pipeline(&topic, "on_bad_record = \"skip\"", &target)).unwrap();
    let ended = pipeline
        .start(&["--until-caught-up", "--log", "json"], &[])
        .and_then(|run| run.wait(LIMIT))
        .unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());

    let mut expected: Vec<Value> = (0..20).map(|n| json!({"n": n, "word": format!("w{n}")})).collect();
    expected.extend(odd().into_iter().map(|(_, row)| row));
    expected.sort_by_key(Value::to_string);
    assert_eq!(rows(&pipeline, &target), expected);
    assert_eq!(expected.len() + bad, all, "in = out + skipped");

    let line = ended
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "batch")
        .unwrap();
    assert_eq!(
        [&line["records"], &line["rows"], &line["skipped"]],
        [&json!(all), &json!(expected.len()), &json!(bad)]
    );
    let counts = format!("{} rows of {all} records, {bad} skipped", expected.len());
    let show = pipeline.ask(&["checkpoint", "show"]).unwrap().stdout;
    assert!(show.contains(&format!("last commit 1 sink out: {counts}")), "{show}");
    let history = pipeline.ask(&["checkpoint", "history"]).unwrap().stdout;
    assert!(history.contains(&format!(": out {counts}")), "{history}");
}

/// Raw values have no form to miss: a tombstone is NULL.
#[test]
fn a_raw_tombstone_is_null() {
    let (tombstone, _) = bad().pop().unwrap();
    let topic = topic("raw", 1, &[tombstone, Record::of(0, "")]);
    let target = files();
    let text = head("raw")
        + &source("events", &topic, COLUMNS, "")
            .replace(&format!("columns = \"{COLUMNS}\""), "")
            .replace("\"json\"", "\"raw\"")
        + &sink(
            "out",
            "SELECT _offset AS o, value IS NULL AS tombstone FROM events",
            &target,
        );
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(
        rows(&pipeline, &target),
        [json!({"o": 0, "tombstone": true}), json!({"o": 1, "tombstone": false})]
    );
}
