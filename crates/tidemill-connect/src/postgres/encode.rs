//! Rows as `COPY … (FORMAT binary)` wants them.

use arrow::array::{
    Array, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, RecordBatch, StringArray,
    StringViewArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::{BufMut, BytesMut};

use super::types::{Column, PgType};

/// What stands before the first row: signature, flags, length of the extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands after the last row.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// PostgreSQL counts from 2000-01-01.
const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = 946_684_800_000_000;

/// The largest field the server takes: 1 GiB less a little.
const FIELD_MAX: usize = (1 << 30) - 1024;

/// A value or column that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// The column's name.
    pub(super) column: String,
    /// What is wrong with it.
    pub(super) reason: String,
    /// True where the batch is not what was checked, rather than a value out of bounds.
    pub(super) bug: bool,
}

/// The values of one column, its type resolved once per batch.
enum Values<'a> {
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    Date(&'a [i32]),
    Timestamp(&'a [i64], TimeUnit),
    Decimal(&'a [i128], u8),
}

struct Accessor<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

/// The array as its own type; the data type says which that is.
fn cast<T: 'static>(array: &dyn Array) -> &T {
    array.as_any().downcast_ref().expect("an array is of its own data type")
}

impl<'a> Accessor<'a> {
    fn new(array: &'a dyn Array) -> Option<Self> {
        let values = match array.data_type() {
            DataType::Boolean => Values::Boolean(cast(array)),
            DataType::Int8 => Values::Int8(cast::<Int8Array>(array).values()),
            DataType::Int16 => Values::Int16(cast::<Int16Array>(array).values()),
            DataType::Int32 => Values::Int32(cast::<Int32Array>(array).values()),
            DataType::Int64 => Values::Int64(cast::<Int64Array>(array).values()),
            DataType::UInt8 => Values::UInt8(cast::<UInt8Array>(array).values()),
            DataType::UInt16 => Values::UInt16(cast::<UInt16Array>(array).values()),
            DataType::UInt32 => Values::UInt32(cast::<UInt32Array>(array).values()),
            DataType::UInt64 => Values::UInt64(cast::<UInt64Array>(array).values()),
            DataType::Float32 => Values::Float32(cast::<Float32Array>(array).values()),
            DataType::Float64 => Values::Float64(cast::<Float64Array>(array).values()),
            DataType::Utf8 => Values::Utf8(cast(array)),
            DataType::LargeUtf8 => Values::LargeUtf8(cast(array)),
            DataType::Utf8View => Values::Utf8View(cast(array)),
            DataType::Binary => Values::Binary(cast(array)),
            DataType::LargeBinary => Values::LargeBinary(cast(array)),
            DataType::BinaryView => Values::BinaryView(cast(array)),
            DataType::Date32 => Values::Date(cast::<Date32Array>(array).values()),
            DataType::Timestamp(unit, _) => {
                let values = match unit {
                    TimeUnit::Second => cast::<TimestampSecondArray>(array).values(),
                    TimeUnit::Millisecond => cast::<TimestampMillisecondArray>(array).values(),
                    TimeUnit::Microsecond => cast::<TimestampMicrosecondArray>(array).values(),
                    TimeUnit::Nanosecond => cast::<TimestampNanosecondArray>(array).values(),
                };
                Values::Timestamp(values, *unit)
            }
            DataType::Decimal128(_, scale) => {
                Values::Decimal(cast::<Decimal128Array>(array).values(), u8::try_from(*scale).ok()?)
            }
            _ => return None,
        };
        Some(Self {
            nulls: array.nulls(),
            values,
        })
    }

    /// Appends the field of `row`, its length first.
    fn put(&self, row: usize, out: &mut BytesMut) -> Result<(), String> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.put_i32(-1);
            return Ok(());
        }
        match &self.values {
            Values::Boolean(values) => {
                out.put_i32(1);
                out.put_u8(u8::from(values.value(row)));
            }
            Values::Int8(values) => put_i16(out, i16::from(values[row])),
            Values::Int16(values) => put_i16(out, values[row]),
            Values::UInt8(values) => put_i16(out, i16::from(values[row])),
            Values::Int32(values) => put_i32(out, values[row]),
            Values::UInt16(values) => put_i32(out, i32::from(values[row])),
            Values::Int64(values) => put_i64(out, values[row]),
            Values::UInt32(values) => put_i64(out, i64::from(values[row])),
            Values::UInt64(values) => put_numeric(out, false, u128::from(values[row]), 0),
            Values::Float32(values) => {
                out.put_i32(4);
                out.put_f32(values[row]);
            }
            Values::Float64(values) => {
                out.put_i32(8);
                out.put_f64(values[row]);
            }
            Values::Utf8(values) => return put_text(out, values.value(row)),
            Values::LargeUtf8(values) => return put_text(out, values.value(row)),
            Values::Utf8View(values) => return put_text(out, values.value(row)),
            Values::Binary(values) => return put_bytes(out, values.value(row)),
            Values::LargeBinary(values) => return put_bytes(out, values.value(row)),
            Values::BinaryView(values) => return put_bytes(out, values.value(row)),
            Values::Date(values) => put_i32(out, days_from_2000(values[row])?),
            Values::Timestamp(values, unit) => put_i64(out, micros_from_2000(values[row], *unit)?),
            Values::Decimal(values, scale) => put_numeric(out, values[row] < 0, values[row].unsigned_abs(), *scale),
        }
        Ok(())
    }
}

/// The rows of one batch, ready to be written one by one.
pub(super) struct Rows<'a> {
    columns: &'a [Column],
    accessors: Vec<Accessor<'a>>,
    fields: i16,
}

impl<'a> Rows<'a> {
    /// Resolves the columns of `batch`, which must be those of the table.
    pub(super) fn new(columns: &'a [Column], batch: &'a RecordBatch) -> Result<Self, Misfit> {
        if batch.num_columns() != columns.len() {
            return Err(Misfit {
                column: "*".to_owned(),
                reason: format!("{} columns came, {} were checked", batch.num_columns(), columns.len()),
                bug: true,
            });
        }
        let accessors = columns
            .iter()
            .zip(batch.columns())
            .map(|(column, array)| {
                Accessor::new(array)
                    .filter(|_| PgType::of(array.data_type()) == Some(column.kind))
                    .ok_or_else(|| Misfit {
                        column: column.name.clone(),
                        reason: format!("{} came, {} was checked", array.data_type(), column.kind),
                        bug: true,
                    })
            })
            .collect::<Result<_, _>>()?;
        let fields = i16::try_from(columns.len()).expect("a table has at most 1600 columns");
        Ok(Self {
            columns,
            accessors,
            fields,
        })
    }

    /// Appends one row, with its place behind its columns where it is to have one.
    pub(super) fn put(&self, row: usize, place: Option<i64>, out: &mut BytesMut) -> Result<(), Misfit> {
        out.put_i16(self.fields + i16::from(place.is_some()));
        for (at, accessor) in self.accessors.iter().enumerate() {
            accessor.put(row, out).map_err(|reason| Misfit {
                column: self.columns[at].name.clone(),
                reason,
                bug: false,
            })?;
        }
        if let Some(place) = place {
            put_i64(out, place);
        }
        Ok(())
    }
}

fn put_i16(out: &mut BytesMut, value: i16) {
    out.put_i32(2);
    out.put_i16(value);
}

fn put_i32(out: &mut BytesMut, value: i32) {
    out.put_i32(4);
    out.put_i32(value);
}

fn put_i64(out: &mut BytesMut, value: i64) {
    out.put_i32(8);
    out.put_i64(value);
}

fn put_text(out: &mut BytesMut, text: &str) -> Result<(), String> {
    if text.as_bytes().contains(&0) {
        return Err(
            "a string holds the character U+0000, which PostgreSQL text can't store; \
                    replace it in the query or write the column as BINARY"
                .to_owned(),
        );
    }
    put_bytes(out, text.as_bytes())
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) -> Result<(), String> {
    let length = i32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= FIELD_MAX)
        .ok_or_else(|| format!("a value of {} bytes; PostgreSQL takes less than 1 GiB", bytes.len()))?;
    out.put_i32(length);
    out.put_slice(bytes);
    Ok(())
}

fn days_from_2000(days: i32) -> Result<i32, String> {
    // The smallest number means "-infinity" to the server.
    days.checked_sub(DAYS_TO_2000)
        .filter(|days| *days != i32::MIN)
        .ok_or_else(|| format!("date {days} days after 1970-01-01 is out of PostgreSQL's range"))
}

/// Microseconds since 2000; what is finer is cut off towards the past.
fn micros_from_2000(value: i64, unit: TimeUnit) -> Result<i64, String> {
    let micros = match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1_000),
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Nanosecond => Some(value.div_euclid(1_000)),
    };
    micros
        .and_then(|micros| micros.checked_sub(MICROS_TO_2000))
        .filter(|micros| *micros != i64::MIN)
        .ok_or_else(|| format!("timestamp {value} ({unit:?} after 1970) is out of PostgreSQL's range"))
}

/// Appends a `numeric`: groups of four decimal digits, aligned to the decimal point, no zero group at either end.
fn put_numeric(out: &mut BytesMut, negative: bool, mut value: u128, scale: u8) {
    /// 18 digits fit in 64 bits, where a division is cheap.
    const CHUNK: u128 = 1_000_000_000_000_000_000;
    // Three places before the lowest digit let the lowest group be short.
    let pad = (4 - usize::from(scale) % 4) % 4;
    let mut digits = [0_u8; 64];
    let mut at = pad;
    while value > 0 {
        let mut chunk = u64::try_from(value % CHUNK).expect("below 10^18");
        value /= CHUNK;
        let end = at + 18;
        while chunk > 0 {
            digits[at] = u8::try_from(chunk % 10).expect("a digit");
            chunk /= 10;
            at += 1;
        }
        if value > 0 {
            at = end;
        }
    }
    let mut groups = [0_i16; 16];
    for (group, four) in groups.iter_mut().zip(digits.chunks_exact(4)) {
        *group = four.iter().rev().fold(0, |sum, digit| sum * 10 + i16::from(*digit));
    }
    let high = groups.iter().rposition(|group| *group != 0).map_or(0, |high| high + 1);
    let low = groups[..high].iter().position(|group| *group != 0).unwrap_or(0);
    let used = &groups[low..high];
    let count = i16::try_from(used.len()).expect("at most 16 groups");
    let after_point = i16::try_from((usize::from(scale) + pad) / 4).expect("a scale is at most 38");
    let weight = if count == 0 {
        0
    } else {
        i16::try_from(high).expect("at most 16 groups") - 1 - after_point
    };
    out.put_i32(8 + 2 * i32::from(count));
    out.put_i16(count);
    out.put_i16(weight);
    out.put_u16(if negative { 0x4000 } else { 0 });
    out.put_i16(i16::from(scale));
    for group in used.iter().rev() {
        out.put_i16(*group);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::super::types::columns;
    use super::*;

    fn encoded(arrays: Vec<ArrayRef>) -> Result<Vec<u8>, Misfit> {
        let fields: Vec<Field> = arrays
            .iter()
            .enumerate()
            .map(|(at, array)| Field::new(format!("c{at}"), array.data_type().clone(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
        let columns = columns(&schema).unwrap();
        let rows = Rows::new(&columns, &batch)?;
        let mut out = BytesMut::new();
        for row in 0..batch.num_rows() {
            rows.put(row, None, &mut out)?;
        }
        Ok(out.to_vec())
    }

    /// Reads a `numeric` field back as text, by the rules of the format.
    fn decimal_text(field: &[u8]) -> String {
        let word = |at: usize| i16::from_be_bytes([field[at], field[at + 1]]);
        let (count, weight, sign, scale) = (word(4), word(6), word(8), word(10));
        assert_eq!(
            i32::from_be_bytes(field[..4].try_into().unwrap()),
            8 + 2 * i32::from(count)
        );
        let group = |exponent: i16| {
            let at = weight - exponent;
            if (0..count).contains(&at) {
                word(12 + 2 * at as usize)
            } else {
                0
            }
        };
        let mut text = String::new();
        for exponent in (0..=weight.max(0)).rev() {
            text.push_str(&format!("{:04}", group(exponent)));
        }
        let whole = text.trim_start_matches('0');
        let mut fraction = String::new();
        for exponent in 1..=(scale + 3) / 4 {
            fraction.push_str(&format!("{:04}", group(-exponent)));
        }
        assert!(fraction[scale as usize..].bytes().all(|digit| digit == b'0'));
        format!(
            "{}{}.{}",
            if sign == 0x4000 { "-" } else { "" },
            if whole.is_empty() { "0" } else { whole },
            &fraction[..scale as usize]
        )
    }

    #[test]
    fn puts_lengths_nulls_and_big_endian_values() {
        let bytes = encoded(vec![
            Arc::new(Int32Array::from(vec![Some(258), None])),
            Arc::new(StringArray::from(vec![None, Some("hé")])),
            Arc::new(BooleanArray::from(vec![true, false])),
        ])
        .unwrap();
        let mut expected = vec![0, 3, 0, 0, 0, 4, 0, 0, 1, 2, 255, 255, 255, 255, 0, 0, 0, 1, 1];
        expected.extend([0, 3, 255, 255, 255, 255, 0, 0, 0, 3, b'h', 0xc3, 0xa9, 0, 0, 0, 1, 0]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn widens_small_and_unsigned_integers() {
        let bytes = encoded(vec![
            Arc::new(Int8Array::from(vec![-1])),
            Arc::new(UInt8Array::from(vec![255])),
            Arc::new(UInt16Array::from(vec![u16::MAX])),
            Arc::new(UInt32Array::from(vec![u32::MAX])),
        ])
        .unwrap();
        let mut expected = vec![
            0, 4, 0, 0, 0, 2, 255, 255, 0, 0, 0, 2, 0, 255, 0, 0, 0, 4, 0, 0, 255, 255,
        ];
        expected.extend([0, 0, 0, 8, 0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn counts_days_and_microseconds_from_2000() {
        assert_eq!(days_from_2000(10_957), Ok(0));
        assert_eq!(days_from_2000(0), Ok(-10_957));
        assert!(days_from_2000(i32::MIN + DAYS_TO_2000).is_err());
        assert_eq!(micros_from_2000(946_684_801, TimeUnit::Second), Ok(1_000_000));
        assert_eq!(micros_from_2000(946_684_800_001, TimeUnit::Millisecond), Ok(1_000));
        // One nanosecond before 2000 lies in the microsecond before.
        assert_eq!(micros_from_2000(946_684_799_999_999_999, TimeUnit::Nanosecond), Ok(-1));
        assert!(micros_from_2000(i64::MAX, TimeUnit::Second).is_err());
        assert!(micros_from_2000(i64::MIN, TimeUnit::Microsecond).is_err());
    }

    #[test]
    fn names_the_column_of_a_nul_character() {
        let misfit = encoded(vec![
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(StringViewArray::from(vec!["a\0b"])),
        ])
        .unwrap_err();
        assert_eq!((misfit.column.as_str(), misfit.bug), ("c1", false));
        assert!(misfit.reason.contains("U+0000"), "{}", misfit.reason);
    }

    #[test]
    fn sliced_arrays_start_at_their_own_first_row() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(7), Some(8)]));
        assert_eq!(
            encoded(vec![whole.slice(1, 1)]).unwrap(),
            [0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]
        );
    }

    #[test]
    fn refuses_a_batch_that_was_not_checked() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let columns = columns(&schema).unwrap();
        let other = RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
        let misfit = Rows::new(&columns, &other).err().unwrap();
        assert_eq!((misfit.column.as_str(), misfit.bug), ("n", true));
    }

    proptest! {
        #[test]
        fn numerics_read_back_as_the_same_decimal(value in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0_u8..=38,
                                                  shift in 0_u32..38) {
            let value = value / 10_i128.pow(shift);
            let mut out = BytesMut::new();
            put_numeric(&mut out, value < 0, value.unsigned_abs(), scale);
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let expected = format!("{}{whole}.{fraction}", if value < 0 { "-" } else { "" });
            prop_assert_eq!(decimal_text(&out), expected);
        }
    }
}
