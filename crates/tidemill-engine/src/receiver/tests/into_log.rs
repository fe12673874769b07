//! Blocks into the write-ahead log, and their source told when they are durable: what a reliable receiver is made of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use uuid::Uuid;

use super::super::*;
use crate::error::{Error, Kind, Result};
use crate::time::Clock;
use crate::time::hand::HandClock;
use crate::wal::{Gate, LocalStorage, Log, LogSettings, OnDamage, Takeover};

/// A source with partitions and offsets.
#[derive(Debug)]
struct Reliable {
    log: Log,
    /// The last offset of each partition in the block that is being filled.
    filling: Mutex<BTreeMap<u32, u64>>,
    /// The same of blocks that were cut.
    cut: Mutex<BTreeMap<BlockId, BTreeMap<u32, u64>>>,
    /// What the source was told.
    told: Mutex<BTreeMap<u32, u64>>,
}

#[async_trait]
impl BlockListener<String, (u32, u64)> for Reliable {
    fn added(&self, _items: &[String], (partition, offset): &(u32, u64)) {
        self.filling.lock().unwrap().insert(*partition, *offset);
    }

    fn generated(&self, id: BlockId) {
        let filled = std::mem::take(&mut *self.filling.lock().unwrap());
        self.cut.lock().unwrap().insert(id, filled);
    }

    async fn push(&self, block: &Block<String>) -> Result<()> {
        self.log
            .append(block.items.join("\n").as_bytes())
            .await?
            .acknowledged()
            .await?;
        let offsets = self.cut.lock().unwrap().remove(&block.id).unwrap();
        self.told.lock().unwrap().extend(offsets);
        Ok(())
    }

    fn failed(&self, _id: BlockId, _error: &Error) {}
}

#[derive(Debug, Default)]
struct Newer(AtomicBool);

#[async_trait]
impl Gate for Newer {
    async fn pass(&self) -> Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(Error::new(Kind::Fenced, "a newer epoch")),
            false => Ok(()),
        }
    }
}

#[tokio::test]
async fn x31_a_source_is_told_of_what_is_durable_and_of_nothing_by_a_driver_that_was_fenced() {
    let folder = tempfile::tempdir().unwrap();
    let takeover = |epoch| Takeover {
        storage: Arc::new(LocalStorage::new(folder.path())),
        log: Uuid::from_u128(1),
        epoch,
        needed_from: 0,
        on_damage: OnDamage::Stop,
    };
    let clock: Arc<dyn Clock> = Arc::new(HandClock::at(0));
    let newer = Arc::new(Newer::default());
    let taken = takeover(1).run(&mut |_| Ok(())).unwrap();
    let gate = Arc::clone(&newer) as Arc<dyn Gate>;
    let receiver = Arc::new(Reliable {
        log: Log::start(taken, LogSettings::default(), gate, Arc::clone(&clock)).unwrap(),
        filling: Mutex::default(),
        cut: Mutex::default(),
        told: Mutex::default(),
    });
    let start = || {
        let limiter = Arc::new(RateLimiter::new(RateLimits::default(), Arc::clone(&clock)));
        let listener = Arc::clone(&receiver) as Arc<dyn BlockListener<String, (u32, u64)>>;
        BlockGenerator::start(BlockSettings::default(), limiter, listener, Arc::clone(&clock)).unwrap()
    };
    let generator = start();
    for (offset, word) in (0..).zip(["a", "b", "c"]) {
        generator
            .add_with(word.to_owned(), &(offset % 2, u64::from(offset)))
            .await
            .unwrap();
    }
    assert!(receiver.told.lock().unwrap().is_empty());
    generator.stop().await.unwrap();
    let told = BTreeMap::from([(0, 2), (1, 1)]);
    assert_eq!(*receiver.told.lock().unwrap(), told);

    newer.0.store(true, Ordering::SeqCst);
    let generator = start();
    generator.add_with("late".to_owned(), &(0, 9)).await.unwrap();
    assert_eq!(generator.stop().await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(*receiver.told.lock().unwrap(), told);

    let mut found = Vec::new();
    let found_all = takeover(2).run(&mut |record| {
        found.push(record.body.to_vec());
        Ok(())
    });
    found_all.unwrap();
    assert_eq!(found[0], b"a\nb\nc");
}
