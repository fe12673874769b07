//! Where a record lies, and its bytes read back.

use std::sync::Arc;

use crc_fast::crc32_iscsi;
use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::Sequence;
use super::record::{HEADER_BYTES, Header, RECORD_BYTES_MAX};
use super::segment::SegmentName;
use super::storage::Storage;
use crate::error::{Error, Kind, Result};
use crate::store::blocking;

/// One record of a log. A batch's plan names those that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The segment.
    pub segment: SegmentName,
    /// Where the record's header begins in it, in bytes.
    pub offset: u64,
    /// Bytes of the record without its header.
    pub length: u32,
    /// Its number.
    pub sequence: Sequence,
    /// Its CRC-32C: what stands there must be what stood there.
    pub crc32c: u32,
}

/// Reads records back.
#[derive(Debug, Clone)]
pub struct RangeReader {
    storage: Arc<dyn Storage>,
    at_once: usize,
}

impl RangeReader {
    /// Reads from `storage`, at most `at_once` records at a time. So many are in memory, too.
    pub fn new(storage: Arc<dyn Storage>, at_once: usize) -> Self {
        Self {
            storage,
            at_once: at_once.max(1),
        }
    }

    /// The bytes of these records, in their order, each as soon as it and all before it are there.
    ///
    /// # Errors
    /// `Loss` where a record is gone or damaged; names it.
    pub fn read(&self, ranges: Vec<LogRange>) -> impl Stream<Item = Result<Vec<u8>>> + Send + use<> {
        let storage = Arc::clone(&self.storage);
        let read = move |range: LogRange| {
            let storage = Arc::clone(&storage);
            blocking(move || range.read(storage.as_ref()))
        };
        stream::iter(ranges).map(read).buffered(self.at_once)
    }
}

impl LogRange {
    /// Its bytes. Waits for the storage.
    ///
    /// # Errors
    /// `Loss` where the record is gone or damaged; names it.
    pub fn read(&self, storage: &dyn Storage) -> Result<Vec<u8>> {
        let name = self.segment.to_string();
        let file = storage
            .open(&name)?
            .ok_or_else(|| self.lost(storage, "the segment is gone"))?;
        let bytes = self.whole().filter(|bytes| {
            let end = self.offset.checked_add(*bytes as u64);
            end.is_some_and(|end| file.length().is_ok_and(|length| end <= length))
        });
        let bytes = bytes.ok_or_else(|| self.lost(storage, "the segment ends before it"))?;
        let mut read = vec![0; bytes];
        file.read_at(self.offset, &mut read)?;
        if !self.is(&read) {
            return Err(self.lost(storage, "another record stands there, or a damaged one"));
        }
        read.drain(..HEADER_BYTES);
        Ok(read)
    }

    fn whole(&self) -> Option<usize> {
        let length = usize::try_from(self.length).ok()?;
        (length <= RECORD_BYTES_MAX).then_some(HEADER_BYTES + length)
    }

    fn is(&self, bytes: &[u8]) -> bool {
        Header::decode(bytes).is_some_and(|header| {
            (header.epoch, header.sequence) == (self.segment.epoch, self.sequence)
                && (header.length, header.body_crc) == (self.length, self.crc32c)
        }) && crc32_iscsi(&bytes[HEADER_BYTES..]) == self.crc32c
    }

    fn lost(&self, storage: &dyn Storage, what: &str) -> Error {
        let bytes = u64::from(self.length) + HEADER_BYTES as u64;
        let (from, until) = (self.offset, self.offset.saturating_add(bytes));
        let text = format!(
            "record {} of the log {} is lost: segment {}, bytes {from}..{until}: {what}",
            self.sequence,
            storage.location(),
            self.segment
        );
        Error::new(Kind::Loss, text)
    }
}
