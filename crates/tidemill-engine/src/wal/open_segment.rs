//! The segment that is written.

use std::time::Duration;

use tidemill_core::plan::Epoch;
use uuid::Uuid;

use super::group::{Group, Placed};
use super::segment::{self, SegmentName};
use super::settings::LogSettings;
use super::storage::{Appending, Storage};
use crate::error::Result;
use crate::failpoint;

/// A segment at its end.
#[derive(Debug)]
pub(super) struct OpenSegment {
    name: SegmentName,
    file: Box<dyn Appending>,
    length: u64,
    /// Checksum of the last header.
    chain: u32,
    opened: Duration,
    name_is_durable: bool,
}

impl OpenSegment {
    /// Begins a segment in a new file; its header becomes durable with the first group.
    pub(super) fn begin(mut file: Box<dyn Appending>, log: Uuid, name: SegmentName, now: Duration) -> Result<Self> {
        let header = segment::header(log, name);
        file.append(&header)?;
        let chain = segment::decode_header(&header, name).map_or(0, |header| header.crc);
        Ok(Self {
            name,
            file,
            length: header.len() as u64,
            chain,
            opened: now,
            name_is_durable: false,
        })
    }

    /// True where a group of so many bytes belongs into a new one.
    pub(super) fn is_over(&self, bytes: usize, settings: &LogSettings, now: Duration) -> bool {
        let holds_records = self.length > segment::HEADER_BYTES as u64;
        let too_large = self.length + bytes as u64 > settings.segment_bytes_max;
        let too_old = now.saturating_sub(self.opened) > settings.segment_age_max;
        holds_records && (too_large || too_old)
    }

    /// Writes a group behind what is there.
    pub(super) fn append(&mut self, group: &mut Group, epoch: Epoch) -> Result<Placed> {
        let chain = group.seal(epoch, self.chain);
        let placed = Placed {
            segment: self.name,
            offset: self.length,
        };
        write(self.file.as_mut(), group.bytes())?;
        self.chain = chain;
        self.length += group.bytes().len() as u64;
        Ok(placed)
    }

    /// Makes all of it durable, its name too.
    pub(super) fn sync(&mut self, storage: &dyn Storage) -> Result<()> {
        self.file.sync()?;
        if !self.name_is_durable {
            failpoint::pass("log.before-names-sync");
            storage.sync_names()?;
            self.name_is_durable = true;
        }
        Ok(())
    }
}

/// In two halves where the process may be killed between them.
fn write(file: &mut dyn Appending, bytes: &[u8]) -> Result<()> {
    if !cfg!(feature = "fault-injection") {
        return file.append(bytes);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.append(first)?;
    failpoint::pass("log.half-written");
    file.append(second)
}
