//! The header of a record batch (format v2), read without touching its records.

use crc_fast::crc32_iscsi;

use super::damage::Damage;
use crate::compression::Compression;

/// Bytes of a batch before its records.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes before the part that the batch's own length counts.
const LENGTH_END: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_FROM: usize = 21;

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Offset that the records' deltas count from.
    pub(crate) base_offset: i64,
    /// Bytes of the whole batch, this header included.
    pub(crate) bytes: usize,
    /// Castagnoli checksum of everything from the attributes on.
    crc: u32,
    attributes: i16,
    /// Delta of the last offset that belongs to the batch; compaction keeps it when it removes the record.
    last_offset_delta: i32,
    /// Milliseconds since 1970 that the records' deltas count from.
    pub(crate) base_timestamp: i64,
    /// The highest timestamp; the one of all records where the broker sets the time.
    pub(crate) max_timestamp: i64,
    /// The idempotent or transactional producer, -1 for others.
    pub(crate) producer_id: i64,
    /// Number of records.
    pub(crate) records: u32,
}

fn array<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    data[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

impl BatchHeader {
    /// Reads the header of the batch that `data` begins with. `None` where the batch is cut off, as brokers do at the
    /// end of a response.
    ///
    /// # Errors
    /// A format older than v2, or a header that contradicts itself.
    pub(crate) fn read(data: &[u8]) -> Result<Option<Self>, Damage> {
        if data.len() <= MAGIC_AT {
            return Ok(None);
        }
        let base_offset = i64::from_be_bytes(array(data, 0));
        let length = i32::from_be_bytes(array(data, 8));
        let magic = data[MAGIC_AT];
        if magic != 2 {
            let reason = format!(
                "its record format is v{magic}, only v2 can be read; \
                 rewrite the topic with a producer of Kafka 0.11 or later"
            );
            return Err(Damage::new(base_offset, reason));
        }
        let bytes = usize::try_from(length).unwrap_or(0).saturating_add(LENGTH_END);
        if bytes < HEADER_BYTES {
            return Err(Damage::new(base_offset, format!("its length is {length}")));
        }
        if data.len() < bytes {
            return Ok(None);
        }
        let header = Self {
            base_offset,
            bytes,
            crc: u32::from_be_bytes(array(data, 17)),
            attributes: i16::from_be_bytes(array(data, CRC_FROM)),
            last_offset_delta: i32::from_be_bytes(array(data, 23)),
            base_timestamp: i64::from_be_bytes(array(data, 27)),
            max_timestamp: i64::from_be_bytes(array(data, 35)),
            producer_id: i64::from_be_bytes(array(data, 43)),
            records: u32::try_from(i32::from_be_bytes(array(data, 57)))
                .map_err(|_| Damage::new(base_offset, "its number of records is negative"))?,
        };
        let last = base_offset.checked_add(i64::from(header.last_offset_delta));
        if base_offset < 0 || header.last_offset_delta < 0 || last.is_none_or(|last| last == i64::MAX) {
            return Err(Damage::new(
                base_offset,
                format!("its last offset delta is {}", header.last_offset_delta),
            ));
        }
        Ok(Some(header))
    }

    /// The last offset that belongs to the batch, whether or not a record of it is left.
    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// A number that stands for no codec.
    pub(crate) fn compression(&self) -> Result<Compression, String> {
        match self.attributes & 7 {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            codec => Err(format!(
                "it is compressed with codec {codec}, which this version does not know"
            )),
        }
    }

    /// True where the broker's time replaces the producer's.
    pub(crate) fn has_append_time(&self) -> bool {
        self.attributes & 1 << 3 != 0
    }

    /// True for a batch of a transaction.
    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    /// True for a transaction marker.
    pub(crate) fn is_control(&self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    /// Compares the checksum with the bytes of `batch`, which is the whole batch.
    ///
    /// # Errors
    /// Where they differ.
    pub(crate) fn verify(&self, batch: &[u8]) -> Result<(), Damage> {
        let found = crc32_iscsi(&batch[CRC_FROM..]);
        if found == self.crc {
            return Ok(());
        }
        Err(Damage::new(
            self.base_offset,
            format!("its checksum is {found:08x} instead of {:08x}", self.crc),
        ))
    }
}

/// Where reading goes on after `records`, a partition's part of a response: beyond the last whole batch. `None` where
/// there is no whole batch.
///
/// # Errors
/// A header that can't be read, or batches out of order.
pub(crate) fn position_after(records: &[u8]) -> Result<Option<i64>, Damage> {
    let mut rest = records;
    let mut position = None;
    while let Some(header) = BatchHeader::read(rest)? {
        if position.is_some_and(|position| header.base_offset < position) {
            return Err(Damage::new(
                header.base_offset,
                "it comes after batches of higher offsets",
            ));
        }
        position = Some(header.last_offset() + 1);
        rest = &rest[header.bytes..];
    }
    Ok(position)
}

/// The bytes of the batch that `records` begins with, where that much can be told.
pub(crate) fn declared_bytes(records: &[u8]) -> Option<usize> {
    let length = records.get(8..LENGTH_END)?;
    usize::try_from(i32::from_be_bytes(array(length, 0)))
        .ok()
        .map(|length| length + LENGTH_END)
}
