use arrow::array::AsArray;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;
use crate::format::parse_columns;
use crate::format::testing::{check, reason, rows};

fn decode<B: AsRef<[u8]>>(columns: &str, delimiter: u8, header: bool, wanted: &[usize], records: &[B]) -> Decoded {
    let schema = parse_columns(columns).unwrap();
    let format = CsvFormat::new(Arc::clone(&schema), delimiter, header).unwrap();
    let records: Vec<Option<&[u8]>> = records.iter().map(|record| Some(record.as_ref())).collect();
    let decoded = format.decoder(wanted).decode(&rows(&records));
    check(&decoded, &schema, wanted, records.len());
    decoded
}

/// The cells of one record as text, `None` for NULL.
fn cells(columns: &str, record: &str) -> Result<Vec<Option<String>>, String> {
    let wanted: Vec<usize> = (0..parse_columns(columns).unwrap().fields().len()).collect();
    let decoded = decode(columns, b',', false, &wanted, &[record]);
    if decoded.bad.is_some() {
        return Err(reason(&decoded).to_owned());
    }
    let text = |column: &ArrayRef| (!column.is_null(0)).then(|| array_value_to_string(column, 0).unwrap());
    Ok(decoded.columns.iter().map(text).collect())
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn fields_stand_with_and_without_quotes_and_nothing_is_null() {
    let columns = "a VARCHAR, b VARCHAR, c VARCHAR";
    for (record, expected) in [
        ("x,y,z", [some("x"), some("y"), some("z")]),
        ("x,y,z\n", [some("x"), some("y"), some("z")]),
        ("x,y,z\r\n", [some("x"), some("y"), some("z")]),
        (",\"\",", [None, some(""), None]),
        ("\"a,b\",\"c\"\"d\",\" e \"", [some("a,b"), some("c\"d"), some(" e ")]),
        (
            "\"two\nlines\",\"\"\"\", x ",
            [some("two\nlines"), some("\""), some(" x ")],
        ),
        (
            "\"a long text with \"\"quotes\"\" inside\",a long text without them,\"\"\"\"\"\"",
            [
                some("a long text with \"quotes\" inside"),
                some("a long text without them"),
                some("\"\""),
            ],
        ),
    ] {
        assert_eq!(cells(columns, record).as_deref(), Ok(&expected[..]), "{record}");
    }
    assert_eq!(cells("a VARCHAR", ""), Ok(vec![None]));
}

#[test]
fn values_are_read_as_json_texts_of_their_types_are() {
    let value = |data_type: &str, text: &str| cells(&format!("v {data_type}"), text).map(|mut cells| cells.remove(0));
    for (data_type, text, expected) in [
        ("BOOLEAN", "true", "true"),
        ("BIGINT", "-9223372036854775808", "-9223372036854775808"),
        ("BIGINT", "1e3", "1000"),
        ("BIGINT", "\"17\"", "17"),
        ("TINYINT UNSIGNED", "255", "255"),
        ("DOUBLE", "-1.5e300", "-1.5e300"),
        ("DECIMAL(12, 2)", "1.005", "1.01"),
        ("DATE", "2024-02-29", "2024-02-29"),
        ("TIMESTAMP(3)", "1700000000123", "2023-11-14T22:13:20.123"),
        ("TIMESTAMP(6)", "2024-03-01 12:00:00.5+02:00", "2024-03-01T10:00:00.500"),
        ("TIMESTAMP(3) WITH TIME ZONE", "-1", "1969-12-31T23:59:59.999Z"),
        ("VARCHAR", "null", "null"),
    ] {
        assert_eq!(value(data_type, text), Ok(some(expected)), "{data_type} {text}");
    }
    for (data_type, text) in [
        ("BOOLEAN", "True"),
        ("BIGINT", " 1"),
        ("BIGINT", "null"),
        ("BIGINT", "1.5"),
        ("BIGINT", "1x"),
        ("BIGINT", "\"\""),
        ("TINYINT", "128"),
        ("DOUBLE", "NaN"),
        ("DOUBLE", "1e999"),
        ("DECIMAL(3, 2)", "99"),
        ("DATE", "2023-02-29"),
        ("TIMESTAMP(3)", "soon"),
    ] {
        let reason = value(data_type, text).unwrap_err();
        assert!(reason.contains("column v "), "{data_type} {text}: {reason}");
    }
}

#[test]
fn bad_records_say_what_and_where() {
    for (record, why) in [
        ("1", "1 fields, wanted 2, in 1"),
        ("1,2,3", "3 fields, wanted 2, in 1,2,3"),
        ("1,2\n3,4", "found a line break outside quotes at byte 3 of "),
        ("1,2\n\n", "found a line break outside quotes at byte 3 of "),
        ("1,2\r3", "found a line break outside quotes at byte 3 of "),
        ("1,\"x", "found a quote that does not close at byte 2 of 1,\"x"),
        ("1,\"x\"y", "found more behind a closing quote at byte 5 of "),
        (
            "1,x\"y",
            "found a quote in a field without quotes around it at byte 3 of ",
        ),
        ("x,y", "column n BIGINT: found something else at byte 0 of x,y"),
        (
            ",y",
            "column n BIGINT: found nothing where it is NOT NULL at byte 0 of ,y",
        ),
    ] {
        let reason = cells("n BIGINT NOT NULL, w VARCHAR", record).unwrap_err();
        assert!(reason.starts_with(why), "{record:?}: {reason}");
    }
    let no_text = decode("w VARCHAR", b',', false, &[0], &[b"\xff"]);
    assert!(reason(&no_text).starts_with("column w VARCHAR: found text that is not UTF-8"));
}

#[test]
fn a_header_is_stepped_over_and_must_be_there() {
    let read = |record: &str| {
        let decoded = decode("a VARCHAR, b BIGINT", b';', true, &[0, 1], &[record]);
        match &decoded.bad {
            None => Ok(decoded.columns[0].as_string_view().value(0).to_owned()),
            Some(bad) => Err(bad.first_reason.clone()),
        }
    };
    assert_eq!(read("a;b\nx,y;1\n").as_deref(), Ok("x,y"));
    assert_eq!(read("\"a\nb\";c\r\nx;1").as_deref(), Ok("x"));
    assert!(read("x;1").unwrap_err().starts_with("found no line behind the header"));
}

#[test]
fn what_is_not_wanted_is_not_read_and_good_rows_stand_around_bad_ones() {
    let records = ["1,x,2", "no number,y,3", "4,z,no number", "5,\"w\",6"];
    let decoded = decode("a BIGINT, b VARCHAR, c BIGINT", b',', false, &[1, 2], &records);
    let bad = decoded.bad.as_ref().unwrap();
    let kept: Vec<bool> = bad.keep.values().iter().collect();
    assert_eq!(kept, [true, true, false, true]);
    assert_eq!(decoded.columns[0].as_string_view().value(3), "w");
}

#[test]
fn types_without_a_text_are_refused_by_name() {
    let problem = CsvFormat::new(parse_columns("a VARCHAR, b BINARY").unwrap(), b',', false).unwrap_err();
    assert!(
        problem.chain().contains("column b: BINARY can't be read from csv"),
        "{}",
        problem.chain()
    );
}

proptest! {
    #[test]
    fn what_the_crate_csv_writes_is_read_back(fields in prop::collection::vec("[a-z\",;\n\r \u{e9}]{0,20}", 2..6), always: bool) {
        let style = if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
        let mut writer = csv::WriterBuilder::new().quote_style(style).from_writer(Vec::new());
        writer.write_record(&fields).unwrap();
        let record = writer.into_inner().unwrap();
        let columns: Vec<String> = (0..fields.len()).map(|at| format!("c{at} VARCHAR")).collect();
        let read = cells(&columns.join(", "), std::str::from_utf8(&record).unwrap());
        // It writes an empty text without quotes unless it writes them always.
        let expected: Vec<Option<String>> = fields.into_iter().map(|field| (always || !field.is_empty()).then_some(field)).collect();
        prop_assert_eq!(read, Ok(expected));
    }

    #[test]
    fn any_bytes_are_read_or_bad(records in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"1,\"\n\r;x\xff"[..]), 0..20), 1..6), header: bool) {
        decode("a BIGINT, b VARCHAR, c VARCHAR", b',', header, &[0, 1, 2], &records);
    }
}
