//! Rows as JSON text, one object per row, row by row into one buffer.
//!
//! | column | JSON |
//! |---|---|
//! | BOOLEAN, integers | as they are |
//! | DECIMAL | a number with all its digits |
//! | FLOAT, DOUBLE | the shortest number that reads back the same; `null` for NaN and the infinities |
//! | VARCHAR | a string; control characters, `"` and `\` escaped |
//! | DATE | `"2026-11-23"` |
//! | TIMESTAMP | RFC 3339 in UTC: `"2026-11-23T10:15:30.250Z"`, with 0, 3, 6 or 9 digits of fraction |
//! | TIME, BINARY, lists, structs, maps, dictionaries | as arrow-json writes them (BINARY in hexadecimal) |
//!
//! A NULL is written as `null`: every object has every column.

use std::io::Write;
use std::sync::LazyLock;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float32Array, Float64Array, LargeStringArray, PrimitiveArray,
    RecordBatch, StringArray, StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, FieldRef, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

/// How arrow-json writes what is not written here: timestamps within lists and structs like those outside.
static NESTED: LazyLock<EncoderOptions> = LazyLock::new(|| {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.fZ".to_owned())
        .with_timestamp_tz_format("%Y-%m-%dT%H:%M:%S%.fZ".to_owned())
});

/// The cells of one column, ready to be written one by one.
pub(super) struct Cells<'a> {
    nulls: Option<&'a NullBuffer>,
    kind: CellKind<'a>,
}

enum CellKind<'a> {
    Boolean(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    UInt8(&'a PrimitiveArray<UInt8Type>),
    UInt16(&'a PrimitiveArray<UInt16Type>),
    UInt32(&'a PrimitiveArray<UInt32Type>),
    UInt64(&'a PrimitiveArray<UInt64Type>),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Date32(&'a Date32Array),
    /// Ticks since 1970 UTC and how many of them a second has.
    Timestamp(&'a [i64], i64),
    Other(NullableEncoder<'a>),
}

impl<'a> Cells<'a> {
    /// The cells of `array`.
    ///
    /// # Errors
    /// The type has no JSON form.
    pub(super) fn new(field: &'a FieldRef, array: &'a ArrayRef) -> Result<Self, ArrowError> {
        let kind = match array.data_type() {
            DataType::Boolean => CellKind::Boolean(array.as_boolean()),
            DataType::Int8 => CellKind::Int8(array.as_primitive()),
            DataType::Int16 => CellKind::Int16(array.as_primitive()),
            DataType::Int32 => CellKind::Int32(array.as_primitive()),
            DataType::Int64 => CellKind::Int64(array.as_primitive()),
            DataType::UInt8 => CellKind::UInt8(array.as_primitive()),
            DataType::UInt16 => CellKind::UInt16(array.as_primitive()),
            DataType::UInt32 => CellKind::UInt32(array.as_primitive()),
            DataType::UInt64 => CellKind::UInt64(array.as_primitive()),
            DataType::Float32 => CellKind::Float32(array.as_primitive()),
            DataType::Float64 => CellKind::Float64(array.as_primitive()),
            DataType::Utf8 => CellKind::Utf8(array.as_string()),
            DataType::LargeUtf8 => CellKind::LargeUtf8(array.as_string()),
            DataType::Utf8View => CellKind::Utf8View(array.as_string_view()),
            DataType::Date32 => CellKind::Date32(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Second, _) => {
                CellKind::Timestamp(array.as_primitive::<TimestampSecondType>().values(), 1)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                CellKind::Timestamp(array.as_primitive::<TimestampMillisecondType>().values(), 1_000)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                CellKind::Timestamp(array.as_primitive::<TimestampMicrosecondType>().values(), 1_000_000)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                CellKind::Timestamp(array.as_primitive::<TimestampNanosecondType>().values(), 1_000_000_000)
            }
            _ => CellKind::Other(make_encoder(field, array.as_ref(), &NESTED)?),
        };
        Ok(Self {
            nulls: array.nulls(),
            kind,
        })
    }

    /// True where the cell is NULL.
    pub(super) fn is_null(&self, row: usize) -> bool {
        match &self.kind {
            CellKind::Other(encoder) => encoder.is_null(row),
            _ => self.nulls.is_some_and(|nulls| nulls.is_null(row)),
        }
    }

    /// Appends the cell as JSON.
    pub(super) fn write(&mut self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match &mut self.kind {
            CellKind::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            CellKind::Int8(array) => integer(array.value(row), out),
            CellKind::Int16(array) => integer(array.value(row), out),
            CellKind::Int32(array) => integer(array.value(row), out),
            CellKind::Int64(array) => integer(array.value(row), out),
            CellKind::UInt8(array) => integer(array.value(row), out),
            CellKind::UInt16(array) => integer(array.value(row), out),
            CellKind::UInt32(array) => integer(array.value(row), out),
            CellKind::UInt64(array) => integer(array.value(row), out),
            CellKind::Float32(array) => {
                let number = array.value(row);
                // `Debug` writes the shortest digits that read back, with an exponent where that is shorter.
                if number.is_finite() {
                    append(out, format_args!("{number:?}"))
                } else {
                    append(out, format_args!("null"))
                }
            }
            CellKind::Float64(array) => {
                let number = array.value(row);
                if number.is_finite() {
                    append(out, format_args!("{number:?}"))
                } else {
                    append(out, format_args!("null"))
                }
            }
            CellKind::Utf8(array) => string(array.value(row), out),
            CellKind::LargeUtf8(array) => string(array.value(row), out),
            CellKind::Utf8View(array) => string(array.value(row), out),
            CellKind::Date32(array) => {
                out.push(b'"');
                date(i64::from(array.value(row)), out);
                out.push(b'"');
            }
            CellKind::Timestamp(ticks, per_second) => {
                out.push(b'"');
                timestamp(ticks[row], *per_second, out);
                out.push(b'"');
            }
            CellKind::Other(encoder) => encoder.encode(row, out),
        }
    }
}

/// The columns of some rows that go into an object, in order.
pub(super) struct Objects<'a> {
    /// The text before each cell: `{"first":`, `,"second":`.
    columns: Vec<(Vec<u8>, Cells<'a>)>,
}

impl<'a> Objects<'a> {
    /// Objects of the columns with these indexes.
    ///
    /// # Errors
    /// A column's type has no JSON form.
    pub(super) fn new(rows: &'a RecordBatch, columns: &[usize]) -> Result<Self, ArrowError> {
        let columns = columns
            .iter()
            .enumerate()
            .map(|(at, &column)| {
                let field = &rows.schema_ref().fields()[column];
                let mut before = vec![if at == 0 { b'{' } else { b',' }];
                string(field.name(), &mut before);
                before.push(b':');
                Ok((before, Cells::new(field, rows.column(column))?))
            })
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self { columns })
    }

    /// Appends the object of one row.
    pub(super) fn write(&mut self, row: usize, out: &mut Vec<u8>) {
        if self.columns.is_empty() {
            out.push(b'{');
        }
        for (before, cells) in &mut self.columns {
            out.extend_from_slice(before);
            cells.write(row, out);
        }
        out.push(b'}');
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes every write");
}

fn integer(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut copied = 0;
    while let Some(at) = next_special(bytes, copied) {
        out.extend_from_slice(&bytes[copied..at]);
        match bytes[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 0x0f)]);
            }
        }
        copied = at + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// The first byte at or after `from` that JSON wants escaped. Looks at eight bytes at a time: most strings have none.
fn next_special(bytes: &[u8], from: usize) -> Option<usize> {
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let mut at = from;
    let mut words = bytes[from..].chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("a chunk of eight bytes"));
        if has_special(word) {
            break;
        }
        at += 8;
    }
    bytes[at..].iter().position(is_special).map(|found| at + found)
}

/// True where any of the eight bytes is a control character, `"` or `\`. The classic test for a zero byte: it may also
/// be true for a harmless byte after a hit, never false for a hit.
fn has_special(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let zero = |masked: u64| masked.wrapping_sub(ONES) & !masked;
    (below_space | zero(quote) | zero(backslash)) & HIGHS != 0
}

/// Appends a day, counted from 1970-01-01, as `YYYY-MM-DD`; years beyond 9999 and before 0 with their sign.
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    // Days from 0000-03-01, in eras of 400 years: the leap day is then the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..=9999).contains(&year) {
        digits(year, 4, out);
    } else {
        append(out, format_args!("{year:+05}"));
    }
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
}

/// Appends an instant as RFC 3339 in UTC.
pub(super) fn timestamp(ticks: i64, per_second: i64, out: &mut Vec<u8>) {
    let seconds = ticks.div_euclid(per_second);
    let fraction = ticks.rem_euclid(per_second) * (1_000_000_000 / per_second);
    date(seconds.div_euclid(86_400), out);
    let of_day = seconds.rem_euclid(86_400);
    out.push(b'T');
    digits(of_day / 3_600, 2, out);
    out.push(b':');
    digits(of_day / 60 % 60, 2, out);
    out.push(b':');
    digits(of_day % 60, 2, out);
    if fraction != 0 {
        out.push(b'.');
        if fraction % 1_000_000 == 0 {
            digits(fraction / 1_000_000, 3, out);
        } else if fraction % 1_000 == 0 {
            digits(fraction / 1_000, 6, out);
        } else {
            digits(fraction, 9, out);
        }
    }
    out.push(b'Z');
}

/// Appends `number`, not negative, with leading zeros to `width` digits.
fn digits(number: i64, width: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 9];
    let mut rest = number;
    for digit in text[..width].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text[..width]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Date32Array, Decimal128Array, Int64Array, ListArray, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array,
    };
    use proptest::prelude::*;

    use super::*;

    fn objects(columns: Vec<(&str, ArrayRef)>) -> Vec<serde_json::Value> {
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let all: Vec<usize> = (0..rows.num_columns()).collect();
        let mut objects = Objects::new(&rows, &all).unwrap();
        (0..rows.num_rows())
            .map(|row| {
                let mut out = Vec::new();
                objects.write(row, &mut out);
                serde_json::from_slice(&out)
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
            })
            .collect()
    }

    #[test]
    fn every_type_is_written_as_stated() {
        let row = objects(vec![
            ("b", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
            ("i", Arc::new(Int64Array::from(vec![i64::MIN]))),
            ("u", Arc::new(UInt64Array::from(vec![u64::MAX]))),
            ("f", Arc::new(Float64Array::from(vec![1e300]))),
            ("g", Arc::new(Float32Array::from(vec![0.1]))),
            ("nan", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("s", Arc::new(StringArray::from(vec!["ü\"\\\n\u{1}"]))),
            (
                "v",
                Arc::new(StringViewArray::from(vec!["a string of more than twelve bytes"])),
            ),
            ("d", Arc::new(Date32Array::from(vec![20_780]))),
            ("t", Arc::new(TimestampMillisecondArray::from(vec![1_795_428_930_250]))),
            (
                "dec",
                Arc::new(
                    Decimal128Array::from(vec![-12_345])
                        .with_precision_and_scale(10, 2)
                        .unwrap(),
                ),
            ),
            ("bin", Arc::new(BinaryArray::from(vec![b"\x00\xff".as_slice()]))),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([
                    Some(1),
                    None,
                ])])),
            ),
        ]);
        let expected = serde_json::json!({
            "b": true, "i": i64::MIN, "u": u64::MAX, "f": 1e300, "g": 0.1, "nan": null, "s": "ü\"\\\n\u{1}",
            "v": "a string of more than twelve bytes", "d": "2026-11-23", "t": "2026-11-23T10:15:30.250Z",
            "dec": -123.45, "bin": "00ff", "list": [1, null],
        });
        assert_eq!(row, [expected]);
    }

    #[test]
    fn nulls_are_written_and_names_escaped() {
        let row = objects(vec![
            ("a\"b", Arc::new(Int64Array::from(vec![None, Some(2)])) as ArrayRef),
            ("bin", Arc::new(BinaryArray::from(vec![None, Some(b"x".as_slice())]))),
        ]);
        assert_eq!(row[0], serde_json::json!({"a\"b": null, "bin": null}));
        assert_eq!(row[1], serde_json::json!({"a\"b": 2, "bin": "78"}));
    }

    #[test]
    fn timestamps_before_1970_and_of_all_units_are_exact() {
        let text = |ticks, per_second| {
            let mut out = Vec::new();
            timestamp(ticks, per_second, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(-1, 1_000), "1969-12-31T23:59:59.999Z");
        assert_eq!(text(0, 1), "1970-01-01T00:00:00Z");
        assert_eq!(text(951_782_400_000_001, 1_000_000), "2000-02-29T00:00:00.000001Z");
        assert_eq!(text(1, 1_000_000_000), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(-62_167_219_200, 1), "0000-01-01T00:00:00Z");
        assert_eq!(text(253_402_300_800, 1), "+10000-01-01T00:00:00Z");
        assert_eq!(text(-62_167_219_201, 1), "-0001-12-31T23:59:59Z");
    }

    #[test]
    fn timestamps_are_what_arrow_prints() {
        for ticks in [
            1_795_428_930_250_i64,
            -62_135_596_800_000,
            4_102_444_800_001,
            68_169_600_000,
            951_782_399_999,
        ] {
            let array = TimestampMillisecondArray::from(vec![ticks]).with_timezone("+00:00");
            let printed = arrow::util::display::array_value_to_string(&array, 0).unwrap();
            let mut ours = Vec::new();
            timestamp(ticks, 1_000, &mut ours);
            assert_eq!(String::from_utf8(ours).unwrap(), printed);
        }
        // The same columns in other units keep their digits.
        let nano = TimestampNanosecondArray::from(vec![1_123]);
        let micro = TimestampMicrosecondArray::from(vec![1_123]);
        let row = objects(vec![("n", Arc::new(nano) as ArrayRef), ("m", Arc::new(micro))]);
        assert_eq!(row[0]["n"], "1970-01-01T00:00:00.000001123Z");
        assert_eq!(row[0]["m"], "1970-01-01T00:00:00.001123Z");
    }

    proptest! {
        #[test]
        fn any_string_reads_back(text in ".{0,40}", prefix in "[a-z]{0,17}", control in 0u8..0x21) {
            let text = format!("{prefix}{}{text}", char::from(control));
            let mut out = Vec::new();
            string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_finite_number_reads_back(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            let rows = RecordBatch::try_from_iter([("f", Arc::new(Float64Array::from(vec![number])) as ArrayRef)]).unwrap();
            let mut out = Vec::new();
            Objects::new(&rows, &[0]).unwrap().write(0, &mut out);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).unwrap()["f"].is_number());
            // serde_json may read a unit in the last place off; the standard library does not.
            let text = std::str::from_utf8(&out).unwrap();
            let text = text.strip_prefix(r#"{"f":"#).and_then(|text| text.strip_suffix('}')).unwrap();
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn any_day_reads_back(day in -700_000i64..2_900_000) {
            let mut out = Vec::new();
            date(day, &mut out);
            let text = String::from_utf8(out).unwrap();
            if text.len() == 10 {
                let array = arrow::compute::cast(&StringArray::from(vec![text]), &DataType::Date32).unwrap();
                prop_assert_eq!(i64::from(array.as_primitive::<arrow::datatypes::Date32Type>().value(0)), day);
            }
        }
    }
}
