//! Torn ends are cut, damage stops, and what is left out on purpose is counted.

use super::super::testing::*;
use super::super::*;
use crate::error::Kind;

/// Five records, each longer than two sectors but for the last: of one group each, or all of one.
async fn five(one_group: bool) -> (Place<MemoryStorage>, Vec<LogRange>) {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    let bodies: Vec<Vec<u8>> = (1..=5)
        .map(|number| vec![b'a' + number; if number == 5 { 40 } else { 1_200 }])
        .collect();
    let mut ranges = Vec::new();
    if one_group {
        // Whatever comes first goes alone: the rest waits for it.
        place.storage.hold(true);
        let mut tickets = vec![log.append(&bodies[0]).await.unwrap()];
        until("the first is taken", || log.records_waiting() == 0).await;
        for body in &bodies[1..] {
            tickets.push(log.append(body).await.unwrap());
        }
        place.storage.hold(false);
        for ticket in tickets {
            ranges.push(ticket.acknowledged().await.unwrap());
        }
    } else {
        for body in &bodies {
            ranges.push(put(&log, body).await.unwrap());
        }
    }
    log.close().await.unwrap();
    (place, ranges)
}

fn end(range: &LogRange) -> usize {
    usize::try_from(range.offset).unwrap() + record_bytes(range)
}

fn record_bytes(range: &LogRange) -> usize {
    44 + range.length as usize
}

/// A copy of the place in which the segment has other bytes.
fn with(place: &Place<MemoryStorage>, change: impl FnOnce(&mut Vec<u8>)) -> Place<MemoryStorage> {
    let copy = Place::on(place.storage.copy());
    let name = copy.storage.segments()[0].to_string();
    let mut bytes = copy.storage.file(&name);
    change(&mut bytes);
    copy.storage.put(&name, bytes);
    copy
}

#[tokio::test]
async fn a_record_torn_at_any_byte_is_cut_and_the_rest_used() {
    for one_group in [false, true] {
        let (place, ranges) = five(one_group).await;
        let (from, until) = (usize::try_from(ranges[4].offset).unwrap(), end(&ranges[4]));
        for length in from..until {
            let (bodies, report) = all(&with(&place, |bytes| bytes.truncate(length)).takeover(2)).unwrap();
            let cut = report.cut.map(|cut| cut.until - cut.from).unwrap_or(0);
            assert_eq!((bodies.len(), cut as usize), (4, length - from), "cut to {length}");
            assert_eq!((report.next_sequence, report.skipped.len()), (4, 0), "cut to {length}");
        }
    }
}

/// A power cut leaves a file as long as it should be with sectors that were never written.
#[tokio::test]
async fn an_end_of_sectors_that_were_never_written_is_torn() {
    let (place, ranges) = five(true).await;
    let bytes_in_all = end(&ranges[4]);
    for from in (0..bytes_in_all).step_by(512).filter(|from| from + 512 <= bytes_in_all) {
        let torn = with(&place, |bytes| bytes[from..].fill(0));
        let expected = ranges.iter().filter(|range| end(range) <= from).count();
        assert_eq!(torn.found(2).unwrap().len(), expected, "zeros from {from}");
    }
    // A hole in the last group, with records behind it that reached the disk.
    let hole = ranges[2].offset.next_multiple_of(512) as usize;
    let (bodies, report) = all(&with(&place, |bytes| bytes[hole..hole + 512].fill(0)).takeover(2)).unwrap();
    assert_eq!((bodies.len(), report.next_sequence), (2, 2));
    assert_eq!(
        report.cut.map(|cut| (cut.from, cut.until as usize)),
        Some((ranges[2].offset, bytes_in_all))
    );
}

#[tokio::test]
async fn a_hole_in_what_was_durable_is_damage() {
    let (place, ranges) = five(false).await;
    let hole = ranges[2].offset.next_multiple_of(512) as usize;
    let error = with(&place, |bytes| bytes[hole..hole + 512].fill(0))
        .found(2)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_a_middle_record_stops_and_names_it() {
    for one_group in [false, true] {
        let (place, ranges) = five(one_group).await;
        let range = ranges[2];
        let (from, until) = (usize::try_from(range.offset).unwrap(), end(&range));
        for at in from..until {
            let damaged = with(&place, |bytes| bytes[at] ^= 1 << (at % 8));
            let error = damaged.found(2).unwrap_err();
            assert_eq!(error.kind(), Kind::Loss, "byte {at}");
            let expected = format!(
                "records 2..3 of the log memory are lost: segment {}, bytes {from}..{until}",
                range.segment
            );
            assert!(error.to_string().starts_with(&expected), "byte {at}: {error}");
            let unreadable = range.read(&damaged.storage).unwrap_err();
            assert_eq!(unreadable.kind(), Kind::Loss, "byte {at}");
            assert!(
                unreadable.to_string().contains(&format!("bytes {from}..{until}")),
                "{unreadable}"
            );
        }
    }
}

#[tokio::test]
async fn a_bit_flipped_in_the_body_of_the_last_record_is_damage_too() {
    let (place, ranges) = five(false).await;
    let damaged = with(&place, |bytes| bytes[end(&ranges[4]) - 1] ^= 1);
    let error = damaged.found(2).unwrap_err();
    assert!(error.to_string().starts_with("records 4..5 "), "{error}");
}

#[tokio::test]
async fn what_is_left_out_on_purpose_is_counted_once_and_never_asked_again() {
    let (place, ranges) = five(false).await;
    let damaged = with(&place, |bytes| {
        for range in &ranges[1..3] {
            bytes[end(range) - 1] ^= 1;
        }
    });
    let mut takeover = damaged.takeover(2);
    takeover.on_damage = OnDamage::Skip;
    let (bodies, report) = all(&takeover).unwrap();
    assert_eq!((bodies.len(), report.records), (3, 3));
    assert_eq!(report.skipped, [Gap { first: 1, next: 3 }]);
    let (bodies, report) = all(&damaged.takeover(3)).unwrap();
    assert_eq!((bodies.len(), report.skipped.len()), (3, 0));
}

/// Segments of two records each, of epochs 1 and 2.
async fn several() -> Place<MemoryStorage> {
    let mut place = Place::on(MemoryStorage::default());
    place.settings.segment_bytes_max = 210;
    place.settings.group_bytes_max = 100;
    for epoch in 1..=2 {
        let log = place.start(epoch);
        for number in (epoch - 1) * 6..epoch * 6 {
            put(&log, format!("{number:030}")).await.unwrap();
        }
        log.close().await.unwrap();
    }
    assert_eq!(place.storage.segments().len(), 6);
    place
}

/// What is done to the files, and which records it costs: by what stopped says of itself, and by what is left out.
type Case = (&'static str, fn(&MemoryStorage, &[String]), &'static str);

#[tokio::test]
async fn missing_swapped_repeated_emptied_and_foreign_segments_stop() {
    let cases: &[Case] = &[
        (
            "first missing",
            |storage, names| storage.remove(&names[0]).unwrap(),
            "records 0..2 ",
        ),
        (
            "middle missing",
            |storage, names| storage.remove(&names[1]).unwrap(),
            "records 2..4 ",
        ),
        (
            "newer missing",
            |storage, names| storage.remove(&names[4]).unwrap(),
            "records 8..10 ",
        ),
        (
            "swapped",
            |storage, names| {
                let (one, two) = (storage.file(&names[3]), storage.file(&names[4]));
                storage.put(&names[3], two);
                storage.put(&names[4], one);
            },
            "records 6..8 ",
        ),
        (
            "repeated",
            |storage, names| storage.put(&names[4], storage.file(&names[3])),
            "records 8..10 ",
        ),
        (
            "emptied",
            |storage, names| storage.put(&names[1], Vec::new()),
            "records 2..4 ",
        ),
        (
            "zeros",
            |storage, names| storage.put(&names[1], vec![0; storage.file(&names[1]).len()]),
            "records 2..4 ",
        ),
        (
            "of another epoch",
            |storage, names| storage.put(&names[4], storage.file(&names[1])),
            "records 8..10 ",
        ),
    ];
    let place = several().await;
    let names: Vec<String> = place.storage.segments().iter().map(ToString::to_string).collect();
    for (what, change, lost) in cases {
        let copy = Place::on(place.storage.copy());
        change(&copy.storage, &names);
        let error = copy.found(3).unwrap_err();
        assert_eq!(error.kind(), Kind::Loss, "{what}: {error}");
        assert!(error.to_string().starts_with(lost), "{what}: {error}");
        let mut takeover = copy.takeover(3);
        takeover.on_damage = OnDamage::Skip;
        let (bodies, report) = all(&takeover).unwrap();
        let left_out: u64 = report.skipped.iter().map(|gap| gap.next - gap.first).sum();
        assert_eq!(bodies.len() as u64 + left_out, 12, "{what}");
        assert!(
            left_out == 2 || *what == "swapped" && left_out == 4,
            "{what}: {left_out}"
        );
    }
}

/// Emptied or filled with zeros, the last segment never was.
#[tokio::test]
async fn a_last_segment_that_was_never_written_is_cut() {
    for fill in [0, 1, 55, 4_096] {
        let place = several().await;
        let last = place.storage.segments()[5].to_string();
        place.storage.put(&last, vec![0; fill]);
        let (bodies, report) = all(&place.takeover(3)).unwrap();
        assert_eq!((bodies.len(), report.next_sequence), (10, 10), "{fill} zeros");
        let log = place.start(4);
        assert_eq!(put(&log, b"next").await.unwrap().sequence, 10);
    }
}

/// Sound by itself, of this epoch and sequence, and yet another one: what follows says so.
#[tokio::test]
async fn a_record_of_another_history_in_its_place_is_damage() {
    let (place, ranges) = five(false).await;
    let other = Place::on(MemoryStorage::default());
    let log = other.start(1);
    for size in [1_200; 3] {
        put(&log, vec![b'z'; size]).await.unwrap();
    }
    let others = other.storage.file(&other.storage.segments()[0].to_string());
    let (from, until) = (usize::try_from(ranges[2].offset).unwrap(), end(&ranges[2]));
    let spliced = with(&place, |bytes| bytes[from..until].copy_from_slice(&others[from..until]));
    assert_eq!(spliced.found(2).unwrap_err().kind(), Kind::Loss);
}

#[tokio::test]
async fn another_log_and_a_later_version_are_refused_not_skipped() {
    let place = several().await;
    let mut takeover = place.takeover(3);
    takeover.on_damage = OnDamage::Skip;
    takeover.log = uuid::Uuid::from_u128(1);
    let error = all(&takeover).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("belongs to the log"), "{error}");
}

#[tokio::test]
async fn batches_that_read_what_the_log_lacks_are_refused() {
    let mut takeover = several().await.takeover(3);
    takeover.needed_from = 13;
    let error = all(&takeover).unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
    assert_eq!(
        error.to_string(),
        "batches read the log memory from record 13 on, but it ends at 12"
    );
}

#[tokio::test]
async fn a_range_that_is_gone_or_another_is_named() {
    let place = several().await;
    let mut found = Vec::new();
    let taken = place.takeover(3).run(&mut |record| {
        found.push(record.range);
        Ok(())
    });
    taken.unwrap();
    let range = found[3];
    let altered = [
        LogRange {
            crc32c: range.crc32c ^ 1,
            ..range
        },
        LogRange {
            length: range.length + 1,
            ..range
        },
        LogRange {
            length: u32::MAX,
            ..range
        },
        LogRange { sequence: 2, ..range },
        LogRange {
            offset: range.offset + 1,
            ..range
        },
        LogRange {
            offset: u64::MAX,
            ..range
        },
        LogRange {
            segment: SegmentName {
                attempt: 9,
                ..range.segment
            },
            ..range
        },
    ];
    assert_eq!(range.read(&place.storage).unwrap(), b"000000000000000000000000000003");
    for other in altered {
        let error = other.read(&place.storage).unwrap_err();
        assert_eq!(error.kind(), Kind::Loss, "{other:?}");
        assert!(error.to_string().contains(&other.segment.to_string()), "{error}");
    }
}

/// A record stands where the header belongs.
#[tokio::test]
async fn a_segment_without_its_header_stops() {
    let (place, ranges) = five(false).await;
    let header_bytes = usize::try_from(ranges[0].offset).unwrap();
    let damaged = with(&place, |bytes| drop(bytes.drain(..header_bytes)));
    let error = damaged.found(2).unwrap_err();
    assert_eq!(error.kind(), Kind::Loss);
    assert!(error.to_string().starts_with("records 0..1 "), "{error}");
}
