//! How far behind: in records, and in seconds since the end was where we stand now.

use std::collections::{BTreeMap, VecDeque};

use tidemill_core::position::Positions;

use crate::source::PartitionEnds;

const SIGHTINGS_MAX: usize = 4096;

/// Lag of all sources together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Lag {
    pub(super) records: u64,
    pub(super) seconds: f64,
}

/// Remembers when the ends were where, to say how old the oldest unread record is at least.
#[derive(Debug, Default)]
pub(super) struct LagClock {
    sightings: VecDeque<(i64, i64)>,
    ends: BTreeMap<String, Vec<PartitionEnds>>,
}

impl LagClock {
    pub(super) fn saw(&mut self, now_ms: i64, ends: &BTreeMap<String, Vec<PartitionEnds>>) {
        let total = ends.values().flatten().map(|end| end.end).sum();
        if self.sightings.back().is_none_or(|(_, before)| *before != total) {
            self.sightings.push_back((now_ms, total));
            if self.sightings.len() > SIGHTINGS_MAX {
                self.sightings.pop_front();
            }
        }
        self.ends.clone_from(ends);
    }

    pub(super) fn lag(&mut self, now_ms: i64, positions: &Positions) -> Lag {
        let mut records = 0;
        let mut position_total = 0;
        for (source, ends) in &self.ends {
            for end in ends {
                let at = positions
                    .get(source, &end.partition)
                    .map_or(end.end, |position| position.offset);
                position_total += at;
                records += u64::try_from(end.end - at).unwrap_or(0);
            }
        }
        while self.sightings.len() > 1 && self.sightings[1].1 <= position_total {
            self.sightings.pop_front();
        }
        // The first sighting beyond our position is when the oldest unread record was there already.
        let since = self
            .sightings
            .iter()
            .find(|(_, total)| *total > position_total)
            .map(|(seen, _)| *seen);
        let milliseconds = since.map_or(0, |since| now_ms.saturating_sub(since));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of lag, for display")]
        Lag {
            records,
            seconds: milliseconds as f64 / 1_000.0,
        }
    }
}
