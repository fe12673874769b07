//! Topics that readers get wrong: what must be seen comes from who wrote them.

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tidemill_tests::case::LIMIT;
use tidemill_tests::oracle::{self, Row, Truth};
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::target::{Kind, Target};
use tidemill_tests::{java, servers};

use crate::sheet::{READERS, head, sink, source};

/// The truth of all hard topics, made once for all tests of this process.
pub(crate) fn truth(name: &str) -> &'static Value {
    static TRUTH: OnceLock<Value> = OnceLock::new();
    let all = TRUTH.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("truth.json");
        let path = file.to_str().expect("a path in text");
        java::run("HardTopics", &[&servers::unique("hard"), path, "7"]).expect("the hard topics are made");
        serde_json::from_slice(&fs::read(&file).expect("the truth is written")).expect("the truth is JSON")
    });
    let topics = all["topics"].as_array().expect("a list of topics");
    topics
        .iter()
        .find(|topic| topic["name"] == name)
        .unwrap_or_else(|| panic!("no hard topic {name}"))
}

/// Runs `sql` over a hard topic into files, in batches of at most `per_batch` offsets of a partition.
fn rows(topic: &Value, reader: &str, format: &str, sql: &str, per_batch: u64) -> Vec<Value> {
    let target = Target::create(Kind::File, "").expect("a sink");
    let text = format!(
        r#"name = "{app}"
interval = "100ms"
checkpoint = "checkpoint"

[sources.events]
kind = "kafka"
brokers = "{brokers}"
topics = [{topic}]
{format}
start = "earliest"
reader = "{reader}"
max_rate_per_partition = {rate}

[queries.seen]
sql = """{sql}"""

[sinks.out]
from = "seen"
{sink}
[rate]
backpressure = false
"#,
        app = servers::unique("hard"),
        brokers = servers::kafka(),
        topic = topic["topic"],
        rate = per_batch * 10,
        sink = target.toml(),
    );
    let pipeline = Pipeline::write(&text).expect("a pipeline");
    pipeline.run_to_end(&[], LIMIT).expect("the end is reached");
    let mut rows = target.rows(pipeline.folder()).expect("the sink can be read");
    // Slices may stand in any order, the records of a partition may not: a stable sort keeps their order.
    rows.sort_by_key(|row| row["p"].as_i64());
    rows
}

const JSON: &str =
    "format = \"json\"\ncolumns = \"seq BIGINT, part INT, producer VARCHAR, txn BIGINT, aborted BOOLEAN\"";

/// The rows are exactly the records that must be seen: offset by offset, in order, with their values and times.
fn shows_exactly_the_committed(name: &str) {
    let topic = truth(name);
    let expected: Vec<Value> = topic["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| {
            let mut row: Value = serde_json::from_str(record["value"].as_str().expect("a value")).expect("JSON");
            row["p"] = record["partition"].clone();
            row["o"] = record["offset"].clone();
            row["t"] = record["timestamp"].clone();
            row
        })
        .collect();
    // Cuts at many offsets let batches begin and end in aborted data, at markers and in holes.
    for (reader, per_batch) in [("native", 37), ("native", 100_000), ("librdkafka", 211)] {
        let sql = "SELECT seq, part, producer, txn, aborted, _partition AS p, _offset AS o, \
                   CAST(CAST(_timestamp AS TIMESTAMP(3)) AS BIGINT) AS t FROM events";
        let seen = rows(topic, reader, JSON, sql, per_batch);
        let first = seen.iter().zip(&expected).position(|(seen, expected)| seen != expected);
        if let Some(at) = first {
            panic!(
                "{name}, {reader}, {per_batch} per batch: row {at} is {}, expected {}",
                seen[at], expected[at]
            );
        }
        assert_eq!(seen.len(), expected.len(), "{name}, {reader}, {per_batch} per batch");
    }
}

#[test]
fn interleaved_transactions_show_what_was_committed() {
    shows_exactly_the_committed("interleaved");
}

#[test]
fn an_aborted_tail_is_passed_unseen() {
    shows_exactly_the_committed("tail");
}

#[test]
fn holes_of_compaction_are_passed() {
    shows_exactly_the_committed("compacted");
}

#[test]
fn an_empty_topic_is_finished_at_once() {
    shows_exactly_the_committed("empty");
}

#[test]
fn an_idle_partition_holds_nothing_up() {
    shows_exactly_the_committed("idle");
}

#[test]
fn times_stamped_by_the_broker_are_read() {
    shows_exactly_the_committed("append-time");
}

#[test]
fn nothing_is_read_beyond_an_open_transaction() {
    shows_exactly_the_committed("open");
}

/// Bytes of a field that `Dump` prints: text, or an object with base64.
fn bytes(field: &Value) -> Option<Vec<u8>> {
    match field {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other => Some(base64(other["base64"].as_str().expect("base64"))),
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is no base64"),
    };
    let digits: Vec<u32> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four
            .iter()
            .enumerate()
            .fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn odd_keys_values_and_headers_arrive_byte_for_byte() {
    let topic = truth("odd");
    let expected: Vec<Value> = topic["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| {
            let value = bytes(&record["value"]);
            let mut row = serde_json::Map::new();
            row.insert("p".to_owned(), record["partition"].clone());
            row.insert("o".to_owned(), record["offset"].clone());
            // Columns that are null may be left out of a JSON line.
            if let Some(key) = bytes(&record["key"]) {
                row.insert("k".to_owned(), hex(&key).into());
            }
            if let Some(value) = value {
                row.insert("length".to_owned(), value.len().into());
                row.insert("digest".to_owned(), hex(&Sha256::digest(&value)).into());
            }
            let headers = record["headers"].as_array().expect("headers");
            row.insert("headers".to_owned(), headers.len().into());
            if let (Some(first), Some(third)) = (headers.first(), headers.get(2)) {
                row.insert("first".to_owned(), first["name"].clone());
                row.insert(
                    "third".to_owned(),
                    hex(&bytes(&third["value"]).unwrap_or_default()).into(),
                );
            }
            Value::Object(row)
        })
        .collect();
    let sql = "SELECT _partition AS p, _offset AS o, encode(_key, 'hex') AS k, octet_length(value) AS length, \
               encode(sha256(value), 'hex') AS digest, coalesce(array_length(_headers), 0) AS headers, \
               _headers[1]['key'] AS first, encode(_headers[3]['value'], 'hex') AS third FROM events";
    for reader in READERS {
        let mut seen = rows(topic, reader, "format = \"raw\"", sql, 100_000);
        for row in &mut seen {
            row.as_object_mut()
                .expect("an object")
                .retain(|_, field| !field.is_null());
        }
        assert_eq!(seen.len(), expected.len(), "{reader}");
        for (seen, expected) in seen.iter().zip(&expected) {
            assert_eq!(seen, expected, "{reader}");
        }
    }
}

/// The independent client agrees with what was written, so that a failure above is the binary's.
#[test]
fn the_truth_is_what_another_client_reads() {
    for name in [
        "interleaved",
        "tail",
        "compacted",
        "empty",
        "idle",
        "odd",
        "append-time",
        "open",
    ] {
        let topic = truth(name);
        let mut read = java::dump(topic["topic"].as_str().expect("a name")).expect("the topic is read");
        read.sort_by_key(|record| record["partition"].as_i64());
        assert!(
            Some(&read) == topic["records"].as_array(),
            "{name}: {} records were read",
            read.len()
        );
    }
}

/// What Java's producer writes, with aborted transactions in between.
#[test]
fn every_compression_is_read() {
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = servers::unique(compression);
        let options = [
            "--abort-third",
            "--per-transaction",
            "300",
            "--compression",
            compression,
        ];
        java::load(&topic, 3_000, 2, &options).unwrap();
        let target = Target::create(Kind::File, "").unwrap();
        let text = head("compressed")
            + &source("events", &topic, "seq BIGINT, part INT, aborted BOOLEAN", "")
            + &sink("out", "SELECT seq, part, aborted FROM events", &target);
        let pipeline = Pipeline::write(&text).unwrap();
        pipeline.run_to_end(&[], LIMIT).unwrap();
        let rows = target.rows(pipeline.folder()).unwrap();
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
        oracle::judge(&Truth::of_load(3_000, 2), &rows).assert_clean(compression);
    }
}
