//! Quotas of the broker: a client that is held back loses and doubles nothing, and gives nothing up.

use std::time::{Duration, Instant};

use tidemill_tests::case::{Input, LIMIT};
use tidemill_tests::oracle::{self, Row, Truth};
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::target::{Kind, Target};
use tidemill_tests::{java, servers};

use crate::sheet::{files, head, sink, source};

/// 12,000 records of some 1,200 bytes.
const RECORDS: u64 = 12_000;
/// The broker measures over ten seconds, so that the first ten megabytes are free.
const BYTES_PER_SECOND: &str = "1000000";
const HELD_BACK_MIN: Duration = Duration::from_secs(2);

fn quota(client: &str, name: &str, value: &str) {
    java::run("Topics", &["quota", client, name, value]).unwrap();
}

fn exact(pipeline: &Pipeline, target: &Target, truth: &Truth) {
    let rows = target.rows(pipeline.folder()).unwrap();
    let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
    oracle::judge(truth, &rows).assert_clean("held back");
}

const COLUMNS: &str = "seq BIGINT, part INT, aborted BOOLEAN";
const SQL: &str = "SELECT seq, part, aborted FROM events";

#[test]
fn a_source_that_is_held_back_reads_everything_once() {
    let topic = servers::unique("quota");
    java::load(&topic, RECORDS, 3, &["--padding", "1000"]).unwrap();
    let timed = |client: &str| {
        let target = files();
        let more = format!("properties = {{ \"client.id\" = \"{client}\" }}");
        let text = head("quota") + &source("events", &topic, COLUMNS, &more) + &sink("out", SQL, &target);
        let pipeline = Pipeline::write(&text).unwrap();
        let begun = Instant::now();
        pipeline.run_to_end(&[], LIMIT).unwrap();
        let took = begun.elapsed();
        exact(&pipeline, &target, &Truth::of_load(RECORDS, 3));
        took
    };
    let (free, bound) = (servers::unique("free"), servers::unique("bound"));
    quota(&bound, "consumer_byte_rate", BYTES_PER_SECOND);
    let (free, bound) = (timed(&free), timed(&bound));
    eprintln!("free {free:?}, held back {bound:?}");
    assert!(bound > free + HELD_BACK_MIN, "free {free:?}, held back {bound:?}");
}

/// A tenth of a percent of a thread's time for requests: the broker holds every answer back.
#[test]
fn a_sink_that_is_held_back_commits_everything_once() {
    let input = Input::small();
    let timed = |client: &str| {
        let target = Target::create(Kind::Kafka, "").unwrap();
        let text = head("quota")
            + &source("events", &input.topic, COLUMNS, "max_rate_per_partition = 2000")
            + &format!(
                "[sinks.out]\nsql = \"{SQL}\"\n{}properties = {{ \"client.id\" = \"{client}\" }}\n",
                target.toml()
            );
        let pipeline = Pipeline::write(&text).unwrap();
        let begun = Instant::now();
        pipeline.run_to_end(&[], LIMIT).unwrap();
        let took = begun.elapsed();
        exact(&pipeline, &target, &input.truth);
        took
    };
    let (free, bound) = (servers::unique("free"), servers::unique("bound"));
    quota(&bound, "request_percentage", "0.1");
    let (free, bound) = (timed(&free), timed(&bound));
    eprintln!("free {free:?}, held back {bound:?}");
    assert!(bound > free + HELD_BACK_MIN, "free {free:?}, held back {bound:?}");
}
