//! One chunk: what one response holds of one partition, and its way into columns.

use bytes::Bytes;
use tidemill_engine::source::{RawColumns, RawRows};

use super::aborted::{AbortedFilter, AbortedTransaction};
use super::buffer_pool::BufferPool;
use super::columns::{BatchFrame, Columns};
use super::damage::Damage;
use super::decompress::Decompressor;
use super::record_batch::{BatchHeader, HEADER_BYTES};
use super::scratch::Scratch;
use super::varint::Cursor;
use crate::compression::Compression;

/// Rows that room is made for before any record was read; more than that grows as it comes.
const ROWS_RESERVED_MAX: usize = 1 << 18;

/// What one response holds of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// First offset wanted.
    pub(crate) from: i64,
    /// The offset after the last wanted.
    pub(crate) until: i64,
    /// Where reading goes on.
    pub(crate) position: i64,
    /// Record batches; the last may be cut off.
    pub(crate) records: Bytes,
    /// The response's own list.
    pub(crate) aborted: Vec<AbortedTransaction>,
}

impl Chunk {
    /// The end of a range without any more records.
    pub(crate) fn nothing(until: i64) -> Self {
        Self {
            from: until,
            until,
            position: until,
            records: Bytes::new(),
            aborted: Vec::new(),
        }
    }

    /// Checks, decompresses and decodes the records in `[from, until)` that a reader may see.
    ///
    /// # Errors
    /// A batch that can't be read.
    pub(crate) fn decode(&self, wanted: RawColumns, pool: &BufferPool) -> Result<RawRows, Damage> {
        let mut columns = Columns::new(wanted, self.expected_rows()?, self.from, self.until);
        let mut scratch = Scratch::new(pool, self.records.len());
        let mut decompressor = Decompressor::default();
        let mut aborted = AbortedFilter::new(&self.aborted);
        let mut at = 0;
        let mut before = None;
        while let Some(header) = BatchHeader::read(&self.records[at..])? {
            let batch = at..at + header.bytes;
            at = batch.end;
            if let Some(last) = before.replace(header.last_offset())
                && header.base_offset <= last
            {
                let reason = format!("it follows a batch that ends at offset {last}");
                return Err(Damage::new(header.base_offset, reason));
            }
            if header.base_offset >= self.until {
                break;
            }
            aborted.advance(header.last_offset());
            if header.is_control() {
                header.verify(&self.records[batch.clone()])?;
                if is_abort_marker(&self.records[batch.start + HEADER_BYTES..batch.end], header.records) {
                    aborted.end(header.producer_id);
                }
                continue;
            }
            let hidden = header.is_transactional() && aborted.covers(header.producer_id);
            if hidden || header.last_offset() < self.from || header.records == 0 {
                continue;
            }
            header.verify(&self.records[batch.clone()])?;
            self.decode_batch(
                &header,
                batch.start + HEADER_BYTES,
                batch.end,
                &mut decompressor,
                &mut scratch,
                &mut columns,
            )
            .map_err(|reason| Damage::new(header.base_offset, reason))?;
        }
        columns
            .finish(scratch.finish(), self.position)
            .map_err(|reason| Damage::new(self.from, format!("its columns do not fit together: {reason}")))
    }

    fn decode_batch(
        &self,
        header: &BatchHeader,
        start: usize,
        end: usize,
        decompressor: &mut Decompressor,
        scratch: &mut Scratch<'_>,
        columns: &mut Columns,
    ) -> Result<(), String> {
        let mut frame = BatchFrame {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            base_timestamp: header.base_timestamp,
            append_time: header.has_append_time().then_some(header.max_timestamp),
            buffer: 0,
            start,
        };
        let stored = &self.records[start..end];
        let compression = header.compression()?;
        if compression == Compression::None {
            frame.buffer = scratch.fetched(&self.records);
            return columns.push_batch(stored, header.records, &frame);
        }
        scratch.begin();
        decompressor.decompress(compression, stored, scratch)?;
        let (buffer, start, records) = scratch.batch();
        frame.buffer = buffer;
        frame.start = start;
        columns.push_batch(records, header.records, &frame)
    }

    fn expected_rows(&self) -> Result<usize, Damage> {
        let mut rows = 0usize;
        let mut at = 0;
        while let Some(header) = BatchHeader::read(&self.records[at..])? {
            at += header.bytes;
            rows = rows.saturating_add(header.records as usize);
        }
        let offsets = usize::try_from(self.until.saturating_sub(self.from)).unwrap_or(0);
        Ok(rows.min(offsets).min(ROWS_RESERVED_MAX))
    }
}

/// True where the first record's key says so: version, then type 0.
fn is_abort_marker(records: &[u8], count: u32) -> bool {
    fn kind(records: &[u8]) -> Option<i16> {
        let mut cursor = Cursor::new(records);
        cursor.varint()?;
        cursor.skip(1)?;
        cursor.varlong()?;
        cursor.varint()?;
        let length = cursor.length()??;
        let key = cursor.take(length)?;
        Some(i16::from_be_bytes([*key.get(2)?, *key.get(3)?]))
    }
    count > 0 && kind(records) == Some(0)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::record_batch::position_after;
    use crate::fetch::testing::{Packing, TestBatch, TestRecord, log, seal};

    const ALL: RawColumns = RawColumns {
        key: true,
        value: true,
        timestamp: true,
        headers: true,
    };

    fn chunk(records: Vec<u8>, from: i64, until: i64) -> Chunk {
        let position = position_after(&records).ok().flatten().unwrap_or(from).min(until);
        Chunk {
            from,
            until,
            position,
            records: records.into(),
            aborted: Vec::new(),
        }
    }

    fn read(chunk: &Chunk) -> Result<RawRows, Damage> {
        chunk.decode(ALL, &BufferPool::new(1 << 20))
    }

    fn values(rows: &RawRows) -> Vec<&str> {
        let values = rows.values.as_ref().unwrap();
        assert_eq!(values.len(), rows.offsets.len());
        values
            .iter()
            .map(|value| value.map_or("-", |value| std::str::from_utf8(value).unwrap()))
            .collect()
    }

    fn records_of(rows: &RawRows) -> Vec<TestRecord> {
        let headers = rows.headers.as_ref().unwrap();
        let (keys, values) = (rows.keys.as_ref().unwrap(), rows.values.as_ref().unwrap());
        let at = |array: &arrow::array::BinaryViewArray, row| array.is_valid(row).then(|| array.value(row).to_vec());
        (0..rows.offsets.len())
            .map(|row| {
                let entries = headers.value(row);
                let entries = entries.as_struct();
                let (names, contents) = (
                    entries.column(0).as_string::<i32>(),
                    entries.column(1).as_binary::<i32>(),
                );
                TestRecord {
                    offset: rows.offsets.value(row),
                    timestamp: rows.timestamps.as_ref().unwrap().value(row),
                    key: at(keys, row),
                    value: at(values, row),
                    headers: names
                        .iter()
                        .zip(contents.iter())
                        .map(|(name, content)| (name.unwrap().to_owned(), content.map(<[u8]>::to_vec)))
                        .collect(),
                }
            })
            .collect()
    }

    #[test]
    fn a_range_is_cut_out_of_its_batches() {
        let data = log(&[
            TestBatch::values(10, &["a", "b", "c"]),
            TestBatch::values(13, &["d", "e", "f"]),
        ]);
        let rows = read(&chunk(data, 11, 15)).unwrap();
        assert_eq!(rows.offsets.values(), &[11, 12, 13, 14]);
        assert_eq!((values(&rows), rows.position), (vec!["b", "c", "d", "e"], 15));
    }

    #[test]
    fn a_batch_cut_off_at_the_end_is_left_for_the_next_response() {
        let mut data = log(&[TestBatch::values(0, &["a"]), TestBatch::values(1, &["b"])]);
        for cut in 1..=68 {
            data.truncate(138 - cut);
            let chunk = chunk(data.clone(), 0, 10);
            assert_eq!(
                (values(&read(&chunk).unwrap()), chunk.position),
                (vec!["a"], 1),
                "{cut} bytes missing"
            );
        }
    }

    #[test]
    fn a_batch_that_goes_back_is_damage_and_its_records_are_not_doubled() {
        for second in [TestBatch::values(1, &["b", "c"]), TestBatch::values(0, &["a"])] {
            let data = log(&[TestBatch::values(0, &["a", "b"]), second.clone()]);
            let error = read(&chunk(data, 0, 10)).unwrap_err();
            assert_eq!(error.offset, second.base_offset);
            assert!(error.to_string().contains("ends at offset 1"), "{error}");
        }
    }

    #[test]
    fn aborted_transactions_and_markers_are_left_out() {
        let data = log(&[
            TestBatch::values(0, &["open"]).of_producer(7),
            TestBatch::values(1, &["other"]).of_producer(8),
            TestBatch::marker(2, 7, false),
            TestBatch::values(3, &["again"]).of_producer(7),
            TestBatch::marker(4, 8, true),
            TestBatch::values(5, &["second abort"]).of_producer(8),
            TestBatch::values(6, &["plain"]),
            TestBatch::marker(7, 8, false),
            TestBatch::marker(8, 7, true),
        ]);
        let mut chunk = chunk(data, 0, 9);
        chunk.aborted = vec![
            AbortedTransaction {
                producer_id: 8,
                first_offset: 5,
            },
            AbortedTransaction {
                producer_id: 7,
                first_offset: 0,
            },
        ];
        let rows = read(&chunk).unwrap();
        assert_eq!((values(&rows), rows.position), (vec!["other", "again", "plain"], 9));
        chunk.aborted.clear();
        assert_eq!(read(&chunk).unwrap().offsets.values(), &[0, 1, 3, 5, 6]);
    }

    #[test]
    fn holes_of_compaction_and_emptied_batches_end_by_position() {
        let hole = TestRecord::value(14, "kept");
        let batch = TestBatch {
            base_offset: 10,
            last_offset: 19,
            ..TestBatch::of(vec![hole])
        };
        let emptied = TestBatch {
            base_offset: 20,
            last_offset: 29,
            ..TestBatch::of(Vec::new())
        };
        let rows = read(&chunk(log(&[batch, emptied]), 11, 30)).unwrap();
        assert_eq!((values(&rows), rows.position), (vec!["kept"], 30));
    }

    #[test]
    fn everything_of_a_record_comes_through() {
        let records = vec![
            TestRecord {
                offset: 5,
                timestamp: 900,
                key: Some(b"a key of more than twelve bytes".to_vec()),
                value: None,
                headers: vec![
                    ("h".into(), Some(b"1".to_vec())),
                    ("h".into(), None),
                    ("\u{e4}".into(), Some(Vec::new())),
                ],
            },
            TestRecord {
                offset: 6,
                timestamp: i64::from(u32::MAX),
                value: Some(Vec::new()),
                ..TestRecord::default()
            },
            TestRecord {
                offset: 7,
                value: Some(vec![0; 12]),
                ..TestRecord::default()
            },
            TestRecord {
                offset: 8,
                value: Some(vec![1; 13]),
                ..TestRecord::default()
            },
        ];
        for packing in Packing::ALL {
            let batch = TestBatch {
                packing,
                ..TestBatch::of(records.clone())
            };
            assert_eq!(records_of(&read(&chunk(batch.bytes(), 0, 99)).unwrap()), records);
        }
        let batch = TestBatch {
            append_time: Some(77),
            ..TestBatch::of(records)
        };
        let rows = read(&chunk(batch.bytes(), 0, 99)).unwrap();
        assert_eq!(rows.timestamps.unwrap().values(), &[77; 4]);
    }

    #[test]
    fn only_wanted_columns_are_built() {
        let chunk = chunk(TestBatch::values(0, &["a"]).bytes(), 0, 1);
        let rows = chunk.decode(RawColumns::default(), &BufferPool::new(0)).unwrap();
        assert!(rows.keys.is_none() && rows.values.is_none() && rows.timestamps.is_none() && rows.headers.is_none());
        assert_eq!(rows.offsets.values(), &[0]);
    }

    #[test]
    fn a_large_batch_moves_along_when_its_buffer_is_full() {
        let texts: Vec<String> = (0..60_000).map(|n| format!("{n:0>100}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for packing in Packing::ALL {
            let first = TestBatch {
                packing,
                ..TestBatch::values(0, &texts[..30_000])
            };
            let second = TestBatch {
                packing,
                ..TestBatch::values(30_000, &texts[30_000..])
            };
            let rows = read(&chunk(log(&[first, second]), 0, 60_000)).unwrap();
            assert!(values(&rows) == texts, "{packing:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let value = "0".repeat(70 << 20);
        for packing in Packing::ALL.into_iter().filter(|packing| *packing != Packing::Plain) {
            let batch = TestBatch {
                packing,
                ..TestBatch::values(4, &[&value])
            };
            let text = read(&chunk(batch.bytes(), 0, 99)).unwrap_err().to_string();
            let head = "the record batch at offset 4 can't be read: ";
            assert!(text.starts_with(head), "{packing:?}: {text}");
            let is_named = text.contains("more than 64 MiB") || text.contains("declares 734003");
            assert!(is_named, "{packing:?}: {text}");
        }
    }

    #[test]
    fn a_frame_that_declares_too_much_is_refused_before_room_is_made() {
        let huge = (60u32 << 20).to_le_bytes();
        let mut gzip = Packing::Gzip.pack(b"small");
        let end = gzip.len();
        gzip[end - 4..].copy_from_slice(&huge);
        let snappy = [&[0x80, 0x80, 0x80, 0x1e][..], b"small"].concat();
        for (compression, frame) in [(Compression::Gzip, gzip), (Compression::Snappy, snappy)] {
            let pool = BufferPool::new(0);
            let mut scratch = Scratch::new(&pool, 0);
            scratch.begin();
            let error = Decompressor::default()
                .decompress(compression, &frame, &mut scratch)
                .unwrap_err();
            assert!(error.contains("declares 62914560"), "{error}");
            assert!(scratch.finish().is_empty());
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_gives_nothing_but_its_beginning() {
        let data: Vec<u8> = (0..500u32).flat_map(u32::to_le_bytes).collect();
        for packing in Packing::ALL.into_iter().filter(|packing| *packing != Packing::Plain) {
            let batch = TestBatch {
                packing,
                ..TestBatch::values(0, &["a"])
            };
            let compression = BatchHeader::read(&batch.bytes())
                .unwrap()
                .unwrap()
                .compression()
                .unwrap();
            let whole = packing.pack(&data);
            for end in 0..whole.len() {
                let pool = BufferPool::new(0);
                let mut scratch = Scratch::new(&pool, 0);
                scratch.begin();
                let read = Decompressor::default().decompress(compression, &whole[..end], &mut scratch);
                if read.is_ok() {
                    // Blocks of Snappy's frames stand for themselves: the number of records tells what is missing.
                    let (_, _, read) = scratch.batch();
                    assert_eq!(read, &data[..read.len()], "{packing:?} cut off at {end}");
                }
            }
        }
    }

    #[test]
    fn unknown_codecs_and_old_formats_are_named() {
        let mut batch = TestBatch::values(0, &["a"]).bytes();
        batch[22] |= 5;
        seal(&mut batch);
        let text = read(&chunk(batch, 0, 1)).unwrap_err().to_string();
        assert!(text.contains("codec 5"), "{text}");
        let batch = TestBatch {
            magic: 1,
            ..TestBatch::values(0, &["a"])
        };
        assert!(
            read(&chunk(batch.bytes(), 0, 1))
                .unwrap_err()
                .to_string()
                .contains("v1")
        );
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_the_checksum_covers() {
        let clean = TestBatch {
            packing: Packing::Lz4,
            ..TestBatch::values(0, &["some value", "another value"])
        }
        .bytes();
        for bit in 21 * 8..clean.len() * 8 {
            let mut data = clean.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            let header = BatchHeader::read(&data);
            // A header that hides its batch is refused or skipped before the checksum; nothing wrong is ever handed out.
            if let Ok(rows) = read(&chunk(data, 0, 2)) {
                let header = header.unwrap().unwrap();
                let nothing_to_read = header.records == 0 || header.base_offset >= 2;
                assert!(nothing_to_read && rows.offsets.is_empty(), "bit {bit}");
            }
        }
    }

    fn any_record() -> impl Strategy<Value = TestRecord> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
        let headers = proptest::collection::vec(("[a-z]{0,8}", bytes()), 0..3);
        (1i64..5, any::<i32>(), bytes(), bytes(), headers).prop_map(|(gap, timestamp, key, value, headers)| {
            TestRecord {
                offset: gap,
                timestamp: i64::from(timestamp),
                key,
                value,
                headers,
            }
        })
    }

    fn any_batches() -> impl Strategy<Value = Vec<TestBatch>> {
        let records = proptest::collection::vec(any_record(), 1..20);
        let batch = (records, prop::sample::select(&Packing::ALL[..]));
        proptest::collection::vec(batch, 1..5).prop_map(|batches| {
            let mut offset = 0;
            let batches = batches.into_iter().map(|(mut records, packing)| {
                for record in &mut records {
                    offset += record.offset;
                    record.offset = offset;
                }
                TestBatch {
                    packing,
                    ..TestBatch::of(records)
                }
            });
            batches.collect()
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(batches in any_batches(), from in 0i64..60, length in 0i64..120) {
            let until = from + length;
            let expected: Vec<_> = batches.iter().flat_map(|batch| batch.records.clone())
                .filter(|record| (from..until).contains(&record.offset)).collect();
            prop_assert_eq!(records_of(&read(&chunk(log(&batches), from, until)).unwrap()), expected);
        }

        #[test]
        fn damage_behind_a_right_checksum_is_refused_or_read_but_never_a_panic(
            batches in any_batches(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index, with_cut: bool,
        ) {
            let mut data = Vec::new();
            for batch in &batches {
                let mut bytes = batch.bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                seal(&mut bytes);
                data.extend(bytes);
            }
            if with_cut {
                data.truncate(cut.index(data.len()));
            }
            if let Ok(rows) = read(&chunk(data, 0, 200)) {
                let offsets = rows.offsets.values();
                prop_assert!(offsets.iter().all(|offset| (0..200).contains(offset)));
                prop_assert!(batches.len() > 1 || offsets.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }

        #[test]
        fn any_bytes_are_no_panic(data: Vec<u8>) {
            prop_assert!(read(&chunk(data, 0, 100)).map_or(true, |rows| rows.offsets.is_empty()));
        }
    }
}
