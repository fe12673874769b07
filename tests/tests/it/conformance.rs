//! Rows of the direct stream's behaviour in Spark that a broker is needed for, by their names there. What departs says so.

use std::time::{Duration, Instant};

use arrow::array::Array;
use futures::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::Signal;
use tidemill_core::plan::RangePlan;
use tidemill_engine::error::{Kind, Result};
use tidemill_engine::source::{RawColumns, Source};
use tidemill_kafka::{KafkaConfig, KafkaSource};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::servers;

use crate::sheet::{files, head, rows, sink};

/// A topic of one partition.
fn topic(name: &str, settings: &[&str]) -> String {
    let topic = servers::unique(name);
    java::create_topic(&topic, 1, settings).unwrap();
    topic
}

fn texts(texts: &[&str]) -> Vec<Record> {
    texts.iter().map(|text| Record::of(0, *text)).collect()
}

fn keyed(pairs: &[(&str, &str)]) -> Vec<Record> {
    let record = |(key, value): &(&str, &str)| Record {
        key: Some(key.as_bytes().to_vec()),
        ..Record::of(0, *value)
    };
    pairs.iter().map(record).collect()
}

/// Key, value and offset of each record in the range.
type Seen = Vec<(Option<String>, String, i64)>;

async fn read(topic: &str, from: i64, until: i64) -> Result<Seen> {
    let source = KafkaSource::new(KafkaConfig::new(&servers::kafka(), [topic]))?;
    let end = source.ends(true).await?.remove(0);
    let range = RangePlan {
        source: "events".to_owned(),
        partition: end.partition,
        topic_id: end.topic_id,
        from,
        until,
        leader_epoch: end.leader_epoch,
    };
    let columns = RawColumns {
        key: true,
        value: true,
        ..RawColumns::default()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut stream = source.scan(vec![range], columns).stream(0);
    let mut seen = Seen::new();
    while let Some(rows) = stream.next().await {
        let rows = rows?;
        let (keys, values) = (rows.keys.expect("keys"), rows.values.expect("values"));
        seen.extend((0..values.len()).map(|row| {
            let key = keys.is_valid(row).then(|| text(keys.value(row)));
            (key, text(values.value(row)), rows.offsets.value(row))
        }));
        if rows.position >= until {
            break;
        }
    }
    Ok(seen)
}

fn values(seen: &Seen) -> Vec<&str> {
    seen.iter().map(|(_, value, _)| value.as_str()).collect()
}

#[test]
fn kdir_01_three_topics_one_of_them_from_the_third_message_on() {
    let word = |letter: &str| format!("{{\"w\":\"{letter}\"}}");
    let sixteen: Vec<Record> = (0..16)
        .map(|n| Record::of(0, word(if n < 7 { "a" } else { "b" })))
        .collect();
    let topics: Vec<String> = (0..3).map(|_| topic("kdir", &[])).collect();
    for topic in &topics {
        produce(topic, &sixteen).unwrap();
    }
    let offsets: Vec<String> = topics
        .iter()
        .zip([0, 0, 2])
        .map(|(topic, offset)| format!("\"{topic}\" = {{ \"0\" = {offset} }}"))
        .collect();
    let source = format!(
        "[sources.events]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = {topics:?}\nformat = \"json\"\ncolumns = \"w VARCHAR\"\n\
         start = {{ offsets = {{ {} }} }}\nmax_rate_per_partition = 50\n",
        servers::kafka(),
        offsets.join(", ")
    );
    let target = files();
    let text = head("kdir")
        + &source
        + &sink(
            "out",
            "SELECT _topic AS t, _offset AS o, batch_id() AS b FROM events",
            &target,
        );
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows(&pipeline, &target);
    assert_eq!(rows.len(), 46);
    // Five offsets of each partition in a batch: in each batch as many records as offsets, in one piece.
    for topic in &topics {
        for batch in 1..=4 {
            let mut of: Vec<i64> = rows
                .iter()
                .filter(|row| row["t"] == **topic && row["b"] == batch)
                .filter_map(|row| row["o"].as_i64())
                .collect();
            of.sort_unstable();
            let (Some(first), Some(last)) = (of.first(), of.last()) else {
                continue;
            };
            assert_eq!(of, (*first..=*last).collect::<Vec<_>>(), "{topic}, batch {batch}");
        }
    }
}

/// Departs: a start beyond the end is refused, where Spark waits for what comes there.
#[test]
fn kdir_04_a_start_beyond_the_end_is_refused() {
    let topic = topic("kdir", &[]);
    produce(&topic, &texts(&["1"; 10])).unwrap();
    let source = format!(
        "[sources.events]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\nformat = \"raw\"\n\
         start = {{ offsets = {{ \"{topic}\" = {{ \"0\" = 11 }} }} }}\n",
        servers::kafka()
    );
    let text = head("kdir") + &source + &sink("out", "SELECT value FROM events", &files());
    let ended = Pipeline::write(&text)
        .unwrap()
        .start_to_end(&[])
        .unwrap()
        .wait(LIMIT)
        .unwrap();
    assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
    assert!(ended.stderr.contains("11"), "{}", ended.log_tail());
}

/// A pipeline from a topic of raw records to files, which publishes to `group`.
fn publishing(topic: &str, group: &str, more: &str) -> Pipeline {
    let source = format!(
        "[sources.events]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\nformat = \"raw\"\ngroup = \"{group}\"\n{more}\n",
        servers::kafka()
    );
    let text = head("kdir") + &source + &sink("out", "SELECT encode(value, 'hex') AS v FROM events", &files());
    Pipeline::write(&text).unwrap()
}

/// Where a group stands in a topic of one partition, as another client sees it. A group nobody asked for before has no
/// coordinator yet.
fn group_offset(topic: &str, group: &str) -> Offset {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka())
        .set("group.id", group)
        .create()
        .unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let deadline = Instant::now() + LIMIT;
    loop {
        match consumer.committed_offsets(asked.clone(), LIMIT) {
            Ok(stored) => return stored.elements()[0].offset(),
            Err(error) => assert!(Instant::now() < deadline, "{group}: {error}"),
        }
    }
}

#[test]
fn kdir_06_a_new_consumer_of_the_group_begins_where_the_stream_stood() {
    let (topic, group) = (topic("kdir", &[]), servers::unique("group"));
    produce(&topic, &texts(&["1"; 10])).unwrap();
    assert_eq!(group_offset(&topic, &group), Offset::Invalid);
    publishing(&topic, &group, "").run_to_end(&[], LIMIT).unwrap();
    assert_eq!(group_offset(&topic, &group), Offset::Offset(10));
    produce(&topic, &texts(&["2", "3"])).unwrap();
    let next = publishing(&topic, &group, "start = \"committed\"");
    let ended = next.run_to_end(&[], LIMIT).unwrap();
    assert!(ended.stderr.contains("records=2 "), "{}", ended.log_tail());
}

/// Departs: a stop drains, and what was drained is published too. What a kill leaves unpublished is never missed, since nobody
/// reads it back.
#[test]
fn kdir_08_departs_the_last_batch_before_a_stop_is_published() {
    let (topic, group) = (topic("kdir", &[]), servers::unique("group"));
    produce(&topic, &texts(&["1"; 10])).unwrap();
    let pipeline = publishing(&topic, &group, "");
    let run = pipeline.start(&[], &[]).unwrap();
    assert!(run.wait_for_log("batch=1 ", LIMIT).unwrap(), "{}", run.log());
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert_eq!(group_offset(&topic, &group), Offset::Offset(10));
}

/// Of positions that wait to be published the newest counts, and the group never goes back.
#[test]
fn kdir_09_many_batches_leave_the_newest_position_and_none_before_it() {
    let (topic, group) = (topic("kdir", &[]), servers::unique("group"));
    produce(&topic, &texts(&["1"; 60])).unwrap();
    let pipeline = publishing(&topic, &group, "max_rate_per_partition = 100");
    let mut run = pipeline.start_to_end(&[]).unwrap();
    let mut seen = Vec::new();
    while run.is_running().unwrap() {
        if let Offset::Offset(offset) = group_offset(&topic, &group) {
            seen.push(offset);
        }
    }
    seen.push(60);
    assert_eq!(run.wait(LIMIT).unwrap().code(), Some(0));
    assert_eq!(group_offset(&topic, &group), Offset::Offset(60));
    assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]), "{seen:?}");
    assert!(
        seen.iter().all(|offset| offset % 10 == 0),
        "each is the end of a batch: {seen:?}"
    );
}

/// Departs by a record: a partition's share of a batch is rounded down, so that 5 for two partitions are 2 of each.
#[test]
fn krate_10_the_rate_gives_the_size_of_a_batch() {
    let topic = servers::unique("krate");
    java::create_topic(&topic, 2, &[]).unwrap();
    let records: Vec<Record> = (0..200).map(|n| Record::of(n % 2, n.to_string())).collect();
    produce(&topic, &records).unwrap();
    for (rate, batch) in [(100, 10), (50, 4), (20, 2)] {
        let group = servers::unique("group");
        let pipeline = publishing(&topic, &group, &format!("initial_rate = {rate}"));
        let run = pipeline.start(&[], &[]).unwrap();
        assert!(run.wait_for_log("batch=1 ", LIMIT).unwrap(), "{}", run.log());
        run.signal(Signal::TERM);
        let ended = run.wait(LIMIT).unwrap();
        let line = ended.stderr.lines().find(|line| line.contains("batch=1 ")).unwrap();
        assert!(line.contains(&format!("records={batch} ")), "{rate}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn krdd_02_an_empty_range_is_empty() {
    let topic = topic("krdd", &[]);
    produce(&topic, &texts(&["a"])).unwrap();
    assert_eq!(read(&topic, 0, 0).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn krdd_04_a_compacted_range_gives_what_is_left() {
    let settings = [
        "cleanup.policy=compact",
        "segment.ms=500",
        "min.cleanable.dirty.ratio=0.001",
        "delete.retention.ms=0",
    ];
    let topic = topic("krdd", &settings);
    let pairs = [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("c", "1"),
        ("c", "2"),
        ("b", "2"),
        ("b", "3"),
    ];
    produce(&topic, &keyed(&pairs)).unwrap();
    let row = |key: &str, value: &str, offset| (Some(key.to_owned()), value.to_owned(), offset);
    let left = [row("a", "2", 1), row("c", "2", 4), row("b", "3", 6)];
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        // The newest segment is never compacted: another record, a little later, begins one.
        produce(&topic, &keyed(&[("later", "x")])).unwrap();
        let seen = read(&topic, 0, 7).await.unwrap();
        if seen == left {
            return;
        }
        assert!(Instant::now() < deadline, "not compacted in 90 s: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn krdd_06_ranges_give_what_they_say_whatever_comes_later() {
    let topic = topic("krdd", &[]);
    let all: Vec<String> = (0..41).map(|n| n.to_string()).collect();
    let some = |range: std::ops::Range<usize>| texts(&all[range].iter().map(String::as_str).collect::<Vec<_>>());
    produce(&topic, &some(0..18)).unwrap();
    assert_eq!(values(&read(&topic, 0, 18).await.unwrap()), all[..18]);
    produce(&topic, &some(18..19)).unwrap();
    assert_eq!(read(&topic, 18, 18).await.unwrap(), []);
    produce(&topic, &some(19..41)).unwrap();
    assert_eq!(values(&read(&topic, 18, 19).await.unwrap()), ["18"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn krdd_09_a_range_that_retention_took_is_a_loss_and_no_skip() {
    let topic = topic("krdd", &[]);
    produce(&topic, &texts(&["x"; 10])).unwrap();
    java::run("Topics", &["cut", &topic, "0", "5"]).unwrap();
    let error = read(&topic, 0, 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Loss, "{}", error.chain());
    assert_eq!(read(&topic, 5, 10).await.unwrap().len(), 5);
}
