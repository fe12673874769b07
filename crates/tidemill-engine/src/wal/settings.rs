//! What a log may be told.

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Settings of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A segment that would grow beyond this is followed by a new one. Default 64 MiB. Smaller ones are given back sooner, and
    /// cost two more fsyncs each.
    pub segment_bytes_max: u64,
    /// A segment older than this is followed by a new one at the next group. Default 60 s. A log with little input keeps old
    /// records for so long, as a segment is removed whole.
    pub segment_age_max: Duration,
    /// Bytes that are written and synced together at most; a larger record goes alone. Default 4 MiB.
    pub group_bytes_max: usize,
    /// Bytes of records that are not acknowledged yet, at most. Who appends beyond it waits. Default 32 MiB.
    pub waiting_bytes_max: usize,
    /// How long to wait between looks whether a full disk has room again, or the checkpoint answers. Default 1 s.
    pub retry_wait: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            segment_age_max: Duration::from_secs(60),
            group_bytes_max: 4 << 20,
            waiting_bytes_max: 32 << 20,
            retry_wait: Duration::from_secs(1),
        }
    }
}

impl LogSettings {
    /// Fails where no log could work with them.
    pub(super) fn check(&self) -> Result<()> {
        let problem = if self.group_bytes_max == 0 || self.waiting_bytes_max == 0 || self.segment_bytes_max == 0 {
            "group_bytes_max, waiting_bytes_max and segment_bytes_max must be above 0"
        } else if u32::try_from(self.waiting_bytes_max).is_err() {
            "waiting_bytes_max must be below 4 GiB"
        } else if self.segment_bytes_max > super::segment::BYTES_MAX {
            "segment_bytes_max must be at most 1 GiB"
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::Config, problem))
    }
}
