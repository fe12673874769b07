//! Sinks and checkpoint that no longer fit: each is refused, its message names the way out, and the way out is exact.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::oracle::{self, Row};
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::target::{Kind, Target};

use crate::sheet::{head, sink, source};

/// Offsets of each partition in a batch: the small topic takes at least four batches.
const PER_BATCH: u64 = 200;

fn run(pipeline: &Pipeline, orders: &[&str], failpoints: &str) -> Finished {
    let mut args = vec!["--until-caught-up"];
    args.extend_from_slice(orders);
    pipeline
        .start(&args, &[("TIDEMILL_FAILPOINTS", failpoints)])
        .and_then(|run| run.wait(LIMIT))
        .unwrap()
}

fn check(pipeline: &Pipeline, orders: &[&str]) -> Finished {
    let mut args = vec!["check"];
    args.extend_from_slice(orders);
    pipeline.ask(&args).unwrap()
}

fn edit(pipeline: &Pipeline, from: &str, to: &str) {
    let text = fs::read_to_string(pipeline.file()).unwrap();
    assert!(text.contains(from), "{from} is not in:\n{text}");
    fs::write(pipeline.file(), text.replace(from, to)).unwrap();
}

/// A run without the order, and a check, refuse with `code` and name `way_out`; with the order the check finds nothing wrong.
fn refused(pipeline: &Pipeline, code: i32, way_out: &str, orders: &[&str]) {
    let ended = run(pipeline, &[], "");
    assert_eq!(ended.code(), Some(code), "{}", ended.log_tail());
    assert!(ended.stderr.contains(way_out), "{way_out}: {}", ended.log_tail());
    let told = check(pipeline, &[]);
    assert_eq!(told.code(), Some(code), "{}", told.log_tail());
    assert!(told.stderr.contains(way_out), "{way_out}: {}", told.log_tail());
    let fine = check(pipeline, orders);
    assert_eq!(fine.code(), Some(0), "{}", fine.log_tail());
}

/// Runs with the orders, killed at `point`, then again until it ends; the orders are left out once they are carried out.
fn through_a_kill(pipeline: &Pipeline, orders: &[&str], point: &str) {
    let killed = run(pipeline, orders, &format!("{point}=kill@1"));
    assert!(killed.was_killed(), "{point} did not fire: {}", killed.log_tail());
    let again = run(pipeline, orders, "");
    if again.code() != Some(0) {
        assert!(again.stderr.contains("does not apply"), "{point}: {}", again.log_tail());
        pipeline.run_to_end(&[], LIMIT).unwrap();
    }
}

/// Ends a run after its second batch, which is settled.
fn drained(pipeline: &Pipeline) {
    let armed = [("TIDEMILL_FAILPOINTS", "sink.before-commit=stop@2")];
    let mut run = pipeline.start_to_end(&armed).unwrap();
    assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
    run.signal(Signal::TERM);
    run.signal(Signal::CONT);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
}

/// How often each record stands in the rows.
fn times(rows: &[Value]) -> BTreeMap<(i64, i64), usize> {
    let mut times = BTreeMap::new();
    for row in rows {
        let of = |name: &str| row[name].as_i64().unwrap();
        *times.entry((of("part"), of("seq"))).or_default() += 1;
    }
    times
}

fn adopts(kind: Kind) {
    for point in [
        "",
        "sink.after-fence",
        "plan.after-log",
        "sink.before-birth",
        "sink.after-birth",
        "sink.after-commit",
    ] {
        let case = Case::new(kind, Input::small(), PER_BATCH).unwrap();
        case.finish().unwrap();
        fs::remove_dir_all(case.pipeline.folder().join("checkpoint")).unwrap();
        refused(&case.pipeline, 2, "--adopt out", &["--adopt", "out"]);
        let told = check(&case.pipeline, &["--adopt", "out"]);
        let behind = "left behind: batch ";
        assert!(
            told.stdout.contains(behind) && told.stdout.contains(&format!("{}/0 ", Input::small().topic)),
            "{}",
            told.stdout
        );
        if point.is_empty() {
            let ended = run(&case.pipeline, &["--adopt", "out"], "");
            assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
        } else {
            through_a_kill(&case.pipeline, &["--adopt", "out"], point);
        }
        // The other application's rows stay, and this one, which begins at the earliest offsets, has written each once.
        let rows = case.target.rows(case.pipeline.folder()).unwrap();
        let times = times(&rows);
        assert_eq!(times.len(), 1500, "{point}");
        assert!(times.values().all(|times| *times == 2), "{point}: {times:?}");
        case.pipeline.run_to_end(&[], LIMIT).unwrap();
        assert_eq!(
            case.target.rows(case.pipeline.folder()).unwrap().len(),
            rows.len(),
            "{point}"
        );
        let unasked = run(&case.pipeline, &["--adopt", "out"], "");
        assert_eq!(unasked.code(), Some(2), "{}", unasked.log_tail());
        assert!(
            unasked.stderr.contains("--adopt out does not apply"),
            "{}",
            unasked.log_tail()
        );
    }
}

#[test]
fn x08_a_folder_is_taken_over_and_written_once() {
    adopts(Kind::File);
}

#[test]
fn x08_a_table_is_taken_over_and_written_once() {
    adopts(Kind::Postgres);
}

#[test]
fn x08_a_topic_is_taken_over_and_written_once() {
    adopts(Kind::Kafka);
}

/// The last batch is not in the sink, or is in it without a commit record, or is settled; the name changes; SIGKILL at every
/// step of the change.
fn renames(kind: Kind) {
    let before = [
        "sink.before-commit=kill@3",
        "sink.after-commit=kill@3",
        "commit-log.after=kill@3",
    ];
    let between = [
        "epoch.after-claim",
        "sink.after-fence",
        "sink.before-birth",
        "sink.after-birth",
        "plan.before-log",
        "plan.after-log",
        "sink.before-commit",
        "sink.after-commit",
        "commit-log.after",
    ];
    for (at, point) in between.iter().enumerate() {
        let case = Case::new(kind, Input::small(), PER_BATCH).unwrap();
        let first = before[at % before.len()];
        assert!(run(&case.pipeline, &[], first).was_killed(), "{first}");
        edit(&case.pipeline, "[sinks.out]", "[sinks.renamed]");
        let order = ["--rename-sink", "out=renamed"];
        if first == before[0] {
            refused(&case.pipeline, 2, "--rename-sink out=NEW", &order);
        }
        through_a_kill(&case.pipeline, &order, point);
        let verdict = case.judge().unwrap();
        assert!(verdict.is_clean(), "{first}, then {point}: {verdict}");
        let history = case.pipeline.ask(&["checkpoint", "show"]).unwrap();
        assert!(history.stdout.contains("sink renamed "), "{}", history.stdout);
        let unasked = run(&case.pipeline, &order, "");
        assert_eq!(unasked.code(), Some(2), "{}", unasked.log_tail());
        assert!(unasked.stderr.contains("does not apply"), "{}", unasked.log_tail());
        eprintln!("{}: {first}, then {point}: clean", kind.name());
    }
}

#[test]
fn x09_a_renamed_folder_keeps_its_place() {
    renames(Kind::File);
}

#[test]
fn x09_a_renamed_table_keeps_its_place() {
    renames(Kind::Postgres);
}

#[test]
fn x09_a_renamed_topic_keeps_its_place() {
    renames(Kind::Kafka);
}

#[test]
fn x09_a_rename_that_the_file_does_not_show_is_refused() {
    let case = Case::new(Kind::File, Input::small(), PER_BATCH).unwrap();
    for (order, says) in [
        ("out=other", "still has a sink out"),
        ("was=other", "has no sink other"),
        ("was", "wanted OLD=NEW"),
    ] {
        let ended = run(&case.pipeline, &["--rename-sink", order], "");
        assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
        assert!(ended.stderr.contains(says), "{}", ended.log_tail());
    }
}

/// A sink leaves the file while the last batch lacks in it: it is given up there, and the other one stays exact.
#[test]
fn x09_a_sink_that_left_the_file_unsettled_is_given_up_on_order() {
    for kind in Kind::ALL {
        let targets =
            [Kind::File, kind].map(|kind| Target::create(kind, "seq BIGINT, part INT, aborted BOOLEAN").unwrap());
        let rate = format!("max_rate_per_partition = {}", PER_BATCH * 10);
        let topic = &Input::small().topic;
        let mut text = head("dropped") + &source("events", topic, "seq BIGINT, part INT, aborted BOOLEAN", &rate);
        text += &sink("kept", "SELECT seq, part, aborted FROM events", &targets[0]);
        let left = sink(
            "left",
            "SELECT seq, part, aborted FROM events WHERE seq >= 0",
            &targets[1],
        );
        // Two folders must not be one.
        let left = left.replace("path = \"out\"", "path = \"left\"");
        text += &left;
        let pipeline = Pipeline::write(&text).unwrap();
        // Two births, a batch of two, and neither has the next.
        assert!(run(&pipeline, &[], "sink.before-commit=kill@3").was_killed());
        edit(&pipeline, &left, "");
        refused(&pipeline, 2, "--drop-sink left", &["--drop-sink", "left"]);
        through_a_kill(&pipeline, &["--drop-sink", "left"], "sink.before-commit");
        let rows = targets[0].rows(pipeline.folder()).unwrap();
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
        oracle::judge(&Input::small().truth, &rows).assert_clean(kind.name());
        let unasked = run(&pipeline, &["--drop-sink", "left"], "");
        assert_eq!(unasked.code(), Some(2), "{}", unasked.log_tail());
    }
}

/// A sink points elsewhere: what was before stays in the old place, what comes goes to the new one, nothing to both.
#[test]
fn x09_a_sink_that_points_elsewhere_begins_there_after_the_last_batch() {
    for kind in Kind::ALL {
        let case = Case::new(kind, Input::small(), PER_BATCH).unwrap();
        drained(&case.pipeline);
        let other = match kind {
            Kind::File => None,
            _ => Some(Target::create(kind, "seq BIGINT, part INT, aborted BOOLEAN, batch BIGINT").unwrap()),
        };
        let place = other.as_ref().map_or("elsewhere", Target::place);
        edit(
            &case.pipeline,
            &format!("= \"{}\"", case.target.place()),
            &format!("= \"{place}\""),
        );
        refused(&case.pipeline, 2, "--new-target out", &["--new-target", "out"]);
        through_a_kill(&case.pipeline, &["--new-target", "out"], "sink.before-commit");
        let mut rows = case.target.rows(case.pipeline.folder()).unwrap();
        let before = rows.len();
        assert!(before > 0, "{}", kind.name());
        let after = match other {
            Some(other) => other.rows(case.pipeline.folder()).unwrap(),
            None => {
                edit(&case.pipeline, "elsewhere", "out");
                let elsewhere = case.pipeline.folder().join("elsewhere");
                let old = case.pipeline.folder().join("out");
                fs::rename(&old, case.pipeline.folder().join("old")).unwrap();
                fs::rename(&elsewhere, &old).unwrap();
                case.target.rows(case.pipeline.folder()).unwrap()
            }
        };
        assert!(!after.is_empty(), "{}", kind.name());
        rows.extend(after);
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
        oracle::judge(&Input::small().truth, &rows).assert_clean(kind.name());
    }
}

/// A query that is edited between restarts goes on right after a settled batch, and is refused before.
#[test]
fn x09_an_edited_query_waits_for_the_last_batch() {
    let case = Case::new(Kind::Postgres, Input::small(), PER_BATCH).unwrap();
    assert!(run(&case.pipeline, &[], "sink.before-commit=kill@3").was_killed());
    edit(
        &case.pipeline,
        "AS batch FROM events",
        "AS batch FROM events WHERE seq >= 0",
    );
    for ended in [run(&case.pipeline, &[], ""), check(&case.pipeline, &[])] {
        assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
        assert!(
            ended.stderr.contains("the queries were changed while batch "),
            "{}",
            ended.log_tail()
        );
    }
    edit(
        &case.pipeline,
        "AS batch FROM events WHERE seq >= 0",
        "AS batch FROM events",
    );
    assert!(run(&case.pipeline, &[], "commit-log.after=kill@1").was_killed());
    edit(
        &case.pipeline,
        "AS batch FROM events",
        "AS batch FROM events WHERE seq >= 0",
    );
    case.finish().unwrap();
}
