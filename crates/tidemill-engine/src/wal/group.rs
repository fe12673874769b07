//! Records that are written and synced together.

use std::sync::Arc;

use tidemill_core::plan::Epoch;
use tokio::sync::watch;

use super::Sequence;
use super::record::{self, HEADER_BYTES};
use super::segment::SegmentName;
use super::ticket::Ticket;
use crate::error::Error;

/// Where a group became durable and was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) segment: SegmentName,
    pub(super) offset: u64,
}

/// What came of a group; `None` until it is known.
pub(super) type Outcome = Option<Result<Placed, Arc<Error>>>;

/// Records of one fsync.
#[derive(Debug)]
pub(super) struct Group {
    bytes: Vec<u8>,
    first: Sequence,
    records: u64,
    outcome: watch::Sender<Outcome>,
}

impl Group {
    /// An empty group in a buffer, whose first record will have this sequence.
    pub(super) fn new(mut buffer: Vec<u8>, first: Sequence) -> Self {
        buffer.clear();
        Self {
            bytes: buffer,
            first,
            records: 0,
            outcome: watch::Sender::new(None),
        }
    }

    /// Adds a record behind the others.
    pub(super) fn add(&mut self, body: &[u8], body_crc: u32) -> Ticket {
        let offset = self.bytes.len();
        record::stage(&mut self.bytes, body, body_crc);
        let sequence = self.first + self.records;
        self.records += 1;
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Ticket::new(self.outcome.subscribe(), offset as u64, length, sequence, body_crc)
    }

    /// The sequence of its first record.
    pub(super) fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence behind its last record.
    pub(super) fn next(&self) -> Sequence {
        self.first + self.records
    }

    /// Bytes of records with their headers.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Gives the records their place behind the header of checksum `chain`; returns that of the last one. May be done again
    /// for another place.
    pub(super) fn seal(&mut self, epoch: Epoch, mut chain: u32) -> u32 {
        let (mut at, mut sequence) = (0, self.first);
        while let Some(header) = self.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            chain = record::seal(header, epoch, sequence, self.first, chain);
            at += HEADER_BYTES + record::length(header);
            sequence += 1;
        }
        chain
    }

    /// Tells everybody who waits; gives the buffer back.
    pub(super) fn settle(self, outcome: Result<Placed, Arc<Error>>) -> Vec<u8> {
        self.outcome.send_replace(Some(outcome));
        self.bytes
    }
}
