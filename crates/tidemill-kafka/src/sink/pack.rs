//! Record batches (format v2): encoded and compressed where the rows are made, sealed when they are sent.

use std::io::Write;

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};

use super::messages::{Message, Messages};
use crate::Compression;
use crate::fetch::record_batch::HEADER_BYTES;
use crate::fetch::varint::{put_varint, varint_bytes};
use crate::wire::transaction::ProducerId;

/// What of a batch is counted by its own length.
const LENGTH_END: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const PRODUCER_AT: usize = 43;
const MAGIC: u8 = 2;
const TRANSACTIONAL: i16 = 1 << 4;
/// Blocks of Snappy as Java's library cuts them.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;

/// A batch for one partition, complete but for its producer and sequence.
#[derive(Debug)]
pub(super) struct Packed {
    /// Where it goes.
    pub(super) partition: TopicPartition,
    /// How many records it holds.
    pub(super) records: i32,
    /// Bytes of the largest record, as a person counts them: key and value.
    pub(super) largest: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// Its bytes on the wire.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The batch as the `sequence`th and following records that `producer` writes to the partition.
    pub(super) fn seal(mut self, producer: ProducerId, sequence: i32) -> Bytes {
        let mut at = PRODUCER_AT;
        let mut put = |bytes: &[u8]| {
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&producer.id.to_be_bytes());
        put(&producer.epoch.to_be_bytes());
        put(&sequence.to_be_bytes());
        let crc = crc32_iscsi(&self.bytes[ATTRIBUTES_AT..]);
        self.bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        self.bytes.into()
    }
}

/// Packs records into batches, each with one time for all of its records.
#[derive(Debug)]
pub(super) struct Packer {
    topic: String,
    compression: Compression,
    batch_bytes_max: usize,
    /// By partition; kept for the next call, empty, so that their room is made once.
    open: Vec<Open>,
}

impl Packer {
    /// A packer for one topic. A batch holds at most `batch_bytes_max` bytes of records, unless a single record is longer.
    pub(super) fn new(topic: &str, compression: Compression, batch_bytes_max: usize) -> Self {
        Self {
            topic: topic.to_owned(),
            compression,
            batch_bytes_max,
            open: Vec::new(),
        }
    }

    /// Packs `messages`, each partition's in their order. Batches of one partition follow each other.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub(super) fn pack(&mut self, messages: &Messages, now_ms: i64) -> Result<Vec<Packed>> {
        let mut packed = Vec::new();
        let mut open = std::mem::take(&mut self.open);
        for message in messages.iter() {
            let partition = usize::try_from(message.partition).unwrap_or_default();
            if partition >= open.len() {
                open.resize_with(partition + 1, Open::default);
            }
            let batch = &mut open[partition];
            if batch.count > 0 && batch.records.len() + message.size() > self.batch_bytes_max {
                packed.push(self.close(message.partition, batch, now_ms)?);
            }
            batch.push(&message);
        }
        for (partition, batch) in (0..).zip(&mut open) {
            if batch.count > 0 {
                packed.push(self.close(partition, batch, now_ms)?);
            }
        }
        self.open = open;
        Ok(packed)
    }

    fn close(&self, partition: i32, batch: &mut Open, now_ms: i64) -> Result<Packed> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + batch.records.len() / 2);
        bytes.extend([0; LENGTH_END]);
        // The leader's epoch, which the leader fills in.
        bytes.extend((-1i32).to_be_bytes());
        bytes.push(MAGIC);
        bytes.extend([0; 4]);
        bytes.extend((self.codec() | TRANSACTIONAL).to_be_bytes());
        bytes.extend((batch.count - 1).to_be_bytes());
        for _ in ["first", "last"] {
            bytes.extend(now_ms.to_be_bytes());
        }
        bytes.extend([0; 8 + 2 + 4]);
        bytes.extend(batch.count.to_be_bytes());
        compress(self.compression, &batch.records, &mut bytes).map_err(|error| {
            let text = format!(
                "compressing records for {}/{partition} with {}",
                self.topic, self.compression
            );
            Error::with_source(Kind::Bug, text, error)
        })?;
        let length = i32::try_from(bytes.len() - LENGTH_END).map_err(|_too_long| {
            let text = format!(
                "a record of {} bytes for {}/{partition} is too long",
                batch.largest, self.topic
            );
            Error::new(Kind::Data, text)
        })?;
        bytes[8..LENGTH_END].copy_from_slice(&length.to_be_bytes());
        let packed = Packed {
            partition: TopicPartition::new(&self.topic, partition),
            records: batch.count,
            largest: batch.largest,
            bytes,
        };
        batch.clear();
        Ok(packed)
    }

    fn codec(&self) -> i16 {
        match self.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }
}

/// A batch that grows.
#[derive(Debug, Default)]
struct Open {
    records: Vec<u8>,
    count: i32,
    largest: usize,
}

impl Open {
    fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
        self.largest = 0;
    }

    fn push(&mut self, message: &Message<'_>) {
        let Message {
            key, value, headers, ..
        } = *message;
        let lengths = [key, value].map(|part| part.map_or(-1, |part| part.len() as i64));
        let parts: usize = lengths
            .iter()
            .map(|length| varint_bytes(*length) + usize::try_from(*length).unwrap_or(0))
            .sum();
        let delta = i64::from(self.count);
        // Attributes and the difference in time take a byte each, both 0.
        let body = 2 + varint_bytes(delta) + parts + headers.len();
        self.records.reserve(body + 5);
        put_varint(&mut self.records, body as i64);
        self.records.extend([0, 0]);
        put_varint(&mut self.records, delta);
        for (part, length) in [key, value].into_iter().zip(lengths) {
            put_varint(&mut self.records, length);
            self.records.extend_from_slice(part.unwrap_or_default());
        }
        self.records.extend_from_slice(headers);
        self.count += 1;
        self.largest = self.largest.max(message.size() - headers.len());
    }
}

fn compress(compression: Compression, records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    match compression {
        Compression::None => out.extend_from_slice(records),
        Compression::Gzip => {
            let mut compressor = libdeflater::Compressor::default();
            let start = out.len();
            out.resize(start + compressor.gzip_compress_bound(records.len()), 0);
            let written = compressor
                .gzip_compress(records, &mut out[start..])
                .map_err(std::io::Error::other)?;
            out.truncate(start + written);
        }
        Compression::Snappy => {
            // The frame of Java's library: its name, two versions, then blocks behind their lengths.
            out.extend(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
            let mut encoder = snap::raw::Encoder::new();
            for block in records.chunks(SNAPPY_BLOCK_BYTES) {
                let block = encoder.compress_vec(block)?;
                out.extend((block.len() as u32).to_be_bytes());
                out.extend(block);
            }
        }
        Compression::Lz4 => {
            let mut encoder = lz4::EncoderBuilder::new()
                .block_mode(lz4::BlockMode::Independent)
                .block_size(lz4::BlockSize::Max64KB)
                .checksum(lz4::ContentChecksum::NoChecksum)
                .build(out)?;
            encoder.write_all(records)?;
            encoder.finish().1?;
        }
        Compression::Zstd => out.extend(zstd::bulk::compress(records, zstd::DEFAULT_COMPRESSION_LEVEL)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(records: &[(i32, Option<&str>, Option<&str>)]) -> Messages {
        let mut messages = Messages::default();
        for (partition, key, value) in records {
            messages.push(*partition, key.map(str::as_bytes), value.map(str::as_bytes));
        }
        messages
    }

    fn packer(compression: Compression, batch_bytes_max: usize) -> Packer {
        Packer::new("t", compression, batch_bytes_max)
    }

    fn shape(packed: &[Packed]) -> Vec<(i32, i32)> {
        let of = |packed: &Packed| (packed.partition.partition, packed.records);
        packed.iter().map(of).collect()
    }

    #[test]
    fn a_batch_is_what_the_reader_and_java_know() {
        use crate::fetch::testing::{Packing, TestBatch, TestRecord};
        let packings = [
            (Compression::None, Packing::Plain),
            (Compression::Gzip, Packing::Gzip),
            (Compression::Snappy, Packing::SnappyBlocks),
            (Compression::Zstd, Packing::Zstd),
        ];
        let of_test = |offset, value: Option<&str>| TestRecord {
            offset,
            timestamp: 1_000,
            value: value.map(|value| value.as_bytes().to_vec()),
            ..TestRecord::default()
        };
        for (compression, packing) in packings {
            let records = [(2, None, Some("one")), (2, Some("k"), None)];
            let packed = packer(compression, 1 << 20).pack(&messages(&records), 1_000).unwrap();
            assert_eq!(shape(&packed), [(2, 2)]);
            assert_eq!(packed[0].largest, 3);
            let producer = ProducerId { id: 9, epoch: 0 };
            let sealed = packed.into_iter().next().unwrap().seal(producer, 0);
            let tombstone = TestRecord {
                key: Some(b"k".to_vec()),
                ..of_test(1, None)
            };
            let mut expected = TestBatch::of(vec![of_test(0, Some("one")), tombstone]).of_producer(9);
            expected.packing = packing;
            let mut expected = expected.bytes();
            // The leader's epoch is not part of what the checksum covers.
            expected[12..16].copy_from_slice(&(-1i32).to_be_bytes());
            assert_eq!(sealed, expected, "{compression}");
        }
    }

    #[test]
    fn batches_are_cut_before_they_get_too_long_and_partitions_kept_apart() {
        let records: Vec<_> = (0..7).map(|n| (n % 2, None, Some("0123456789"))).collect();
        let packed = packer(Compression::None, 40).pack(&messages(&records), 0).unwrap();
        assert_eq!(shape(&packed), [(0, 2), (1, 2), (0, 2), (1, 1)]);
        let long = "x".repeat(100);
        let records = [
            (0, None, Some("a")),
            (0, None, Some(long.as_str())),
            (0, None, Some("b")),
        ];
        let packed = packer(Compression::None, 40).pack(&messages(&records), 0).unwrap();
        assert_eq!(shape(&packed), [(0, 1), (0, 1), (0, 1)]);
    }
}
