//! The log's two uses.

use serde::{Deserialize, Serialize};

use super::super::testing::*;
use super::super::*;
use crate::error::Kind;

/// What a driver notes of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Event {
    Received { stream: u32, block: LogRange },
    Allocated { batch: u64, blocks: Vec<LogRange> },
}

#[tokio::test]
async fn blocks_and_the_events_that_name_them_are_found_again() {
    let (blocks, events) = (Place::on(MemoryStorage::default()), Place::on(MemoryStorage::default()));
    let (block_log, event_log) = (blocks.start(1), EventLog::new(events.start(1)));
    let block = put(&block_log, b"a block of data").await.unwrap();
    let noted = [
        Event::Received { stream: 3, block },
        Event::Allocated {
            batch: 7,
            blocks: vec![block],
        },
    ];
    for event in &noted {
        event_log.append(event).await.unwrap().acknowledged().await.unwrap();
    }
    event_log.close().await.unwrap();
    let mut found = Vec::new();
    let taken = events.takeover(2).run(&mut |record| {
        found.push(EventLog::<Event>::decode(&record)?);
        Ok(())
    });
    assert_eq!((taken.unwrap().report.records, found.as_slice()), (2, noted.as_slice()));
    let Event::Allocated { blocks: allocated, .. } = &found[1] else {
        panic!("{found:?}");
    };
    assert_eq!(allocated[0].read(&blocks.storage).unwrap(), b"a block of data");
}

#[tokio::test]
async fn a_record_of_another_kind_is_named() {
    let place = Place::on(MemoryStorage::default());
    let log = place.start(1);
    put(&log, b"{}").await.unwrap();
    log.close().await.unwrap();
    let decode = |record: Found<'_>| EventLog::<Event>::decode(&record).map(drop);
    let error = place.takeover(2).run(&mut { decode }).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Data, "record 0 of the log is no event")
    );
}
