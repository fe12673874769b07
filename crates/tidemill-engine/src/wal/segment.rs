//! A segment's name, and the header that it begins with.
//!
//! ```text
//!  0  magic           "TIDEMLOG"
//!  8  version         1
//! 12  reserved        0
//! 16  log             16 bytes: whose log this is
//! 32  epoch
//! 40  first sequence
//! 48  attempt
//! 52  crc             CRC-32C of bytes 0..52
//! ```
//! Numbers are little-endian.

use std::fmt;
use std::str::FromStr;

use crc_fast::crc32_iscsi;
use serde::{Deserialize, Serialize};
use tidemill_core::plan::Epoch;
use uuid::Uuid;

use super::Sequence;

/// The version of segments that this build writes and reads.
pub(super) const VERSION: u32 = 1;
/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 56;
/// No segment that this build wrote is larger: the settings' largest, and one record.
pub(super) const BYTES_MAX: u64 = 1 << 30;
const MAGIC: &[u8; 8] = b"TIDEMLOG";
const CRC_AT: usize = 52;

/// The name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SegmentName {
    /// Who wrote it.
    pub epoch: Epoch,
    /// The sequence of its first record.
    pub first: Sequence,
    /// Tells segments apart that begin alike: those before were abandoned on a full disk.
    pub attempt: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:020}-{:020}-{}.log", self.epoch, self.first, self.attempt)
    }
}

/// It is not the name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a segment: <20 digits of epoch>-<20 digits of sequence>-<attempt>.log")]
pub struct NotASegment;

impl FromStr for SegmentName {
    type Err = NotASegment;

    fn from_str(name: &str) -> Result<Self, NotASegment> {
        let parse = || {
            let (epoch, rest) = name.strip_suffix(".log")?.split_once('-')?;
            let (first, attempt) = rest.split_once('-')?;
            Some(Self {
                epoch: epoch.parse().ok()?,
                first: first.parse().ok()?,
                attempt: attempt.parse().ok()?,
            })
        };
        // One name per segment: 7 and 07 would be two files of one.
        parse().filter(|found| found.to_string() == name).ok_or(NotASegment)
    }
}

impl TryFrom<String> for SegmentName {
    type Error = NotASegment;

    fn try_from(name: String) -> Result<Self, NotASegment> {
        name.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

/// The header of a segment; its last four bytes are the checksum that the first record repeats.
pub(super) fn header(log: Uuid, name: SegmentName) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(log.as_bytes());
    bytes[32..40].copy_from_slice(&name.epoch.to_le_bytes());
    bytes[40..48].copy_from_slice(&name.first.to_le_bytes());
    bytes[48..52].copy_from_slice(&name.attempt.to_le_bytes());
    let crc = crc32_iscsi(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) log: Uuid,
    pub(super) crc: u32,
    /// True where it names the segment that was asked for.
    pub(super) fits: bool,
}

/// The header at the begin of a segment, if it is whole and its checksum fits.
pub(super) fn decode_header(bytes: &[u8], name: SegmentName) -> Option<Header> {
    let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let crc = u32::from_le_bytes(*bytes.last_chunk()?);
    if &bytes[..8] != MAGIC || crc32_iscsi(&bytes[..CRC_AT]) != crc {
        return None;
    }
    let log = Uuid::from_bytes(*bytes[16..32].first_chunk()?);
    Some(Header {
        version: u32::from_le_bytes(*bytes[8..12].first_chunk()?),
        log,
        crc,
        fits: bytes[32..CRC_AT] == header(log, name)[32..CRC_AT],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: SegmentName = SegmentName {
        epoch: 2,
        first: 100,
        attempt: 3,
    };

    #[test]
    fn names_are_written_one_way() {
        let text = "00000000000000000002-00000000000000000100-3.log";
        assert_eq!((NAME.to_string().as_str(), text.parse()), (text, Ok(NAME)));
        for other in [
            "2-100-3.log",
            "00000000000000000002-00000000000000000100-03.log",
            "00000000000000000002-00000000000000000100.log",
            "log-1-2",
        ] {
            assert_eq!(other.parse::<SegmentName>(), Err(NotASegment), "{other}");
        }
        assert_eq!(serde_json::to_string(&NAME).expect("text"), format!("\"{text}\""));
    }

    #[test]
    fn a_header_names_its_segment() {
        let log = Uuid::from_u128(5);
        let bytes = header(log, NAME);
        let decoded = decode_header(&bytes, NAME).expect("a header");
        assert_eq!((decoded.version, decoded.log, decoded.fits), (VERSION, log, true));
        let other = SegmentName { first: 101, ..NAME };
        assert!(!decode_header(&bytes, other).expect("a header").fits);
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(decode_header(&damaged, NAME), None, "byte {at}");
        }
    }
}
