//! Writes record batches for tests.

use crc_fast::crc32_iscsi;

use super::varint::put_varint;

/// A record to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TestRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl TestRecord {
    pub(crate) fn value(offset: i64, value: &str) -> Self {
        Self {
            offset,
            value: Some(value.as_bytes().to_vec()),
            ..Self::default()
        }
    }
}

/// A batch to write.
#[derive(Debug, Clone)]
pub(crate) struct TestBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) base_timestamp: i64,
    pub(crate) append_time: Option<i64>,
    pub(crate) packing: Packing,
    pub(crate) producer: Option<i64>,
    pub(crate) control: bool,
    pub(crate) magic: u8,
    pub(crate) records: Vec<TestRecord>,
}

impl TestBatch {
    pub(crate) fn of(records: Vec<TestRecord>) -> Self {
        Self {
            base_offset: records.first().map_or(0, |record| record.offset),
            last_offset: records.last().map_or(0, |record| record.offset),
            base_timestamp: 1_000,
            append_time: None,
            packing: Packing::Plain,
            producer: None,
            control: false,
            magic: 2,
            records,
        }
    }

    /// A batch of values at consecutive offsets.
    pub(crate) fn values(base_offset: i64, values: &[&str]) -> Self {
        Self::of(
            (base_offset..)
                .zip(values)
                .map(|(offset, value)| TestRecord::value(offset, value))
                .collect(),
        )
    }

    pub(crate) fn of_producer(self, producer: i64) -> Self {
        Self {
            producer: Some(producer),
            ..self
        }
    }

    /// The marker that ends a transaction.
    pub(crate) fn marker(offset: i64, producer: i64, commit: bool) -> Self {
        let key = vec![0, 0, 0, u8::from(commit)];
        let record = TestRecord {
            offset,
            key: Some(key),
            value: Some(vec![0; 6]),
            ..TestRecord::default()
        };
        Self {
            control: true,
            ..Self::of(vec![record])
        }
        .of_producer(producer)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for record in &self.records {
            let body = self.record(record);
            put_varint(&mut records, body.len() as i64);
            records.extend(body);
        }
        records = self.packing.pack(&records);
        let transactional = i16::from(self.producer.is_some()) << 4;
        let attributes = self.packing.codec()
            | i16::from(self.append_time.is_some()) << 3
            | transactional
            | i16::from(self.control) << 5;
        let mut tail = Vec::new();
        tail.extend(attributes.to_be_bytes());
        tail.extend(((self.last_offset - self.base_offset) as i32).to_be_bytes());
        tail.extend(self.base_timestamp.to_be_bytes());
        tail.extend(self.append_time.unwrap_or(self.base_timestamp).to_be_bytes());
        tail.extend(self.producer.unwrap_or(-1).to_be_bytes());
        tail.extend(0i16.to_be_bytes());
        tail.extend(0i32.to_be_bytes());
        tail.extend((self.records.len() as i32).to_be_bytes());
        tail.extend(records);
        let mut batch = Vec::new();
        batch.extend(self.base_offset.to_be_bytes());
        batch.extend((tail.len() as i32 + 9).to_be_bytes());
        batch.extend(0i32.to_be_bytes());
        batch.push(self.magic);
        batch.extend(crc32_iscsi(&tail).to_be_bytes());
        batch.extend(tail);
        batch
    }

    fn record(&self, record: &TestRecord) -> Vec<u8> {
        let mut body = vec![0];
        put_varint(&mut body, record.timestamp - self.base_timestamp);
        put_varint(&mut body, record.offset - self.base_offset);
        put_bytes(&mut body, record.key.as_deref());
        put_bytes(&mut body, record.value.as_deref());
        put_varint(&mut body, record.headers.len() as i64);
        for (key, value) in &record.headers {
            put_bytes(&mut body, Some(key.as_bytes()));
            put_bytes(&mut body, value.as_deref());
        }
        body
    }
}

/// The batches one behind the other, as a response holds them.
pub(crate) fn log(batches: &[TestBatch]) -> Vec<u8> {
    batches.iter().flat_map(TestBatch::bytes).collect()
}

/// Puts right the checksum of a batch whose bytes were changed.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = crc32_iscsi(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn put_bytes(data: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(data, bytes.map_or(-1, |bytes| bytes.len() as i64));
    data.extend(bytes.unwrap_or_default());
}

/// The forms in which producers write records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    /// One block, as librdkafka writes it.
    Snappy,
    /// Blocks of 32 KiB behind a header, as Java's library writes them.
    SnappyBlocks,
    Lz4,
    /// Blocks that refer back to earlier ones.
    Lz4Linked,
    Zstd,
    /// Without the size in its header, as a stream is written.
    ZstdStream,
    /// What no producer writes: an LZ4 frame without its end.
    Torn,
}

impl Packing {
    /// All that can be read.
    pub(crate) const ALL: [Self; 8] = [
        Self::Plain,
        Self::Gzip,
        Self::Snappy,
        Self::SnappyBlocks,
        Self::Lz4,
        Self::Lz4Linked,
        Self::Zstd,
        Self::ZstdStream,
    ];

    fn codec(self) -> i16 {
        match self {
            Self::Plain => 0,
            Self::Gzip => 1,
            Self::Snappy | Self::SnappyBlocks => 2,
            Self::Lz4 | Self::Lz4Linked | Self::Torn => 3,
            Self::Zstd | Self::ZstdStream => 4,
        }
    }

    pub(crate) fn pack(self, data: &[u8]) -> Vec<u8> {
        let snappy = |data| snap::raw::Encoder::new().compress_vec(data).expect("packs");
        match self {
            Self::Plain => data.to_vec(),
            Self::Gzip => {
                let mut compressor = libdeflater::Compressor::default();
                let mut member = vec![0; compressor.gzip_compress_bound(data.len())];
                let bytes = compressor.gzip_compress(data, &mut member).expect("packs");
                member.truncate(bytes);
                member
            }
            Self::Snappy => snappy(data),
            Self::SnappyBlocks => {
                let mut frame = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
                for block in data.chunks(32 << 10).map(snappy) {
                    frame.extend((block.len() as u32).to_be_bytes());
                    frame.extend(block);
                }
                frame
            }
            Self::Lz4 => lz4_frame(data, lz4::BlockMode::Independent),
            Self::Lz4Linked => lz4_frame(data, lz4::BlockMode::Linked),
            Self::Torn => lz4_frame(data, lz4::BlockMode::Independent)[..12].to_vec(),
            Self::Zstd => zstd::bulk::compress(data, 3).expect("packs"),
            Self::ZstdStream => zstd::stream::encode_all(data, 3).expect("packs"),
        }
    }
}

fn lz4_frame(data: &[u8], mode: lz4::BlockMode) -> Vec<u8> {
    let mut encoder = lz4::EncoderBuilder::new()
        .block_mode(mode)
        .block_size(lz4::BlockSize::Max64KB)
        .build(Vec::new())
        .expect("packs");
    std::io::Write::write_all(&mut encoder, data).expect("packs");
    let (frame, result) = encoder.finish();
    result.expect("packs");
    frame
}
