//! Records of every format, and the files that people and former runs leave behind.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, BinaryViewArray, Int64Array};
use arrow::datatypes::SchemaRef;
use tidemill_connect::file::Manifest;
use tidemill_core::plan::BatchPlan;
use tidemill_engine::checkpoint::record;
use tidemill_engine::format::{AvroFormat, AvroHeader, CsvFormat, Format, JsonFormat, parse_columns};
use tidemill_engine::source::RawRows;
use tidemill_engine::state::VersionSummary;
use tidemill_engine::wal::{Piece, Pieces, SegmentName};
use uuid::Uuid;

use crate::settings::Settings;

const COLUMNS: &str = "i BIGINT, s SMALLINT, u INT UNSIGNED, f DOUBLE, t VARCHAR, b BOOLEAN, d DECIMAL(12, 3), day DATE, \
                       at TIMESTAMP(3)";
const NESTED: &str = ", list BIGINT[], inner STRUCT<x INT, y VARCHAR[]>";
const SCHEMA: &str = r#"{"type": "record", "name": "e", "fields": [
    {"name": "i", "type": "long"}, {"name": "f", "type": ["null", "double"]}, {"name": "t", "type": "string"},
    {"name": "e", "type": {"type": "enum", "name": "k", "symbols": ["A", "B"]}},
    {"name": "x", "type": {"type": "fixed", "name": "six", "size": 6}},
    {"name": "list", "type": {"type": "array", "items": ["null", "int"]}},
    {"name": "map", "type": {"type": "map", "values": "bytes"}},
    {"name": "inner", "type": ["null", {"type": "record", "name": "n", "fields": [{"name": "b", "type": "boolean"}]}]},
    {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;

/// Records, split at bytes of value 0xff, which stands in no UTF-8 text.
fn rows(data: &[u8]) -> RawRows {
    let records: Vec<Option<&[u8]>> = data
        .split(|byte| *byte == 0xff)
        .map(|record| (!record.is_empty()).then_some(record))
        .collect();
    let count = records.len() as i64;
    RawRows {
        offsets: (0..count).collect::<Int64Array>(),
        keys: None,
        values: Some(BinaryViewArray::from_iter(records)),
        timestamps: None,
        headers: None,
        position: count,
        bytes: data.len() as u64,
    }
}

/// All columns, and one alone: what is not wanted takes other ways.
fn decode(format: &dyn Format, schema: &SchemaRef, rows: &RawRows) {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    for wanted in [all.as_slice(), &[0]] {
        let decoded = format.decoder(wanted).decode(rows);
        assert_eq!(decoded.columns.len(), wanted.len());
        for column in &decoded.columns {
            assert_eq!(column.len(), rows.offsets.len());
            column.to_data().validate_full().expect("a sound column");
        }
        if let Some(bad) = decoded.bad {
            assert_eq!(bad.keep.len(), rows.offsets.len());
            assert!(bad.count > 0 && bad.first_row < bad.keep.len());
        }
    }
}

/// JSON records.
pub(crate) fn json(data: &[u8]) {
    static FORMAT: OnceLock<(JsonFormat, SchemaRef)> = OnceLock::new();
    let (format, schema) = FORMAT.get_or_init(|| {
        let schema = parse_columns(&format!("{COLUMNS}{NESTED}"))
            .or_else(|_| parse_columns(COLUMNS))
            .expect("columns");
        (JsonFormat::new(Arc::clone(&schema)).expect("a format"), schema)
    });
    decode(format, schema, &rows(data));
}

/// CSV records; the first byte says whether each has a header.
pub(crate) fn csv(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let schema = parse_columns(COLUMNS).expect("columns");
    let format = CsvFormat::new(Arc::clone(&schema), b',', choice % 2 == 0).expect("a format");
    decode(&format, &schema, &rows(data));
}

/// Avro records of a schema with something of everything; the first byte says how the header is told. Here records may hold
/// any byte, so that there is one.
pub(crate) fn avro(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let header = match choice % 3 {
        0 => AvroHeader::Told,
        1 => AvroHeader::Always,
        _ => AvroHeader::Never,
    };
    let (format, schema) = AvroFormat::new(SCHEMA, header).expect("a schema");
    let rows = RawRows {
        offsets: Int64Array::from(vec![0]),
        values: Some(BinaryViewArray::from_iter([Some(data)])),
        position: 1,
        ..rows(&[])
    };
    decode(&format, &schema, &rows);
}

/// Avro schemas.
pub(crate) fn avro_schema(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok((format, schema)) = AvroFormat::new(text, AvroHeader::Told)
        && !schema.fields().is_empty()
    {
        let readable = |column: &usize| format.unreadable(*column).is_none();
        let wanted: Vec<usize> = (0..schema.fields().len()).filter(readable).collect();
        drop(format.decoder(&wanted).decode(&rows(b"\x02\x04ab\x00")));
    }
}

/// Lists of columns.
pub(crate) fn columns(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(schema) = parse_columns(text)
    {
        drop(JsonFormat::new(Arc::clone(&schema)));
        drop(CsvFormat::new(schema, b',', false));
    }
}

/// Records of the checkpoint.
pub(crate) fn checkpoint(data: &[u8]) {
    drop(record::decode::<BatchPlan>("plan", "plans/1.json", data));
    // Behind the checksum, too.
    if let Ok(plan) = serde_json::from_slice::<BatchPlan>(data) {
        let (bytes, hash) = record::encode("plan", "n", &plan).expect("a plan is JSON");
        let back = record::decode::<BatchPlan>("plan", "plans/1.json", &bytes).expect("what was written");
        assert_eq!((back.body == plan, back.hash), (true, hash));
        drop(plan.after());
    }
}

/// Versions of keyed state: as they are, and with checksums that fit.
pub(crate) fn state_version(data: &[u8]) {
    drop(VersionSummary::of(data.to_vec()));
    if let Some(bytes) = sealed(data)
        && let Ok(version) = VersionSummary::of(bytes)
    {
        assert!(version.changed <= data.len() as u64 / 8 && version.whole.len() <= 64);
    }
}

/// The file of a version whose head is the first line and whose sections are the rest, with checksums that fit.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let mut rest = &data[end + 1..];
    let mut head: serde_json::Value = serde_json::from_slice(&data[..end]).ok()?;
    for section in head
        .get_mut("sections")
        .and_then(|sections| sections.as_array_mut())
        .into_iter()
        .flatten()
    {
        let bytes = usize::try_from(section.get("bytes")?.as_u64()?).ok()?;
        let (body, after) = rest.split_at_checked(bytes)?;
        section["crc32c"] = crc32c(body).into();
        rest = after;
    }
    let head = serde_json::to_vec(&head).ok()?;
    let mut file = b"TIDESTAT\x01\0\0\0".to_vec();
    file.extend_from_slice(&u32::try_from(head.len()).ok()?.to_le_bytes());
    file.extend_from_slice(&crc32c(&head).to_le_bytes());
    file.extend_from_slice(&head);
    file.extend_from_slice(&data[end + 1..]);
    Some(file)
}

const LOG: Uuid = Uuid::from_u128(1);
const SEGMENT: SegmentName = SegmentName {
    epoch: 2,
    first: 100,
    attempt: 0,
};
/// Bytes of a segment's header, and where its checksum stands.
const SEGMENT_HEADER: (usize, usize) = (56, 52);
/// Bytes of a record's header, and where its checksum stands.
const RECORD_HEADER: (usize, usize) = (44, 40);

/// Segments of the write-ahead log, the last of their epoch and not: as they are, and with checksums that fit.
pub(crate) fn log_segment(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let until = (choice % 2 == 0).then_some(SEGMENT.first + u64::from(choice / 2));
    pieces(data, until);
    pieces(&sealed_segment(data), until);
}

fn pieces(bytes: &[u8], until: Option<u64>) {
    let mut pieces = Pieces::new(bytes, LOG, SEGMENT, until);
    let (mut end, mut next, mut torn) = (0, SEGMENT.first, false);
    for piece in pieces.by_ref() {
        assert!(!torn, "nothing follows a torn end");
        match piece {
            Piece::Record { range, body } => {
                let from = usize::try_from(range.offset).expect("an offset") + RECORD_HEADER.0;
                assert_eq!(bytes.get(from..from + body.len()), Some(body));
                assert!(range.offset >= end && range.sequence == next);
                assert_eq!((body.len(), crc32c(body)), (range.length as usize, range.crc32c));
                (end, next) = ((from + body.len()) as u64, next + 1);
            }
            Piece::Torn(bad) => {
                assert!(until.is_none() && bad.from >= end && bad.until == bytes.len() as u64);
                torn = true;
            }
            Piece::Damaged(bad) => {
                assert!(bad.from >= end && bad.until <= bytes.len() as u64 && bad.first == next && bad.next >= next);
                (end, next) = (bad.until, bad.next);
            }
        }
    }
    assert_eq!(pieces.next_sequence(), next);
    assert!(
        until.is_none_or(|until| until == next),
        "all below the next segment is accounted for"
    );
}

/// A segment whose header is sound, and whose records are wherever a length that fits stands in their header.
fn sealed_segment(data: &[u8]) -> Vec<u8> {
    let mut bytes = b"TIDEMLOG\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(LOG.as_bytes());
    bytes.extend_from_slice(&SEGMENT.epoch.to_le_bytes());
    bytes.extend_from_slice(&SEGMENT.first.to_le_bytes());
    bytes.extend_from_slice(&SEGMENT.attempt.to_le_bytes());
    let mut chain = crc32c(&bytes[..SEGMENT_HEADER.1]);
    bytes.extend_from_slice(&chain.to_le_bytes());
    bytes.extend_from_slice(data.get(SEGMENT_HEADER.0..).unwrap_or_default());
    let (mut at, mut sequence) = (SEGMENT_HEADER.0, SEGMENT.first);
    while let Some(record) = bytes.get_mut(at..).filter(|rest| rest.len() >= RECORD_HEADER.0) {
        let (header, rest) = record.split_at_mut(RECORD_HEADER.0);
        let length = usize::from(header[4]);
        let Some(body) = rest.get(..length) else { break };
        header[..12].copy_from_slice(
            &[
                b"TMrc".as_slice(),
                &(length as u32).to_le_bytes(),
                &crc32c(body).to_le_bytes(),
            ]
            .concat(),
        );
        header[12..16].copy_from_slice(&chain.to_le_bytes());
        header[16..24].copy_from_slice(&SEGMENT.epoch.to_le_bytes());
        header[24..32].copy_from_slice(&sequence.to_le_bytes());
        // The group: this record's own, or the first one's.
        let group = if header[32] % 2 == 0 { sequence } else { SEGMENT.first };
        header[32..40].copy_from_slice(&group.to_le_bytes());
        chain = crc32c(&header[..RECORD_HEADER.1]);
        header[RECORD_HEADER.1..].copy_from_slice(&chain.to_le_bytes());
        // A byte that says so damages the record afterwards.
        if length > 1 && rest[0] == 0xee {
            rest[1] ^= 1;
        }
        (at, sequence) = (at + RECORD_HEADER.0 + length, sequence + 1);
    }
    bytes
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a 32-bit checksum fits")
}

/// Manifests of the file sink.
pub(crate) fn manifest(data: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        let text = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        assert_eq!(
            serde_json::from_slice::<Manifest>(&text).expect("what was written"),
            manifest
        );
    }
}

/// Pipeline files.
pub(crate) fn settings(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let env = |name: &str| (name == "A").then(|| "hunter2".to_owned());
        match Settings::parse("f.toml", text, Path::new("/pipelines"), &env) {
            Ok(settings) => drop(format!("{settings:?}")),
            Err(problems) => assert!(!problems.list.is_empty()),
        }
    }
}

const PLAN: &str = include_str!("../../tests/fixtures/v1/checkpoint/plans/00000000000000000001.json");
const PIPELINE: &str = include_str!("../../crates/tidemill-cli/src/pipeline.toml");

const STATE: &[u8] =
    include_bytes!("../../tests/fixtures/v1/state/00000000000000000002-1-0-1a1b1c1d1e1f10111213141516171819.version");
/// Bytes before a version's head.
const STATE_PREAMBLE: usize = 20;

/// Sound inputs.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match target {
        "json" => &[
            "{\"i\":1,\"s\":-2,\"u\":3,\"f\":1.5e3,\"t\":\"a\\u00e4\\n\",\"b\":true,\"d\":\"1.250\",\"day\":\"2026-01-31\",\"at\":1700000000000}",
            "{\"x\":{\"y\":[1,{\"z\":null}]},\"at\":\"2026-01-31T12:00:00Z\"}",
        ],
        "csv" => &[
            "\u{1}1,-2,3,1.5,\"a\"\"b\",true,1.250,2026-01-31,2026-01-31T12:00:00Z,",
            "\u{0}t,i\nx,1\n",
        ],
        "avro" => &["\u{2}\u{2}\u{0}\u{2}a\u{0}abcdef\u{0}\u{0}\u{0}\u{2}\u{1}\u{2}"],
        "avro-schema" => &[SCHEMA],
        "columns" => &[COLUMNS, "a STRUCT<b INT NOT NULL, c VARCHAR[]>"],
        "checkpoint" => &[PLAN],
        "manifest" => {
            &["{\"version\":1,\"batch\":1,\"files\":[{\"path\":\"a\",\"rows\":1,\"bytes\":2}],\"nonce\":\"n\"}"]
        }
        "settings" => &[PIPELINE],
        _ => &[],
    };
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    if target == "checkpoint" {
        // The body by itself, too.
        seeds.extend(PLAN.split_once('\n').map(|(_, body)| body.as_bytes().to_vec()));
    }
    if target == "log-segment" {
        let records: Vec<u8> = [3_u8, 0, 9]
            .into_iter()
            .flat_map(|length| {
                let mut record = vec![0; RECORD_HEADER.0 + usize::from(length)];
                record[4] = length;
                record
            })
            .collect();
        let whole = sealed_segment(&[vec![0; SEGMENT_HEADER.0], records].concat());
        seeds.extend([0, 1, 6].map(|choice| [&[choice], whole.as_slice()].concat()));
    }
    if target == "state-version" {
        let bytes_of_head = u32::from_le_bytes([STATE[12], STATE[13], STATE[14], STATE[15]]) as usize;
        let (head, sections) = STATE[STATE_PREAMBLE..].split_at(bytes_of_head);
        seeds.push(STATE.to_vec());
        seeds.push([head, b"\n", sections].concat());
    }
    seeds
}
