//! Three brokers, of which some die: leaders move, and a log may be cut.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::own_server::OwnCluster;
use tidemill_tests::pipeline::{Pipeline, look_again_soon};
use tidemill_tests::records::{Record, produce_at};

use crate::sheet::{files, head, rows, sink, source_at};

const COLUMNS: &str = "n BIGINT";

fn numbered(partition: i32, numbers: std::ops::Range<i64>) -> Vec<Record> {
    numbers
        .map(|n| Record::of(partition, format!("{{\"n\":{n}}}")))
        .collect()
}

/// Writes as soon as the partitions have a leader.
fn write(cluster: &OwnCluster, topic: &str, records: &[Record]) {
    produce_at(cluster.address(), topic, records).unwrap();
}

/// Waits until `describe` says this of the topic.
fn until_described(cluster: &OwnCluster, topic: &str, wanted: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let told = java::run_at(cluster.address(), "Topics", &["describe", topic]);
        if told.as_ref().is_ok_and(|told| told.contains(wanted)) {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted}: {told:?}");
        look_again_soon();
    }
}

/// The records that were read last are gone with the broker that alone had them, and others stand at their offsets. The end
/// alone does not tell: it is beyond the position again.
#[test]
fn a_log_that_an_unclean_election_cut_stops_the_stream() {
    let mut cluster = OwnCluster::start().unwrap();
    let topic = "cut";
    let place = ["place", topic, "1", "2,3", "unclean.leader.election.enable=true"];
    java::run_at(cluster.address(), "Topics", &place).unwrap();
    let target = files();
    let text = head("cluster")
        + &source_at(
            cluster.address(),
            "events",
            topic,
            COLUMNS,
            "on_out_of_range = \"earliest\"",
        )
        + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    write(&cluster, topic, &numbered(0, 0..10));
    cluster.end(3, Signal::KILL).unwrap();
    until_described(&cluster, topic, "in sync 0: 2\n");
    write(&cluster, topic, &numbered(0, 10..20));
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let read: Vec<Value> = rows(&pipeline, &target);
    assert_eq!(read.len(), 20);
    cluster.end(2, Signal::KILL).unwrap();
    cluster.again(3).unwrap();
    write(&cluster, topic, &numbered(0, 100..130));
    until_described(&cluster, topic, "end 40\n");
    let ended = pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(4), "{}", ended.log_tail());
    let error = ended.stderr.lines().last().unwrap();
    for part in [
        "cut/0 was read to 20 under leader epoch",
        "now end at 10",
        "unclean leader election",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(rows(&pipeline, &target), read);
}

/// Each broker goes and comes back under a run that never stands still.
#[test]
fn a_rolling_restart_is_ridden_through() {
    let mut cluster = OwnCluster::start().unwrap();
    let topic = "rolled";
    java::run_at(cluster.address(), "Topics", &["place", topic, "6", "1,2,3"]).unwrap();
    let target = files();
    let text = head("cluster")
        + &source_at(cluster.address(), "events", topic, COLUMNS, "")
        + &sink("out", "SELECT _partition AS p, n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let mut run = pipeline.start(&[], &[]).unwrap();
    let mut written = Vec::new();
    let mut next = 0;
    let mut some = |cluster: &OwnCluster, written: &mut Vec<Value>| {
        for partition in 0..6 {
            write(cluster, topic, &numbered(partition, next..next + 100));
            written.extend((next..next + 100).map(|n| json!({"p": partition, "n": n})));
        }
        next += 100;
    };
    some(&cluster, &mut written);
    for broker in 1..=3 {
        // Cleanly and by force in turn: leaders move either way.
        let signal = if broker == 2 { Signal::TERM } else { Signal::KILL };
        cluster.end(broker, signal).unwrap();
        some(&cluster, &mut written);
        cluster.again(broker).unwrap();
        some(&cluster, &mut written);
        assert!(run.is_running().unwrap(), "{}", run.log());
    }
    let deadline = Instant::now() + LIMIT;
    while rows(&pipeline, &target).len() < written.len() && Instant::now() < deadline {
        look_again_soon();
    }
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    written.sort_by_key(Value::to_string);
    assert_eq!(rows(&pipeline, &target), written);
}
