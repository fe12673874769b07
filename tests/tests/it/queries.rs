//! What SQL over batches gives, and what is refused.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;

use crate::sheet::{files, head, rows, rows_by, sink, source, topic};

/// The first 20 numbers in two partitions, each with its square and a group of three.
fn numbered() -> Vec<Record> {
    let one = |n: i32| Record::of(n % 2, format!(r#"{{"n":{n},"square":{},"grp":"g{}"}}"#, n * n, n % 3));
    (0..20).map(one).collect()
}

const NUMBERED: &str = "n BIGINT, square BIGINT, grp VARCHAR";

/// Every third number with a name.
fn named() -> Vec<Record> {
    let one = |n: i32| Record::of(0, format!(r#"{{"id":{n},"name":"name {n}"}}"#));
    (0..30).step_by(3).map(one).collect()
}

const NAMED: &str = "id BIGINT, name VARCHAR";

/// Runs `queries` over the two sources; the rows are those of `sql`.
fn over_two(queries: &str, sql: &str) -> (Pipeline, Vec<Value>) {
    let (numbered, named) = (topic("numbered", 2, &numbered()), topic("named", 1, &named()));
    let target = files();
    let text = head("sql")
        + &source("numbered", &numbered, NUMBERED, "")
        + &source("named", &named, NAMED, "")
        + queries
        + &sink("out", sql, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows(&pipeline, &target);
    (pipeline, rows)
}

#[test]
fn two_sources_are_joined_within_a_batch() {
    let (_, rows) = over_two(
        "",
        "SELECT n, square, name FROM numbered JOIN named ON numbered.n = named.id",
    );
    let mut expected: Vec<Value> = (0..20)
        .step_by(3)
        .map(|n| json!({"n": n, "square": n * n, "name": format!("name {n}")}))
        .collect();
    expected.sort_by_key(Value::to_string);
    assert_eq!(rows, expected);
}

#[test]
fn a_query_reads_another_query() {
    let (_, rows) = over_two(
        "[queries.odd]\nsql = \"SELECT n, grp FROM numbered WHERE n % 2 = 1\"\n\
         [queries.counted]\nsql = \"SELECT grp, count(*) AS c, sum(n) AS s FROM odd GROUP BY grp\"\n",
        "SELECT * FROM counted WHERE s > 30",
    );
    let mut expected = BTreeMap::new();
    for n in (1..20).step_by(2) {
        let (count, sum) = expected.entry(format!("g{}", n % 3)).or_insert((0, 0));
        *count += 1;
        *sum += n;
    }
    let expected: Vec<Value> = expected
        .into_iter()
        .filter(|(_, (_, sum))| *sum > 30)
        .map(|(group, (count, sum))| json!({"grp": group, "c": count, "s": sum}))
        .collect();
    assert_eq!(expected.len(), 2);
    let mut seen = rows;
    seen.sort_by_key(|row| row["grp"].to_string());
    assert_eq!(seen, expected);
}

#[test]
fn names_of_sources_and_queries_keep_their_case() {
    let topic = topic("case", 2, &numbered());
    let target = files();
    let text = head("case")
        + &source("adEvents", &topic, NUMBERED, "")
        + "[queries.firstFive]\nsql = \"SELECT n FROM adEvents WHERE n < 5\"\n"
        + &sink("out", "SELECT count(*) AS c FROM firstFive", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows(&pipeline, &target), [json!({"c": 5})]);
}

#[test]
fn a_union_shows_all_rows_of_both_sources() {
    let (_, rows) = over_two(
        "",
        "SELECT 'a' AS s, n FROM numbered UNION ALL SELECT 'b' AS s, id AS n FROM named",
    );
    let of = |source: &str| {
        let mut numbers: Vec<i64> = rows
            .iter()
            .filter(|row| row["s"] == source)
            .filter_map(|row| row["n"].as_i64())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(of("a"), (0..20).collect::<Vec<_>>());
    assert_eq!(of("b"), (0..30).step_by(3).collect::<Vec<_>>());
    assert_eq!(rows.len(), 30);
}

/// X14: what a query doesn't want is read all the same, so that every record is counted and every bad one found.
#[test]
fn x14_a_limit_reads_both_sources_to_the_end() {
    let (pipeline, rows) = over_two("", "SELECT n FROM numbered UNION ALL SELECT id AS n FROM named LIMIT 3");
    assert_eq!(rows.len(), 3);
    let show = pipeline.ask(&["checkpoint", "show"]).unwrap().stdout;
    assert!(show.contains("sink out: 3 rows of 30 records, 0 skipped"), "{show}");
    let positions: Vec<&str> = show.lines().filter(|line| line.starts_with("position ")).collect();
    assert_eq!(positions.len(), 3, "{show}");
    assert!(positions.iter().all(|line| line.ends_with(" 10")), "{show}");
}

#[test]
fn rows_are_numbered_within_their_group() {
    let (_, rows) = over_two(
        "",
        "SELECT grp, n, row_number() OVER (PARTITION BY grp ORDER BY n DESC) AS place FROM numbered",
    );
    assert_eq!(rows.len(), 20);
    for group in 0..3 {
        let mut of_group: Vec<&Value> = rows.iter().filter(|row| row["grp"] == format!("g{group}")).collect();
        of_group.sort_by_key(|row| row["place"].as_i64());
        let expected: Vec<i64> = (0..20).rev().filter(|n| n % 3 == group).collect();
        let seen: Vec<i64> = of_group.iter().filter_map(|row| row["n"].as_i64()).collect();
        assert_eq!(seen, expected);
        let places: Vec<i64> = of_group.iter().filter_map(|row| row["place"].as_i64()).collect();
        assert_eq!(places, (1..=expected.len() as i64).collect::<Vec<_>>());
    }
}

#[test]
fn x12_batch_functions_answer_as_planned() {
    let topic = topic("times", 2, &numbered());
    let target = files();
    let sql = "SELECT n, batch_id() AS id, CAST(batch_time() AS BIGINT) AS at, now() = batch_time() AS is_now, \
               current_timestamp = batch_time() AS is_current, current_date = CAST(batch_time() AS DATE) AS is_today \
               FROM events";
    let text =
        head("times") + &source("events", &topic, NUMBERED, "max_rate_per_partition = 40") + &sink("out", sql, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows(&pipeline, &target);
    let history = pipeline.ask(&["checkpoint", "history"]).unwrap().stdout;
    let mut times = BTreeMap::new();
    for line in history.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!([words[0], words[2], words[4]], ["batch", "time", "ms"], "{line}");
        times.insert(words[1].parse::<i64>().unwrap(), words[3].parse::<i64>().unwrap());
    }
    assert_eq!(rows.len(), 20);
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "{history}");
    for row in &rows {
        // Four offsets of each of two partitions in a batch: the plan decides which.
        let n = row["n"].as_i64().unwrap();
        let batch = n / 8 + 1;
        assert_eq!(
            (&row["id"], &row["at"]),
            (&json!(batch), &json!(times[&batch])),
            "{row}\n{history}"
        );
        for same in ["is_now", "is_current", "is_today"] {
            assert_eq!(row[same], json!(true), "{row}");
        }
    }
}

/// Expects `check` to end with 2, naming `named`.
fn check_refuses(text: &str, named: &[&str]) {
    let pipeline = Pipeline::write(text).unwrap();
    let ended = pipeline.ask(&["check"]).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
    for name in named {
        assert!(ended.stderr.contains(name), "{name}: {}", ended.log_tail());
    }
}

#[test]
fn x12_chance_is_refused() {
    let topic = topic("chance", 1, &[]);
    for function in ["random()", "uuid()"] {
        let text = head("chance")
            + &source("events", &topic, NUMBERED, "")
            + &format!("[queries.drawn]\nsql = \"SELECT n, {function} AS drawn FROM events\"\n")
            + &sink("out", "SELECT * FROM drawn", &files());
        check_refuses(&text, &["queries.drawn", function, "would give another answer"]);
    }
}

#[test]
fn a_query_that_changes_anything_or_names_what_is_missing_is_refused() {
    let topic = topic("refused", 1, &[]);
    for (sql, named) in [
        ("SELECT missing FROM events", "missing"),
        ("SELECT n FROM nowhere", "nowhere"),
        ("CREATE TABLE t AS SELECT 1", "DDL"),
    ] {
        let text = head("refused") + &source("events", &topic, NUMBERED, "") + &sink("out", sql, &files());
        check_refuses(&text, &["sinks.out", named]);
    }
}

#[test]
fn metadata_columns_tell_where_a_record_stood() {
    // Of today: retention goes by the records' own times.
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(since_1970.as_millis()).unwrap();
    let record = Record {
        partition: 1,
        key: Some(b"\x00key".to_vec()),
        value: Some(br#"{"n":1}"#.to_vec()),
        timestamp: Some(now),
        headers: vec![
            ("trace".to_owned(), b"first".to_vec()),
            ("trace".to_owned(), b"second".to_vec()),
        ],
    };
    let bare = Record {
        timestamp: Some(now - 1),
        ..Record::of(0, r#"{"n":2}"#)
    };
    let topic = topic("metadata", 2, &[record, bare]);
    let target = files();
    let sql = "SELECT n, _topic, _partition, _offset, CAST(_timestamp AS BIGINT) AS at, encode(_key, 'hex') AS k, _headers \
               FROM events";
    let text = head("metadata") + &source("events", &topic, NUMBERED, "") + &sink("out", sql, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows_by("n", &pipeline, &target);
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        rows,
        [
            json!({
                "n": 1, "_topic": topic, "_partition": 1, "_offset": 0, "at": now, "k": "006b6579",
                "_headers": [{"key": "trace", "value": hex("first")}, {"key": "trace", "value": hex("second")}]
            }),
            json!({
                "n": 2, "_topic": topic, "_partition": 0, "_offset": 0, "at": now - 1, "k": null,
                "_headers": []
            }),
        ]
    );
}
