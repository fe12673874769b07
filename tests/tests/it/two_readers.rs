//! The native reader and librdkafka: the same records of every range of every hard topic, and the same end where they are lost.

use arrow::array::AsArray;
use futures::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidemill_core::plan::RangePlan;
use tidemill_engine::error::Result;
use tidemill_engine::source::{PartitionEnds, RawColumns, Source};
use tidemill_kafka::{Isolation, KafkaConfig, KafkaSource, Reader};
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::chance::Chance;
use tidemill_tests::own_server::OwnServer;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::target::Kind;
use tidemill_tests::{java, servers};

use crate::hard_topics::truth;
use crate::sheet::{READERS, files, head, sink, source, source_at, topic};

/// Everything of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn source_of(brokers: &str, topic: &str, reader: &str, isolation: Isolation) -> KafkaSource {
    let mut config = KafkaConfig::new(brokers, [topic]);
    config.isolation = isolation;
    // Small answers: a range comes in many.
    config.partition_fetch_bytes = 4096;
    config.response_bytes_max = 16 << 10;
    if reader == "librdkafka" {
        config.reader = Reader::Librdkafka(BTreeMap::new());
    }
    KafkaSource::new(config).unwrap()
}

const ALL: RawColumns = RawColumns {
    key: true,
    value: true,
    timestamp: true,
    headers: true,
};

fn plan(end: &PartitionEnds, from: i64, until: i64) -> RangePlan {
    RangePlan {
        source: "events".to_owned(),
        partition: end.partition.clone(),
        topic_id: end.topic_id.clone(),
        from,
        until,
        leader_epoch: end.leader_epoch,
    }
}

/// The records of each range, all read at once, in one scan.
async fn read(source: &KafkaSource, ranges: &[RangePlan]) -> Result<Vec<Vec<Seen>>> {
    let scan = source.scan(ranges.to_vec(), ALL);
    let each = ranges.iter().enumerate().map(|(at, range)| {
        let mut stream = scan.stream(at);
        async move {
            let mut seen = Vec::new();
            let mut position = range.from;
            while let Some(rows) = stream.next().await {
                let rows = rows?;
                assert!(rows.position >= position, "{range:?}");
                position = rows.position;
                let headers = rows.headers.as_ref().unwrap();
                for row in 0..rows.offsets.len() {
                    let bytes =
                        |column: &arrow::array::BinaryViewArray| column.iter().nth(row).unwrap().map(<[u8]>::to_vec);
                    let entries = headers.value(row);
                    let entries = entries.as_struct();
                    let names = entries.column(0).as_string::<i32>();
                    let contents = entries.column(1).as_binary::<i32>();
                    seen.push(Seen {
                        offset: rows.offsets.value(row),
                        timestamp: rows.timestamps.as_ref().unwrap().value(row),
                        key: bytes(rows.keys.as_ref().unwrap()),
                        value: bytes(rows.values.as_ref().unwrap()),
                        headers: names
                            .iter()
                            .zip(contents.iter())
                            .map(|(name, content)| (name.unwrap().to_owned(), content.map(<[u8]>::to_vec)))
                            .collect(),
                    });
                }
            }
            assert!(position >= range.until, "{range:?} ended at {position}");
            Ok(seen)
        }
    });
    futures::future::try_join_all(each).await
}

/// All of each partition, and parts of it that begin and end anywhere, some of the same partition in one scan.
fn ranges(ends: &[PartitionEnds], chance: &mut Chance) -> Vec<RangePlan> {
    let mut ranges = Vec::new();
    for end in ends.iter().filter(|end| end.end > end.earliest) {
        ranges.push(plan(end, end.earliest, end.end));
        for _ in 0..4 {
            let length = end.end - end.earliest;
            let from = end.earliest + i64::try_from(chance.below(length as u64)).unwrap();
            let until = from + 1 + i64::try_from(chance.below((end.end - from) as u64)).unwrap();
            ranges.push(plan(end, from, until.min(end.end)));
        }
    }
    ranges
}

async fn both_read_the_same(topic: &str, isolation: Isolation, chance: &mut Chance) -> usize {
    let brokers = servers::kafka();
    let [native, librdkafka] = READERS.map(|reader| source_of(&brokers, topic, reader, isolation));
    let ends = native.ends(true).await.unwrap();
    let ranges = ranges(&ends, chance);
    let (one, other) = (
        read(&native, &ranges).await.unwrap(),
        read(&librdkafka, &ranges).await.unwrap(),
    );
    for ((one, other), range) in one.iter().zip(&other).zip(&ranges) {
        let different = one.iter().zip(other).position(|(one, other)| one != other);
        assert!(
            different.is_none() && one.len() == other.len(),
            "{topic}, {isolation:?}, {range:?}: {} and {} records, the first that differs: {:?}",
            one.len(),
            other.len(),
            different.map(|at| (&one[at], &other[at]))
        );
    }
    one.iter().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_readers_give_the_same_records_of_every_hard_topic() {
    let mut chance = Chance::announced("ranges of two readers");
    for name in [
        "interleaved",
        "tail",
        "compacted",
        "empty",
        "idle",
        "odd",
        "append-time",
        "open",
    ] {
        let topic = tokio::task::block_in_place(|| truth(name))["topic"].as_str().unwrap();
        for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
            let records = both_read_the_same(topic, isolation, &mut chance).await;
            assert!(records > 0 || name == "empty", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_readers_give_the_same_records_of_every_compression() {
    let mut chance = Chance::announced("ranges of two readers");
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = servers::unique(compression);
        let options = [
            "--abort-third",
            "--per-transaction",
            "100",
            "--compression",
            compression,
        ];
        tokio::task::block_in_place(|| java::load(&topic, 3_000, 2, &options)).unwrap();
        assert!(both_read_the_same(&topic, Isolation::ReadCommitted, &mut chance).await > 3_000);
    }
}

fn with_librdkafka(text: &str) -> String {
    text.replace("start = \"earliest\"", "start = \"earliest\"\nreader = \"librdkafka\"")
}

#[test]
fn a_pipeline_that_reads_through_librdkafka_survives_kills() {
    for kind in [Kind::File, Kind::Postgres] {
        for point in [
            "read.first-rows",
            "read.slice-end",
            "sink.before-commit",
            "sink.after-commit",
        ] {
            let case = Case::new(kind, Input::small(), 200).unwrap();
            let text = std::fs::read_to_string(case.pipeline.file()).unwrap();
            // The bound of the native reader's answers is none of librdkafka's.
            std::fs::write(case.pipeline.file(), with_librdkafka(&text)).unwrap();
            let armed = format!("{point}=kill@2");
            let env = [("TIDEMILL_FAILPOINTS", armed.as_str())];
            let killed = case.pipeline.start_to_end(&env).unwrap().wait(LIMIT).unwrap();
            assert!(killed.was_killed(), "{point}: {}", killed.log_tail());
            case.judge_prefix().unwrap().assert_clean(&killed.log_tail());
            case.finish().unwrap();
        }
    }
}

/// The topic of a planned range is made anew before it is read: the new records are not the planned ones.
#[test]
fn a_topic_that_was_made_again_between_plan_and_fetch_stops_both() {
    let numbered =
        |count: i64| -> Vec<Record> { (0..count).map(|n| Record::of(0, format!("{{\"n\":{n}}}"))).collect() };
    for reader in READERS {
        let topic = topic("remade", 1, &numbered(10));
        let target = files();
        let text = head("remade")
            + &source("events", &topic, "n BIGINT", &format!("reader = \"{reader}\""))
            + &sink("out", "SELECT n FROM events", &target);
        let pipeline = Pipeline::write(&text).unwrap();
        let armed = [("TIDEMILL_FAILPOINTS", "plan.after-log=stop@2")];
        let mut run = pipeline.start_to_end(&armed).unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
        java::run("Topics", &["delete", &topic]).unwrap();
        java::create_topic(&topic, 1, &[]).unwrap();
        produce(&topic, &numbered(20)).unwrap();
        run.signal(Signal::CONT);
        let ended = run.wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(4), "{reader}: {}", ended.log_tail());
        assert!(
            ended.stderr.contains("was deleted and created again"),
            "{reader}: {}",
            ended.log_tail()
        );
        assert_eq!(target.rows(pipeline.folder()).unwrap(), Vec::<Value>::new(), "{reader}");
    }
}

/// The broker is killed under a scan and comes back.
#[test]
fn librdkafka_rides_through_the_end_of_its_broker() {
    const RECORDS: u64 = 300_000;
    let mut broker = OwnServer::kafka().unwrap();
    let topic = servers::unique("librdkafka");
    java::load_at(broker.address(), &topic, RECORDS, 3, &["--padding", "400"]).unwrap();
    let target = files();
    let text = head("librdkafka")
        + &source_at(
            broker.address(),
            "events",
            &topic,
            "seq BIGINT, part INT",
            "reader = \"librdkafka\"",
        )
        + &sink("out", "SELECT seq, part FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let armed = [("TIDEMILL_FAILPOINTS", "read.first-rows=stop@1")];
    let mut run = pipeline.start_to_end(&armed).unwrap();
    assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
    broker.end(Signal::KILL).unwrap();
    run.signal(Signal::CONT);
    assert!(
        run.wait_for_log("reading from kafka is interrupted", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    broker.again().unwrap();
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let mut rows: Vec<(u64, u64)> = target
        .rows(pipeline.folder())
        .unwrap()
        .iter()
        .map(|row| (row["part"].as_u64().unwrap(), row["seq"].as_u64().unwrap()))
        .collect();
    rows.sort_unstable();
    let expected = (0..3).flat_map(|part| (0..RECORDS / 3).map(move |seq| (part, seq)));
    assert!(rows.into_iter().eq(expected));
}

/// The ends, once the stable end of the only partition is `end`: a commit is answered before its markers are written.
async fn stable_ends(source: &KafkaSource, end: i64) -> Vec<PartitionEnds> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let ends = source.ends(true).await.unwrap();
        if ends[0].end == end {
            return ends;
        }
        assert!(
            Instant::now() < deadline,
            "the stable end is {}, not {end}",
            ends[0].end
        );
        tokio::task::yield_now().await;
    }
}

/// A record that is larger than any answer should be, and one transaction whose marker ends the partition.
#[tokio::test(flavor = "multi_thread")]
async fn large_records_and_a_marker_at_the_end_are_no_end_of_either() {
    let topic = servers::unique("large");
    tokio::task::block_in_place(|| java::create_topic(&topic, 1, &[])).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka())
        .set("transactional.id", servers::unique("large"))
        .create()
        .unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    let value = vec![b'x'; 900_000];
    for _ in 0..3 {
        producer
            .send(BaseRecord::<(), Vec<u8>>::to(&topic).partition(0).payload(&value))
            .unwrap();
    }
    producer.commit_transaction(LIMIT).unwrap();
    let brokers = servers::kafka();
    for reader in READERS {
        let source = source_of(&brokers, &topic, reader, Isolation::ReadCommitted);
        let ends = stable_ends(&source, 4).await;
        let begun = Instant::now();
        let seen = read(&source, &[plan(&ends[0], 0, 4), plan(&ends[0], 3, 4)])
            .await
            .unwrap();
        assert_eq!((seen[0].len(), seen[1].len()), (3, 0), "{reader}");
        eprintln!("{reader}: {:?}", begun.elapsed());
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{reader}: {:?}",
            begun.elapsed()
        );
    }
}
