//! Sinks that refuse for good: the stream stops and says what the server said, and no password.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::records::Record;
use tidemill_tests::target::{Kind, with_database};
use tidemill_tests::{java, servers};

use crate::sheet::{files, head, numbers, sink, source, topic};

/// The batch, its ranges and the server's words stand in the last line of the log.
fn stops_with(ended: &Finished, named: &[&str]) {
    assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
    let error = ended.stderr.lines().last().unwrap();
    assert!(error.starts_with("error: batch "), "{error}");
    for name in named {
        assert!(error.contains(name), "{name} is not in: {error}");
    }
}

fn alter(table: &str, change: &str) {
    let statement = format!("ALTER TABLE {table} {change}");
    with_database(async |database| Ok(database.batch_execute(&statement).await?)).unwrap();
}

#[test]
fn a_violated_constraint_stops_the_stream_with_the_servers_words() {
    let case = Case::new(Kind::Postgres, Input::small(), 200).unwrap();
    alter(case.target.place(), "ADD CONSTRAINT small CHECK (seq < 250)");
    let ended = case.pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
    stops_with(
        &ended,
        &[
            "for sink out, ranges ",
            &format!("{}/0 [", Input::small().topic),
            "violates check constraint \"small\"",
            "SQLSTATE 23514",
        ],
    );
    assert!(
        ended.stderr.lines().last().unwrap().contains("batch 2 "),
        "{}",
        ended.log_tail()
    );
    let between = case.judge_prefix().unwrap();
    between.assert_clean("nothing of the refused batch is visible");
    // The person mends the table, and the stream goes on where it stood.
    alter(case.target.place(), "DROP CONSTRAINT small");
    case.finish().unwrap();
}

/// A column that changes its type between two batches would take other values than were sent, where both types have the
/// same width.
#[test]
fn a_column_type_that_changes_under_a_run_stops_the_stream() {
    for other in ["integer", "text", "double precision", "timestamp"] {
        let case = Case::new(Kind::Postgres, Input::small(), 200).unwrap();
        let armed = [("TIDEMILL_FAILPOINTS", "sink.before-begin=stop@2")];
        let mut run = case.pipeline.start_to_end(&armed).unwrap();
        assert!(
            run.wait_frozen(LIMIT).unwrap(),
            "{other}: did not freeze: {}",
            run.log()
        );
        let using = if other == "timestamp" {
            "USING to_timestamp(seq)"
        } else {
            ""
        };
        alter(case.target.place(), &format!("ALTER COLUMN seq TYPE {other} {using}"));
        run.signal(Signal::CONT);
        let ended = run.wait(LIMIT).unwrap();
        stops_with(&ended, &["batch 2 for sink out, ranges ", "seq"]);
        let count = format!("SELECT count(*) FROM {}", case.target.place());
        let rows: i64 = with_database(async |database| Ok(database.query_one(&count, &[]).await?.get(0))).unwrap();
        let history = case.pipeline.ask(&["checkpoint", "history"]).unwrap().stdout;
        assert!(
            history.contains(&format!("out {rows} rows")),
            "{other}: {rows} rows\n{history}"
        );
        // At the next start it is found before anything is read.
        let again = case.pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
        assert_eq!(again.code(), Some(1), "{other}: {}", again.log_tail());
        assert!(again.stderr.contains("seq"), "{}", again.log_tail());
    }
}

#[test]
fn a_record_that_a_topic_is_too_small_for_stops_the_stream() {
    let out = servers::unique("small");
    java::create_topic(&out, 1, &["max.message.bytes=10000"]).unwrap();
    let long = format!("{{\"n\":1,\"word\":\"{}\"}}", "x".repeat(20_000));
    let topic = topic(
        "long",
        1,
        &[Record::of(0, r#"{"n":0,"word":"x"}"#), Record::of(0, long)],
    );
    let text = head("small")
        + &source("events", &topic, "n BIGINT, word VARCHAR", "")
        + &format!(
            "[sinks.out]\nfrom = \"events\"\nkind = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{out}\"\nformat = \"json\"\n",
            servers::kafka()
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
    stops_with(&ended, &["batch 1 for sink out, ranges ", &format!("{topic}/0 [0, 2)")]);
    assert!(java::dump(&out).unwrap().is_empty());
}

#[test]
fn an_empty_division_in_a_query_stops_the_stream() {
    let topic = topic(
        "division",
        1,
        &[Record::of(0, r#"{"n":1}"#), Record::of(0, r#"{"n":0}"#)],
    );
    let target = files();
    let text = head("division")
        + &source("events", &topic, "n BIGINT", "max_rate_per_partition = 10")
        + &sink("out", "SELECT 10 / n AS tenth FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let ended = pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
    stops_with(
        &ended,
        &[
            &format!("batch 2 for sink out, ranges {topic}/0 [1, 2)"),
            "Divide by zero",
        ],
    );
    assert_eq!(numbers(&target.rows(pipeline.folder()).unwrap(), "tenth"), [10]);
}

/// All that a run and the commands print, and all files of checkpoint and sinks, as one text.
fn everything(pipeline: &Pipeline, runs: &[&Finished]) -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else {
                all.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap()));
            }
        }
    }
    let mut all = String::new();
    for run in runs {
        all.push_str(&run.stdout);
        all.push_str(&run.stderr);
    }
    let asked: [&[&str]; 5] = [
        &["check"],
        &["offsets"],
        &["checkpoint", "show"],
        &["checkpoint", "history"],
        &["checkpoint", "verify"],
    ];
    for args in asked {
        let answer = pipeline.ask(args).unwrap();
        all.push_str(&answer.stdout);
        all.push_str(&answer.stderr);
    }
    read(pipeline.folder(), &mut all);
    all
}

#[test]
fn a_password_is_printed_and_stored_nowhere() {
    let url = servers::postgres();
    let password = url.split(['/', ':', '@']).nth(4).expect("a password in the URL");
    assert!(
        password.len() > 8 && url.contains(&format!(":{password}@")),
        "another form of URL"
    );
    let case = Case::new(Kind::Postgres, Input::small(), 200).unwrap();
    alter(case.target.place(), "ADD CONSTRAINT small CHECK (seq < 250)");
    let refused = case.pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
    assert_eq!(refused.code(), Some(1));
    let wrong = url.replace(password, &format!("{password}-wrong"));
    let rejected = case
        .pipeline
        .start_to_end(&[("DATABASE_URL", &wrong)])
        .and_then(|run| run.wait(LIMIT))
        .unwrap();
    assert_eq!(rejected.code(), Some(1), "{}", rejected.log_tail());
    let ended = everything(&case.pipeline, &[&refused, &rejected]);
    assert!(ended.contains(case.target.place()), "the table is named");
    assert!(!ended.contains(password), "the password is in:\n{ended}");

    // What the program keeps in the database.
    let of_this = "SELECT string_agg(t::text, ' ') FROM (SELECT row_to_json(l) AS t, app FROM tidemill_ledger l UNION ALL \
                   SELECT row_to_json(f), app FROM tidemill_fence f) x WHERE app = $1";
    let kept: String =
        with_database(async |database| Ok(database.query_one(of_this, &[&case.app]).await?.get(0))).unwrap();
    assert!(kept.contains(&case.app) && !kept.contains(password));
}
