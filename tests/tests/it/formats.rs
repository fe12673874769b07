//! Avro and CSV, in and out; and every type through every format that can hold it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;
use tidemill_tests::servers;
use tidemill_tests::target::manifests;

use crate::sheet::{files, head, rows, rows_by, sink, source, topic};

/// A number as Avro writes it.
fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(text.len() as i64), text.as_bytes().to_vec()].concat()
}

const SCHEMA: &str = r#"{"type": "record", "name": "Event", "namespace": "test", "fields": [
    {"name": "n", "type": "long"},
    {"name": "either", "type": ["int", "string"]},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["VIEW", "CLICK"]}},
    {"name": "word", "type": ["null", "string"]}
]}"#;

/// A record of [`SCHEMA`].
fn event(n: i64) -> Vec<u8> {
    let word = if n % 5 == 0 {
        long(0)
    } else {
        [long(1), text(&format!("w{n}"))].concat()
    };
    [
        long(n),
        // An int, then a text, by turns.
        if n % 2 == 0 {
            [long(0), long(7)].concat()
        } else {
            [long(1), text("seven")].concat()
        },
        [long(2), text("a"), text("b"), long(0)].concat(),
        long(n % 3 / 2),
        word,
    ]
    .concat()
}

fn source_of(name: &str, topic: &str, lines: &str) -> String {
    format!(
        "[sources.{name}]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\n{lines}\n",
        servers::kafka()
    )
}

/// A pipeline with a schema beside its file.
fn with_schema(text: &str, schema: &str) -> Pipeline {
    let pipeline = Pipeline::write(text).unwrap();
    std::fs::write(pipeline.folder().join("events.avsc"), schema).unwrap();
    pipeline
}

const AVRO: &str = "format = \"avro\"\nschema = \"events.avsc\"";
const PER_KIND: &str = "SELECT kind, count(*) AS events, count(word) AS words, sum(n) AS n, sum(cardinality(tags)) AS tags \
                        FROM events GROUP BY kind";

/// The same, from the numbers.
fn per_kind(numbers: impl Iterator<Item = i64>) -> Vec<Value> {
    let mut kinds: BTreeMap<&str, [i64; 3]> = BTreeMap::new();
    for n in numbers {
        let kind = kinds.entry(["VIEW", "CLICK"][(n % 3 / 2) as usize]).or_default();
        kind[0] += 1;
        kind[1] += i64::from(n % 5 != 0);
        kind[2] += n;
    }
    let row = |(kind, [events, words, n]): (&&str, &[i64; 3])| json!({"kind": kind, "events": events, "words": words, "n": n, "tags": 2 * events});
    kinds.iter().map(row).collect()
}

#[test]
fn avro_with_and_without_confluents_header_is_counted() {
    let record = |n: i64| {
        // Some have the header of a schema 300.
        let header: &[u8] = if n % 4 == 0 { &[0, 0, 0, 1, 44] } else { &[] };
        Record::of((n % 2) as i32, [header, &event(n)].concat())
    };
    let topic = topic("avro", 2, &(1..=1000).map(record).collect::<Vec<_>>());
    let target = files();
    let text = head("avro") + &source_of("events", &topic, AVRO) + &sink("out", PER_KIND, &target);
    let pipeline = with_schema(&text, SCHEMA);
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows(&pipeline, &target), per_kind(1..=1000));
}

#[test]
fn bad_avro_records_are_named_or_skipped() {
    let good = event(3);
    let tombstone = Record {
        key: Some(b"k".to_vec()),
        ..Record::default()
    };
    let bad = [
        (
            Record::of(0, &good[..good.len() - 1]),
            "field word (a union): the record ends inside it",
        ),
        (
            Record::of(0, [&good[..], &[1]].concat()),
            "1 bytes follow the last field",
        ),
        (
            Record::of(0, [&good[..1], &[8]].concat()),
            "field either (a union): found a branch that the union does not have",
        ),
        (Record::of(0, ""), "field n (a long): the record ends inside it"),
        (tombstone, "no value"),
    ];
    for (record, reason) in &bad {
        let topic = topic("avro-stop", 1, &[Record::of(0, event(1)), record.clone()]);
        let target = files();
        let text = head("avro-stop") + &source_of("events", &topic, AVRO) + &sink("out", PER_KIND, &target);
        let ended = with_schema(&text, SCHEMA)
            .start_to_end(&[])
            .and_then(|run| run.wait(LIMIT))
            .unwrap();
        assert_eq!(ended.code(), Some(1), "{reason}: {}", ended.log_tail());
        let error = ended.stderr.lines().last().unwrap();
        let place = format!("bad record in source events at {topic}/0 offset 1: ");
        assert!(error.contains(&place) && error.contains(reason), "{reason}: {error}");
    }
    let mut records: Vec<Record> = (1..=100).map(|n| Record::of(0, event(n))).collect();
    records.splice(50..50, bad.into_iter().map(|(record, _)| record));
    let topic = topic("avro-skip", 1, &records);
    let target = files();
    let skipping = format!("{AVRO}\non_bad_record = \"skip\"");
    let text = head("avro-skip") + &source_of("events", &topic, &skipping) + &sink("out", PER_KIND, &target);
    let pipeline = with_schema(&text, SCHEMA);
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows(&pipeline, &target), per_kind(1..=100));
    let show = pipeline.ask(&["checkpoint", "show"]).unwrap().stdout;
    assert!(show.contains("rows of 105 records, 5 skipped"), "{show}");
}

#[test]
fn avro_fields_without_a_column_and_wrong_schemas_are_named_by_check() {
    let topic = topic("avro-check", 1, &[Record::of(0, event(1))]);
    let ask = |sql: &str, schema: &str| {
        let text = head("avro-check") + &source_of("events", &topic, AVRO) + &sink("out", sql, &files());
        let ended = with_schema(&text, schema).ask(&["check"]).unwrap();
        assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
        ended.stderr
    };
    for sql in ["SELECT * FROM events", "SELECT either IS NULL AS none FROM events"] {
        let said = ask(sql, SCHEMA);
        assert!(
            said.contains("field either can't be read: it is a union of an int, a string"),
            "{said}"
        );
    }
    let said = ask("SELECT n FROM events", &SCHEMA.replace("\"long\"", "\"lon\""));
    assert!(
        said.contains("sources.events.schema: field n of record test.Event: there is no type test.lon"),
        "{said}"
    );
}

#[test]
fn csv_is_counted_and_its_bad_records_are_named_or_skipped() {
    let lines = "format = \"csv\"\ndelimiter = \";\"\ncolumns = \"n BIGINT, word VARCHAR, spare BIGINT\"";
    let line = |n: i64| match n % 4 {
        0 => format!("{n};\"w;{n}\";1\n"),
        1 => format!("{n};;1\r\n"),
        2 => format!("{n};\"\";\"no number\""),
        _ => format!("\"{n}\";w{n};"),
    };
    let bad = [
        ("1;x", "2 fields, wanted 3, in 1;x"),
        ("1;\"x;2", "found a quote that does not close at byte 2 of "),
        ("one;x;2", "column n BIGINT: found something else at byte 0 of one;x;2"),
        ("1;x;2\n3;y;4", "found a line break outside quotes at byte 5 of "),
    ];
    let sql =
        "SELECT count(*) AS lines, sum(n) AS n, count(word) AS words, sum(octet_length(word)) AS bytes FROM events";
    for (record, reason) in bad {
        let topic = topic("csv-stop", 1, &[Record::of(0, line(1)), Record::of(0, record)]);
        let text = head("csv-stop") + &source_of("events", &topic, lines) + &sink("out", sql, &files());
        let pipeline = Pipeline::write(&text).unwrap();
        let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
        assert_eq!(ended.code(), Some(1), "{reason}: {}", ended.log_tail());
        let error = ended.stderr.lines().last().unwrap();
        let place = format!("bad record in source events at {topic}/0 offset 1: ");
        assert!(error.contains(&place) && error.contains(reason), "{reason}: {error}");
    }
    let mut records: Vec<Record> = (0..1000).map(|n| Record::of(0, line(n))).collect();
    records.splice(500..500, bad.map(|(record, _)| Record::of(0, record)));
    let topic = topic("csv-skip", 1, &records);
    let skipping = format!("{lines}\non_bad_record = \"skip\"");
    let target = files();
    let text = head("csv-skip") + &source_of("events", &topic, &skipping) + &sink("out", sql, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let bytes: usize = (0..1000_i64)
        .map(|n| match n % 4 {
            0 => format!("w;{n}").len(),
            3 => format!("w{n}").len(),
            _ => 0,
        })
        .sum();
    let expected = json!({"lines": 1000, "n": 499_500, "words": 750, "bytes": bytes});
    assert_eq!(rows(&pipeline, &target), [expected]);
}

/// Columns of every type that can be declared for JSON, in an order of their own.
const COLUMNS: &str = "id BIGINT NOT NULL, yes BOOLEAN, tiny TINYINT, small SMALLINT, mid INT, utiny TINYINT UNSIGNED, \
                       usmall SMALLINT UNSIGNED, umid INT UNSIGNED, ubig BIGINT UNSIGNED, ratio REAL, exact DOUBLE, \
                       price DECIMAL(12, 2), day DATE, s TIMESTAMP(0), ms TIMESTAMP(3), us TIMESTAMP(6), ns TIMESTAMP(9), \
                       tz TIMESTAMP(3) WITH TIME ZONE, tzus TIMESTAMP(6) WITH TIME ZONE, word VARCHAR";

fn values() -> Vec<Record> {
    let full = json!({"id": 1, "yes": true, "tiny": -128, "small": -32768, "mid": i32::MIN, "utiny": 255, "usmall": 65535,
        "umid": u32::MAX, "ubig": u64::MAX, "ratio": 0.1, "exact": -1e300, "price": 1_234_567_890.12, "day": "2024-02-29",
        "s": "2024-02-29T23:59:59", "ms": "1969-12-31T23:59:59.999", "us": "2024-02-29T23:59:59.000001",
        "ns": "2024-02-29T23:59:59.000000001", "tz": "2024-03-01T12:00:00.5+02:00", "tzus": "2024-03-01T12:00:00.000005Z",
        "word": "the „Wort“, said \"no\"\r\n😀 and more than a view"});
    let empty = json!({"id": 2});
    let zero = json!({"id": 3, "yes": false, "tiny": 0, "small": 0, "mid": 0, "utiny": 0, "usmall": 0, "umid": 0, "ubig": 0,
        "ratio": 0, "exact": 0, "price": "-0.05", "day": "1969-12-31", "s": 0, "ms": 0, "us": 0, "ns": 0, "tz": 0, "tzus": 0,
        "word": ""});
    [full, empty, zero]
        .iter()
        .map(|value| Record::of(0, value.to_string()))
        .collect()
}

/// Writes the rows of `sql` over a topic of [`values`] by `to`; gives the pipeline, and its rows as a JSON file has them.
fn written(name: &str, sql: &str, to: &str) -> (Pipeline, Vec<Value>) {
    let topic = topic(name, 1, &values());
    let direct = files();
    let text = head(name)
        + &source("events", &topic, COLUMNS, "")
        + &sink("direct", sql, &direct)
        + &format!("[sinks.second]\nsql = \"\"\"{sql}\"\"\"\n{to}\n");
    let pipeline = Pipeline::write(&text).unwrap();
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows_by("id", &pipeline, &direct);
    assert_eq!(rows.len(), 3);
    (pipeline, rows)
}

/// The rows of a source as a JSON file has them.
fn read_back(name: &str, source: &str, schema: &str) -> Vec<Value> {
    let target = files();
    let text = head(name) + source + &sink("out", "SELECT * FROM events", &target);
    let pipeline = with_schema(&text, schema);
    pipeline.run_to_end(&[], LIMIT).unwrap();
    rows_by("id", &pipeline, &target)
}

fn kafka_sink(format: &str) -> (String, String) {
    let topic = servers::unique("formats-out");
    java::create_topic(&topic, 2, &[]).unwrap();
    let lines = format!(
        "kind = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\nformat = \"{format}\"",
        servers::kafka()
    );
    (topic, lines)
}

#[test]
fn every_type_comes_back_through_json() {
    let (out, lines) = kafka_sink("json");
    let (_pipeline, rows) = written("through-json", "SELECT * FROM events", &lines);
    assert_eq!(read_back("json-back", &source("events", &out, COLUMNS, ""), ""), rows);
}

#[test]
fn every_type_comes_back_through_avro() {
    // Avro's whole numbers end with BIGINT. Nested types and bytes come on top of what JSON's columns can be.
    let sql = "SELECT * EXCEPT (ubig), CAST(ubig AS DECIMAL(20, 0)) AS ubig, make_array(id, mid) AS list, \
               named_struct('half', exact / 2, 'word', word) AS pair, CAST(word AS BYTEA) AS bytes FROM events";
    let (out, lines) = kafka_sink("avro");
    let (pipeline, rows) = written("through-avro", sql, &lines);
    let checked = pipeline.ask(&["check"]).unwrap().stdout;
    let said = "sink second: the schema of its records is ";
    let schema = checked.lines().find_map(|line| line.strip_prefix(said)).unwrap();
    assert_eq!(read_back("avro-back", &source_of("events", &out, AVRO), schema), rows);
}

#[test]
fn every_type_comes_back_through_csv() {
    let lines = "kind = \"file\"\npath = \"lines\"\nformat = \"csv\"";
    let (pipeline, rows) = written("through-csv", "SELECT * FROM events", lines);
    let folder = pipeline.folder().join("lines");
    let mut records = Vec::new();
    for path in data_files(&folder) {
        let csv = std::fs::read_to_string(folder.join(path)).unwrap();
        let (names, rest) = csv.split_once('\n').unwrap();
        assert!(names.starts_with("id,yes,tiny,small,"), "{names}");
        // The one line break within a text stands behind a carriage return.
        let joined = rest.replace("\r\n", "\r\u{0}");
        let each = joined
            .lines()
            .map(|line| Record::of(0, line.replace('\u{0}', "\n") + "\n"));
        records.extend(each);
    }
    let back = topic("csv-lines", 1, &records);
    let read = |lines: &str| {
        let source = source_of(
            "events",
            &back,
            &format!("format = \"csv\"\ncolumns = \"{COLUMNS}\"\n{lines}"),
        );
        read_back("csv-back", &source, "")
    };
    assert_eq!(read(""), rows);
}

#[test]
fn every_type_comes_back_through_parquet() {
    let lines = "kind = \"file\"\npath = \"columns\"\nformat = \"parquet\"";
    let (pipeline, rows) = written("through-parquet", "SELECT * FROM events", lines);
    let folder = pipeline.folder().join("columns");
    let batches = data_files(&folder).into_iter().flat_map(|path| {
        let file = File::open(folder.join(path)).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap()
    });
    let mut read: Vec<Value> = batches.flat_map(|batch| json_of(&batch.unwrap())).collect();
    read.sort_by_key(|row| row["id"].as_i64());
    assert_eq!(read, rows);
}

/// The files that the manifests name.
fn data_files(folder: &Path) -> Vec<String> {
    let manifests = manifests(folder).unwrap();
    let entries = manifests.iter().filter_map(|manifest| manifest["files"].as_array());
    entries
        .flatten()
        .map(|file| file["path"].as_str().unwrap().to_owned())
        .collect()
}

fn json_of(rows: &RecordBatch) -> Vec<Value> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_does_not_come_back_is_refused_by_the_columns_name() {
    let topic = topic("refused", 1, &values());
    let (_, avro) = kafka_sink("avro");
    let csv = "kind = \"file\"\npath = \"lines\"\nformat = \"csv\"";
    let parquet = "kind = \"file\"\npath = \"columns\"\nformat = \"parquet\"";
    for (to, column, named) in [
        (
            &avro[..],
            "ubig AS much",
            "column `much` can't be written as Avro: Avro has no whole numbers beyond BIGINT",
        ),
        (&avro, "ms - ms AS gap", "column `gap` can't be written as Avro"),
        (&avro, "id + 1", "is no name in Avro"),
        (csv, "make_array(id) AS list", "column list of type"),
        (csv, "named_struct('a', id) AS pair", "column pair of type"),
        (csv, "CAST(word AS BYTEA) AS bytes", "column bytes of type"),
        (parquet, "INTERVAL '1 month' AS gap", "column gap of type"),
    ] {
        let text = head("refused")
            + &source("events", &topic, COLUMNS, "")
            + &format!("[sinks.out]\nsql = \"\"\"SELECT id, {column} FROM events\"\"\"\n{to}\n");
        let ended = Pipeline::write(&text).unwrap().ask(&["check"]).unwrap();
        assert!(matches!(ended.code(), Some(1 | 2)), "{column}: {}", ended.log_tail());
        assert!(
            ended.stderr.contains("sink out") && ended.stderr.contains(named),
            "{column}: {}",
            ended.log_tail()
        );
    }
    let alone = head("refused")
        + &source("events", &topic, COLUMNS, "")
        + &format!("[sinks.out]\nsql = \"SELECT word FROM events\"\n{csv}\n");
    let ended = Pipeline::write(&alone).unwrap().ask(&["check"]).unwrap();
    assert!(
        ended.stderr.contains("column word can't be written as csv alone"),
        "{}",
        ended.log_tail()
    );
}
