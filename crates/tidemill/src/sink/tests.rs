//! What sinks hold after kills, by their manifests.

#![expect(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tidemill_connect::file::Manifest;
use tidemill_engine::error::Kind;

use crate::testing::{Harness, Input};
use crate::{Files, KafkaTopic, PostgresTable};

const SECOND: Duration = Duration::from_secs(1);

/// The manifests of a file sink by batch time, births left out.
fn manifests(folder: &Path) -> BTreeMap<i64, Manifest> {
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(folder.join("_tidemill")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !path.is_file() || stem.len() != 20 || !stem.bytes().all(|letter| letter.is_ascii_digit()) {
            continue;
        }
        let manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        if !manifest.ledger.birth {
            let before = manifests.insert(manifest.ledger.plan.batch_time_ms, manifest);
            assert!(before.is_none(), "two manifests of one batch time");
        }
    }
    manifests
}

/// The lines of JSON that the manifests name, by batch time, sorted.
fn lines(folder: &Path) -> BTreeMap<i64, Vec<String>> {
    let of = |manifest: Manifest| {
        let mut lines: Vec<String> = manifest
            .files
            .iter()
            .flat_map(|file| {
                let text = fs::read_to_string(folder.join(&file.path)).unwrap();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        lines.sort();
        assert_eq!(lines.len() as u64, manifest.ledger.rows);
        lines
    };
    manifests(folder)
        .into_iter()
        .map(|(time, manifest)| (time, of(manifest)))
        .collect()
}

fn numbered(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let line = |number| format!("{{\"number\":{number}}}");
    numbers.into_iter().map(line).collect()
}

#[test]
fn killed_between_all_batches_every_row_is_there_once() {
    let harness = Harness::new(SECOND);
    let input = Input::of((0..6).map(|batch| [batch * 2, batch * 2 + 1]));
    let folder = harness.folder().join("out");
    for _ in 0..6 {
        let run = harness
            .start(|context| {
                let numbers = input.stream(context).map(|number: i64| (number,));
                numbers.to_files(Files::new(&folder).columns("number BIGINT").json());
                Ok(())
            })
            .unwrap();
        run.batches(1).unwrap();
        run.kill();
    }
    let expected: BTreeMap<i64, Vec<String>> = (0..6)
        .map(|batch| ((batch + 1) * 1_000, numbered([batch * 2, batch * 2 + 1])))
        .collect();
    assert_eq!(lines(&folder), expected);
}

/// X16: the batch moves the positions, whatever the output has to say.
#[test]
fn between_two_slides_the_ledger_is_written_without_rows() {
    let harness = Harness::new(SECOND);
    let input = Input::of((1..=4).map(|number| [number]));
    let folder = harness.folder().join("out");
    let run = harness
        .start(|context| {
            let numbers = input.stream(context).map(|number: i64| (number,));
            let windows = numbers.window(2 * SECOND, 2 * SECOND);
            windows.to_files(Files::new(&folder).columns("number BIGINT").json());
            Ok(())
        })
        .unwrap();
    run.batches(4).unwrap();
    run.stop().unwrap();
    let none = Vec::new();
    assert_eq!(
        lines(&folder),
        BTreeMap::from([
            (1_000, none.clone()),
            (2_000, numbered([1, 2])),
            (3_000, none),
            (4_000, numbered([3, 4]))
        ])
    );
    let ends: Vec<i64> = manifests(&folder)
        .into_values()
        .map(|manifest| manifest.ledger.positions.iter().map(|position| position.offset).sum())
        .collect();
    assert_eq!(ends, [1, 2, 3, 4]);
}

#[test]
fn a_value_that_does_not_fit_stops_the_stream_naming_the_column() {
    let harness = Harness::new(SECOND);
    let input = Input::of([vec!["many"]]);
    let folder = harness.folder().join("out");
    let run = harness
        .start(|context| {
            let views = input.stream(context).map(|views| ("a", views));
            views.to_files(Files::new(&folder).columns("ad VARCHAR, views BIGINT"));
            Ok(())
        })
        .unwrap();
    let error = run.batches(1).unwrap_err();
    assert_eq!(error.kind(), Kind::UserCode);
    let text = error.chain();
    for word in ["batch 1", "output-000", "views", "many"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(manifests(&folder).is_empty());
}

#[test]
fn all_that_does_not_fit_together_is_told_at_once() {
    let harness = Harness::new(SECOND);
    let error = harness
        .start(|context| {
            let pairs = Input::of([[("a", 1)]]).stream(context);
            let columns = "ad VARCHAR, views BIGINT";
            pairs.clone().to_files(Files::new(""));
            pairs.clone().to_files(Files::new("out").columns("ad TEXTURE"));
            pairs
                .clone()
                .to_files(Files::new("out").columns(columns).partition_by(["day", "ad", "ad"]));
            pairs
                .clone()
                .to_postgres(PostgresTable::new("mysql://host", "t").columns(columns).upsert(["id"]));
            let topic = KafkaTopic::new("", "views")
                .columns(columns)
                .key("id")
                .raw()
                .property("acks", "1");
            pairs.to_kafka(topic);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.chain();
    for problem in [
        "output-000, to_files: the columns are missing",
        "path is empty",
        "output-001, to_files: column ad: TEXTURE",
        "output-002, to_files: partition_by: column day is not among the columns ad, views",
        "partition_by names column ad twice",
        "output-003, to_postgres: upsert: column id is not among",
        "url: expected postgres://",
        "output-004, to_kafka: key: column id is not among",
        "brokers: is empty",
        "raw needs a column named value",
        "property acks can't be set here",
    ] {
        assert!(text.contains(problem), "no {problem:?} in: {text}");
    }
}

/// X30, with the process killed in its tracks: each test starts this program twice, the second time to go on.
#[cfg(feature = "fault-injection")]
mod in_processes {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::testing::Run;
    use crate::testing::process::{self, given};

    const SIGKILL: i32 = 9;
    const FOLDER: &str = "TIDEMILL_TEST_FOLDER";
    const PASSED_MS: &str = "TIDEMILL_TEST_PASSED_MS";
    const BATCHES: &str = "TIDEMILL_TEST_BATCHES";

    /// One state, written by two sinks.
    fn start(harness: &Harness) -> Run<'_> {
        let sink = |name: &str| {
            Files::new(harness.folder().join(name))
                .columns("word VARCHAR, count BIGINT")
                .json()
        };
        let input = Input::of(vec![vec!["a"]; 20]);
        harness
            .start(|context| {
                let words = input.stream(context).map(|word| (word.to_owned(), 1i64));
                let counts = words.update_state_by_key(|values, old: Option<i64>| {
                    Some(values.iter().sum::<i64>() + old.unwrap_or(0))
                });
                counts.clone().to_files(sink("first"));
                counts.to_files(sink("second"));
                Ok(())
            })
            .unwrap()
    }

    #[test]
    #[ignore = "a program for the tests beside it, which start it in a process of its own"]
    fn program() {
        crate::arm_failpoints().unwrap();
        let harness = Harness::in_folder(SECOND, given(FOLDER).into());
        harness.pass(Duration::from_millis(given(PASSED_MS).parse().unwrap()));
        let run = start(&harness);
        run.batches(given(BATCHES).parse().unwrap()).unwrap();
        run.stop().unwrap();
    }

    fn run(folder: &Path, passed_ms: u64, batches: u32, failpoint: &str) -> ExitStatus {
        let variables = [
            (FOLDER, folder.display().to_string()),
            (PASSED_MS, passed_ms.to_string()),
            (BATCHES, batches.to_string()),
        ];
        process::run("sink::tests::in_processes::program", &variables, failpoint)
    }

    /// Killed in batch 2 at a point; then every batch is once in each sink, and each was counted once.
    fn survives(failpoint: &str, held: [usize; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let killed = run(folder.path(), 0, 4, failpoint);
        assert_eq!(killed.signal(), Some(SIGKILL), "{failpoint}");
        let sinks = ["first", "second"].map(|name| folder.path().join(name));
        let committed = sinks.each_ref().map(|sink| lines(sink).len());
        assert_eq!(committed, held, "batches in the sinks after {failpoint}");
        assert!(run(folder.path(), 2_000, 2, "").success());
        let count = |batch: i64| (batch * 1_000, vec![format!("{{\"word\":\"a\",\"count\":{batch}}}")]);
        let expected: BTreeMap<i64, Vec<String>> = (1..=4).map(count).collect();
        for sink in &sinks {
            assert_eq!(lines(sink), expected, "{} after {failpoint}", sink.display());
        }
    }

    #[test]
    fn x30_after_the_first_of_two_sinks_the_state_is_not_applied_again() {
        survives("sink.after-commit=kill@3", [2, 1]);
    }

    #[test]
    fn x30_a_state_that_no_sink_has_decided_is_thrown_away() {
        survives("state.before-stage=kill@2", [1, 1]);
        survives("state.after-stage=kill@2", [1, 1]);
        survives("sink.before-commit=kill@3", [1, 1]);
    }

    #[test]
    fn x30_what_all_sinks_hold_is_gone_on_from() {
        survives("sink.after-commit=kill@4", [2, 2]);
    }
}
