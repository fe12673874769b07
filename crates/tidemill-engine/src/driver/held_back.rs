//! Open transactions that hold readers back: what lies behind one can't be read, and the lag, which ends before it, does not
//! show it.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_core::position::TopicPartition;

use super::DriverSource;
use super::ranges::Ends;

/// Between two looks; a transaction that is open at two of them is worth a warning.
const LOOK: Duration = Duration::from_secs(10);

/// Partitions whose readers were held back at the last look.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    looked: Duration,
    /// Per source and partition: the offset that nothing is read beyond, and since when.
    since: BTreeMap<(String, TopicPartition), (i64, Duration)>,
}

impl HeldBack {
    /// Looks, where it is time to, and warns of each partition that did not move since the last look. `ends` are what
    /// readers see at `now`.
    pub(super) async fn look(&mut self, sources: &[DriverSource], ends: &Ends, now: Duration) {
        if now < self.looked + LOOK {
            return;
        }
        self.looked = now;
        let mut since = BTreeMap::new();
        for source in sources {
            let beyond = match source.source.high_watermarks().await {
                Ok(beyond) => BTreeMap::from_iter(beyond),
                Err(error) => {
                    tracing::debug!(error = error.chain(), "high watermarks can't be read");
                    continue;
                }
            };
            for end in ends.get(&source.name).into_iter().flatten() {
                let Some(waiting) = beyond.get(&end.partition).map(|beyond| beyond - end.end) else {
                    continue;
                };
                let key = (source.name.clone(), end.partition.clone());
                let begun = match self.since.get(&key) {
                    Some((stable_end, begun)) if *stable_end == end.end => *begun,
                    _ => now,
                };
                if waiting <= 0 {
                    continue;
                }
                since.insert(key, (end.end, begun));
                if now - begun >= LOOK {
                    tracing::warn!(
                        source = source.name,
                        partition = %end.partition,
                        stable_end = end.end,
                        waiting_offsets = waiting,
                        held_back_s = (now - begun).as_secs(),
                        "an open transaction holds readers back; if its producer is gone, find it with Kafka's tool \
                         kafka-transactions, find-hanging, and abort it"
                    );
                }
            }
        }
        self.since = since;
    }
}
