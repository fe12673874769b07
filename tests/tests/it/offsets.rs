//! Where reading begins, and what happens where the log no longer holds what was planned.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::servers;
use tidemill_tests::target::{Kind, Target, manifests, with_database};

use crate::sheet::{cut, files, head, rows, sink, source, topic};

const COLUMNS: &str = "n BIGINT";

/// Numbers that are their offsets too.
fn numbered(partition: i32, offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets
        .map(|n| Record::of(partition, format!("{{\"n\":{n}}}")))
        .collect()
}

/// The same, written at 1 s after 1970, 2 s and so on: a client takes 0 for "now".
fn timed(partition: i32, offsets: std::ops::Range<i64>) -> Vec<Record> {
    let times = offsets.clone().map(|n| 1_000 * (n + 1));
    let at = |(record, time)| Record {
        timestamp: Some(time),
        ..record
    };
    numbered(partition, offsets).into_iter().zip(times).map(at).collect()
}

struct Copying {
    pipeline: Pipeline,
    target: Target,
}

impl Copying {
    /// A copy of a topic; `more` are lines of the source.
    fn of(topic: &str, more: &str) -> Self {
        let target = files();
        let text = head("offsets")
            + &source("events", topic, COLUMNS, more)
            + &sink("out", "SELECT _partition AS p, n FROM events", &target);
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            target,
        }
    }

    fn edit(&self, was: &str, now: &str) {
        let text = std::fs::read_to_string(self.pipeline.file()).unwrap();
        assert!(text.contains(was), "{text}");
        std::fs::write(self.pipeline.file(), text.replace(was, now)).unwrap();
    }

    fn run(&self) {
        self.pipeline.run_to_end(&[], LIMIT).unwrap();
    }

    /// Expects a run to stop with this code and to name these.
    fn stops(&self, code: i32, named: &[&str]) {
        let ended = self.pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(code), "{}", ended.log_tail());
        let error = ended.stderr.lines().last().unwrap();
        for name in named {
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    fn rows(&self) -> Vec<Value> {
        rows(&self.pipeline, &self.target)
    }

    /// What `checkpoint show` says of losses.
    fn lost(&self) -> Vec<String> {
        let shown = self.pipeline.ask(&["checkpoint", "show"]).unwrap();
        assert_eq!(shown.code(), Some(0), "{}", shown.log_tail());
        let lost = shown.stdout.lines().filter(|line| line.starts_with("lost "));
        lost.map(str::to_owned).collect()
    }
}

fn seen(partition: i32, offsets: std::ops::Range<i64>) -> Vec<Value> {
    let mut rows: Vec<Value> = offsets.map(|n| json!({"p": partition, "n": n})).collect();
    rows.sort_by_key(Value::to_string);
    rows
}

fn both(first: Vec<Value>, second: Vec<Value>) -> Vec<Value> {
    let mut rows = [first, second].concat();
    rows.sort_by_key(Value::to_string);
    rows
}

#[test]
fn committed_begins_where_the_group_stands() {
    let topic = topic("committed", 1, &numbered(0, 0..10));
    let group = servers::unique("group");
    let first = Copying::of(&topic, &format!("group = \"{group}\""));
    first.run();
    produce(&topic, &numbered(0, 10..15)).unwrap();
    let second = Copying::of(&topic, &format!("group = \"{group}\"\nstart = \"committed\""));
    second.run();
    assert_eq!(second.rows(), seen(0, 10..15));
    // Only the first start looks at the group.
    first.run();
    produce(&topic, &numbered(0, 15..17)).unwrap();
    second.run();
    assert_eq!(second.rows(), seen(0, 10..17));
}

#[test]
fn committed_without_an_offset_is_refused_by_name() {
    let topic = topic("uncommitted", 1, &numbered(0, 0..3));
    let group = servers::unique("nobody");
    let copying = Copying::of(&topic, &format!("group = \"{group}\"\nstart = \"committed\""));
    copying.stops(2, &[&format!("{topic}/0 has no offset of the group")]);
}

#[test]
fn a_time_begins_at_its_first_record_and_at_the_end_where_none_is_that_young() {
    let topic = servers::unique("since");
    // Records of 1970 are beyond any other retention.
    java::create_topic(&topic, 2, &["retention.ms=-1"]).unwrap();
    produce(&topic, &[timed(0, 0..10), timed(1, 0..4)].concat()).unwrap();
    for start in ["\"1970-01-01T01:00:06+01:00\"", "1970-01-01T00:00:06Z"] {
        let copying = Copying::of(&topic, &format!("start = {{ timestamp = {start} }}"));
        copying.run();
        assert_eq!(copying.rows(), seen(0, 5..10), "{start}");
    }
    let later = Copying::of(&topic, "start = { timestamp = 1970-01-01T00:00:06Z }");
    later.run();
    produce(&topic, &timed(1, 4..6)).unwrap();
    later.run();
    assert_eq!(later.rows(), both(seen(0, 5..10), seen(1, 4..6)));
}

#[test]
fn a_partition_that_is_added_begins_as_it_is_told() {
    for (policy, of_new) in [("earliest", 0..5), ("latest", 2..5)] {
        let topic = topic("grown", 1, &numbered(0, 0..3));
        let copying = Copying::of(&topic, &format!("on_new_partition = \"{policy}\""));
        copying.run();
        java::run("Topics", &["grow", &topic, "2"]).unwrap();
        produce(&topic, &numbered(1, 0..2)).unwrap();
        // It is met here, and what comes later is read, whether or not there was anything to read meanwhile.
        copying.run();
        produce(&topic, &numbered(1, 2..5)).unwrap();
        copying.run();
        assert_eq!(copying.rows(), both(seen(0, 0..3), seen(1, of_new)), "{policy}");
    }
}

#[test]
fn a_partition_that_is_added_under_a_run_is_met() {
    let topic = topic("growing", 1, &numbered(0, 0..3));
    let copying = Copying::of(&topic, "");
    let run = copying.pipeline.start(&[], &[]).unwrap();
    assert!(run.wait_for_log("batch=1 ", LIMIT).unwrap(), "{}", run.log());
    java::run("Topics", &["grow", &topic, "2"]).unwrap();
    produce(&topic, &numbered(1, 0..4)).unwrap();
    assert!(run.wait_for_log("batch=2 ", LIMIT).unwrap(), "{}", run.log());
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).unwrap().code(), Some(0));
    assert_eq!(copying.rows(), both(seen(0, 0..3), seen(1, 0..4)));
}

#[test]
fn a_pattern_finds_its_topics_and_those_that_come_later() {
    let family = servers::unique("family");
    let made = |name: &str, offsets| {
        let topic = format!("{family}{name}");
        java::create_topic(&topic, 1, &[]).unwrap();
        produce(&topic, &numbered(0, offsets)).unwrap();
    };
    made("-a", 0..2);
    made("-b", 10..12);
    // The whole name must match.
    made("-a-not", 90..92);
    let copying = Copying::of("any", "");
    copying.edit("topics = [\"any\"]", &format!("topic_pattern = \"{family}-[a-z]\""));
    copying.run();
    assert_eq!(copying.rows(), both(seen(0, 0..2), seen(0, 10..12)));
    made("-c", 20..22);
    copying.run();
    assert_eq!(
        copying.rows(),
        both(both(seen(0, 0..2), seen(0, 10..12)), seen(0, 20..22))
    );
}

#[test]
fn x13_what_retention_took_before_it_was_planned_is_told_and_recorded() {
    for (policy, read) in [("earliest", 15..20), ("latest", 0..0)] {
        let topic = topic("overtaken", 1, &numbered(0, 0..10));
        let copying = Copying::of(&topic, "on_out_of_range = \"stop\"");
        copying.run();
        produce(&topic, &numbered(0, 10..20)).unwrap();
        cut(&topic, 0, 15);
        copying.stops(4, &[&format!("{topic}/0"), "10 to 15", "on_out_of_range"]);
        assert_eq!((copying.rows(), copying.lost()), (seen(0, 0..10), vec![]));
        copying.edit("\"stop\"", &format!("\"{policy}\""));
        copying.run();
        produce(&topic, &numbered(0, 20..23)).unwrap();
        copying.run();
        let until = if policy == "earliest" { 15 } else { 20 };
        let expected = both(both(seen(0, 0..10), seen(0, read)), seen(0, 20..23));
        assert_eq!(copying.rows(), expected, "{policy}");
        let lost = format!("lost events {topic}/0 from 10 until {until} in batch 2");
        assert_eq!(copying.lost(), [lost]);
        let manifests = manifests(&copying.pipeline.folder().join(copying.target.place())).unwrap();
        let told: Vec<&Value> = manifests
            .iter()
            .filter_map(|manifest| manifest["ledger"].get("losses"))
            .collect();
        assert_eq!(told.len(), 1, "one batch's ledger names the loss: {manifests:?}");
        assert_eq!((&told[0][0]["from"], &told[0][0]["until"]), (&json!(10), &json!(until)));
    }
}

#[test]
fn x13_what_retention_took_between_plan_and_fetch_is_told_and_recorded() {
    for (policy, kept, reader) in [
        ("stop", None, "native"),
        ("earliest", Some(6..10), "native"),
        ("latest", Some(0..0), "native"),
        ("stop", None, "librdkafka"),
        ("earliest", Some(6..10), "librdkafka"),
    ] {
        let topic = topic("raced", 2, &[numbered(0, 0..10), numbered(1, 0..10)].concat());
        let more = format!("on_out_of_range = \"{policy}\"\nreader = \"{reader}\"");
        let copying = Copying::of(&topic, &more);
        let armed = [("TIDEMILL_FAILPOINTS", "plan.after-log=stop@2")];
        let mut run = copying.pipeline.start_to_end(&armed).unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
        cut(&topic, 0, 6);
        run.signal(Signal::CONT);
        let ended = run.wait(LIMIT).unwrap();
        let Some(kept) = kept else {
            assert_eq!(ended.code(), Some(4), "{}", ended.log_tail());
            assert!(ended.log_tail().contains(&format!("{topic}/0")), "{}", ended.log_tail());
            continue;
        };
        assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
        let until = if policy == "earliest" { 6 } else { 10 };
        assert_eq!(copying.rows(), both(seen(0, kept), seen(1, 0..10)), "{policy}");
        let lost = format!("lost events {topic}/0 from 0 until {until} in batch 1");
        assert_eq!(copying.lost(), [lost], "{}", ended.log_tail());
    }
}

/// Retention moves on while the batch is read again: each loss is recorded, the later one behind the earlier.
#[test]
fn x13_a_kill_after_a_recorded_loss_leaves_it_recorded_once() {
    let topic = topic("lost-twice", 1, &numbered(0, 0..20));
    let copying = Copying::of(&topic, "on_out_of_range = \"earliest\"");
    let frozen = |armed: &str| {
        let mut run = copying
            .pipeline
            .start_to_end(&[("TIDEMILL_FAILPOINTS", armed)])
            .unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
        run
    };
    let run = frozen("plan.after-log=stop@2");
    cut(&topic, 0, 4);
    run.signal(Signal::CONT);
    assert!(run.wait_for_log("LOST", LIMIT).unwrap(), "{}", run.log());
    drop(run.kill());
    let run = frozen("sink.before-begin=stop");
    cut(&topic, 0, 9);
    run.signal(Signal::CONT);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert_eq!(copying.rows(), seen(0, 9..20));
    let lost = copying.lost();
    let covered: Vec<&str> = lost.iter().map(String::as_str).collect();
    let at = |from, until| format!("lost events {topic}/0 from {from} until {until} in batch 1");
    assert_eq!(covered, [at(0, 4), at(4, 9)]);
}

#[test]
fn a_topic_that_was_deleted_and_made_again_stops_the_stream() {
    let topic = topic("remade", 1, &numbered(0, 0..5));
    let copying = Copying::of(&topic, "on_out_of_range = \"earliest\"");
    copying.run();
    java::run("Topics", &["delete", &topic]).unwrap();
    java::create_topic(&topic, 1, &[]).unwrap();
    produce(&topic, &numbered(0, 0..9)).unwrap();
    copying.stops(4, &[&format!("topic {topic} was deleted and created again")]);
    assert_eq!(copying.rows(), seen(0, 0..5));
}

#[test]
fn losses_stand_in_a_tables_ledger_too() {
    let topic = topic("table-loss", 1, &numbered(0, 0..10));
    let target = Target::create(Kind::Postgres, "n BIGINT").unwrap();
    let text = head("offsets")
        + &source("events", &topic, COLUMNS, "on_out_of_range = \"earliest\"")
        + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let armed = [("TIDEMILL_FAILPOINTS", "plan.after-log=stop@2")];
    let mut run = pipeline.start_to_end(&armed).unwrap();
    assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
    cut(&topic, 0, 7);
    run.signal(Signal::CONT);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let mut numbers: Vec<i64> = rows(&pipeline, &target)
        .iter()
        .filter_map(|row| row["n"].as_i64())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [7, 8, 9]);
    let pattern = format!("%{topic}%");
    let told: Vec<String> = with_database(async |client| {
        let query = "SELECT record::text FROM tidemill_ledger WHERE batch_id = 1 AND record::text LIKE $1";
        let rows = client.query(query, &[&pattern]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
    .unwrap();
    let told: Vec<Value> = told
        .iter()
        .map(|record| serde_json::from_str(record).unwrap())
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let loss = &told[0]["losses"][0];
    assert_eq!((&loss["from"], &loss["until"]), (&json!(0), &json!(7)));
}

#[test]
fn an_open_transaction_that_holds_readers_back_is_named() {
    let topic = topic("hanging", 2, &[numbered(0, 0..2), numbered(1, 0..2)].concat());
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka())
        .set("transactional.id", servers::unique("hanging"))
        .create()
        .unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer
        .send(BaseRecord::<(), str>::to(&topic).partition(1).payload("{}"))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(LIMIT).unwrap();
    produce(&topic, &numbered(1, 3..6)).unwrap();
    let copying = Copying::of(&topic, "");
    let run = copying.pipeline.start(&[], &[]).unwrap();
    assert!(run.wait_for_log("holds readers back", LIMIT).unwrap(), "{}", run.log());
    let log = run.log();
    let warning = log.lines().find(|line| line.contains("holds readers back")).unwrap();
    for part in [
        format!("partition={topic}/1 "),
        "stable_end=2 ".to_owned(),
        "waiting_offsets=4 ".to_owned(),
    ] {
        assert!(warning.contains(&part), "{part}: {warning}");
    }
    let told = copying.pipeline.ask(&["offsets"]).unwrap().stdout;
    let of_it = told.lines().find(|line| line.contains(&format!("{topic}/1"))).unwrap();
    let words: Vec<&str> = of_it.split_whitespace().collect();
    assert_eq!((words[3], words[6]), ("2", "4"), "{told}");
    producer.commit_transaction(LIMIT).unwrap();
    assert!(run.wait_for_log("batch=2 ", LIMIT).unwrap(), "{}", run.log());
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).unwrap().code(), Some(0));
    // The record of the transaction has no number.
    let of_transaction = vec![json!({"p": 1, "n": null})];
    let plain = both(seen(0, 0..2), both(seen(1, 0..2), seen(1, 3..6)));
    assert_eq!(copying.rows(), both(plain, of_transaction));
}
