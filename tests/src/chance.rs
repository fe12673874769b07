//! Numbers from a seed that is printed, so that a run can be repeated.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A stream of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    /// A stream from `TIDEMILL_TEST_SEED`, else from the clock; prints which.
    ///
    /// # Panics
    /// Where the variable is no number.
    pub fn announced(what: &str) -> Self {
        let seed = match env::var("TIDEMILL_TEST_SEED") {
            Ok(text) => text.parse().expect("TIDEMILL_TEST_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |now| u64::from(now.subsec_nanos())),
        };
        eprintln!("{what}: TIDEMILL_TEST_SEED={seed} repeats this run");
        Self::from_seed(seed)
    }

    /// The stream of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number in `0..bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// A time in `[from, until)`, in steps of a millisecond.
    pub fn between(&mut self, from: Duration, until: Duration) -> Duration {
        let from_ms = u64::try_from(from.as_millis()).unwrap_or(u64::MAX);
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(from_ms + self.below(until_ms.saturating_sub(from_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_stream() {
        let draw = |seed| {
            let mut chance = Chance::from_seed(seed);
            (0..8).map(|_| chance.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
