use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Float64Type, Int8Type, Int64Type, TimestampMillisecondType, UInt64Type};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::format::number;
use crate::format::parse_columns;
use crate::format::testing::rows;

fn decode_bytes<B: AsRef<[u8]>>(columns: &str, records: &[B]) -> Decoded {
    let schema = parse_columns(columns).unwrap();
    let wanted: Vec<usize> = (0..schema.fields().len()).collect();
    let records: Vec<Option<&[u8]>> = records.iter().map(|record| Some(record.as_ref())).collect();
    let decoded = JsonFormat::new(Arc::clone(&schema))
        .unwrap()
        .decoder(&wanted)
        .decode(&rows(&records));
    for (column, field) in decoded.columns.iter().zip(schema.fields()) {
        assert_eq!(column.data_type(), field.data_type());
        assert_eq!(column.len(), records.len());
        assert!(field.is_nullable() || column.null_count() == 0);
        column.to_data().validate_full().unwrap();
    }
    decoded
}

/// The column `a` of one record, in words; `bad: …` where the record is bad.
fn read(sql_type: &str, record: &str) -> String {
    let decoded = decode_bytes(&format!("a {sql_type}"), &[record]);
    match decoded.bad {
        Some(bad) => format!("bad: {}", bad.first_reason),
        None if decoded.columns[0].is_null(0) => "NULL".to_owned(),
        None => array_value_to_string(&decoded.columns[0], 0).unwrap(),
    }
}

fn is_bad(sql_type: &str, record: &str) -> bool {
    read(sql_type, record).starts_with("bad: ")
}

const EVENT: &str = r#"{"user_id":"5f0c3bd5-8d0b-4cbb-9a77-6a5b2d7c0f11","page_id":"9e107d9d-372b-4b6e-8a63-1c2d3e4f5a6b","ad_id":"ad-0001","ad_type":"banner","event_type":"view","event_time":1700000000000,"ip_address":"1.2.3.4"}"#;
const EVENT_COLUMNS: &str = "user_id VARCHAR, page_id VARCHAR, ad_id VARCHAR, ad_type VARCHAR, event_type VARCHAR, event_time TIMESTAMP(3), ip_address VARCHAR";

#[test]
fn an_event_is_read_without_copying_its_text() {
    let schema = parse_columns(EVENT_COLUMNS).unwrap();
    let input = rows(&[Some(EVENT), Some(EVENT)]);
    let decoded = JsonFormat::new(schema).unwrap().decoder(&[5, 0, 2]).decode(&input);
    assert!(decoded.bad.is_none());
    assert_eq!(
        decoded.columns[0].as_primitive::<TimestampMillisecondType>().values(),
        &[1_700_000_000_000; 2]
    );
    let users = decoded.columns[1].as_string_view();
    assert_eq!(users.value(1), "5f0c3bd5-8d0b-4cbb-9a77-6a5b2d7c0f11");
    let fetched: Vec<_> = input
        .values
        .as_ref()
        .unwrap()
        .data_buffers()
        .iter()
        .map(|b| b.as_ptr())
        .collect();
    assert_eq!(
        users.data_buffers().iter().map(|b| b.as_ptr()).collect::<Vec<_>>(),
        fetched
    );
    let ads = decoded.columns[2].as_string_view();
    assert_eq!(ads.value(0), "ad-0001");
    assert!(ads.data_buffers().is_empty(), "short text holds no fetched buffer");
}

#[test]
fn fields_come_in_any_order_spacing_and_number() {
    let records = [
        r#"{"a":1,"b":"x"}"#,
        r#"{"b":"y","a":2}"#,
        r#" { "a" : 3 , "c" : [ 1 , {"a":9} ] , "b" : "z" } "#,
        r#"{"c":{"a":7,"b":"no"},"b":"w"}"#,
        "{}",
        "\t{\r\n}\n",
        r#"{"\u0061":6,"b":null}"#,
        r#"{"A":1,"aa":2,"":3}"#,
    ];
    let decoded = decode_bytes("a BIGINT, b VARCHAR", &records);
    assert!(decoded.bad.is_none(), "{:?}", decoded.bad);
    let a: Vec<_> = decoded.columns[0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(a, [Some(1), Some(2), Some(3), None, None, None, Some(6), None]);
    let b: Vec<_> = decoded.columns[1].as_string_view().iter().collect();
    assert_eq!(b, [Some("x"), Some("y"), Some("z"), Some("w"), None, None, None, None]);
}

#[test]
fn of_a_repeated_field_the_first_counts_whatever_else_is_wanted() {
    let record = r#"{"a":1,"a":2,"b":"x","a":"no number"}"#;
    for columns in ["a BIGINT", "a BIGINT, b VARCHAR", "a BIGINT, b VARCHAR, c VARCHAR"] {
        let decoded = decode_bytes(columns, &[record]);
        assert!(decoded.bad.is_none(), "{columns}");
        assert_eq!(decoded.columns[0].as_primitive::<Int64Type>().value(0), 1);
    }
}

#[test]
fn what_is_no_object_is_bad() {
    for record in [
        "",
        " ",
        "null",
        "1",
        "\"a\"",
        "[]",
        "[{\"a\":1}]",
        "{",
        "{]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1}}",
        "{\"a\":1} x",
        "{,}",
        "{\"z\":}",
        "{\"z\":1,}",
        "{\"z\":\"}",
        "{\"z\":[}",
        "\u{feff}{}",
    ] {
        assert!(is_bad("BIGINT", record), "{record}");
    }
    for record in [r#"{"a":1,"b":}"#, r#"{"a":1,"b":"x"junk}"#] {
        assert_eq!(
            read("BIGINT", record),
            "1",
            "behind the last wanted field only the end is looked at: {record}"
        );
    }
}

#[test]
fn without_wanted_columns_only_begin_and_end_are_looked_at() {
    let records = [
        Some("{}"),
        Some(" {\"a\":} "),
        Some("{"),
        Some("[]"),
        None,
        Some("}"),
        Some("{\"a\":1"),
    ];
    let schema = parse_columns("a BIGINT").unwrap();
    let decoded = JsonFormat::new(schema).unwrap().decoder(&[]).decode(&rows(&records));
    assert!(decoded.columns.is_empty());
    let bad = decoded.bad.unwrap();
    assert_eq!(
        bad.keep.values().iter().collect::<Vec<_>>(),
        [true, true, false, false, false, false, false]
    );
    assert_eq!((bad.count, bad.first_row), (5, 2));
}

#[test]
fn bad_records_are_counted_and_the_first_is_told() {
    let records = [Some(r#"{"a":1}"#), None, Some(r#"{"a":"x"}"#), Some(r#"{"a":4}"#)];
    let schema = parse_columns("a BIGINT, b VARCHAR NOT NULL").unwrap();
    let mut decoder = JsonFormat::new(schema).unwrap().decoder(&[0]);
    for _ in 0..2 {
        let decoded = decoder.decode(&rows(&records));
        let bad = decoded.bad.unwrap();
        assert_eq!(bad.keep.values().iter().collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(
            (bad.count, bad.first_row, bad.first_reason.as_str()),
            (2, 1, "no value")
        );
        assert_eq!(decoded.columns[0].as_primitive::<Int64Type>().value(3), 4);
        assert!(
            decoder.decode(&rows(&[Some("{}")])).bad.is_none(),
            "a decoder forgets what was bad"
        );
    }
    assert_eq!(
        read("BIGINT", r#"{"a":"x"}"#),
        r#"bad: column a BIGINT: found a string at byte 5 of {"a":"x"}"#
    );
}

#[test]
fn not_null_makes_missing_fields_bad() {
    let decoded = decode_bytes(
        "a BIGINT NOT NULL, b VARCHAR NOT NULL",
        &[r#"{"a":1,"b":"x"}"#, r#"{"a":1}"#, r#"{"a":null,"b":"x"}"#],
    );
    let bad = decoded.bad.unwrap();
    assert_eq!(bad.keep.values().iter().collect::<Vec<_>>(), [true, false, false]);
    assert!(
        bad.first_reason
            .starts_with("column b VARCHAR: found no such field where it is NOT NULL"),
        "{}",
        bad.first_reason
    );
    assert!(read("BIGINT NOT NULL", r#"{"a":null}"#).contains("found null where it is NOT NULL"));
}

#[test]
fn numbers_are_read_as_their_column_says() {
    assert_eq!(read("TINYINT", r#"{"a":-128}"#), "-128");
    assert!(is_bad("TINYINT", r#"{"a":128}"#));
    assert_eq!(
        read("BIGINT UNSIGNED", r#"{"a":18446744073709551615}"#),
        u64::MAX.to_string()
    );
    for sql_type in [
        "TINYINT UNSIGNED",
        "SMALLINT UNSIGNED",
        "INT UNSIGNED",
        "BIGINT UNSIGNED",
    ] {
        assert!(is_bad(sql_type, r#"{"a":-1}"#), "{sql_type}");
    }
    assert_eq!(read("INT", r#"{"a":1e3}"#), "1000");
    for record in [
        r#"{"a":1.5}"#,
        r#"{"a":"1"}"#,
        r#"{"a":true}"#,
        r#"{"a":01}"#,
        r#"{"a":1x}"#,
        r#"{"a":nul}"#,
        r#"{"a":2147483648}"#,
    ] {
        assert!(is_bad("INT", record), "{record}");
    }
    assert_eq!(read("DOUBLE", r#"{"a":-1.5e-3}"#), "-0.0015");
    assert_eq!(read("REAL", r#"{"a":3}"#), "3.0");
    assert!(is_bad("DOUBLE", r#"{"a":1e999}"#) && is_bad("REAL", r#"{"a":1e39}"#) && is_bad("DOUBLE", r#"{"a":NaN}"#));
    assert_eq!(read("DECIMAL(5, 2)", r#"{"a":999.994}"#), "999.99");
    assert_eq!(read("DECIMAL(5, 2)", r#"{"a":"-12.5"}"#), "-12.50");
    assert!(
        is_bad("DECIMAL(5, 2)", r#"{"a":999.995}"#)
            && is_bad("DECIMAL(5, 2)", r#"{"a":"12 "}"#)
            && is_bad("DECIMAL(5, 2)", r#"{"a":""}"#)
    );
    assert_eq!(read("BOOLEAN", r#"{"a":true}"#), "true");
    assert_eq!(read("BOOLEAN", r#"{"a":false}"#), "false");
    assert!(
        is_bad("BOOLEAN", r#"{"a":1}"#)
            && is_bad("BOOLEAN", r#"{"a":"true"}"#)
            && is_bad("BOOLEAN", r#"{"a":trueish}"#)
    );
}

#[test]
fn moments_are_read_from_epoch_milliseconds_and_text() {
    assert_eq!(
        read("TIMESTAMP(3)", r#"{"a":1700000000123}"#),
        "2023-11-14T22:13:20.123"
    );
    assert_eq!(read("TIMESTAMP(0)", r#"{"a":-1}"#), "1969-12-31T23:59:59");
    assert_eq!(
        read("TIMESTAMP(6)", r#"{"a":1700000000123}"#),
        "2023-11-14T22:13:20.123"
    );
    assert_eq!(
        read(
            "TIMESTAMP(9) WITH TIME ZONE",
            r#"{"a":"2023-11-14T23:13:20.123456789+01:00"}"#
        ),
        "2023-11-14T22:13:20.123456789Z"
    );
    assert_eq!(
        read("TIMESTAMP(3)", r#"{"a":"2023-11-14T23:13:20\u002B01:00"}"#),
        "2023-11-14T22:13:20"
    );
    assert!(
        is_bad("TIMESTAMP(9)", r#"{"a":"2500-01-01T00:00:00Z"}"#) && is_bad("TIMESTAMP(9)", r#"{"a":99999999999999}"#)
    );
    assert!(
        is_bad("TIMESTAMP(3)", r#"{"a":"yesterday"}"#)
            && is_bad("TIMESTAMP(3)", r#"{"a":1.5}"#)
            && is_bad("TIMESTAMP(3)", r#"{"a":[]}"#)
    );
    assert_eq!(read("DATE", r#"{"a":"2024-02-29"}"#), "2024-02-29");
    assert!(is_bad("DATE", r#"{"a":"2023-02-29"}"#) && is_bad("DATE", r#"{"a":19000}"#));
}

#[test]
fn text_columns_take_any_value() {
    assert_eq!(read("VARCHAR", r#"{"a":"grüße aus dem Watt"}"#), "grüße aus dem Watt");
    assert_eq!(read("VARCHAR", r#"{"a":"a\tb"}"#), "a\tb");
    assert_eq!(
        read("VARCHAR", r#"{"a":"longer than a view holds\n\u00e9"}"#),
        "longer than a view holds\né"
    );
    assert_eq!(read("VARCHAR", r#"{"a":-1.50}"#), "-1.50");
    assert_eq!(read("VARCHAR", r#"{"a":true}"#), "true");
    assert_eq!(
        read("VARCHAR", r#"{"a":{"b":[1, "}"],"c":null} }"#),
        r#"{"b":[1, "}"],"c":null}"#
    );
    assert_eq!(read("VARCHAR", r#"{"a":null}"#), "NULL");
    for record in [
        r#"{"a":{"b":1]}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":"\q"}"#,
        r#"{"a":tru}"#,
        r#"{"a":}"#,
        r#"{"a":"open}"#,
        r#"{"a":1x}"#,
    ] {
        assert!(is_bad("VARCHAR", record), "{record}");
    }
    assert!(decode_bytes("a VARCHAR", &[b"{\"a\":\"\xff\"}"]).bad.is_some());
    assert!(decode_bytes("a VARCHAR", &[b"{\"a\":[\"\xff\"]}"]).bad.is_some());
    assert!(
        decode_bytes("a VARCHAR", &[b"{\"b\":\"\xff\"}"]).bad.is_none(),
        "an unused field is not looked at"
    );
}

#[test]
fn types_without_json_values_are_refused() {
    let error = JsonFormat::new(parse_columns("a BINARY, b INT").unwrap()).unwrap_err();
    assert!(
        error.chain().contains("column a: BINARY can't be read from json"),
        "{}",
        error.chain()
    );
}

#[test]
fn values_that_were_not_fetched_are_bad() {
    let format = JsonFormat::new(parse_columns("a BIGINT NOT NULL").unwrap()).unwrap();
    let mut input = rows(&[Some("{}"), Some("{}")]);
    input.values = None;
    let decoded = format.decoder(&[0]).decode(&input);
    assert_eq!((decoded.bad.unwrap().count, decoded.columns[0].len()), (2, 2));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-200i64..200).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-h]|\\PC{0,3}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::vec(("[a-h]|\\PC{0,3}", any_value()), 0..10)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

/// What column `field` should hold of `object`: `Err` where the record is bad.
fn expected(field: &Field, object: &Value) -> Result<Option<String>, ()> {
    let value = match object.get(field.name()) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let integral = || {
        value
            .as_i64()
            .map(i128::from)
            .or(value.as_u64().map(i128::from))
            .or_else(|| {
                value
                    .as_f64()
                    .filter(|f| f.fract() == 0.0 && f.abs() < 1e30)
                    .and_then(|_| scaled_text(&value.to_string()))
            })
    };
    let text = match field.data_type() {
        DataType::Utf8View => value.as_str().map(str::to_owned).or(Some(value.to_string())),
        DataType::Int64 => integral().and_then(|v| i64::try_from(v).ok()).map(|v| v.to_string()),
        DataType::Int8 => integral().and_then(|v| i8::try_from(v).ok()).map(|v| v.to_string()),
        DataType::UInt64 => integral().and_then(|v| u64::try_from(v).ok()).map(|v| v.to_string()),
        DataType::Float64 => value.as_f64().map(|v| format!("{v:?}")),
        DataType::Boolean => value.as_bool().map(|v| v.to_string()),
        other => panic!("{other}"),
    };
    text.map(Some).ok_or(())
}

fn scaled_text(number: &str) -> Option<i128> {
    number::scaled(number.as_bytes(), 0, number::Rest::Refuse)
}

fn shown(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8View => column.as_string_view().value(row).to_owned(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        other => panic!("{other}"),
    })
}

const ANY_COLUMNS: &str = "a VARCHAR, b BIGINT, c TINYINT, d DOUBLE, e BOOLEAN, f VARCHAR, g BIGINT UNSIGNED";

proptest! {
    #[test]
    fn random_objects_are_read_as_serde_reads_them(
        objects in prop::collection::vec(any_object(), 1..12),
        wanted in prop::sample::subsequence((0..7usize).collect::<Vec<_>>(), 0..7).prop_shuffle(),
        pretty: bool,
    ) {
        let schema = parse_columns(ANY_COLUMNS).unwrap();
        let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
        let records: Vec<Option<String>> = objects.iter().map(|object| Some(write(object).unwrap())).collect();
        let decoded = JsonFormat::new(Arc::clone(&schema)).unwrap().decoder(&wanted).decode(&rows(&records));
        for (row, object) in objects.iter().enumerate() {
            let fields: Vec<_> = wanted.iter().map(|index| expected(schema.field(*index), object)).collect();
            let good = decoded.bad.as_ref().is_none_or(|bad| bad.keep.value(row));
            prop_assert_eq!(good, fields.iter().all(Result::is_ok), "{:?} {:?}", records[row], decoded.bad);
            for (column, field) in decoded.columns.iter().zip(fields).filter(|_| good) {
                let mut field = field.unwrap();
                if pretty && column.data_type() == &DataType::Utf8View && field.as_ref().is_some_and(|text| text.starts_with(['{', '['])) {
                    // Indented text: compare what it means. (A string that begins like this is not indented.)
                    let ours: Result<Value, _> = serde_json::from_str(&shown(column, row).unwrap());
                    if ours.is_ok() { field = Some(shown(column, row).unwrap()); }
                }
                prop_assert_eq!(shown(column, row), field, "{:?}", records[row]);
            }
        }
    }

    #[test]
    fn no_damage_makes_it_panic_or_break_an_array(
        object in any_object(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut record = serde_json::to_vec(&object).unwrap();
        for (index, byte, how) in damage {
            let at = index.index(record.len().max(1));
            match how {
                0 if at < record.len() => record[at] ^= 1 << (byte % 8),
                1 if at < record.len() => { record.remove(at); }
                2 => record.truncate(at),
                _ => record.insert(at.min(record.len()), byte),
            }
        }
        record.extend_from_slice(&tail);
        let columns = "a VARCHAR, b BIGINT NOT NULL, c DECIMAL(10, 2), d TIMESTAMP(9), e DATE, f VARCHAR NOT NULL, g REAL, h SMALLINT";
        let decoded = decode_bytes(columns, &[record.as_slice(), EVENT.as_bytes(), record.as_slice()]);
        prop_assert!(decoded.bad.is_none_or(|bad| bad.keep.value(0) == bad.keep.value(2)));
        if serde_json::from_slice::<Map<String, Value>>(&record).is_ok() {
            let decoded = decode_bytes("a VARCHAR", &[record]);
            prop_assert!(decoded.bad.is_none(), "{:?}", decoded.bad);
        }
    }
}
