use arrow::array::{
    AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, MapArray, RecordBatch, StringArray, StringViewArray, StructArray, Time32MillisecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{Fields, Int64Type};
use arrow::util::display::array_value_to_string;
use arrow_avro::schema::SCHEMA_METADATA_KEY;
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroBinaryFormat;
use proptest::prelude::*;

use super::*;
use crate::format::testing::{check, reason, rows};

fn record_of(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#)
}

fn field(name: &str, kind: &str) -> String {
    format!(r#"{{"name":"{name}","type":{kind}}}"#)
}

fn decode_with<B: AsRef<[u8]>>(json: &str, header: AvroHeader, wanted: &[usize], records: &[B]) -> Decoded {
    let (format, schema) = AvroFormat::new(json, header).unwrap();
    let records: Vec<Option<&[u8]>> = records.iter().map(|record| Some(record.as_ref())).collect();
    let decoded = format.decoder(wanted).decode(&rows(&records));
    check(&decoded, &schema, wanted, records.len());
    decoded
}

/// The only field of a record, from its bytes, as text.
fn one(kind: &str, bytes: &[u8]) -> Result<String, String> {
    let decoded = decode_with(&record_of(&field("f", kind)), AvroHeader::Never, &[0], &[bytes]);
    match &decoded.bad {
        None if decoded.columns[0].is_null(0) => Ok("NULL".to_owned()),
        None => Ok(array_value_to_string(&decoded.columns[0], 0).unwrap()),
        Some(bad) => Err(bad.first_reason.clone()),
    }
}

fn type_of(kind: &str) -> DataType {
    let (_, schema) = AvroFormat::new(&record_of(&field("f", kind)), AvroHeader::Told).unwrap();
    schema.field(0).data_type().clone()
}

#[test]
fn every_type_is_read_as_the_specification_writes_it() {
    let logical = |base: &str, name: &str| format!(r#"{{"type":"{base}","logicalType":"{name}"}}"#);
    let cases: Vec<(String, &[u8], &str)> = vec![
        ("\"boolean\"".into(), &[1], "true"),
        ("\"boolean\"".into(), &[0], "false"),
        ("\"int\"".into(), &[0x7f], "-64"),
        ("\"long\"".into(), &[0x80, 0x01], "64"),
        ("\"float\"".into(), &[0, 0, 0xc0, 0x3f], "1.5"),
        ("\"double\"".into(), &[0, 0, 0, 0, 0, 0, 0xf8, 0xbf], "-1.5"),
        ("\"string\"".into(), b"\x06foo", "foo"),
        (
            "\"string\"".into(),
            b"\x2a123456789-\xc3\xa4-23456789",
            "123456789-ä-23456789",
        ),
        ("\"bytes\"".into(), b"\x04\xff\x00", "ff00"),
        (r#"{"type":"fixed","name":"x","size":2}"#.into(), &[0xab, 0xcd], "abcd"),
        (r#"{"type":"enum","name":"x","symbols":["A","B"]}"#.into(), &[2], "B"),
        (
            r#"{"type":"enum","name":"x","symbols":["A","MUCH_LONGER_THAN_A_VIEW"]}"#.into(),
            &[2],
            "MUCH_LONGER_THAN_A_VIEW",
        ),
        (logical("int", "date"), &[1], "1969-12-31"),
        (logical("int", "time-millis"), &[0xd0, 0x0f], "00:00:01"),
        (logical("long", "time-micros"), &[2], "00:00:00.000001"),
        (logical("long", "timestamp-millis"), &[1], "1969-12-31T23:59:59.999Z"),
        (logical("long", "timestamp-micros"), &[2], "1970-01-01T00:00:00.000001Z"),
        (
            logical("long", "timestamp-nanos"),
            &[2],
            "1970-01-01T00:00:00.000000001Z",
        ),
        (
            logical("long", "local-timestamp-millis"),
            &[2],
            "1970-01-01T00:00:00.001",
        ),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#.into(),
            &[4, 0xff, 0x38],
            "-2.00",
        ),
        (
            r#"{"type":"fixed","name":"x","size":20,"logicalType":"decimal","precision":38,"scale":0}"#.into(),
            &[0xff; 20],
            "-1",
        ),
        (logical("string", "uuid"), b"\x02u", "u"),
        (
            r#"{"type":"fixed","name":"x","size":16,"logicalType":"uuid"}"#.into(),
            &[
                0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0,
            ],
            "12345678-9abc-def0-1234-56789abcdef0",
        ),
        (r#"["null","long"]"#.into(), &[0], "NULL"),
        (r#"["null","long"]"#.into(), &[2, 2], "1"),
        (r#"["long","null"]"#.into(), &[0, 2], "1"),
        (r#"["long","null"]"#.into(), &[2], "NULL"),
        (r#"["long"]"#.into(), &[0, 4], "2"),
        (r#"{"type":"array","items":"long"}"#.into(), &[4, 6, 54, 0], "[3, 27]"),
        // A block of a negative count gives its size; a second block follows.
        (
            r#"{"type":"array","items":"long"}"#.into(),
            &[3, 4, 6, 54, 2, 2, 0],
            "[3, 27, 1]",
        ),
        (r#"{"type":"map","values":"int"}"#.into(), &[2, 2, b'k', 8, 0], "{k: 4}"),
        (
            record_of(&[field("a", "\"int\""), field("b", r#"["null","string"]"#)].join(","))
                .replace("\"r\"", "\"inner\""),
            &[2, 2, 2, b'x'],
            "{a: 1, b: x}",
        ),
    ];
    for (kind, bytes, text) in cases {
        assert_eq!(one(&kind, bytes).as_deref(), Ok(text), "{kind}");
    }
    assert_eq!(type_of("\"null\""), DataType::Null);
    // Arrow's column of nulls has no bits that say so.
    assert_eq!(one("\"null\"", &[]).as_deref(), Ok(""));
}

/// Fields of every shape, none of them wanted, then one that is.
#[test]
fn what_is_not_wanted_is_stepped_over() {
    let fields = [
        field("null", "\"null\""),
        field("yes", "\"boolean\""),
        field("number", "\"long\""),
        field("float", "\"float\""),
        field("double", "\"double\""),
        field("text", "\"string\""),
        field("fixed", r#"{"type":"fixed","name":"x","size":3}"#),
        field("kind", r#"{"type":"enum","name":"k","symbols":["A"]}"#),
        field("either", r#"["string","long","null"]"#),
        field("list", r#"{"type":"array","items":{"type":"array","items":"string"}}"#),
        field("sized", r#"{"type":"array","items":"string"}"#),
        field("map", r#"{"type":"map","values":["null","double"]}"#),
        field("nulls", r#"{"type":"array","items":"null"}"#),
        field(
            "inner",
            r#"{"type":"record","name":"i","fields":[{"name":"next","type":["null","i"]}]}"#,
        ),
        field("wanted", "\"string\""),
    ]
    .join(",");
    let bytes = [
        &[1, 0xfe, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        b"\x04ab",
        b"xyz",
        &[0],
        &[2, 14],
        // Two lists: of "a", and of nothing.
        &[4, 2, 2, b'a', 0, 0, 0],
        // A block of one item and of two bytes, whose item is not looked at.
        &[1, 4, 0xff, 0xff, 0],
        &[4, 2, b'k', 0, 2, b'l', 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[20, 0],
        &[2, 2, 0],
        b"\x08here",
    ]
    .concat();
    let decoded = decode_with(&record_of(&fields), AvroHeader::Never, &[14], &[&bytes]);
    assert!(decoded.bad.is_none(), "{}", reason(&decoded));
    assert_eq!(decoded.columns[0].as_string_view().value(0), "here");
    let nothing = decode_with(
        &record_of(&fields),
        AvroHeader::Never,
        &[],
        &[&bytes[..], &bytes[..bytes.len() - 1]],
    );
    assert_eq!(
        nothing.bad.unwrap().first_row,
        1,
        "structure counts although nothing is wanted"
    );
}

#[test]
fn what_can_be_no_column_is_named_and_only_refused_where_it_is_wanted() {
    let fields = [
        field("either", r#"["string","long"]"#),
        field(
            "tree",
            r#"{"type":"record","name":"t","fields":[{"name":"next","type":["null","t"]}]}"#,
        ),
        field("nulls", r#"{"type":"array","items":"null"}"#),
        field(
            "huge",
            r#"{"type":"bytes","logicalType":"decimal","precision":39,"scale":0}"#,
        ),
        field("_offset", "\"long\""),
        field("n", "\"long\""),
    ]
    .join(",");
    let (format, schema) = AvroFormat::new(&record_of(&fields), AvroHeader::Told).unwrap();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(
        names,
        ["either", "tree", "nulls", "huge", "n"],
        "the table has its own _offset"
    );
    for (column, why) in [
        (0, "field either can't be read: it is a union of a string, a long"),
        (1, "field tree can't be read: its type holds itself"),
        (2, "field nulls can't be read: its items are of no bytes"),
        (3, "field huge can't be read: it is a decimal of 39 digits"),
    ] {
        let reason = format.unreadable(column).unwrap();
        assert!(reason.starts_with(why), "{reason}");
    }
    assert_eq!(format.unreadable(4), None);
    // either = 1; an empty tree; no nulls; no huge; _offset = 5; n = 7.
    let decoded = format.decoder(&[4, 4]).decode(&rows(&[Some([2, 2, 0, 0, 0, 10, 14])]));
    assert!(decoded.bad.is_none(), "{}", reason(&decoded));
    for column in &decoded.columns {
        assert_eq!(
            column.as_primitive::<Int64Type>().value(0),
            7,
            "a column that is wanted twice"
        );
    }
}

#[test]
fn bad_records_say_what_and_where() {
    let list = r#"{"type":"array","items":"string"}"#;
    for (kind, bytes, why) in [
        (
            "\"long\"",
            &[][..],
            "field f (a long): the record ends inside it at byte 0 of ",
        ),
        ("\"long\"", &[0x80], "the record ends inside it"),
        ("\"long\"", &[0xff; 11], "found a number of more than 64 bits"),
        (
            "\"int\"",
            &[0xfe, 0xff, 0xff, 0xff, 0x7f],
            "found a number that it can't hold",
        ),
        ("\"long\"", &[2, 2], "1 bytes follow the last field at byte 1 of 02 02"),
        ("\"string\"", &[4, b'a'], "the record ends inside it"),
        ("\"string\"", &[1], "found a length below 0"),
        ("\"string\"", &[4, 0xff, 0xfe], "found text that is not UTF-8"),
        ("\"boolean\"", &[2], "found a boolean that is neither 0 nor 1"),
        (
            r#"["null","long"]"#,
            &[4],
            "found a branch that the union does not have",
        ),
        (
            r#"["null","long"]"#,
            &[1],
            "found a branch that the union does not have",
        ),
        (
            r#"{"type":"enum","name":"x","symbols":["A"]}"#,
            &[2],
            "found a symbol that the enum",
        ),
        (
            r#"{"type":"enum","name":"x","symbols":["A"]}"#,
            &[1],
            "found a symbol that the enum",
        ),
        (
            r#"{"type":"int","logicalType":"time-millis"}"#,
            &[1],
            "found a number that it can't hold",
        ),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":0}"#,
            &[2, 100],
            "found a number that it can't hold",
        ),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":0}"#,
            &[0],
            "found a number that it can't hold",
        ),
        // A count that the record can't hold.
        (
            list,
            &[0xfe, 0xff, 0xff, 0xff, 0x0f, 2, b'a'],
            "the record ends inside it",
        ),
        (
            list,
            &[1, 8, 2, b'a', 0, 0, 0],
            "found a block that does not end where it says",
        ),
        (list, &[1, 127, 0], "found a length below 0"),
        (
            list,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0],
            "the record ends inside it",
        ),
    ] {
        let found = one(kind, bytes).unwrap_err();
        assert!(found.contains(why), "{kind} {bytes:?}: {found}");
    }
}

#[test]
fn good_rows_stand_around_a_bad_one_in_every_column() {
    let fields = [
        field("n", "\"long\""),
        field("list", r#"{"type":"array","items":["null","string"]}"#),
        field(
            "pair",
            r#"{"type":"record","name":"p","fields":[{"name":"a","type":"int"},{"name":"b","type":"string"}]}"#,
        ),
        field("map", r#"{"type":"map","values":"long"}"#),
        field("last", "\"boolean\""),
    ]
    .join(",");
    let good = |n: u8| vec![n * 2, 4, 2, 2, b'a' + n, 0, 0, n * 2, 2, b'p', 2, 2, b'k', n * 2, 0, 1];
    // Good up to its last byte; within the list; within the pair; within the map.
    let records = [
        good(0),
        [&good(1)[..15], &[7][..]].concat(),
        good(2),
        good(3)[..4].to_vec(),
        good(4)[..8].to_vec(),
        good(5)[..13].to_vec(),
        good(6),
    ];
    let decoded = decode_with(&record_of(&fields), AvroHeader::Never, &[0, 1, 2, 3, 4], &records);
    let bad = decoded.bad.as_ref().unwrap();
    let kept: Vec<usize> = (0..records.len()).filter(|row| bad.keep.value(*row)).collect();
    assert_eq!((kept, bad.count, bad.first_row), (vec![0, 2, 6], 4, 1));
    for row in [0, 2, 6] {
        let text: Vec<String> = decoded
            .columns
            .iter()
            .map(|column| array_value_to_string(column, row).unwrap())
            .collect();
        let letter = char::from(b'a' + row as u8);
        let expected = [
            row.to_string(),
            format!("[{letter}, ]"),
            format!("{{a: {row}, b: p}}"),
            format!("{{k: {row}}}"),
            "true".to_owned(),
        ];
        assert_eq!(text, expected);
    }
}

#[test]
fn confluents_header_is_told_from_a_record_that_begins_with_zero() {
    let json = record_of(&[field("n", "\"long\""), field("word", "\"string\"")].join(","));
    let read = |header, bytes: &[u8]| {
        let decoded = decode_with(&json, header, &[0, 1], &[bytes]);
        match &decoded.bad {
            None => Ok((
                decoded.columns[0].as_primitive::<Int64Type>().value(0),
                decoded.columns[1].as_string_view().value(0).to_owned(),
            )),
            Some(bad) => Err(bad.first_reason.clone()),
        }
    };
    let plain = b"\x00\x0ezero, n";
    let headed = b"\x00\x00\x00\x01\x2a\x02\x08word";
    // n = 0 and a text of eight bytes, of which the last five are n = 49 and a text of three bytes.
    let ambiguous = b"\x00\x10...b\x06abc";
    let (zero, word) = (Ok((0, "zero, n".to_owned())), Ok((1, "word".to_owned())));
    assert_eq!(read(AvroHeader::Told, plain), zero);
    assert_eq!(read(AvroHeader::Told, headed), word);
    assert_eq!(read(AvroHeader::Told, &headed[5..]), word);
    assert_eq!(read(AvroHeader::Never, plain), zero);
    assert_eq!(read(AvroHeader::Always, headed), word);
    assert!(
        read(AvroHeader::Never, headed)
            .unwrap_err()
            .contains("bytes follow the last field")
    );
    assert!(
        read(AvroHeader::Always, &headed[5..])
            .unwrap_err()
            .contains("wanted Confluent's header")
    );
    let neither = read(AvroHeader::Told, b"\x00\x00\x00\x00\x01\x02\x08wor").unwrap_err();
    assert!(
        neither.contains("the fields end at byte 2, with Confluent's header skipped at byte 6"),
        "{neither}"
    );
    assert!(
        read(AvroHeader::Told, ambiguous)
            .unwrap_err()
            .contains("header = true or false")
    );
    assert_eq!(read(AvroHeader::Always, ambiguous), Ok((49, "abc".to_owned())));
    // A column that can't be read does not change the way that the structure tells.
    let no_text = b"\x00\x00\x00\x01\x2a\x02\x04\xff\xff";
    assert!(
        read(AvroHeader::Told, no_text)
            .unwrap_err()
            .contains("field word (a string): found text that is not UTF-8")
    );
}

#[test]
fn a_tombstone_is_bad() {
    let (format, schema) = AvroFormat::new(&record_of(&field("n", "\"long\"")), AvroHeader::Told).unwrap();
    let decoded = format.decoder(&[0]).decode(&rows(&[Some(&[2][..]), None]));
    check(&decoded, &schema, &[0], 2);
    assert_eq!(
        (reason(&decoded), decoded.bad.as_ref().unwrap().first_row),
        ("no value", 1)
    );
}

#[test]
fn text_points_into_what_was_fetched() {
    let text = "a text that is longer than a view can hold";
    let record = [&[(text.len() * 2) as u8][..], text.as_bytes()].concat();
    let (format, _) = AvroFormat::new(&record_of(&field("t", "\"string\"")), AvroHeader::Told).unwrap();
    let rows = rows(&[Some(record)]);
    let decoded = format.decoder(&[0]).decode(&rows);
    let fetched = rows.values.as_ref().unwrap().data_buffers()[0].as_ptr();
    let buffers = decoded.columns[0].as_string_view().data_buffers();
    assert_eq!(buffers.iter().map(Buffer::as_ptr).collect::<Vec<_>>(), [fetched]);
}

/// One row of [`batch`].
type Cells = (
    (
        bool,
        Option<i32>,
        Option<i64>,
        f32,
        Option<f64>,
        Option<String>,
        Option<Vec<u8>>,
    ),
    (Option<i32>, u32, i64, Option<i64>, i64, Option<i128>),
    (
        Option<Vec<Option<i64>>>,
        Option<(i64, Option<String>)>,
        Vec<(String, Option<i64>)>,
    ),
);

fn cells() -> impl Strategy<Value = Cells> {
    let text = || "[a-z\u{e9}\u{1f600}]{0,20}";
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    (
        (
            any::<bool>(),
            any::<Option<i32>>(),
            any::<Option<i64>>(),
            any::<f32>(),
            any::<Option<f64>>(),
            prop::option::of(text()),
            prop::option::of(bytes),
        ),
        (
            any::<Option<i32>>(),
            0..86_400_000u32,
            any::<i64>(),
            any::<Option<i64>>(),
            any::<i64>(),
            prop::option::of(-(10i128.pow(20) - 1)..10i128.pow(20)),
        ),
        (
            prop::option::of(prop::collection::vec(any::<Option<i64>>(), 0..4)),
            prop::option::of((any::<i64>(), prop::option::of(text()))),
            prop::collection::vec((text(), any::<Option<i64>>()), 0..3),
        ),
    )
}

/// The rows as columns of every type that both sides have.
fn batch(cells: &[Cells]) -> RecordBatch {
    macro_rules! column {
        ($array:ty, $cell:ident => $value:expr) => {
            Arc::new(cells.iter().map(|$cell| $value).collect::<$array>()) as ArrayRef
        };
    }
    let pairs = Fields::from(vec![
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Utf8View, true),
    ]);
    let pair = StructArray::new(
        pairs,
        vec![
            column!(Int64Array, c => Some(c.2.1.as_ref().map_or(0, |pair| pair.0))),
            column!(StringViewArray, c => c.2.1.as_ref().and_then(|pair| pair.1.clone())),
        ],
        Some(NullBuffer::from_iter(cells.iter().map(|c| c.2.1.is_some()))),
    );
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let keys: StringArray = cells.iter().flat_map(|c| &c.2.2).map(|entry| Some(&entry.0)).collect();
    let values: Int64Array = cells.iter().flat_map(|c| &c.2.2).map(|entry| entry.1).collect();
    let map = MapArray::new(
        Arc::new(Field::new("entries", DataType::Struct(entries.clone()), false)),
        OffsetBuffer::from_lengths(cells.iter().map(|c| c.2.2.len())),
        StructArray::new(entries, vec![Arc::new(keys), Arc::new(values)], None),
        None,
        false,
    );
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(cells.iter().map(|c| c.2.0.clone()));
    let decimal = cells.iter().map(|c| c.1.5).collect::<Decimal128Array>();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("yes", column!(BooleanArray, c => Some(c.0.0)), false),
        ("int", column!(Int32Array, c => c.0.1), true),
        ("long", column!(Int64Array, c => c.0.2), true),
        ("float", column!(Float32Array, c => Some(c.0.3)), false),
        ("double", column!(Float64Array, c => c.0.4), true),
        ("text", column!(StringViewArray, c => c.0.5.clone()), true),
        ("bytes", column!(BinaryViewArray, c => c.0.6.clone()), true),
        ("day", column!(Date32Array, c => c.1.0), true),
        ("time", column!(Time32MillisecondArray, c => Some(c.1.1 as i32)), false),
        (
            "millis",
            Arc::new(
                cells
                    .iter()
                    .map(|c| Some(c.1.2))
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ),
            false,
        ),
        ("micros", column!(TimestampMicrosecondArray, c => c.1.3), true),
        ("nanos", column!(TimestampNanosecondArray, c => Some(c.1.4)), false),
        (
            "amount",
            Arc::new(decimal.with_precision_and_scale(20, 4).unwrap()),
            true,
        ),
        ("list", Arc::new(list), true),
        ("pair", Arc::new(pair), true),
        ("map", Arc::new(map), false),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array, nullable)| Field::new(*name, array.data_type().clone(), *nullable))
        .collect();
    let arrays = columns.into_iter().map(|(_, array, _)| array).collect();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), arrays).unwrap()
}

/// The schema and the records that arrow-avro makes of the rows.
fn encoded(rows: &RecordBatch) -> (String, Vec<Vec<u8>>) {
    let mut encoder = WriterBuilder::new(rows.schema().as_ref().clone())
        .build_encoder::<AvroBinaryFormat>()
        .unwrap();
    encoder.encode(rows).unwrap();
    let records = encoder.flush().iter().map(|record| record.to_vec()).collect();
    (encoder.schema().metadata()[SCHEMA_METADATA_KEY].clone(), records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_arrow_avro_writes_is_read_back(cells in prop::collection::vec(cells(), 1..20), wanted in prop::collection::vec(0usize..16, 0..17)) {
        let rows = batch(&cells);
        let (json, records) = encoded(&rows);
        // A record that begins with 0 and reads both ways is bad by contract; the header has tests of its own.
        let decoded = decode_with(&json, AvroHeader::Never, &wanted, &records);
        prop_assert!(decoded.bad.is_none(), "{}", reason(&decoded));
        for (column, index) in decoded.columns.iter().zip(&wanted) {
            prop_assert_eq!(column, rows.column(*index), "{}", rows.schema().field(*index));
        }
    }

    #[test]
    fn flipped_and_cut_records_are_read_or_bad_in_bounded_memory(
        cells in prop::collection::vec(cells(), 1..8),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
    ) {
        let rows = batch(&cells);
        let (json, mut records) = encoded(&rows);
        for (record, at, byte) in flips {
            let record = record.get_mut(&mut records);
            if !record.is_empty() {
                *at.get_mut(record) = byte;
            }
        }
        for (record, at) in cuts {
            let record = record.get_mut(&mut records);
            record.truncate(at.index(record.len() + 1));
        }
        let bytes: usize = records.iter().map(Vec::len).sum();
        for header in [AvroHeader::Never, AvroHeader::Told] {
            let all: Vec<usize> = (0..16).collect();
            let decoded = decode_with(&json, header, &all, &records);
            let held: usize = decoded.columns.iter().map(|column| column.get_array_memory_size()).sum();
            // The shared buffers are counted for each column of views; a byte makes a cell of 16 bytes and its null at most.
            prop_assert!(held < 16 * (8192 + 64 * (bytes + 100 * records.len())), "{} of {}", held, bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_or_bad(records in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 4, 127, 128, 255]), 0..60), 1..6)) {
        let (json, _) = encoded(&batch(&[]));
        let all: Vec<usize> = (0..16).collect();
        decode_with(&json, AvroHeader::Told, &all, &records);
    }
}
