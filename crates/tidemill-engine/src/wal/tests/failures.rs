//! Full disks, failed fsyncs, limits and ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::testing::*;
use super::super::*;
use crate::error::Kind;

/// Lets the log wait until a retry was made.
async fn until_open(place: &Place<MemoryStorage>, log: &Log) {
    let state = log.state();
    until("the log goes on", || {
        place.clock.advance(1_000);
        matches!(*state.borrow(), State::Open)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_intake_and_it_goes_on_by_itself() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.waiting_bytes_max = 1_000;
    let log = place.start(1);
    put(&log, [b'a'; 100]).await.unwrap();
    for room in [0, 10, 60, 290] {
        place.storage.set_room(Some(room));
        let mut tickets = Vec::new();
        for letter in [b'b', b'c', b'd'] {
            tickets.push(log.append(&[letter; 256]).await.unwrap());
        }
        until_state(&log, |state| matches!(state, State::Waiting(_))).await;
        let more = log.append(&[b'e'; 256]);
        tokio::pin!(more);
        assert!(futures::poll!(&mut more).is_pending(), "more than may wait was taken");
        let looked = place.gate.looks.load(Ordering::SeqCst);
        for _ in 0..5 {
            place.clock.advance(1_000);
            tokio::task::yield_now().await;
        }
        assert_eq!(
            place.gate.looks.load(Ordering::SeqCst),
            looked,
            "nothing was acknowledged"
        );
        // A driver that takes over meanwhile finds what was acknowledged.
        assert!(Place::on(place.storage.copy()).found(2).unwrap()[0] == [b'a'; 100]);
        place.storage.set_room(None);
        until_open(&place, &log).await;
        tickets.push(more.await.unwrap());
        let mut last = 0;
        for ticket in tickets {
            let range = ticket.acknowledged().await.unwrap();
            assert!(range.sequence > last);
            last = range.sequence;
        }
    }
    log.close().await.unwrap();
    let letters: Vec<u8> = place.found(2).unwrap().iter().map(|body| body[0]).collect();
    assert_eq!(letters, b"abcdebcdebcdebcde");
}

/// What stays full for long does not fill with segments that were given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stays_full_gets_one_segment_more() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    put(&log, b"a").await.unwrap();
    place.storage.set_room(Some(100));
    let ticket = log.append(&[b'b'; 200]).await.unwrap();
    until_state(&log, |state| matches!(state, State::Waiting(_))).await;
    let appends = place.storage.appends();
    until("it was tried ten times", || {
        place.clock.advance(1_000);
        place.storage.appends() > appends + 10
    })
    .await;
    assert_eq!(place.storage.segments().len(), 1);
    place.storage.set_room(None);
    until_open(&place, &log).await;
    ticket.acknowledged().await.unwrap();
    assert_eq!(place.storage.segments().len(), 2);
    assert_eq!(
        place
            .storage
            .list()
            .unwrap()
            .iter()
            .filter(|name| name.starts_with(".room"))
            .count(),
        0
    );
}

#[tokio::test]
async fn a_log_that_is_closed_on_a_full_disk_acknowledges_nothing_more() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    place.storage.set_room(Some(0));
    let ticket = log.append(b"never").await.unwrap();
    until_state(&log, |state| matches!(state, State::Waiting(_))).await;
    assert_eq!(log.close().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(ticket.acknowledged().await.unwrap_err().kind(), Kind::Unavailable);
}

/// Of the file and of the folder: nobody tries again, everybody is told, and the process must end.
#[tokio::test]
async fn a_failed_fsync_ends_the_log_for_good() {
    let fails: [fn(&MemoryStorage); 2] = [
        |storage| storage.set_sync_fails(true),
        MemoryStorage::set_names_sync_fails,
    ];
    for fail in fails {
        let place = Place::on(MemoryStorage::default());
        let log = place.start(1);
        fail(&place.storage);
        place.storage.hold(true);
        let mut tickets = Vec::new();
        for text in texts(0..4) {
            tickets.push(log.append(&text).await.unwrap());
        }
        place.storage.hold(false);
        for ticket in tickets {
            let error = ticket.acknowledged().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.chain().contains("fsync"), "{}", error.chain());
        }
        // It would succeed now: that says nothing of what was written before.
        place.storage.set_sync_fails(false);
        let syncs = place.storage.syncs();
        assert_eq!(log.append(b"late").await.unwrap_err().kind(), Kind::Refused);
        assert_eq!(log.close().await.unwrap_err().kind(), Kind::Refused);
        assert_eq!(
            (place.storage.syncs(), place.gate.looks.load(Ordering::SeqCst)),
            (syncs, 0)
        );
        assert!(matches!(&*log.state().borrow(), State::Ended(error) if !error.is_transient()));
    }
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_power_cut() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.segment_bytes_max = 210;
    let log = place.start(1);
    for number in 0..20 {
        put(&log, format!("{number:030}")).await.unwrap();
        let after = Place::on(place.storage.cut_power());
        assert_eq!(after.found(2).unwrap().len(), number + 1);
    }
}

#[tokio::test]
async fn a_checkpoint_that_does_not_answer_is_waited_for() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    place.gate.unavailable.store(true, Ordering::SeqCst);
    let ticket = log.append(b"a").await.unwrap();
    until_state(&log, |state| matches!(state, State::Waiting(_))).await;
    assert_eq!(place.storage.syncs(), 2, "the ends and the record");
    place.gate.unavailable.store(false, Ordering::SeqCst);
    until_open(&place, &log).await;
    ticket.acknowledged().await.unwrap();
    assert_eq!(place.storage.syncs(), 2, "what is durable is not written again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fsync_and_one_look_serve_many_records() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    place.storage.hold(true);
    let mut tickets = Vec::new();
    for text in texts(0..1_000) {
        tickets.push(log.append(&text).await.unwrap());
    }
    place.storage.hold(false);
    for ticket in tickets {
        ticket.acknowledged().await.unwrap();
    }
    assert!(place.gate.looks.load(Ordering::SeqCst) <= 2);
    assert!(place.storage.syncs() <= 3);
}

#[tokio::test]
async fn an_append_that_is_given_up_while_it_waits_hands_nothing_in() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.waiting_bytes_max = 100;
    let log = place.start(1);
    place.storage.hold(true);
    let first = log.append(&[b'a'; 50]).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(1), log.append(&[b'b'; 50])).await;
    assert!(given_up.is_err());
    place.storage.hold(false);
    first.acknowledged().await.unwrap();
    assert_eq!(put(&log, [b'c'; 50]).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_record_larger_than_what_may_wait_goes_alone() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.waiting_bytes_max = 100;
    place.settings.group_bytes_max = 50;
    let log = place.start(1);
    for size in [10, 1_000, 10, 0] {
        put(&log, vec![b'x'; size]).await.unwrap();
    }
    log.close().await.unwrap();
    let sizes: Vec<usize> = place.found(2).unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 1_000, 10, 0]);
    let oversized = place.start(3).append(&vec![0; RECORD_BYTES_MAX + 1]).await;
    assert_eq!(oversized.unwrap_err().kind(), Kind::Data);
}

#[tokio::test]
async fn settings_that_can_not_be_are_refused() {
    let place = Place::on(MemoryStorage::default());
    let good = LogSettings::default();
    let bad = [
        LogSettings {
            group_bytes_max: 0,
            ..good.clone()
        },
        LogSettings {
            waiting_bytes_max: 1 << 40,
            ..good.clone()
        },
        LogSettings {
            segment_bytes_max: u64::MAX,
            ..good
        },
    ];
    for (epoch, settings) in (1..).zip(bad) {
        let taken = place.takeover(epoch).run(&mut |_| Ok(())).unwrap();
        let (gate, clock) = (std::sync::Arc::clone(&place.gate), std::sync::Arc::clone(&place.clock));
        assert_eq!(
            Log::start(taken, settings, gate, clock).unwrap_err().kind(),
            Kind::Config
        );
    }
}

/// Neither reading nor starting makes a folder; closing twice is no error.
#[tokio::test]
async fn a_log_is_made_with_its_first_record_and_closed_as_often_as_one_likes() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::on(LocalStorage::new(folder.path().join("a/b")));
    assert!(place.storage.list().unwrap().is_empty() && !folder.path().join("a").exists());
    let log = place.start(1);
    put(&log, b"1").await.unwrap();
    let unwaited = log.append(b"2").await.unwrap();
    log.close().await.unwrap();
    log.close().await.unwrap();
    unwaited.acknowledged().await.unwrap();
    assert_eq!(log.append(b"3").await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(place.found(2).unwrap(), texts(1..=2));
}

#[tokio::test]
async fn segments_go_when_nothing_in_them_is_needed_but_never_the_newest() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.segment_bytes_max = 210;
    let log = place.start(1);
    for number in 0..6 {
        put(&log, format!("{number:030}")).await.unwrap();
    }
    let firsts = || {
        place
            .storage
            .segments()
            .iter()
            .map(|segment| segment.first)
            .collect::<Vec<_>>()
    };
    assert_eq!(firsts(), [0, 2, 4]);
    for (position, left) in [(1, vec![0, 2, 4]), (2, vec![2, 4]), (5, vec![4]), (1_000, vec![4])] {
        log.forget_before(position).await.unwrap();
        assert_eq!(firsts(), left, "before {position}");
    }
    log.close().await.unwrap();
    let mut takeover = place.takeover(2);
    takeover.needed_from = 5;
    assert_eq!(all(&takeover).unwrap().0, [format!("{:030}", 5).into_bytes()]);
    assert_eq!(place.found(3).unwrap_err().kind(), Kind::Loss);
}

#[tokio::test]
async fn a_segment_stays_until_the_name_of_the_next_one_is_durable() {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.segment_bytes_max = 1;
    let log = place.start(1);
    put(&log, b"a").await.unwrap();
    place.storage.hold(true);
    let ticket = log.append(b"b").await.unwrap();
    until("the next one is made", || place.storage.segments().len() == 2).await;
    log.forget_before(1).await.unwrap();
    assert_eq!(place.storage.segments().len(), 2);
    place.storage.hold(false);
    ticket.acknowledged().await.unwrap();
    log.forget_before(1).await.unwrap();
    assert_eq!(place.storage.segments().len(), 1);
}

#[derive(Debug)]
struct Panics;

#[async_trait::async_trait]
impl Gate for Panics {
    async fn pass(&self) -> crate::error::Result<()> {
        panic!("on purpose");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_thread_that_panicked() {
    let place = Place::on(MemoryStorage::default());
    let taken = place.takeover(1).run(&mut |_| Ok(())).unwrap();
    let (gate, clock) = (std::sync::Arc::new(Panics), std::sync::Arc::clone(&place.clock));
    let log = Log::start(taken, LogSettings::default(), gate, clock).unwrap();
    place.storage.hold(true);
    let first = log.append(b"a").await.unwrap();
    until("it is taken", || log.records_waiting() == 0).await;
    let second = log.append(b"b").await.unwrap();
    place.storage.hold(false);
    for ticket in [first, second] {
        assert_eq!(ticket.acknowledged().await.unwrap_err().kind(), Kind::Bug);
    }
    assert_eq!(log.append(b"c").await.unwrap_err().kind(), Kind::Bug);
    assert_eq!(log.close().await.unwrap_err().kind(), Kind::Bug);
}
