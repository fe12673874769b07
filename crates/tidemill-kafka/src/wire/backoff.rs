//! Pauses between attempts.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double from 100 ms to 5 s, each shortened by chance so that many clients do not return together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts += 1;
        whole.mul_f64(rand::random_range(0.5..1.0))
    }

    /// Starts again from the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] < FIRST);
        assert!(pauses[3] >= FIRST * 4 && pauses.iter().all(|pause| *pause < LONGEST));
        assert!(pauses[39] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.pause() < FIRST);
    }
}
