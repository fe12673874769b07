//! One record of a segment: a header and the body.
//!
//! ```text
//!  0  magic          "TMrc"
//!  4  length         of the body
//!  8  body crc       CRC-32C
//! 12  previous       header CRC of the record before; of the segment's header for its first record
//! 16  epoch
//! 24  sequence
//! 32  group          first sequence of the group: all below it were durable before this was written
//! 40  header crc     CRC-32C of bytes 0..40
//! 44  body
//! ```
//! Numbers are little-endian.

use crc_fast::crc32_iscsi;
use tidemill_core::plan::Epoch;

use super::Sequence;

/// The largest record, in bytes of its body: 64 MiB.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Bytes before a body.
pub(super) const HEADER_BYTES: usize = 44;
pub(super) const MAGIC: [u8; 4] = *b"TMrc";
const CRC_AT: usize = 40;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) body_crc: u32,
    pub(super) previous: u32,
    pub(super) epoch: Epoch,
    pub(super) sequence: Sequence,
    pub(super) group: Sequence,
    /// Its own checksum, which the next record repeats.
    pub(super) crc: u32,
}

/// Appends a record whose place in the log is not known yet: [`seal`] fills it in.
pub(super) fn stage(into: &mut Vec<u8>, body: &[u8], body_crc: u32) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&body_crc.to_le_bytes());
    into.extend_from_slice(&[0; HEADER_BYTES - 12]);
    into.extend_from_slice(body);
}

/// Fills in the place of a staged record; gives its header's checksum.
pub(super) fn seal(
    header: &mut [u8; HEADER_BYTES],
    epoch: Epoch,
    sequence: Sequence,
    group: Sequence,
    previous: u32,
) -> u32 {
    header[12..16].copy_from_slice(&previous.to_le_bytes());
    header[16..24].copy_from_slice(&epoch.to_le_bytes());
    header[24..32].copy_from_slice(&sequence.to_le_bytes());
    header[32..40].copy_from_slice(&group.to_le_bytes());
    let crc = crc32_iscsi(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The length of the body behind a header, sealed or staged.
pub(super) fn length(header: &[u8; HEADER_BYTES]) -> usize {
    number(header, 4) as usize
}

impl Header {
    /// The header at the begin of `bytes`, if it is whole and its checksum fits.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let header = Self {
            length: number(bytes, 4),
            body_crc: number(bytes, 8),
            previous: number(bytes, 12),
            epoch: long(bytes, 16),
            sequence: long(bytes, 24),
            group: long(bytes, 32),
            crc: number(bytes, CRC_AT),
        };
        let sound = bytes[..4] == MAGIC
            && header.crc == crc32_iscsi(&bytes[..CRC_AT])
            && header.length as usize <= RECORD_BYTES_MAX
            && header.group <= header.sequence
            && header.sequence < Sequence::MAX;
        sound.then_some(header)
    }

    /// The body behind the header at the begin of `bytes`, if it is whole and its checksum fits.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let body = bytes.get(HEADER_BYTES..self.bytes())?;
        (crc32_iscsi(body) == self.body_crc).then_some(body)
    }

    /// Bytes of header and body.
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.length as usize
    }
}

fn number(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        stage(&mut bytes, body, crc32_iscsi(body));
        seal(bytes.first_chunk_mut().expect("a header"), 7, 12, 10, 99);
        bytes
    }

    #[test]
    fn what_is_sealed_is_decoded() {
        let bytes = record(b"body");
        let header = Header::decode(&bytes).expect("a header");
        assert_eq!(
            (
                header.epoch,
                header.sequence,
                header.group,
                header.previous,
                header.length
            ),
            (7, 12, 10, 99, 4)
        );
        assert_eq!(header.body(&bytes), Some(b"body".as_slice()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = record(b"some body");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let read = Header::decode(&damaged).and_then(|header| header.body(&damaged));
                assert_eq!(read, None, "byte {at} bit {bit}");
            }
        }
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert_eq!(
                Header::decode(cut).and_then(|header| header.body(cut)),
                None,
                "{length}"
            );
        }
    }
}
