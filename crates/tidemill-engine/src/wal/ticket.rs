//! What an appender holds until its record is acknowledged.

use tokio::sync::watch;

use super::group::Outcome;
use super::{LogRange, Sequence};
use crate::error::{Error, Kind, Result};

/// A record that was handed in. It is written whether or not anybody waits.
#[derive(Debug)]
pub struct Ticket {
    outcome: watch::Receiver<Outcome>,
    /// In its group.
    offset: u64,
    length: u32,
    sequence: Sequence,
    crc32c: u32,
}

impl Ticket {
    pub(super) fn new(
        outcome: watch::Receiver<Outcome>,
        offset: u64,
        length: u32,
        sequence: Sequence,
        crc32c: u32,
    ) -> Self {
        Self {
            outcome,
            offset,
            length,
            sequence,
            crc32c,
        }
    }

    /// The record's number.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Waits until the record is durable and no newer driver was found after that; only then may its source be told (X31).
    /// Waits on while the disk is full.
    ///
    /// # Errors
    /// Where the log has ended: `Fenced` by a newer driver; else the process must end, too, as what was written may be lost.
    pub async fn acknowledged(mut self) -> Result<LogRange> {
        let outcome = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok(placed)) => Ok(LogRange {
                segment: placed.segment,
                offset: placed.offset + self.offset,
                length: self.length,
                sequence: self.sequence,
                crc32c: self.crc32c,
            }),
            Some(Err(error)) => Err(Error::with_source(
                error.kind(),
                format!("record {} was not acknowledged", self.sequence),
                error,
            )),
            None => Err(Error::new(Kind::Bug, "the log's thread is gone")),
        }
    }
}
