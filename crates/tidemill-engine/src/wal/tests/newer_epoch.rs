//! X31: append, fsync, look for a newer epoch, acknowledge. And what an older driver can still do, and nobody reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::testing::*;
use super::super::*;
use crate::checkpoint::Checkpoint;
use crate::error::Kind;
use crate::store::LocalStore;

#[tokio::test]
async fn x31_a_driver_frozen_between_fsync_and_look_acknowledges_nothing() {
    let place = Place::on(MemoryStorage::default());
    let old = place.start(1);
    put(&old, b"acknowledged").await.unwrap();
    place.gate.frozen.store(true, Ordering::SeqCst);
    let ticket = old.append(b"durable").await.unwrap();
    let looks = place.gate.looks.load(Ordering::SeqCst);
    until("it looks", || {
        place.gate.looks.load(Ordering::SeqCst) > looks || place.storage.syncs() == 3
    })
    .await;
    // A newer one takes over meanwhile.
    let newer = Place::on(place.storage.clone());
    until("it is durable", || place.storage.syncs() == 3).await;
    let log = newer.start(2);
    put(&log, b"newer").await.unwrap();
    place.gate.fenced.store(true, Ordering::SeqCst);
    place.gate.frozen.store(false, Ordering::SeqCst);
    assert_eq!(ticket.acknowledged().await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(old.append(b"more").await.unwrap_err().kind(), Kind::Fenced);
    // It was durable when the newer one read: that may count, and does.
    assert_eq!(
        newer.found(3).unwrap(),
        [b"acknowledged".to_vec(), b"durable".to_vec(), b"newer".to_vec()]
    );
}

#[tokio::test]
async fn x31_the_look_is_into_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::new(Arc::new(LocalStore::new(folder.path().join("checkpoint"))));
    let place = Place::on(LocalStorage::new(folder.path().join("log")));
    let start = |epoch| {
        let taken = place.takeover(epoch).run(&mut |_| Ok(())).unwrap();
        let gate = EpochGate {
            checkpoint: checkpoint.clone(),
            epoch,
        };
        let clock = Arc::clone(&place.clock);
        Log::start(taken, LogSettings::default(), Arc::new(gate), clock).unwrap()
    };
    let first = start(checkpoint.claim_epoch(0, "first", 0).await.unwrap());
    put(&first, b"1").await.unwrap();
    let second = start(checkpoint.claim_epoch(0, "second", 0).await.unwrap());
    assert_eq!(put(&first, b"late").await.unwrap_err().kind(), Kind::Fenced);
    put(&second, b"2").await.unwrap();
    second.close().await.unwrap();
    assert_eq!(place.found(3).unwrap(), texts(1..=2));
}

/// The older driver appends behind the end that was noted, to the same segment and to new ones. Every later reader leaves it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x31_what_an_older_driver_appends_after_the_newer_one_read_is_not_the_log() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.segment_bytes_max = 210;
    let old = place.start(1);
    put(&old, format!("{:030}", 0)).await.unwrap();
    let newer = Place {
        gate: Arc::default(),
        ..place.clone()
    };
    let log = newer.start(2);
    put(&log, b"of the newer").await.unwrap();
    place.gate.fenced.store(true, Ordering::SeqCst);
    assert_eq!(put(&old, b"late").await.unwrap_err().kind(), Kind::Fenced);
    log.close().await.unwrap();
    // One that could go on would write a segment of its own next.
    let stray = SegmentName {
        epoch: 1,
        first: 2,
        attempt: 0,
    };
    place.storage.put(&stray.to_string(), b"whatever".to_vec());
    let expected = [format!("{:030}", 0).into_bytes(), b"of the newer".to_vec()];
    for epoch in 3..6 {
        let (bodies, report) = all(&newer.takeover(epoch)).unwrap();
        assert_eq!(
            (bodies, report.strays),
            (expected.to_vec(), vec![stray]),
            "epoch {epoch}"
        );
    }
    let log = newer.start(6);
    put(&log, b"next").await.unwrap();
    log.forget_before(2).await.unwrap();
    assert!(
        newer.storage.segments().contains(&stray),
        "what is needed may still lie before"
    );
    log.forget_before(3).await.unwrap();
    assert_eq!(
        newer
            .storage
            .segments()
            .iter()
            .map(|segment| segment.epoch)
            .collect::<Vec<_>>(),
        [6]
    );
}

/// Frozen before it wrote down what it found: its successor has read more, and what it does now is not looked at.
#[tokio::test]
async fn x31_what_a_driver_found_that_lost_its_epoch_meanwhile_does_not_count() {
    let place = Place::on(MemoryStorage::default());
    let first = place.start(1);
    put(&first, b"a").await.unwrap();
    let before = place.storage.copy();
    put(&first, b"b").await.unwrap();
    first.close().await.unwrap();
    let third = place.start(3);
    put(&third, b"c").await.unwrap();
    third.close().await.unwrap();
    // The second read before "b" was written, and writes down only now.
    Place::on(before.clone()).found(2).unwrap();
    let late = "ends-00000000000000000002.json";
    place.storage.put(late, before.file(late));
    assert_eq!(place.found(4).unwrap(), [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    assert!(
        !place.storage.list().unwrap().iter().any(|name| name == late),
        "older ends are removed"
    );
}

#[tokio::test]
async fn ends_that_were_half_written_are_passed_over() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    put(&log, b"a").await.unwrap();
    log.close().await.unwrap();
    let whole = {
        let copy = Place::on(place.storage.copy());
        copy.found(2).unwrap();
        copy.storage.file("ends-00000000000000000002.json")
    };
    for length in 0..whole.len() - 1 {
        let copy = Place::on(place.storage.copy());
        copy.storage
            .put("ends-00000000000000000002.json", whole[..length].to_vec());
        assert_eq!(copy.found(3).unwrap(), [b"a".to_vec()], "{length} bytes");
    }
}

#[tokio::test]
async fn ends_that_are_missing_or_damaged_under_segments_stop() {
    let place = Place::on(MemoryStorage::default());
    for epoch in 1..=2 {
        let log = place.start(epoch);
        put(&log, b"a").await.unwrap();
        log.close().await.unwrap();
    }
    let name = "ends-00000000000000000002.json";
    place.storage.put(name, b"damaged".to_vec());
    let error = place.found(3).unwrap_err();
    assert!(
        error.kind() == Kind::Loss && error.to_string().contains("epoch 2"),
        "{error}"
    );
    place.storage.remove(name).unwrap();
    let error = place.found(3).unwrap_err();
    assert!(
        error.kind() == Kind::Loss && error.to_string().contains(name),
        "{error}"
    );
}

#[tokio::test]
async fn a_takeover_by_an_epoch_that_is_not_the_newest_is_fenced() {
    let place = Place::on(MemoryStorage::default());
    drop(place.start(5));
    for epoch in [4, 5] {
        assert_eq!(place.found(epoch).unwrap_err().kind(), Kind::Fenced);
    }
}

/// What the older driver wrote and had not synced is read; so it must be there after a power cut, too.
#[tokio::test]
async fn what_a_takeover_reads_is_durable() {
    let place = Place::on(MemoryStorage::default());
    let old = place.start(1);
    put(&old, b"durable").await.unwrap();
    place.storage.lose_syncs();
    put(&old, b"written").await.unwrap();
    let unsettled = Place::on(place.storage.cut_power());
    assert_eq!(unsettled.found(2).unwrap(), [b"durable".to_vec()]);
    // Its own files are synced as nobody else's are: only what it settles counts here.
    let found = place.found(2).unwrap();
    assert_eq!(found, [b"durable".to_vec(), b"written".to_vec()]);
    let segment = place.storage.segments()[0].to_string();
    assert_eq!(place.storage.cut_power().file(&segment), place.storage.file(&segment));
}
