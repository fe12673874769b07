//! Going back: what comes again comes once more, and once only.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;
use tidemill_tests::target::{Kind, Target};

use crate::sheet::{cut, files, head, rows_by, sink, source, topic};

const PER_BATCH: u64 = 200;

fn rows(case: &Case<'_>) -> Vec<Value> {
    case.target.rows(case.pipeline.folder()).unwrap()
}

/// The batches that each record came in, in order.
fn batches(rows: &[Value]) -> BTreeMap<(i64, i64), Vec<i64>> {
    let mut batches: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let of = |name: &str| row[name].as_i64().unwrap();
        batches.entry((of("part"), of("seq"))).or_default().push(of("batch"));
    }
    batches.values_mut().for_each(|batches| batches.sort_unstable());
    batches
}

/// The rows of batch 3 and later twice, under ids that were never used, the others once.
fn is_rewound_to_3(before: &[Value], after: &[Value], last: i64, context: &str) {
    let (before, after) = (batches(before), batches(after));
    assert_eq!(before.len(), after.len(), "{context}");
    assert!(before.values().any(|first| first[0] >= 3) && before.values().any(|first| first[0] < 3));
    for (record, first) in before {
        let now = &after[&record];
        assert_eq!(now[0], first[0], "{context}: {record:?}");
        assert_eq!(
            now.len(),
            if first[0] >= 3 { 2 } else { 1 },
            "{context}: {record:?} in {now:?}"
        );
        assert!(now.len() == 1 || now[1] > last, "{context}: {record:?} in {now:?}");
    }
}

/// Where the command is killed: what the driver passes, and what a sink passes.
const OF_THE_DRIVER: [&str; 5] = [
    "epoch.after-claim",
    "plan.before-log",
    "plan.after-log",
    "commit-log.before",
    "commit-log.after",
];
const OF_A_SINK: [&str; 3] = ["sink.after-fence", "sink.before-birth", "sink.after-birth"];

fn rewinds(kind: Kind, points: impl IntoIterator<Item = &'static str>) {
    for point in [""].into_iter().chain(points) {
        let case = Case::new(kind, Input::small(), PER_BATCH).unwrap();
        case.finish().unwrap();
        let before = rows(&case);
        let last = before.iter().filter_map(|row| row["batch"].as_i64()).max().unwrap();
        let told = case.pipeline.ask(&["rewind", "--to", "3"]).unwrap();
        assert_eq!(told.code(), Some(0), "{}", told.log_tail());
        let coming = before.iter().filter(|row| row["batch"].as_i64() >= Some(3)).count();
        for says in [
            "nothing was changed",
            "a second time",
            &format!("its {coming} rows of batches 3 to {last} "),
        ] {
            assert!(told.stdout.contains(says), "{says}: {}", told.stdout);
        }
        case.pipeline.run_to_end(&[], LIMIT).unwrap();
        assert_eq!(rows(&case).len(), before.len(), "only told");
        let armed = format!("{point}=kill@1");
        let env = [("TIDEMILL_FAILPOINTS", if point.is_empty() { "" } else { &armed })];
        let ended = case.pipeline.ask_with(&["rewind", "--to", "3", "--yes"], &env).unwrap();
        let logged = case.pipeline.ask(&["checkpoint", "history"]).unwrap().stdout;
        let is_logged = logged.contains("rewound to the positions before batch 3");
        if point.is_empty() {
            assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
        } else {
            assert!(ended.was_killed(), "{point}: {}", ended.log_tail());
        }
        if !is_logged {
            let again = case.pipeline.ask(&["rewind", "--to", "3", "--yes"]).unwrap();
            assert_eq!(again.code(), Some(0), "{point}: {}", again.log_tail());
        }
        case.pipeline.run_to_end(&[], LIMIT).unwrap();
        is_rewound_to_3(&before, &rows(&case), last, &format!("{}, {point}", kind.name()));
        let verified = case.pipeline.ask(&["checkpoint", "verify"]).unwrap();
        assert_eq!(verified.code(), Some(0), "{}", verified.log_tail());
    }
}

#[test]
fn x32_a_rewound_folder_gets_the_rows_once_more() {
    rewinds(Kind::File, OF_THE_DRIVER.into_iter().chain(OF_A_SINK));
}

#[test]
fn x32_a_rewound_table_gets_the_rows_once_more() {
    rewinds(Kind::Postgres, OF_A_SINK);
}

#[test]
fn x32_a_rewound_topic_gets_the_rows_once_more() {
    rewinds(Kind::Kafka, OF_A_SINK);
}

/// A run that is frozen in mid-batch meanwhile commits nothing more.
#[test]
fn x32_a_rewind_fences_what_runs() {
    let case = Case::new(Kind::Postgres, Input::small(), PER_BATCH).unwrap();
    case.finish().unwrap();
    let before = rows(&case);
    let mut running = case.pipeline.start(&[], &[]).unwrap();
    assert!(
        running
            .wait_for_log("going on after the last settled batch", LIMIT)
            .unwrap()
    );
    let ended = case.pipeline.ask(&["rewind", "--to", "3", "--yes"]).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert_eq!(
        running
            .is_running()
            .map(drop)
            .and_then(|()| running.wait(LIMIT))
            .unwrap()
            .code(),
        Some(3)
    );
    case.pipeline.run_to_end(&[], LIMIT).unwrap();
    let last = before.iter().filter_map(|row| row["batch"].as_i64()).max().unwrap();
    is_rewound_to_3(&before, &rows(&case), last, "after a fence");
}

#[test]
fn x32_what_can_not_be_gone_back_to_is_refused() {
    let case = Case::new(Kind::File, Input::small(), PER_BATCH).unwrap();
    let rewind = |to: &str| case.pipeline.ask(&["rewind", "--to", to, "--yes"]).unwrap();
    let refused = |to: &str, says: &str| {
        let ended = rewind(to);
        assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
        assert!(ended.stderr.contains(says), "{says}: {}", ended.log_tail());
    };
    refused("1", "nothing was ever run");
    let killed = case
        .pipeline
        .start_to_end(&[("TIDEMILL_FAILPOINTS", "sink.before-commit=kill@2")])
        .and_then(|run| run.wait(LIMIT))
        .unwrap();
    assert!(killed.was_killed());
    refused("1", "batch 2 is not settled");
    case.finish().unwrap();
    refused("99", "batch 99 was never planned");
    let plan = case
        .pipeline
        .folder()
        .join("checkpoint/plans/00000000000000000001.json");
    std::fs::remove_file(plan).unwrap();
    refused("1", "the plan of batch 1 is not kept");
    case.finish().unwrap();
}

#[test]
fn x32_offsets_that_retention_took_are_named() {
    let numbers: Vec<Record> = (0..10).map(|n| Record::of(0, format!("{{\"n\":{n}}}"))).collect();
    let (topic, target) = (topic("gone", 1, &numbers), files());
    let text = head("gone")
        + &source("events", &topic, "n BIGINT", "max_rate_per_partition = 20")
        + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    cut(&topic, 0, 5);
    let ended = pipeline.ask(&["rewind", "--to", "1", "--yes"]).unwrap();
    assert_eq!(ended.code(), Some(4), "{}", ended.log_tail());
    assert!(
        ended.stderr.contains(&format!("{topic}/0 begins at offset 5 now")),
        "{}",
        ended.log_tail()
    );
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows_by("n", &pipeline, &target).len(), 10);
}

/// Rows with a key take the place of those that are there.
#[test]
fn x32_an_upserted_table_stands_as_it_did() {
    let target = Target::create(
        Kind::Postgres,
        "seq BIGINT, part INT, aborted BOOLEAN, PRIMARY KEY (part, seq)",
    )
    .unwrap();
    let text = head("rewound")
        + &source(
            "events",
            &Input::small().topic,
            "seq BIGINT, part INT, aborted BOOLEAN",
            "max_rate_per_partition = 2000",
        )
        + &sink("out", "SELECT seq, part, aborted FROM events", &target)
            .replace("\"append\"", "\"upsert\"\nkey = [\"part\", \"seq\"]");
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let done = pipeline.ask(&["rewind", "--to", "1", "--yes"]).unwrap();
    assert_eq!(done.code(), Some(0), "{}", done.log_tail());
    assert!(
        done.stdout.contains("are overwritten where their keys come again"),
        "{}",
        done.stdout
    );
    let again = pipeline.run_to_end(&[], LIMIT).unwrap();
    assert!(again.stderr.contains("records=1500"), "{}", again.log_tail());
    assert_eq!(target.rows(pipeline.folder()).unwrap().len(), 1500);
}
