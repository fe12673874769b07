//! Spark Streaming's rows on its block generator (section 7 of the conformance page, blocks of 10 ms on a clock that is moved by
//! hand), by their ids, and where ours departs.
//!
//! RATE-06 and RATE-08 are about who sends a rate to whom: there is no such one yet. The rows on reading blocks (section 10) are
//! about blocks in memory beside those in the log; here there are only those in the log.

mod into_log;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::error::{Error, Kind, Result};
use crate::time::Clock;
use crate::time::hand::HandClock;

/// Nothing that is waited for takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

impl Item for u64 {
    fn bytes(&self) -> usize {
        8
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Added(Vec<u64>, String),
    Generated(BlockId),
    Pushed(Block<u64>),
    Failed(Kind),
}

/// Writes down what happens; pushes fail or wait as told.
#[derive(Debug, Default)]
struct Notes {
    seen: Mutex<Vec<Seen>>,
    /// What the next pushes come to; those after them succeed.
    failures: Mutex<Vec<Kind>>,
    held: AtomicBool,
    begun: AtomicUsize,
}

#[async_trait]
impl BlockListener<u64, String> for Notes {
    fn added(&self, items: &[u64], metadata: &String) {
        self.note(Seen::Added(items.to_vec(), metadata.clone()));
    }

    fn generated(&self, id: BlockId) {
        self.note(Seen::Generated(id));
    }

    async fn push(&self, block: &Block<u64>) -> Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        until("pushing is let go", || !self.held.load(Ordering::SeqCst)).await;
        let failure = self.failures.lock().unwrap().pop();
        if let Some(kind) = failure {
            return Err(Error::new(kind, "told to fail"));
        }
        self.note(Seen::Pushed(block.clone()));
        Ok(())
    }

    fn failed(&self, _id: BlockId, error: &Error) {
        self.note(Seen::Failed(error.kind()));
    }
}

impl Notes {
    fn note(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
    }

    fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn blocks(&self) -> Vec<Block<u64>> {
        let pushed = |seen| match seen {
            Seen::Pushed(block) => Some(block),
            _ => None,
        };
        self.all().into_iter().filter_map(pushed).collect()
    }

    fn items(&self) -> Vec<Vec<u64>> {
        self.blocks().into_iter().map(|block| block.items).collect()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

struct Case {
    clock: Arc<HandClock>,
    notes: Arc<Notes>,
    generator: BlockGenerator<u64, String>,
}

impl Case {
    fn start() -> Self {
        Self::with(BlockSettings::default(), RateLimits::default())
    }

    fn with(settings: BlockSettings, limits: RateLimits) -> Self {
        let clock = Arc::new(HandClock::at(1_000));
        let notes = Arc::new(Notes::default());
        let settings = BlockSettings {
            stream: 7,
            interval: Duration::from_millis(10),
            ..settings
        };
        let shared_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let limiter = Arc::new(RateLimiter::new(limits, Arc::clone(&shared_clock)));
        let listener = Arc::clone(&notes) as Arc<dyn BlockListener<u64, String>>;
        let generator = BlockGenerator::start(settings, limiter, listener, shared_clock).unwrap();
        Self {
            clock,
            notes,
            generator,
        }
    }

    async fn until_blocks(&self, count: usize) {
        until("blocks are pushed", || self.notes.blocks().len() >= count).await;
    }
}

fn id(begun_ms: i64, part: u32) -> BlockId {
    BlockId {
        stream: 7,
        begun_ms,
        part,
    }
}

#[tokio::test]
async fn blk_03_items_are_told_with_their_metadata_and_pushed_in_order() {
    let case = Case::start();
    for item in 11..=20 {
        case.generator.add_with(item, &format!("m{item}")).await.unwrap();
    }
    case.clock.advance(10);
    case.until_blocks(1).await;
    let added = (11..=20).map(|item| Seen::Added(vec![item], format!("m{item}")));
    let items = (11..=20).collect();
    let block = Block {
        id: id(1_000, 0),
        items,
    };
    let expected: Vec<_> = added.chain([Seen::Generated(block.id), Seen::Pushed(block)]).collect();
    assert_eq!(case.notes.all(), expected);
}

#[tokio::test]
async fn blk_04_a_group_is_told_once_and_lies_in_one_block() {
    // Of at most four items, were it not a group.
    let settings = BlockSettings {
        block_bytes_max: 32,
        ..BlockSettings::default()
    };
    let case = Case::with(settings, RateLimits::default());
    case.generator.add(1).await.unwrap();
    case.generator
        .add_all_with((21..=30).collect(), &"m".to_owned())
        .await
        .unwrap();
    case.generator.add(2).await.unwrap();
    case.generator.stop().await.unwrap();
    assert_eq!(case.notes.items(), [vec![1], (21..=30).collect(), vec![2]]);
    let added: Vec<_> = case
        .notes
        .all()
        .into_iter()
        .filter(|seen| matches!(seen, Seen::Added(..)))
        .collect();
    assert_eq!(added, [Seen::Added((21..=30).collect(), "m".to_owned())]);
}

/// Ours also ends: nothing is added any more, and whoever adds or stops is told why.
#[tokio::test]
async fn blk_07_a_push_that_fails_is_told_and_stop_works() {
    let case = Case::start();
    case.notes.failures.lock().unwrap().push(Kind::Refused);
    case.generator.add(1).await.unwrap();
    case.clock.advance(10);
    until("the failure is told", || {
        case.notes.all().contains(&Seen::Failed(Kind::Refused))
    })
    .await;
    let stopped = case.generator.stop().await.unwrap_err();
    let added = case.generator.add(2).await.unwrap_err();
    assert_eq!((stopped.kind(), added.kind()), (Kind::Refused, Kind::Refused));
    assert!(added.chain().contains("told to fail"), "{}", added.chain());
    assert_eq!(case.notes.items(), [] as [Vec<u64>; 0]);
}

/// There: twelve blocks later, production hangs.
#[tokio::test]
async fn what_fails_for_now_is_pushed_again_and_nothing_is_lost() {
    let case = Case::start();
    case.notes.failures.lock().unwrap().extend([Kind::Unavailable; 3]);
    let expected: Vec<Vec<u64>> = (0..15).map(|item| vec![item]).collect();
    for item in 0..15 {
        case.generator.add(item).await.unwrap();
        let generated = case.notes.all().len();
        until("its block is cut", || {
            case.clock.advance(10);
            case.notes.all()[generated..]
                .iter()
                .any(|seen| matches!(seen, Seen::Generated(_)))
        })
        .await;
    }
    until("all are pushed", || {
        case.clock.advance(1_000);
        case.notes.items() == expected
    })
    .await;
    assert_eq!(
        case.notes
            .all()
            .iter()
            .filter(|seen| matches!(seen, Seen::Failed(_)))
            .count(),
        3
    );
    case.generator.stop().await.unwrap();
}

#[tokio::test]
async fn empty_buffers_give_no_block() {
    let case = Case::start();
    for _ in 0..5 {
        case.clock.advance(10);
        tokio::task::yield_now().await;
    }
    case.generator.add(1).await.unwrap();
    let begun = case.clock.now_ms();
    case.clock.advance(10);
    case.until_blocks(1).await;
    assert_eq!(
        case.notes.blocks(),
        [Block {
            id: id(begun, 0),
            items: vec![1]
        }]
    );
}

/// There the buffer grows beyond every bound. Here what may wait is the block that is pushed, the queue, and one buffer.
#[tokio::test]
async fn while_the_queue_is_full_adding_waits() {
    let settings = BlockSettings {
        block_bytes_max: 16,
        queue_blocks_max: 2,
        ..BlockSettings::default()
    };
    let case = Case::with(settings, RateLimits::default());
    case.notes.held.store(true, Ordering::SeqCst);
    case.generator.add(0).await.unwrap();
    case.generator.add(1).await.unwrap();
    case.generator.add(2).await.unwrap();
    until("the first is being pushed", || {
        case.notes.begun.load(Ordering::SeqCst) == 1
    })
    .await;
    for item in 3..8 {
        case.generator.add(item).await.unwrap();
    }
    let one_more = case.generator.add(8);
    tokio::pin!(one_more);
    for _ in 0..100 {
        assert!(futures::poll!(&mut one_more).is_pending(), "taken beyond the bound");
        tokio::task::yield_now().await;
    }
    case.notes.held.store(false, Ordering::SeqCst);
    one_more.await.unwrap();
    case.generator.stop().await.unwrap();
    assert_eq!(
        case.notes.items(),
        [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7], vec![8]]
    );
    let parts: Vec<u32> = case.notes.blocks().iter().map(|block| block.id.part).collect();
    assert_eq!(parts, [0, 1, 2, 3, 4]);
}

/// In this order: no more is added, the last block is cut, the queue is pushed empty, and only then stop returns.
#[tokio::test]
async fn stop_stores_all_that_was_added() {
    let case = Case::start();
    case.notes.held.store(true, Ordering::SeqCst);
    for item in 0..3 {
        case.generator.add(item).await.unwrap();
        case.clock.advance(10);
        until("its block is cut", || {
            let cut = |seen: &&Seen| matches!(seen, Seen::Generated(_));
            case.notes.all().iter().filter(cut).count() as u64 == item + 1
        })
        .await;
    }
    case.generator.add(3).await.unwrap();
    let stop = case.generator.stop();
    tokio::pin!(stop);
    for _ in 0..100 {
        assert!(futures::poll!(&mut stop).is_pending(), "blocks are still to be pushed");
        tokio::task::yield_now().await;
    }
    assert_eq!(case.generator.add(4).await.unwrap_err().kind(), Kind::Unavailable);
    case.notes.held.store(false, Ordering::SeqCst);
    stop.await.unwrap();
    assert_eq!(case.notes.items(), [[0], [1], [2], [3]]);
    case.generator.stop().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_the_rate_when_it_stops_has_added_nothing() {
    let limits = RateLimits {
        records_per_s_max: std::num::NonZeroU64::new(1),
        ..RateLimits::default()
    };
    let case = Case::with(BlockSettings::default(), limits);
    case.generator.add(1).await.unwrap();
    let waits = case.generator.add(2);
    tokio::pin!(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    case.generator.stop().await.unwrap();
    case.clock.advance(1_000);
    assert_eq!(waits.await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(case.notes.items(), [[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_add_at_once_and_each_keeps_its_order() {
    let settings = BlockSettings {
        block_bytes_max: 800,
        ..BlockSettings::default()
    };
    let case = Case::with(settings, RateLimits::default());
    let adding = (0..10_u64).map(|adder| {
        let generator = &case.generator;
        async move {
            for item in 0..1_000 {
                generator.add(adder * 1_000 + item).await.unwrap();
            }
        }
    });
    futures::future::join_all(adding).await;
    case.generator.stop().await.unwrap();
    let mut items = case.notes.items().concat();
    for adder in 0..10 {
        let own: Vec<u64> = items.iter().copied().filter(|item| item / 1_000 == adder).collect();
        assert!(own.is_sorted(), "adder {adder}");
    }
    items.sort_unstable();
    assert_eq!(items, (0..10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn settings_that_can_not_be_are_refused() {
    let case = Case::start();
    for settings in [
        BlockSettings {
            interval: Duration::ZERO,
            ..BlockSettings::default()
        },
        BlockSettings {
            queue_blocks_max: 0,
            ..BlockSettings::default()
        },
    ] {
        let clock = Arc::clone(&case.clock) as Arc<dyn Clock>;
        let limiter = Arc::new(RateLimiter::new(RateLimits::default(), Arc::clone(&clock)));
        let listener = Arc::clone(&case.notes) as Arc<dyn BlockListener<u64, String>>;
        let refused = BlockGenerator::start(settings, limiter, listener, clock).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config);
    }
}
