//! Spark Streaming's rows on its write-ahead log (section 8 of the conformance page), by their ids, where they say something
//! about ours.
//!
//! Departures: names carry epoch and sequence, not times; nothing is closed after a write (WAL-15, the close-after-write halves
//! of the others): a store without append and fsync carries no log. Groups are written by one log for both of its uses,
//! so WAL-19 and WAL-20, which ask which class and which wrapper, have nothing to ask.

use std::time::Duration;

use futures::TryStreamExt;
use tempfile::TempDir;

use super::super::testing::*;
use super::super::*;

/// Segments of one second, a record each half second from 10.5 s on.
async fn write_each_half_second(place: &mut Place<LocalStorage>, epoch: u64, numbers: std::ops::RangeInclusive<u64>) {
    place.settings.segment_age_max = Duration::from_secs(1);
    let log = place.start(epoch);
    for text in texts(numbers) {
        place.clock.advance(500);
        put(&log, text).await.unwrap();
    }
    log.close().await.unwrap();
}

fn place(folder: &TempDir) -> Place<LocalStorage> {
    Place::on(LocalStorage::new(folder.path()))
}

fn segments(folder: &TempDir) -> Vec<SegmentName> {
    let names = LocalStorage::new(folder.path()).list().unwrap();
    let mut segments: Vec<SegmentName> = names.iter().filter_map(|name| name.parse().ok()).collect();
    segments.sort_unstable();
    segments
}

/// Ours: ten segments of one log, not ten files of any begin.
#[tokio::test]
async fn wal_01_all_records_come_in_the_order_of_their_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(&folder);
    place.settings.segment_age_max = Duration::from_millis(999);
    let log = place.start(1);
    for hundred in 0..10 {
        place.clock.advance(1_000);
        for text in texts(hundred * 100..(hundred + 1) * 100) {
            put(&log, text).await.unwrap();
        }
    }
    log.close().await.unwrap();
    assert_eq!(segments(&folder).len(), 10);
    assert_eq!(place.found(2).unwrap(), texts(0..1_000));
}

/// WAL-02 and WAL-03: a segment takes records until it is older than its age, strictly. Ours are named by sequence.
#[tokio::test]
async fn wal_02_and_03_a_segment_holds_the_records_of_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(&folder);
    write_each_half_second(&mut place, 1, 1..=100).await;
    let firsts: Vec<u64> = segments(&folder).iter().map(|segment| segment.first).collect();
    assert_eq!(firsts, (0..34).map(|number| number * 3).collect::<Vec<_>>());
    assert_eq!(place.found(2).unwrap(), texts(1..=100));
}

#[tokio::test]
async fn wal_04_a_new_instance_finds_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = place(&folder);
    write_each_half_second(&mut first, 1, 1..=100).await;
    assert_eq!(place(&folder).found(2).unwrap(), texts(1..=100));
}

/// Ours: records that are still needed and gone are an error, not silence; a caller that needs none of them is told of none.
#[tokio::test]
async fn wal_07_truncated_segments_are_no_matter_once_nobody_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(&folder);
    write_each_half_second(&mut place, 1, 1..=50).await;
    let old = segments(&folder);
    place.clock.advance(100_000);
    write_each_half_second(&mut place, 2, 51..=100).await;
    assert_eq!(place.found(3).unwrap(), texts(1..=100));
    for segment in old {
        let file = std::fs::File::options()
            .write(true)
            .open(folder.path().join(segment.to_string()));
        file.unwrap().set_len(1).unwrap();
    }
    let mut needed = place.takeover(4);
    assert_eq!(all(&needed).unwrap_err().kind(), crate::error::Kind::Loss);
    needed.needed_from = 50;
    assert_eq!(all(&needed).unwrap().0, texts(51..=100));
}

/// Ours reads through open files, so that it matters to nobody whether the log is closed; there is no other kind of reading.
#[tokio::test]
async fn wal_09_what_is_being_read_outlives_the_log() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    let mut ranges = Vec::new();
    for text in texts(0..20) {
        ranges.push(put(&log, text).await.unwrap());
    }
    let reading = RangeReader::new(std::sync::Arc::new(place.storage.clone()), 2).read(ranges);
    log.close().await.unwrap();
    drop(log);
    assert_eq!(reading.try_collect::<Vec<_>>().await.unwrap(), texts(0..20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_10_many_are_read_at_once_within_a_bound_and_in_order() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    let mut ranges = Vec::new();
    for text in texts(0..1_000) {
        ranges.push(log.append(&text).await.unwrap());
    }
    let ranges = futures::future::try_join_all(ranges.into_iter().map(Ticket::acknowledged))
        .await
        .unwrap();
    // None goes on before eight have begun.
    place.storage.let_readers_meet(8);
    let reader = RangeReader::new(std::sync::Arc::new(place.storage.clone()), 8);
    let read: Vec<_> = reader.read(ranges).try_collect().await.unwrap();
    assert_eq!(read, texts(0..1_000));
    assert_eq!(place.storage.reads_open_most(), 8);
}

#[tokio::test]
async fn wal_11_a_record_is_read_right_after_its_write() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(&folder);
    let log = place.start(1);
    for text in texts(1..=100) {
        let range = put(&log, &text).await.unwrap();
        let kept: LogRange = serde_json::from_str(&serde_json::to_string(&range).unwrap()).unwrap();
        assert_eq!(kept.read(&place.storage).unwrap(), text);
    }
}

#[tokio::test]
async fn wal_12_what_stands_behind_the_last_record_is_cut() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    for text in texts(1..=100) {
        put(&log, text).await.unwrap();
    }
    log.close().await.unwrap();
    let name = place.storage.segments()[0].to_string();
    let good = place.storage.file(&name);
    let garbage = Place::on(place.storage.copy());
    garbage
        .storage
        .put(&name, [good.as_slice(), b"not a record at all"].concat());
    let (bodies, report) = all(&garbage.takeover(2)).unwrap();
    assert_eq!(bodies, texts(1..=100));
    assert_eq!(report.cut.map(|cut| cut.until - cut.from), Some(19));
    let short = Place::on(place.storage.copy());
    short.storage.put(&name, good[..good.len() - 1].to_vec());
    assert_eq!(short.found(2).unwrap(), texts(1..=99));
}

/// Ours: what a group may not outlive is told by sequence; it has no time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_16_what_waits_is_written_together() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    place.storage.hold(true);
    let first = log.append(b"3").await.unwrap();
    let begun = place.storage.appends();
    until("the first is being written", || {
        place.storage.appends() > begun || log.records_waiting() == 0
    })
    .await;
    assert_eq!(log.records_waiting(), 0);
    let mut waiting = Vec::new();
    for text in ["5", "8", "12", "10"] {
        waiting.push(log.append(text.as_bytes()).await.unwrap());
    }
    assert_eq!(log.records_waiting(), 4);
    let before = place.storage.syncs();
    place.storage.hold(false);
    first.acknowledged().await.unwrap();
    for ticket in waiting {
        ticket.acknowledged().await.unwrap();
    }
    assert_eq!(place.storage.syncs() - before, 2, "one for the first, one for the four");
    assert_eq!(
        place.found(2).unwrap(),
        ["3", "5", "8", "12", "10"].map(|text| text.as_bytes().to_vec())
    );
}

#[tokio::test]
async fn wal_17_the_caller_gets_the_cause() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    place.storage.set_sync_fails(true);
    let error = put(&log, b"1").await.unwrap_err();
    assert!(error.chain().contains("fsync"), "{}", error.chain());
}
