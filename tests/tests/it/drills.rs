//! What `docs/operations.md` says of copies that are restored.

use std::path::Path;

use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::target::Target;

use crate::sheet::{files, head, rows, sink, source, topic};

fn numbered(range: std::ops::Range<i64>) -> Vec<Record> {
    range.map(|n| Record::of(0, format!("{{\"n\":{n}}}"))).collect()
}

fn expected(range: std::ops::Range<i64>) -> Vec<Value> {
    let mut rows: Vec<Value> = range.map(|n| json!({"n": n})).collect();
    rows.sort_by_key(Value::to_string);
    rows
}

/// A pipeline that has copied ten numbers.
fn copied() -> (String, Pipeline, Target) {
    let (topic, target) = (topic("drill", 1, &numbered(0..10)), files());
    let text =
        head("drill") + &source("events", &topic, "n BIGINT", "") + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    (topic, pipeline, target)
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_restored_from_an_older_copy_goes_on_after_the_sink() {
    let (topic, pipeline, target) = copied();
    let checkpoint = pipeline.folder().join("checkpoint");
    let backup = tempfile::tempdir().unwrap();
    let kept = backup.path().join("checkpoint");
    copy(&checkpoint, &kept);
    for end in [15, 20] {
        produce(&topic, &numbered(end - 5..end)).unwrap();
        pipeline.run_to_end(&[], LIMIT).unwrap();
    }
    copy(&kept, &checkpoint);
    produce(&topic, &numbered(20..25)).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(rows(&pipeline, &target), expected(0..25));
}

#[test]
fn x10_a_sink_restored_from_an_older_copy_stops_the_pipeline() {
    let (topic, pipeline, _target) = copied();
    let out = pipeline.folder().join("out");
    let backup = tempfile::tempdir().unwrap();
    let kept = backup.path().join("out");
    copy(&out, &kept);
    produce(&topic, &numbered(10..15)).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    copy(&kept, &out);
    let ended = pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(4), "{}", ended.log_tail());
    assert!(
        ended
            .stderr
            .contains("sink out stands at batch 1, but the checkpoint saw batch 2"),
        "{}",
        ended.log_tail()
    );
}
