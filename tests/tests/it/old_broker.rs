//! The oldest Kafka that is supported, and the one before.

use std::fs;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tidemill_tests::case::LIMIT;
use tidemill_tests::oracle::{self, Row, Truth};
use tidemill_tests::own_server::OwnServer;
use tidemill_tests::pipeline::{Pipeline, look_again_soon};
use tidemill_tests::records::{Record, produce_at};
use tidemill_tests::target::Target;
use tidemill_tests::{java, servers};

use crate::sheet::{READERS, files, head, numbers, rows_by, sink, source_at};

/// What is killed on the way to a sink, each time in another batch.
const KILLS: [&str; 3] = [
    "plan.after-log=kill@2",
    "sink.before-commit=kill@2",
    "sink.after-commit=kill@3",
];

fn topics(broker: &OwnServer, args: &[&str]) -> String {
    java::run_at(broker.address(), "Topics", args).unwrap()
}

/// Three producers whose transactions interleave, about a third of them aborted.
fn interleaved(broker: &OwnServer) -> (String, Vec<Row>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("truth.json");
    let args = [&servers::unique("old"), file.to_str().unwrap(), "7", "only=interleaved"];
    java::run_at(broker.address(), "HardTopics", &args).unwrap();
    let truth: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let topic = &truth["topics"][0];
    let row = |record: &Value| {
        let value = serde_json::from_str(record["value"].as_str().unwrap()).unwrap();
        Row::from_json(&value).unwrap()
    };
    let rows = topic["records"].as_array().unwrap().iter().map(row).collect();
    (topic["topic"].as_str().unwrap().to_owned(), rows)
}

/// Every third transaction aborted, in each codec some.
fn all_codecs(broker: &OwnServer) -> (String, Vec<Row>) {
    const EACH: u64 = 300;
    let topic = servers::unique("codecs");
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for (codec, first) in codecs.iter().zip((0..).step_by(EACH as usize / 3)) {
        let first = first.to_string();
        let transactions = ["--abort-third", "--per-transaction", "60"];
        let options = [&transactions[..], &["--compression", codec, "--first", &first]].concat();
        java::load_at(broker.address(), &topic, EACH, 3, &options).unwrap();
    }
    let count = i64::try_from(EACH * codecs.len() as u64 / 3).unwrap();
    let lane = |partition: u64| {
        (0..count).map(move |seq| Row {
            lane: partition.to_string(),
            seq,
            aborted: false,
        })
    };
    (topic, (0..3).flat_map(lane).collect())
}

/// Copies both topics in batches of a few hundred offsets.
fn copies(broker: &OwnServer, inputs: &[&str], reader: &str, target: &Target) -> Pipeline {
    let more = format!(
        "start = \"earliest\"\nreader = \"{reader}\"\nmax_rate_per_partition = 1000\ngroup = \"{}\"",
        servers::unique("old")
    );
    let source = source_at(
        broker.address(),
        "events",
        &inputs.join("\", \""),
        "seq BIGINT, part INT, producer VARCHAR, aborted BOOLEAN",
        &more,
    );
    let sink = sink("out", "SELECT seq, part, producer, aborted FROM events", target);
    Pipeline::write(&(head("old") + &source + &sink + "[rate]\nbackpressure = false\n")).unwrap()
}

fn assert_exact(pipeline: &Pipeline, target: &Target, truth: &Truth, how: &str) {
    let rows = target.rows(pipeline.folder()).unwrap();
    let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
    let verdict = oracle::judge(truth, &rows);
    verdict.assert_clean(how);
    eprintln!("{how}: {verdict}");
}

/// Transactions, codecs, both readers, both sinks, SIGKILL before and after commits.
#[test]
fn the_oldest_kafka_is_read_and_written_exactly() {
    let broker = OwnServer::old_kafka().unwrap();
    let (first, rows) = interleaved(&broker);
    let (second, more) = all_codecs(&broker);
    let truth = Truth::of_rows(rows.into_iter().chain(more));
    let inputs = [first.as_str(), second.as_str()];
    for reader in READERS {
        let target = files();
        let pipeline = copies(&broker, &inputs, reader, &target);
        pipeline.run_to_end(&[], LIMIT).unwrap();
        assert_exact(&pipeline, &target, &truth, reader);
    }
    let copy = servers::unique("copy");
    topics(&broker, &["create", &copy, "2"]);
    for target in [files(), Target::topic(broker.address(), &copy)] {
        let pipeline = copies(&broker, &inputs, "native", &target);
        for kill in KILLS {
            let killed = pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", kill)]).unwrap();
            let killed = killed.wait(LIMIT).unwrap();
            assert!(killed.was_killed(), "{kill}: {}", killed.log_tail());
        }
        pipeline.run_to_end(&[], LIMIT).unwrap();
        assert_exact(&pipeline, &target, &truth, target.kind().name());
        let told = pipeline.ask(&["offsets"]).unwrap();
        assert_eq!(told.code(), Some(0), "{}", told.log_tail());
    }
}

/// A topic of numbers, and a pipeline that reads it.
struct Numbered {
    broker: OwnServer,
    topic: String,
    pipeline: Pipeline,
    target: Target,
}

impl Numbered {
    fn start() -> Self {
        let broker = OwnServer::old_kafka().unwrap();
        let topic = servers::unique("numbered");
        let target = files();
        let text = head("old")
            + &source_at(broker.address(), "events", &topic, "n BIGINT", "start = \"earliest\"")
            + &sink("out", "SELECT n FROM events", &target);
        let numbered = Self {
            broker,
            topic,
            pipeline: Pipeline::write(&text).unwrap(),
            target,
        };
        numbered.create();
        numbered
    }

    /// On both brokers; the first leads. One of the same name goes out of sight a little before it is gone.
    fn create(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let place = ["place", &self.topic, "1", "1,2"];
            match java::run_at(self.broker.address(), "Topics", &place) {
                Ok(_) => return,
                Err(error) => assert!(
                    error.to_string().contains("TopicExistsException") && Instant::now() < deadline,
                    "{error}"
                ),
            }
            look_again_soon();
        }
    }

    fn write(&self, numbers: std::ops::Range<i64>) {
        let records: Vec<Record> = numbers.map(|n| Record::of(0, format!("{{\"n\":{n}}}"))).collect();
        produce_at(self.broker.address(), &self.topic, &records).unwrap();
    }

    /// The topic is made anew and filled with others.
    fn recreate(&self, numbers: std::ops::Range<i64>) {
        topics(&self.broker, &["delete", &self.topic]);
        self.create();
        self.write(numbers);
    }

    /// The next start is stopped with these words, and the sink stays as it is.
    fn is_stopped(&self, words: &[&str]) {
        let ended = self.pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(4), "{}", ended.log_tail());
        let error = ended.stderr.lines().last().unwrap();
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
        self.holds(0..20);
    }

    fn holds(&self, expected: std::ops::Range<i64>) {
        let rows = rows_by("n", &self.pipeline, &self.target);
        assert_eq!(numbers(&rows, "n"), expected.collect::<Vec<i64>>());
    }
}

#[test]
fn a_check_says_that_topics_have_no_ids_there() {
    let numbered = Numbered::start();
    numbered.write(0..20);
    let told = numbered.pipeline.ask(&["check"]).unwrap();
    assert_eq!(told.code(), Some(0), "{}", told.log_tail());
    let sentence = "source events: warning: its brokers give topics no ids";
    assert!(told.stdout.contains(sentence), "{}", told.stdout);
}

#[test]
fn a_topic_made_anew_without_ids_is_noticed_by_its_end() {
    let numbered = Numbered::start();
    numbered.write(0..20);
    numbered.pipeline.run_to_end(&[], LIMIT).unwrap();
    numbered.holds(0..20);
    numbered.recreate(100..110);
    numbered.is_stopped(&["numbered", "ends at 10", "20"]);
}

/// It has grown past the position, and only the leader epoch tells: in the old one, the second broker had led for a while.
#[test]
fn a_topic_made_anew_without_ids_is_noticed_by_its_leader_epoch() {
    let mut numbered = Numbered::start();
    numbered.write(0..10);
    numbered.pipeline.run_to_end(&[], LIMIT).unwrap();
    numbered.holds(0..10);
    numbered.broker.end(Signal::TERM).unwrap();
    numbered.broker.again().unwrap();
    numbered.write(10..20);
    numbered.pipeline.run_to_end(&[], LIMIT).unwrap();
    numbered.holds(0..20);
    numbered.recreate(100..150);
    numbered.is_stopped(&["was read to 20 under leader epoch", "deleted and created again"]);
}

/// Made anew under a run that stands at its end.
#[test]
fn a_topic_made_anew_without_ids_stops_a_run() {
    let numbered = Numbered::start();
    numbered.write(0..20);
    let run = numbered.pipeline.start(&[], &[]).unwrap();
    assert!(run.wait_for_log("records=20", LIMIT).unwrap(), "{}", run.log());
    numbered.recreate(100..150);
    let ended = run.wait(LIMIT).unwrap();
    assert!(matches!(ended.code(), Some(1 | 4)), "{}", ended.log_tail());
    numbered.holds(0..20);
}

/// The release before lacks versions of requests: the message names one.
#[test]
fn an_older_kafka_is_refused_by_name() {
    let broker = OwnServer::too_old_kafka().unwrap();
    let target = files();
    let text = head("old")
        + &source_at(broker.address(), "events", "t", "n BIGINT", "")
        + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let run = pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    for told in [pipeline.ask(&["check"]).unwrap(), run] {
        assert_eq!(told.code(), Some(1), "{}", told.log_tail());
        let words = "knows Metadata up to version 6, and 7 is the lowest that is spoken: Kafka 2.1 or later is needed";
        assert!(told.stderr.contains(words), "{}", told.log_tail());
    }
}
