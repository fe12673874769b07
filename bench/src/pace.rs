//! Waiting for a moment.

use std::time::Instant;

/// Returns at `moment`, or at once where it has passed.
pub(crate) fn wait_until(moment: Instant) {
    // Nobody unparks a thread of the bench; a wake-up without reason goes round.
    while let Some(left) = moment
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}
