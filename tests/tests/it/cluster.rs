//! Three brokers, of which some die, one more that comes, and some that go for good: leaders move, and a log may be cut.

use std::process::Child;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::oracle::{self, Row, Truth};
use tidemill_tests::own_server::OwnCluster;
use tidemill_tests::pipeline::{Pipeline, Run, look_again_soon};
use tidemill_tests::records::{Record, produce_at};
use tidemill_tests::target::Target;

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

/// A topic that is written in transactions, of which every third is aborted, and a pipeline that copies it.
struct Copied {
    cluster: OwnCluster,
    pipeline: Pipeline,
    target: Target,
    written: u64,
}

impl Copied {
    /// Input, and output where it is a topic, lie on brokers 1 to 3.
    fn start(target: impl FnOnce(&OwnCluster) -> Target) -> Self {
        let cluster = OwnCluster::start().unwrap();
        let copied = Self {
            pipeline: Pipeline::write("").unwrap(),
            target: target(&cluster),
            cluster,
            written: 0,
        };
        copied.topics(&["place", "copied", "3", "1,2,3"]);
        let text = head("cluster")
            + &source_at(
                copied.cluster.address(),
                "events",
                "copied",
                "seq BIGINT, part INT, aborted BOOLEAN",
                "",
            )
            + &sink("out", "SELECT seq, part, aborted FROM events", &copied.target);
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            ..copied
        }
    }

    fn topics(&self, args: &[&str]) -> String {
        java::run_at(self.cluster.address(), "Topics", args).unwrap()
    }

    /// Input and output move to these brokers.
    fn move_to(&self, brokers: &str) {
        self.topics(&["move", "copied", brokers]);
        if self.target.place() != "out" {
            self.topics(&["move", self.target.place(), brokers]);
        }
    }

    /// Begins to write more, until told to stop.
    fn load(&self) -> Child {
        let first = (self.written / 3).to_string();
        let transactions = ["copied", "1000000", "3", "--abort-third", "--per-transaction", "60"];
        let while_wanted = ["--first", &first, "--pace", "150", "--until-input-ends"];
        let args = [&transactions[..], &while_wanted].concat();
        java::pipe_at(self.cluster.address(), "Load", &args).unwrap()
    }

    /// Lets the transaction under way be the last.
    fn stop(&mut self, mut load: Child) {
        assert!(load.try_wait().unwrap().is_none(), "Load wrote to the end");
        drop(load.stdin.take());
        let told = load.wait_with_output().unwrap();
        assert!(told.status.success(), "Load");
        let told = String::from_utf8(told.stdout).unwrap();
        let loaded = told.trim().strip_prefix("loaded ").unwrap();
        self.written += loaded.parse::<u64>().unwrap();
    }

    /// Waits until all that was written is in the sink, and nothing else.
    fn catch_up(&self, run: &mut Run, after: &str) {
        let deadline = Instant::now() + LIMIT;
        let written = usize::try_from(self.written).unwrap();
        while self.rows().len() < written && Instant::now() < deadline {
            assert!(run.is_running().unwrap(), "{after}: {}", run.log());
            look_again_soon();
        }
        self.judge(after);
    }

    fn rows(&self) -> Vec<Row> {
        let rows = self.target.rows(self.pipeline.folder()).unwrap();
        rows.iter().map(|row| Row::from_json(row).unwrap()).collect()
    }

    fn judge(&self, after: &str) {
        let verdict = oracle::judge(&Truth::of_load(self.written, 3), &self.rows());
        verdict.assert_clean(after);
        eprintln!("{after}: {verdict}");
    }

    /// Makes `change` while records are written.
    fn during_a_load(&mut self, run: &mut Run, what: &str, change: impl FnOnce(&mut Self)) {
        let load = self.load();
        change(self);
        self.stop(load);
        self.catch_up(run, what);
    }

    /// Takes a broker out of the cluster for good.
    fn remove(&mut self, broker: u32) {
        let number = broker.to_string();
        self.topics(&["drain", &number]);
        self.cluster.end(broker, Signal::TERM).unwrap();
        self.topics(&["forget", &number]);
    }
}

/// A fourth broker takes partitions, then the first two end for good. The file names the first three all the time.
fn brokers_come_and_go(mut copied: Copied) {
    let mut run = copied.pipeline.start(&[], &[]).unwrap();
    copied.during_a_load(&mut run, "three brokers", |_| {});
    copied.during_a_load(&mut run, "a fourth broker", |copied| {
        assert_eq!(copied.cluster.grow().unwrap(), 4);
        copied.move_to("4,2,3");
        assert_eq!(copied.topics(&["leaders", "copied"]), "4\n2\n3\n");
    });
    for broker in [1, 2] {
        copied.during_a_load(&mut run, &format!("without broker {broker}"), |copied| {
            copied.remove(broker);
        });
    }
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let load = copied.load();
    copied.stop(load);
    copied.pipeline.run_to_end(&[], LIMIT).unwrap();
    copied.judge("a new start with the old list");
}

#[test]
fn brokers_that_come_and_go_are_followed_into_files() {
    brokers_come_and_go(Copied::start(|_| files()));
}

#[test]
fn brokers_that_come_and_go_are_followed_into_a_topic() {
    brokers_come_and_go(Copied::start(|cluster| {
        java::run_at(cluster.address(), "Topics", &["place", "copies", "2", "1,2,3"]).unwrap();
        Target::topic(cluster.address(), "copies")
    }));
}
