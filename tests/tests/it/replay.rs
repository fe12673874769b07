//! One past batch again, for looking.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tidemill_tests::case::{Case, Input};
use tidemill_tests::target::Kind;

fn everything(folder: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            everything(&path, all);
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

#[test]
fn x11_a_replayed_batch_gives_its_rows_and_touches_nothing() {
    let case = Case::new(Kind::File, Input::small(), 200).unwrap();
    case.finish().unwrap();
    let of_batch = |row: &&serde_json::Value| row["batch"].as_i64() == Some(2);
    let rows = case.target.rows(case.pipeline.folder()).unwrap();
    let expected = rows.iter().filter(of_batch).count();
    assert!(expected > 0);
    let mut before = BTreeMap::new();
    everything(case.pipeline.folder(), &mut before);
    let shown = case.pipeline.ask(&["replay", "--batch", "2"]).unwrap();
    assert_eq!(shown.code(), Some(0), "{}", shown.log_tail());
    assert!(
        shown.stdout.contains(&format!("batch 2: {expected} rows")),
        "{}",
        shown.stdout
    );
    for row in rows.iter().filter(of_batch) {
        let seq = format!("| {} ", row["seq"]);
        assert!(shown.stdout.contains(&seq), "{seq}: {}", shown.stdout);
    }
    assert!(!shown.stderr.contains("warning"), "{}", shown.stderr);
    let mut after = BTreeMap::new();
    everything(case.pipeline.folder(), &mut after);
    assert!(before == after, "a file was touched");
    let missing = case.pipeline.ask(&["replay", "--batch", "99"]).unwrap();
    assert_eq!(missing.code(), Some(2), "{}", missing.log_tail());
    assert!(
        missing.stderr.contains("the plan of batch 99 is not kept"),
        "{}",
        missing.log_tail()
    );
    let text = fs::read_to_string(case.pipeline.file()).unwrap();
    fs::write(
        case.pipeline.file(),
        text.replace("FROM events\"", "FROM events WHERE seq < 0\""),
    )
    .unwrap();
    let other = case.pipeline.ask(&["replay", "--batch", "2"]).unwrap();
    assert_eq!(other.code(), Some(0), "{}", other.log_tail());
    assert!(
        other
            .stderr
            .contains("its query or a reference table has changed since"),
        "{}",
        other.stderr
    );
    assert!(other.stdout.contains("batch 2: 0 rows"), "{}", other.stdout);
}
