//! Entrances to the decoders for fuzz targets: bytes in, nothing out. What must hold of what comes out is asserted here.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use arrow::array::Array;
use tidemill_engine::source::{RawColumns, RawRows};
use tokio::runtime::{Builder, Runtime};

use crate::compression::Compression;
use crate::config::KafkaConfig;
use crate::fetch::aborted::AbortedTransaction;
use crate::fetch::buffer_pool::BufferPool;
use crate::fetch::chunk::Chunk;
use crate::fetch::decompress::{BATCH_BYTES_MAX, Decompressor};
use crate::fetch::record_batch::position_after;
use crate::fetch::request::COMPACT;
use crate::fetch::response::FetchResponse;
use crate::fetch::scratch::Scratch;
use crate::fetch::testing::{Packing, TestBatch, TestRecord, log, seal};
use crate::librdkafka::progress;
use crate::wire::answers;
use crate::wire::connection::Connection;
use crate::wire::testing::Writer;

const ALL: RawColumns = RawColumns {
    key: true,
    value: true,
    timestamp: true,
    headers: true,
};

/// Answers that are read whole: which, version, bytes.
pub fn answer(data: &[u8]) {
    if let [which, version, bytes @ ..] = data {
        answers::can_be_read(*which, i16::from(version % 20), bytes);
    }
}

/// Challenges of SCRAM. Those that ask for many iterations are left out: they are slow, and no different.
pub fn scram(data: &[u8]) {
    let many = data
        .windows(8)
        .any(|part| part.starts_with(b"i=") && part[2..].iter().all(u8::is_ascii_digit));
    if !many {
        answers::challenge_is_answered(data);
    }
}

/// librdkafka's statistics.
pub fn statistics(data: &[u8]) {
    drop(progress::read(data));
}

/// What a broker sends in answer to a fetch, frame and all. The first byte picks the version; where it is even, the frame's
/// head is put right.
pub fn fetch(data: &[u8]) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let mut stream = Vec::new();
    if choice % 2 == 0 {
        stream.extend((bytes.len() as u32 + 4).to_be_bytes());
        stream.extend(0i32.to_be_bytes());
    }
    stream.extend(bytes);
    let version = [12, 13, 14, 15, 16, 10, 11][usize::from(choice / 2 % 7)];
    let mut config = KafkaConfig::new("fuzz:0", ["t"]);
    config.frame_bytes_max = 1 << 20;
    let stream = tokio::io::join(Cursor::new(stream), tokio::io::sink());
    let mut connection = Connection::over(Box::new(stream), Arc::new(config));
    let pool = BufferPool::new(1 << 20);
    runtime.block_on(async {
        let Ok(incoming) = connection.receive(version >= COMPACT).await else {
            return;
        };
        let Ok(mut response) = FetchResponse::begin(incoming, version).await else {
            return;
        };
        while let Ok(Some(answer)) = response.next(&pool).await {
            drop(position_after(&answer.records));
        }
    });
}

/// Record batches as a response has them, with their checksums put right: bounds and aborted transactions first.
pub fn record_batches(data: &[u8]) {
    let Some(([from, length, aborted, producer], bytes)) = data.split_first_chunk::<4>() else {
        return;
    };
    let mut records = bytes.to_vec();
    seal_all(&mut records);
    let from = i64::from(*from);
    let until = from + i64::from(*length);
    let position = match position_after(&records) {
        Ok(Some(position)) => position.min(until),
        _ => until,
    };
    let chunk = Chunk {
        from,
        until,
        position,
        records: records.into(),
        aborted: vec![AbortedTransaction {
            producer_id: i64::from(*producer),
            first_offset: i64::from(*aborted),
        }],
    };
    if let Ok(rows) = chunk.decode(ALL, &BufferPool::new(1 << 20)) {
        are_sound(&rows, from, until);
    }
}

/// Puts the checksum of every batch right, as far as batches follow each other.
fn seal_all(mut records: &mut [u8]) {
    const LENGTH_AT: usize = 8;
    const HEAD_BYTES: usize = 12;
    while let Some(length) = records.get(LENGTH_AT..HEAD_BYTES) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = length.saturating_add(HEAD_BYTES);
        if length < 49 || end > records.len() {
            return;
        }
        let (batch, rest) = std::mem::take(&mut records).split_at_mut(end);
        seal(batch);
        records = rest;
    }
}

fn are_sound(rows: &RawRows, from: i64, until: i64) {
    let offsets = rows.offsets.values();
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "offsets increase");
    assert!(
        offsets.iter().all(|offset| (from..until).contains(offset)),
        "offsets lie in the range"
    );
    for column in [&rows.keys, &rows.values].into_iter().flatten() {
        assert_eq!(column.len(), offsets.len());
        column.to_data().validate_full().expect("views lie in their buffers");
    }
    for column in rows.headers.iter() {
        assert_eq!(column.len(), offsets.len());
        column.to_data().validate_full().expect("a sound list");
    }
}

fn decompress(compression: Compression, data: &[u8]) {
    let pool = BufferPool::new(1 << 20);
    let mut scratch = Scratch::new(&pool, data.len());
    scratch.begin();
    if Decompressor::default()
        .decompress(compression, data, &mut scratch)
        .is_ok()
    {
        let (_, _, batch) = scratch.batch();
        assert!(batch.len() <= BATCH_BYTES_MAX + (4 << 20), "{} bytes", batch.len());
    }
}

/// gzip members.
pub fn gzip(data: &[u8]) {
    decompress(Compression::Gzip, data);
}

/// Snappy, as one block and as Java's blocks.
pub fn snappy(data: &[u8]) {
    decompress(Compression::Snappy, data);
}

/// LZ4 frames.
pub fn lz4(data: &[u8]) {
    decompress(Compression::Lz4, data);
}

/// Zstandard frames.
pub fn zstd(data: &[u8]) {
    decompress(Compression::Zstd, data);
}

/// Inputs that are sound, for a target to begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let packed = |packings: &[Packing]| -> Vec<Vec<u8>> {
        let text = b"every record of this batch is much like the one before it; ".repeat(40);
        packings.iter().map(|packing| packing.pack(&text)).collect()
    };
    match target {
        "gzip" => packed(&[Packing::Gzip]),
        "snappy" => packed(&[Packing::Snappy, Packing::SnappyBlocks]),
        "lz4" => packed(&[Packing::Lz4, Packing::Lz4Linked, Packing::Torn]),
        "zstd" => packed(&[Packing::Zstd, Packing::ZstdStream]),
        "scram" => vec![b"r=rOther,s=QSXCR+Q6sek8bf92,i=4096".to_vec()],
        "statistics" => {
            let text = r#"{"topics":{"t":{"partitions":{"0":{"next_offset":17,"ls_offset":18}}}}}"#;
            vec![text.as_bytes().to_vec()]
        }
        "record-batches" => Packing::ALL.into_iter().map(batches).collect(),
        "fetch" => vec![fetch_answer(false), fetch_answer(true)],
        "answers" => (0..14)
            .map(|which| vec![which, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, b't', 1, 0])
            .collect(),
        _ => Vec::new(),
    }
}

fn batches(packing: Packing) -> Vec<u8> {
    let record = TestRecord {
        offset: 3,
        timestamp: 1_001,
        key: Some(b"a key of more than twelve bytes".to_vec()),
        value: None,
        headers: vec![("h".to_owned(), Some(b"1".to_vec())), ("h".to_owned(), None)],
    };
    let first = TestBatch {
        packing,
        ..TestBatch::values(0, &["a", "a value of more than twelve bytes", "c"])
    };
    let all = [
        first,
        TestBatch::of(vec![record]),
        TestBatch::values(4, &["aborted"]).of_producer(7),
        TestBatch::marker(5, 7, false),
    ];
    let mut data = vec![0, 9, 4, 7];
    data.extend(log(&all));
    data
}

fn fetch_answer(by_id: bool) -> Vec<u8> {
    let records = log(&[TestBatch::values(0, &["a", "b"])]);
    let body = Writer::default()
        .tags()
        .int32(0)
        .int16(0)
        .int32(0)
        .list([0], |topic, _| {
            let topic = if by_id {
                topic.uuid(Some(uuid::Uuid::from_u128(5)))
            } else {
                topic.text(Some("t"))
            };
            topic
                .list([0], |partition, _| {
                    partition
                        .int32(0)
                        .int16(0)
                        .int64(9)
                        .int64(9)
                        .int64(0)
                        .list([0], |aborted, _| aborted.int64(7).int64(1).tags())
                        .int32(-1)
                        .bytes(Some(&records))
                        .tags()
                })
                .tags()
        });
    // Version 13 is the first with ids.
    let mut data = vec![if by_id { 2 } else { 0 }];
    data.extend(body.tags().bytes);
    data
}
