//! Scans against brokers that fail in all the ways they can.

use tidemill_core::position::TopicPartition;
use tidemill_engine::error::Result;
use tidemill_engine::source::Source;
use tokio::time::timeout;

use super::*;
use crate::config::KafkaConfig;
use crate::fake_cluster::{FakeCluster, FakePartition, Mishap};
use crate::fetch::testing::{Packing, TestBatch, TestRecord};
use crate::source::KafkaSource;

const DEADLINE: Duration = Duration::from_secs(20);
const OFFSETS: RawColumns = RawColumns {
    key: false,
    value: false,
    timestamp: false,
    headers: false,
};

/// `batches` batches of ten records of about 100 bytes.
fn partition(leader: usize, batches: i64) -> FakePartition {
    let value = "x".repeat(100);
    let batches: Vec<_> = (0..batches)
        .map(|batch| TestBatch::values(batch * 10, &[value.as_str(); 10]))
        .collect();
    let end = batches.last().map_or(0, |batch| batch.last_offset + 1);
    FakePartition {
        leader,
        batches,
        end,
        ..FakePartition::default()
    }
}

fn config(cluster: &FakeCluster) -> KafkaConfig {
    let mut config = KafkaConfig::new(&cluster.address(), ["t"]);
    config.partition_fetch_bytes = 2500;
    config.response_bytes_max = 6000;
    config.fetch_budget_bytes = 12 << 10;
    config.connect_timeout = Duration::from_secs(2);
    config
}

fn ranges(cluster: &FakeCluster) -> Vec<RangePlan> {
    let state = cluster.state.lock().unwrap();
    let partitions = state.partitions.iter().enumerate();
    let ranges = partitions.map(|(number, partition)| RangePlan {
        source: "s".into(),
        partition: TopicPartition::new("t", number as i32),
        topic_id: state.id.map(topic_id::to_text),
        from: 0,
        until: partition.end,
        leader_epoch: 0,
    });
    ranges.collect()
}

async fn offsets(mut stream: RangeStream) -> Result<Vec<i64>> {
    let mut offsets = Vec::new();
    let mut position = -1;
    while let Some(rows) = timeout(DEADLINE, stream.next()).await.expect("rows in time") {
        let rows = rows?;
        offsets.extend(rows.offsets.values());
        position = rows.position;
    }
    offsets.push(position);
    Ok(offsets)
}

/// The offsets of every range, with the last position behind them.
async fn read_all(source: &KafkaSource, ranges: Vec<RangePlan>) -> Vec<Result<Vec<i64>>> {
    let count = ranges.len();
    let scan = source.scan(ranges, OFFSETS);
    let tasks: Vec<_> = (0..count)
        .map(|range| tokio::spawn(offsets(scan.stream(range))))
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

async fn read_one(cluster: &FakeCluster) -> Result<Vec<i64>> {
    let source = KafkaSource::new(config(cluster)).unwrap();
    read_all(&source, ranges(cluster)).await.remove(0)
}

fn upto(until: i64) -> Vec<i64> {
    (0..=until).collect()
}

#[tokio::test]
async fn all_partitions_of_all_leaders_are_read() {
    let partitions = vec![partition(0, 20), partition(1, 10), partition(0, 0), partition(1, 1)];
    let cluster = FakeCluster::start(2, partitions).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let ends = source.ends(true).await.unwrap();
    assert_eq!(
        ends.iter().map(|end| (end.earliest, end.end)).collect::<Vec<_>>(),
        [(0, 200), (0, 100), (0, 0), (0, 10)]
    );
    let read = read_all(&source, ranges(&cluster)).await;
    let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(read, [upto(200), upto(100), vec![0], upto(10)]);
    assert!(
        cluster
            .state
            .lock()
            .unwrap()
            .fetches
            .iter()
            .all(|(version, _)| *version == 13)
    );
}

#[tokio::test]
async fn a_broker_without_topic_ids_in_fetches_is_asked_by_name() {
    let cluster = FakeCluster::start(1, vec![partition(0, 5)]).await;
    cluster.state.lock().unwrap().fetch_version_max = 12;
    assert_eq!(read_one(&cluster).await.unwrap(), upto(50));
    assert_eq!(cluster.state.lock().unwrap().fetches[0].0, 12);
}

#[tokio::test]
async fn a_broker_of_kafka_2_1_is_read() {
    let cluster = FakeCluster::start(1, vec![partition(0, 5)]).await;
    cluster.state.lock().unwrap().is_old = true;
    assert_eq!(read_one(&cluster).await.unwrap(), upto(50));
    assert!(cluster.state.lock().unwrap().fetches.iter().all(|fetch| fetch.0 == 10));
}

#[tokio::test]
async fn split_ranges_of_one_partition_are_each_exact() {
    let cluster = FakeCluster::start(1, vec![partition(0, 10)]).await;
    let whole = ranges(&cluster).remove(0);
    let part = |from, until| RangePlan {
        from,
        until,
        ..whole.clone()
    };
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let read = read_all(&source, vec![part(0, 33), part(33, 34), part(34, 100), part(50, 50)]).await;
    let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(read, [upto(33), vec![33, 34], (34..=100).collect(), vec![50]]);
    for (_, asked) in &cluster.state.lock().unwrap().fetches {
        assert_eq!(asked.len(), 1, "a partition stands once in a request: {asked:?}");
    }
}

#[tokio::test]
async fn a_batch_larger_than_asked_for_passes() {
    let large = "y".repeat(40_000);
    let mut with_large = partition(0, 3);
    with_large.batches.push(TestBatch::values(30, &[&large, "end"]));
    with_large.end = 32;
    let cluster = FakeCluster::start(1, vec![partition(0, 30), with_large]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let read = read_all(&source, ranges(&cluster)).await;
    let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(read, [upto(300), upto(32)]);
}

#[tokio::test]
async fn a_range_that_ends_in_records_nobody_sees_ends() {
    let mut aborted = partition(0, 1);
    aborted.batches.push(TestBatch::values(10, &["a", "b"]).of_producer(9));
    aborted.batches.push(TestBatch::marker(12, 9, false));
    aborted.aborted = vec![(9, 10)];
    // Compaction removed the rest up to the end.
    aborted.end = 20;
    let cluster = FakeCluster::start(1, vec![aborted]).await;
    let mut expected = upto(9);
    expected.push(20);
    assert_eq!(read_one(&cluster).await.unwrap(), expected);
}

#[tokio::test]
async fn an_empty_answer_beside_a_full_one_concludes_nothing() {
    let cluster = FakeCluster::start(1, vec![partition(0, 40), partition(0, 40), partition(0, 40)]).await;
    // Each response holds one batch and a piece of another; the third partition comes back empty.
    cluster.state.lock().unwrap().response_bytes_max = 1300;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    for read in read_all(&source, ranges(&cluster)).await {
        assert_eq!(read.unwrap(), upto(400));
    }
}

#[tokio::test]
async fn passing_faults_are_outlived() {
    let cluster = FakeCluster::start(2, vec![partition(0, 10)]).await;
    cluster.state.lock().unwrap().mishaps.extend([
        Mishap::Hangup,
        Mishap::Code(0, 6),
        Mishap::Code(0, 5),
        Mishap::Code(0, 74),
        Mishap::Code(0, 100),
        Mishap::Hangup,
    ]);
    assert_eq!(read_one(&cluster).await.unwrap(), upto(100));
    assert!(cluster.state.lock().unwrap().mishaps.is_empty());
}

#[tokio::test]
async fn a_leader_that_moves_is_followed() {
    let cluster = FakeCluster::start(2, vec![partition(0, 10)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    source.ends(false).await.unwrap();
    cluster.state.lock().unwrap().partitions[0].leader = 1;
    assert_eq!(read_all(&source, ranges(&cluster)).await.remove(0).unwrap(), upto(100));
}

#[tokio::test]
async fn a_partition_without_a_leader_does_not_hold_up_the_others() {
    let cluster = FakeCluster::start(1, vec![partition(7, 10), partition(0, 10)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let scan = source.scan(ranges(&cluster), OFFSETS);
    let stuck = tokio::spawn(offsets(scan.stream(0)));
    assert_eq!(offsets(scan.stream(1)).await.unwrap(), upto(100));
    assert!(!stuck.is_finished());
    cluster.state.lock().unwrap().partitions[0].leader = 0;
    assert_eq!(stuck.await.unwrap().unwrap(), upto(100));
}

#[tokio::test]
async fn a_removed_offset_is_a_loss_that_names_it() {
    let cluster = FakeCluster::start(1, vec![partition(0, 10)]).await;
    cluster.state.lock().unwrap().mishaps.push_back(Mishap::Code(0, 1));
    let error = read_one(&cluster).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
    assert!(
        error.to_string().contains("t/0: offset 0 is no longer there"),
        "{error}"
    );
}

#[tokio::test]
async fn a_topic_made_anew_is_a_loss_that_names_it() {
    let cluster = FakeCluster::start(1, vec![partition(0, 10)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    source.ends(false).await.unwrap();
    let planned = ranges(&cluster);
    cluster.state.lock().unwrap().id = Some(uuid::Uuid::from_u128(6));
    let error = read_all(&source, planned).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
    assert!(
        error.to_string().contains("topic t was deleted and created again"),
        "{error}"
    );
}

/// The broker fetches by name: only a second look at the ids tells, and it comes before the range ends.
#[tokio::test]
async fn x13_a_topic_made_anew_under_a_fetch_by_name_is_a_loss_that_names_it() {
    let cluster = FakeCluster::start(1, vec![partition(0, 10)]).await;
    cluster.state.lock().unwrap().fetch_version_max = 12;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    source.ends(false).await.unwrap();
    let planned = ranges(&cluster);
    cluster.state.lock().unwrap().mishaps.push_back(Mishap::Recreated);
    let error = read_all(&source, planned).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
    assert!(
        error.to_string().contains("topic t was deleted and created again"),
        "{error}"
    );
    let fetches = &cluster.state.lock().unwrap().fetches;
    assert!(fetches.iter().all(|(version, _)| *version == 12), "{fetches:?}");
}

#[tokio::test]
async fn a_damaged_batch_names_partition_and_offset() {
    let mut damaged = partition(0, 3);
    damaged.batches[1].packing = Packing::Torn;
    let cluster = FakeCluster::start(1, vec![damaged]).await;
    let error = read_one(&cluster).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Data);
    let text = error.to_string();
    assert!(
        text.starts_with("t/0: the record batch at offset 10 ") && text.contains("lz4"),
        "{text}"
    );
}

#[tokio::test]
async fn a_batch_that_is_always_cut_off_is_asked_for_whole() {
    let large = "y".repeat(40_000);
    let mut with_large = partition(0, 3);
    with_large.batches.push(TestBatch::values(30, &[&large, "end"]));
    with_large.end = 32;
    let cluster = FakeCluster::start(1, vec![with_large]).await;
    cluster.state.lock().unwrap().cuts_first_batch = true;
    assert_eq!(read_one(&cluster).await.unwrap(), upto(32));
}

#[tokio::test]
async fn a_hostile_frame_is_refused_before_room_is_made() {
    let frame = |length: i32| Mishap::Bytes([&length.to_be_bytes()[..], &[9; 400]].concat());
    let counts = [&[0; 10][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[1; 400]].concat();
    let mishaps = [
        (frame(i32::MAX), "its length is 2147483647 bytes"),
        (frame(-5), "its length is -5 bytes"),
        (frame(400), "it belongs to another request"),
        (Mishap::Body(counts), "it declares more elements than it has bytes for"),
        (Mishap::Body(vec![0; 3]), "it ends too early"),
        (
            Mishap::Body([&[0; 10][..], &[1, 0, 7]].concat()),
            "bytes follow its end",
        ),
    ];
    for (mishap, expected) in mishaps {
        let cluster = FakeCluster::start(1, vec![partition(0, 1)]).await;
        cluster.state.lock().unwrap().mishaps.push_back(mishap.clone());
        let error = read_one(&cluster).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("malformed answer: {expected}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn slices_that_nobody_polls_starve_none() {
    // The budget is good for four chunks; eight slices take one each and are then left alone.
    let cluster = FakeCluster::start(1, (0..9).map(|_| partition(0, 20)).collect()).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let scan = source.scan(ranges(&cluster), OFFSETS);
    let mut blocked: Vec<_> = (0..8).map(|range| scan.stream(range)).collect();
    for stream in &mut blocked {
        timeout(DEADLINE, stream.next())
            .await
            .expect("rows in time")
            .unwrap()
            .unwrap();
    }
    let ahead = async {
        while source.shared().budget.ahead_left() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, ahead)
        .await
        .expect("as much is fetched ahead as may be");
    // Turns for the session, in which it may take no more.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(offsets(scan.stream(8)).await.unwrap(), upto(200));
    for stream in blocked {
        assert_eq!(offsets(stream).await.unwrap().last(), Some(&200));
    }
}

#[tokio::test]
async fn nothing_is_fetched_before_the_first_poll_or_after_the_last_stream_went() {
    let cluster = FakeCluster::start(1, vec![partition(0, 100), partition(0, 100)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let scan = source.scan(ranges(&cluster), OFFSETS);
    let (mut first, unpolled) = (scan.stream(0), scan.stream(1));
    timeout(DEADLINE, first.next())
        .await
        .expect("rows in time")
        .unwrap()
        .unwrap();
    assert!(
        cluster
            .state
            .lock()
            .unwrap()
            .fetches
            .iter()
            .all(|(_, asked)| asked.iter().all(|ask| ask.0 == 0))
    );
    drop((first, unpolled, scan));
    // The task holds the source's state until it ends.
    let cluster_of_source = Arc::clone(&source.shared().cluster);
    drop(source);
    let ended = async {
        while Arc::strong_count(&cluster_of_source) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, ended).await.expect("the fetch task ends");
}

#[tokio::test]
async fn a_range_is_taken_once() {
    let cluster = FakeCluster::start(1, vec![partition(0, 1)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let scan = source.scan(ranges(&cluster), OFFSETS);
    drop(scan.stream(0));
    for range in [0, 1] {
        assert_eq!(offsets(scan.stream(range)).await.unwrap_err().kind(), Kind::Bug);
    }
}

#[tokio::test]
async fn a_missing_topic_is_refused_by_name() {
    let cluster = FakeCluster::start(1, vec![partition(0, 1)]).await;
    cluster.state.lock().unwrap().is_missing = true;
    let error = KafkaSource::new(config(&cluster))
        .unwrap()
        .ends(false)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("topic t does not exist"), "{error}");
}

#[tokio::test]
async fn ends_that_move_back_are_looked_at_again() {
    let cluster = FakeCluster::start(1, vec![partition(0, 3)]).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    source.ends(false).await.unwrap();
    let anew = uuid::Uuid::from_u128(6);
    cluster.state.lock().unwrap().id = Some(anew);
    cluster.state.lock().unwrap().partitions[0] = partition(0, 1);
    let ends = source.ends(false).await.unwrap();
    assert_eq!(
        (ends[0].end, ends[0].topic_id.clone()),
        (10, Some(topic_id::to_text(anew)))
    );
}

#[tokio::test]
async fn holes_in_the_middle_are_passed() {
    let record = |offset| TestRecord::value(offset, "kept");
    let sparse = TestBatch {
        base_offset: 0,
        last_offset: 99,
        ..TestBatch::of(vec![record(7), record(50)])
    };
    let later = TestBatch {
        base_offset: 500,
        last_offset: 599,
        ..TestBatch::of(vec![record(550)])
    };
    let holes = FakePartition {
        batches: vec![sparse, later],
        end: 700,
        ..FakePartition::default()
    };
    let cluster = FakeCluster::start(1, vec![holes]).await;
    assert_eq!(read_one(&cluster).await.unwrap(), [7, 50, 550, 700]);
}

#[tokio::test]
async fn a_long_scan_shares_a_leader_s_slices_between_two_sessions() {
    let far = 10_000_000;
    let gap = |mut partition: FakePartition| {
        partition.batches.push(TestBatch::values(far, &["last"]));
        partition.end = far + 1;
        partition
    };
    let partitions = [20, 10, 5].map(|batches| gap(partition(0, batches)));
    let cluster = FakeCluster::start(1, partitions.into()).await;
    let source = KafkaSource::new(config(&cluster)).unwrap();
    let read = read_all(&source, ranges(&cluster)).await;
    let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        read,
        [200, 100, 50].map(|end| (0..end).chain([far, far + 1]).collect::<Vec<_>>())
    );
    for (_, asked) in &cluster.state.lock().unwrap().fetches {
        let partitions: Vec<i32> = asked.iter().map(|(partition, _)| *partition).collect();
        assert!(
            partitions.iter().all(|partition| [0, 2].contains(partition)) || partitions == [1],
            "{partitions:?} in one request"
        );
    }
}
