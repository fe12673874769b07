//! Any sequence of writing, rolling, forgetting, failing and taking over, against a list.

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::super::testing::*;
use super::super::*;

#[derive(Debug, Clone)]
enum Act {
    /// Hands in records of these sizes together, and waits for all.
    Append(Vec<usize>),
    /// The clock goes on: the next group may begin a segment.
    Wait(u64),
    /// Nothing before the record this far from the end is needed.
    Forget(usize),
    /// Records are handed in on a disk with so much room, and nobody waits for them.
    AppendOnFull(usize, Vec<usize>),
    /// The driver dies, and another takes over: all that was written is there, or only what was synced.
    Restart { power: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let sizes = || prop::collection::vec(0_usize..300, 1..6);
    prop_oneof![
        5 => sizes().prop_map(Act::Append),
        2 => (0_u64..2_000).prop_map(Act::Wait),
        1 => (0_usize..10).prop_map(Act::Forget),
        1 => (0_usize..400, sizes()).prop_map(|(room, sizes)| Act::AppendOnFull(room, sizes)),
        2 => any::<bool>().prop_map(|power| Act::Restart { power }),
    ]
}

/// The list, and the log that must equal it.
struct Model {
    place: Place<MemoryStorage>,
    log: Log,
    epoch: u64,
    /// All records that count.
    records: Vec<Vec<u8>>,
    /// Records handed in behind them and not acknowledged.
    open: Vec<Vec<u8>>,
    needed_from: usize,
    written: u8,
}

impl Model {
    fn new() -> Self {
        let mut place = Place::on(MemoryStorage::default());
        place.settings.segment_bytes_max = 1_000;
        place.settings.segment_age_max = std::time::Duration::from_secs(1);
        place.settings.group_bytes_max = 500;
        Self {
            log: place.start(1),
            place,
            epoch: 1,
            records: Vec::new(),
            open: Vec::new(),
            needed_from: 0,
            written: 0,
        }
    }

    fn body(&mut self, size: usize) -> Vec<u8> {
        self.written = self.written.wrapping_add(1);
        vec![self.written; size]
    }

    async fn hand_in(&mut self, sizes: Vec<usize>) -> (Vec<Vec<u8>>, Vec<Ticket>) {
        let (mut bodies, mut tickets) = (Vec::new(), Vec::new());
        for size in sizes {
            let body = self.body(size);
            tickets.push(self.log.append(&body).await.unwrap());
            bodies.push(body);
        }
        (bodies, tickets)
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Append(sizes) => {
                let (bodies, tickets) = self.hand_in(sizes).await;
                for (body, ticket) in bodies.into_iter().zip(tickets) {
                    let range = ticket.acknowledged().await.unwrap();
                    assert_eq!(range.sequence, self.records.len() as u64);
                    assert_eq!(range.read(&self.place.storage).unwrap(), body);
                    self.records.push(body);
                }
            }
            Act::Wait(millis) => self.place.clock.advance(millis),
            Act::Forget(from_end) => {
                self.needed_from = self.needed_from.max(self.records.len().saturating_sub(from_end));
                self.log.forget_before(self.needed_from as u64).await.unwrap();
            }
            Act::AppendOnFull(room, sizes) => {
                self.place.storage.set_room(Some(room));
                let (bodies, _) = self.hand_in(sizes).await;
                self.open = bodies;
                self.restart(false).await;
            }
            Act::Restart { power } => self.restart(power).await,
        }
    }

    async fn restart(&mut self, power: bool) {
        // Whatever the old one still writes goes elsewhere.
        let copy = if power {
            self.place.storage.cut_power()
        } else {
            self.place.storage.copy()
        };
        self.place = Place {
            settings: self.place.settings.clone(),
            ..Place::on(copy)
        };
        self.epoch += 1;
        let mut takeover = self.place.takeover(self.epoch);
        takeover.needed_from = self.needed_from as u64;
        let mut found = self.records[..self.needed_from].to_vec();
        let taken = takeover.run(&mut |record| {
            assert_eq!(record.range.sequence, found.len() as u64);
            found.push(record.body.to_vec());
            Ok(())
        });
        let taken = taken.unwrap();
        assert_eq!(taken.report.skipped, []);
        let (count, all) = (self.records.len(), [self.records.clone(), self.open.clone()].concat());
        assert!(found.len() >= count, "{} of {count} records were found", found.len());
        assert_eq!(found, all[..found.len()]);
        (self.records, self.open) = (found, Vec::new());
        self.log = self.place.start_on(taken);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_log_is_a_list(acts in prop::collection::vec(act(), 1..40)) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for act in acts {
                model.act(act).await;
            }
            model.restart(true).await;
        });
    }
}
