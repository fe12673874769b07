//! Queries whose aggregates range over the whole stream, killed and restarted, held against a recount.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::servers;
use tidemill_tests::target::{Target, with_database};

use crate::sheet::{files, head, sink, source, topic};

pub(crate) const COLUMNS: &str = "k VARCHAR, n BIGINT";
pub(crate) const RECORDS: i64 = 1200;
/// Four batches.
pub(crate) const PER_BATCH: &str = "max_rate_per_partition = 1000";
const TOTALS: &str = "SELECT k, count(*) AS c, sum(n) AS s, CAST(round(1000 * avg(n)) AS BIGINT) AS mean, min(n) AS low, max(n) AS high, CAST(batch_id() AS BIGINT) \
     AS batch FROM events WHERE n % 10 <> 3 GROUP BY k";

/// Numbers of 30 keys in three partitions: a batch has not all keys, a key is in several partitions.
pub(crate) fn numbered(from: i64, until: i64) -> Vec<Record> {
    let one = |n: i64| {
        let key = key_of(n);
        Record::of(i32::try_from(n % 3).unwrap(), format!(r#"{{"k":"k{key}","n":{n}}}"#))
    };
    (from..until).map(one).collect()
}

pub(crate) fn key_of(n: i64) -> i64 {
    (n / 60 + n % 7) % 30
}

/// What is counted of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) count: i64,
    sum: i64,
    /// Times 1000.
    mean: i64,
    low: i64,
    high: i64,
}

pub(crate) fn recounted(numbers: impl Iterator<Item = i64>) -> BTreeMap<String, Total> {
    let mut of_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for n in numbers.filter(|n| n % 10 != 3) {
        of_key.entry(format!("k{}", key_of(n))).or_default().push(n);
    }
    let total = |numbers: Vec<i64>| Total {
        count: numbers.len() as i64,
        sum: numbers.iter().sum(),
        mean: (1000.0 * (numbers.iter().sum::<i64>() as f64 / numbers.len() as f64)).round() as i64,
        low: numbers[0],
        high: *numbers.last().unwrap(),
    };
    of_key.into_iter().map(|(key, numbers)| (key, total(numbers))).collect()
}

pub(crate) fn total(row: &Value) -> Total {
    let number = |name: &str| row[name].as_i64().unwrap_or_else(|| panic!("no {name} in {row}"));
    Total {
        count: number("c"),
        sum: number("s"),
        mean: number("mean"),
        low: number("low"),
        high: number("high"),
    }
}

pub(crate) fn key(row: &Value) -> String {
    row["k"].as_str().unwrap().to_owned()
}

/// A running query over a topic, into files and into a table.
struct Totals {
    pipeline: Pipeline,
    files: Target,
    table: String,
}

impl Totals {
    fn over(topic: &str, query: &str, more: &str) -> Self {
        let (files, table) = (files(), servers::unique("totals").replace('-', "_"));
        let text = head("running")
            + "[rate]\nbackpressure = false\n"
            + &source("events", topic, COLUMNS, PER_BATCH)
            + &format!("[queries.totals]\nsql = \"{query}\"\nscope = \"running\"\n{more}\n")
            + &sink("files", "SELECT * FROM totals", &files)
            + &format!(
                "[sinks.table]\nfrom = \"totals\"\nkind = \"postgres\"\nurl = \"${{DATABASE_URL}}\"\ntable = \"{table}\"\n\
                 create_table = true\nmode = \"upsert\"\nkey = [\"k\"]\n"
            );
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            files,
            table,
        }
    }

    fn rows(&self) -> Vec<Value> {
        self.files.rows(self.pipeline.folder()).unwrap()
    }

    fn table(&self) -> BTreeMap<String, Total> {
        let select = format!("SELECT row_to_json(t)::text FROM {} t", self.table);
        let rows = with_database(async |database| Ok(database.query(&select, &[]).await?)).unwrap();
        let rows = rows
            .iter()
            .map(|row| serde_json::from_str::<Value>(row.get(0)).unwrap());
        let mut totals = BTreeMap::new();
        for row in rows {
            assert_eq!(totals.insert(key(&row), total(&row)), None, "{row}");
        }
        totals
    }

    /// The last row of each key in the files: of a key the counts grow from batch to batch, with one row in each.
    fn last(&self) -> BTreeMap<String, Total> {
        let mut last: BTreeMap<String, (i64, Total)> = BTreeMap::new();
        for row in self.rows() {
            let now = (row["batch"].as_i64().unwrap(), total(&row));
            if let Some(before) = last.insert(key(&row), now) {
                assert!(
                    before.0 < now.0 && before.1.count < now.1.count,
                    "{before:?}, then {row}"
                );
            }
        }
        last.into_iter().map(|(key, (_, total))| (key, total)).collect()
    }
}

/// Both sinks share the state: the first one decides a batch's version (X30), the second one follows.
#[test]
fn x30_totals_are_exact_wherever_a_kill_falls() {
    let topic = topic("totals", 3, &numbered(0, RECORDS));
    let expected = recounted(0..RECORDS);
    for (point, pass) in [
        ("state.before-stage", 2),
        ("state.after-stage", 2),
        ("sink.before-commit", 3),
        ("sink.after-commit", 3),
        ("sink.before-commit", 4),
        ("sink.after-commit", 4),
        ("commit-log.before", 3),
    ] {
        let totals = Totals::over(&topic, TOTALS, "");
        let armed = format!("{point}=kill@{pass}");
        let run = totals
            .pipeline
            .start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])
            .unwrap();
        let killed = run.wait(LIMIT).unwrap();
        assert!(killed.was_killed(), "{armed}: {}", killed.log_tail());
        let before: usize = totals.rows().len();
        totals.pipeline.run_to_end(&[], LIMIT).unwrap();
        assert!(before < totals.rows().len(), "{armed}: nothing was left to do");
        assert_eq!(totals.last(), expected, "{armed}: files");
        assert_eq!(totals.table(), expected, "{armed}: table");
    }
}

#[test]
fn an_edited_query_is_refused_until_its_state_is_given_up() {
    let topic = topic("edited", 3, &numbered(0, RECORDS));
    let totals = Totals::over(&topic, TOTALS, "");
    totals.pipeline.run_to_end(&[], LIMIT).unwrap();
    totals.pipeline.edit("n % 10 <> 3 ", "n % 10 <> 3 AND n >= 0 ").unwrap();
    let refused = totals.pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
    for word in [
        "operator query-totals",
        "by text; count(Int64)",
        "--forget-state query-totals",
    ] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.log_tail());
    }
    assert_eq!(totals.last(), recounted(0..RECORDS));
    produce(&topic, &numbered(RECORDS, 2 * RECORDS)).unwrap();
    let order = ["--until-caught-up", "--forget-state", "query-totals"];
    let ended = totals.pipeline.start(&order, &[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let mut table = recounted(0..RECORDS);
    table.extend(recounted(RECORDS..2 * RECORDS));
    assert_eq!(totals.table(), table);
    // An order that stays in a start script is followed once.
    produce(&topic, &numbered(2 * RECORDS, 3 * RECORDS)).unwrap();
    let ended = totals.pipeline.start(&order, &[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    table.extend(recounted(RECORDS..3 * RECORDS));
    assert_eq!(totals.table(), table);
}

#[test]
fn a_query_that_left_the_file_is_refused_with_the_way_out() {
    let topic = topic("gone", 3, &numbered(0, 60));
    let totals = Totals::over(&topic, TOTALS, "");
    totals.pipeline.run_to_end(&[], LIMIT).unwrap();
    totals
        .pipeline
        .edit("scope = \"running\"", "scope = \"batch\"")
        .unwrap();
    let refused = totals.pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
    assert!(
        refused.stderr.contains("--forget-state query-totals"),
        "{}",
        refused.log_tail()
    );
    let order = ["--until-caught-up", "--forget-state", "query-totals"];
    let ended = totals.pipeline.start(&order, &[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
}

#[test]
fn what_a_checkpoint_keeps_of_a_query_is_shown() {
    let topic = topic("shown", 3, &numbered(0, RECORDS));
    let totals = Totals::over(&topic, TOTALS, "");
    totals.pipeline.run_to_end(&[], LIMIT).unwrap();
    let line = || {
        let shown = totals.pipeline.ask(&["checkpoint", "show"]).unwrap();
        assert_eq!(shown.code(), Some(0), "{}", shown.log_tail());
        let mut lines = shown.stdout.lines().filter(|line| line.starts_with("state "));
        let line = lines.next().unwrap().to_owned();
        assert_eq!(lines.next(), None, "{}", shown.stdout);
        line
    };
    let whole = line();
    assert!(whole.starts_with("state query-totals of batch 4, "), "{whole}");
    assert!(
        whole.contains(": kind running-aggregate, shape by text; count(Int64)"),
        "{whole}"
    );
    let name = whole.split_once(", ").unwrap().1.split_once(':').unwrap().0;
    let version = totals
        .pipeline
        .folder()
        .join("checkpoint/state/query-totals")
        .join(name);
    fs::remove_file(version).unwrap();
    assert!(line().contains("it is missing"), "{}", line());
}

#[test]
fn x32_there_is_no_going_back_where_state_is_kept() {
    let topic = topic("no-way-back", 3, &numbered(0, RECORDS));
    let totals = Totals::over(&topic, TOTALS, "");
    totals.pipeline.run_to_end(&[], LIMIT).unwrap();
    for order in [&["rewind", "--to", "2"][..], &["rewind", "--to", "2", "--yes"]] {
        let refused = totals.pipeline.ask(order).unwrap();
        assert_eq!(refused.code(), Some(2), "{order:?}: {}", refused.stdout);
        let log = refused.log_tail();
        assert!(log.contains("operator query-totals keeps state"), "{order:?}: {log}");
    }
}

#[test]
fn all_groups_are_given_in_every_batch_where_all_are_wanted() {
    let topic = topic("all", 3, &numbered(0, RECORDS));
    let totals = Totals::over(&topic, TOTALS, "emit = \"all\"");
    totals.pipeline.run_to_end(&[], LIMIT).unwrap();
    let mut batches: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for row in totals.rows() {
        let known = batches.entry(row["batch"].as_i64().unwrap()).or_default();
        assert!(known.insert(key(&row)), "twice in a batch: {row}");
        last.insert(key(&row), total(&row));
    }
    assert_eq!(batches.len(), 4);
    let sizes: Vec<usize> = batches.values().map(BTreeSet::len).collect();
    assert!(sizes[0] < sizes[3], "{sizes:?}");
    assert!(
        batches
            .values()
            .zip(batches.values().skip(1))
            .all(|(one, next)| one.is_subset(next))
    );
    assert_eq!(last, recounted(0..RECORDS));
    assert_eq!(totals.table(), recounted(0..RECORDS));
    let replayed = totals.pipeline.ask(&["replay", "--batch", "2"]).unwrap();
    assert_eq!(replayed.code(), Some(2), "{}", replayed.log_tail());
    assert!(
        replayed.stderr.contains("state of operator query-totals"),
        "{}",
        replayed.log_tail()
    );
}

#[test]
fn what_cannot_run_is_refused_by_check() {
    let topic = topic("refused", 1, &[]);
    for (query, said) in [
        (
            "SELECT k, count(DISTINCT n) AS c FROM events GROUP BY k",
            "count(DISTINCT …)",
        ),
        ("SELECT k, n FROM events", "must be a GROUP BY"),
        (
            "SELECT k, count(*) AS c FROM events GROUP BY k HAVING count(*) > 1",
            "mode = \"upsert\" takes a running query as it is",
        ),
    ] {
        let checked = Totals::over(&topic, query, "").pipeline.ask(&["check"]).unwrap();
        assert_eq!(checked.code(), Some(2), "{query}: {}", checked.log_tail());
        assert!(checked.stderr.contains(said), "{query}: {}", checked.log_tail());
    }
    let checked = Totals::over(&topic, TOTALS, "").pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
}
