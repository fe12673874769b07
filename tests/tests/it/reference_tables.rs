//! Tables that are read at the start and joined with what streams by.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::target::Target;

use crate::sheet::{files, head, rows_by, sink, source, topic};

fn events(range: std::ops::Range<i64>) -> Vec<Record> {
    range
        .map(|n| Record::of(0, format!("{{\"n\":{n},\"ad\":\"ad{}\"}}", n % 4)))
        .collect()
}

const CAMPAIGNS: &str = "ad,campaign\nad0,red\nad1,green\nad2,blue\n";

fn pipeline(topic: &str, target: &Target) -> Pipeline {
    let text = head("reference")
        + &source(
            "events",
            topic,
            "n BIGINT, ad VARCHAR",
            "max_rate_per_partition = 100\n",
        )
        + "[tables.campaigns]\npath = \"campaigns.csv\"\nformat = \"csv\"\n"
        + &sink(
            "out",
            "SELECT n, campaign FROM events JOIN campaigns ON events.ad = campaigns.ad",
            target,
        );
    let pipeline = Pipeline::write(&text).unwrap();
    write(&pipeline, CAMPAIGNS);
    pipeline
}

fn write(pipeline: &Pipeline, campaigns: &str) {
    std::fs::write(pipeline.folder().join("campaigns.csv"), campaigns).unwrap();
}

/// The campaign of each number, as its row says.
fn seen(pipeline: &Pipeline, target: &Target) -> BTreeMap<i64, String> {
    let rows = rows_by("n", pipeline, target);
    let all = rows.len();
    let pair = |row: &Value| (row["n"].as_i64().unwrap(), row["campaign"].as_str().unwrap().to_owned());
    let seen: BTreeMap<i64, String> = rows.iter().map(pair).collect();
    assert_eq!(seen.len(), all, "none twice");
    seen
}

fn expected(range: std::ops::Range<i64>, names: [&str; 3]) -> BTreeMap<i64, String> {
    range
        .filter(|n| n % 4 < 3)
        .map(|n| (n, names[usize::try_from(n % 4).unwrap()].to_owned()))
        .collect()
}

#[test]
fn x12_a_table_is_joined_and_its_change_waits_for_the_batch_that_is_not_settled() {
    let topic = topic("reference", 1, &events(0..30));
    let target = files();
    let pipeline = pipeline(&topic, &target);
    let armed = [("TIDEMILL_FAILPOINTS", "sink.before-commit=kill@2")];
    let killed = pipeline.start_to_end(&armed).and_then(|run| run.wait(LIMIT)).unwrap();
    assert!(killed.was_killed(), "{}", killed.log_tail());

    write(&pipeline, &CAMPAIGNS.replace("green", "yellow"));
    for args in [&["check"][..], &["run", "--until-caught-up"]] {
        let refused = pipeline.ask(args).unwrap();
        assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
        let said = "the reference table campaigns was changed while batch 2 is not settled";
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    write(&pipeline, CAMPAIGNS);
    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert_eq!(seen(&pipeline, &target), expected(0..30, ["red", "green", "blue"]));

    // A settled pipeline takes the change up.
    write(&pipeline, &CAMPAIGNS.replace("green", "yellow"));
    produce(&topic, &events(30..50)).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let mut all = expected(0..30, ["red", "green", "blue"]);
    all.extend(expected(30..50, ["red", "yellow", "blue"]));
    assert_eq!(seen(&pipeline, &target), all);
}

#[test]
fn a_table_that_is_not_there_is_named() {
    let topic = topic("reference", 1, &events(0..1));
    let pipeline = pipeline(&topic, &files());
    std::fs::remove_file(pipeline.folder().join("campaigns.csv")).unwrap();
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(2), "{}", checked.log_tail());
    assert!(
        checked.stderr.contains("table campaigns") && checked.stderr.contains("campaigns.csv"),
        "{}",
        checked.stderr
    );
}
