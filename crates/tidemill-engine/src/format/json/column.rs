//! Building one column from values in JSON text.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, PrimitiveArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use serde::de::IgnoredAny;

use super::fault::Why;
use super::scan::value_end;
use super::string::{JsonString, unescape};
use crate::format::moment;
use crate::format::number::{Integer, Rest, integer, number_end, scaled, short_integer};
use crate::format::record::{Record, Side};
use crate::format::views::Views;

/// A column under construction.
#[derive(Debug)]
pub(in crate::format) struct Column {
    data_type: DataType,
    nullable: bool,
    nulls: NullBufferBuilder,
    values: Values,
    rows: usize,
}

#[derive(Debug)]
enum Values {
    Text(Views),
    Boolean(BooleanBufferBuilder),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Date(Vec<i32>),
    Timestamp {
        values: Vec<i64>,
        unit: TimeUnit,
    },
}

impl Values {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8View => Self::Text(Views::default()),
            DataType::Boolean => Self::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Self::I8(Vec::new()),
            DataType::Int16 => Self::I16(Vec::new()),
            DataType::Int32 => Self::I32(Vec::new()),
            DataType::Int64 => Self::I64(Vec::new()),
            DataType::UInt8 => Self::U8(Vec::new()),
            DataType::UInt16 => Self::U16(Vec::new()),
            DataType::UInt32 => Self::U32(Vec::new()),
            DataType::UInt64 => Self::U64(Vec::new()),
            DataType::Float32 => Self::F32(Vec::new()),
            DataType::Float64 => Self::F64(Vec::new()),
            DataType::Decimal128(precision, scale) => Self::Decimal {
                values: Vec::new(),
                precision: *precision,
                scale: *scale,
            },
            DataType::Date32 => Self::Date(Vec::new()),
            DataType::Timestamp(unit, _) => Self::Timestamp {
                values: Vec::new(),
                unit: *unit,
            },
            _ => return None,
        })
    }
}

/// The same for every kind of values that keeps them in a vector of its own type.
macro_rules! for_each_vector {
    ($values:expr, $vector:ident => $plain:expr, $views:ident => $text:expr, $bits:ident => $boolean:expr) => {
        match $values {
            Values::Text($views) => $text,
            Values::Boolean($bits) => $boolean,
            Values::I8($vector) => $plain,
            Values::I16($vector) => $plain,
            Values::I32($vector) | Values::Date($vector) => $plain,
            Values::I64($vector) | Values::Timestamp { values: $vector, .. } => $plain,
            Values::U8($vector) => $plain,
            Values::U16($vector) => $plain,
            Values::U32($vector) => $plain,
            Values::U64($vector) => $plain,
            Values::F32($vector) => $plain,
            Values::F64($vector) => $plain,
            Values::Decimal { values: $vector, .. } => $plain,
        }
    };
}

impl Column {
    /// True where values of this type can be read from JSON.
    pub(in crate::format) fn can_hold(data_type: &DataType) -> bool {
        Values::of(data_type).is_some()
    }

    /// An empty column. `None` where [`Column::can_hold`] says no.
    pub(in crate::format) fn new(field: &Field) -> Option<Self> {
        let data_type = field.data_type().clone();
        let values = Values::of(&data_type)?;
        Some(Self {
            data_type,
            nullable: field.is_nullable(),
            nulls: NullBufferBuilder::new(0),
            values,
            rows: 0,
        })
    }

    /// The rows so far.
    #[inline(always)]
    pub(in crate::format) fn rows(&self) -> usize {
        self.rows
    }

    /// Makes room for `rows` more.
    pub(in crate::format) fn reserve(&mut self, rows: usize) {
        self.nulls = NullBufferBuilder::new(rows);
        for_each_vector!(&mut self.values, vector => vector.reserve_exact(rows), views => views.reserve(rows), bits => bits.reserve(rows));
    }

    /// Reads the value at `at` as the next row; returns the index after it. On an error no row is added.
    #[inline(always)]
    pub(in crate::format) fn read(&mut self, record: Record<'_>, at: usize, side: &mut Side) -> Result<usize, Why> {
        if record.bytes.get(at) == Some(&b'n') {
            return self.read_null(record.bytes, at);
        }
        let end = self.read_value(record, at, side)?;
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(end)
    }

    #[inline(always)]
    fn read_value(&mut self, record: Record<'_>, at: usize, side: &mut Side) -> Result<usize, Why> {
        let end = match &mut self.values {
            Values::Text(views) => read_text(views, record, at, side)?,
            Values::I64(values) => read_integer(values, record.bytes, at)?,
            Values::Timestamp { values, unit } => {
                let (value, end) = timestamp(record.bytes, at, *unit, &mut side.scratch)?;
                values.push(value);
                end
            }
            _ => self.read_other(record.bytes, at, side)?,
        };
        Ok(end)
    }

    /// Reads the bytes of `record` from `from` to `to`, all of them, as the text that JSON has for such a value, without the
    /// quotes of its strings. On an error no row is added.
    pub(in crate::format) fn read_cell(
        &mut self,
        record: Record<'_>,
        from: usize,
        to: usize,
        side: &mut Side,
    ) -> Result<(), Why> {
        let cell = &record.bytes[from..to];
        let is_number = || number_end(cell, 0).is_some_and(|(end, _)| end == cell.len());
        match &mut self.values {
            Values::Text(views) => {
                if std::str::from_utf8(cell).is_err() {
                    return Err(Why::Utf8);
                }
                views.push_cell(record, from, to - from, side).ok_or(Why::TooLong)?;
            }
            Values::Timestamp { values, unit } if !is_number() => values.push(instant(cell, *unit)?),
            Values::Date(values) => values.push(moment::date(cell).ok_or(Why::Type)?),
            Values::Boolean(bits) => bits.append(match cell {
                b"true" => true,
                b"false" => false,
                _ => return Err(Why::Type),
            }),
            _ if !is_number() => return Err(Why::Type),
            _ => {
                let cell = Record {
                    bytes: cell,
                    place: None,
                };
                self.read_value(cell, 0, side)?;
            }
        }
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    fn read_other(&mut self, bytes: &[u8], at: usize, side: &mut Side) -> Result<usize, Why> {
        let end = match &mut self.values {
            Values::Boolean(bits) => {
                let (value, end) = boolean(bytes, at)?;
                bits.append(value);
                end
            }
            Values::I8(values) => read_integer(values, bytes, at)?,
            Values::I16(values) => read_integer(values, bytes, at)?,
            Values::I32(values) => read_integer(values, bytes, at)?,
            Values::U8(values) => read_integer(values, bytes, at)?,
            Values::U16(values) => read_integer(values, bytes, at)?,
            Values::U32(values) => read_integer(values, bytes, at)?,
            Values::U64(values) => read_integer(values, bytes, at)?,
            Values::F32(values) => {
                let (text, end) = number(bytes, at)?;
                values.push(
                    text.parse()
                        .ok()
                        .filter(|value: &f32| value.is_finite())
                        .ok_or(Why::Range)?,
                );
                end
            }
            Values::F64(values) => {
                let (text, end) = number(bytes, at)?;
                values.push(
                    text.parse()
                        .ok()
                        .filter(|value: &f64| value.is_finite())
                        .ok_or(Why::Range)?,
                );
                end
            }
            Values::Decimal {
                values,
                precision,
                scale,
            } => {
                let (value, end) = decimal(bytes, at, *precision, *scale, &mut side.scratch)?;
                values.push(value);
                end
            }
            Values::Date(values) => {
                let string = string(bytes, at)?;
                values.push(moment::date(string.text(&mut side.scratch)?).ok_or(Why::Type)?);
                string.end
            }
            Values::Text(_) | Values::I64(_) | Values::Timestamp { .. } => unreachable!("read by the caller"),
        };
        Ok(end)
    }

    #[cold]
    fn read_null(&mut self, bytes: &[u8], at: usize) -> Result<usize, Why> {
        if !bytes[at..].starts_with(b"null") {
            return Err(Why::Type);
        }
        self.push_missing()?;
        Ok(at + 4)
    }

    /// Adds a row for a field that the record lacks or that is null.
    pub(in crate::format) fn push_missing(&mut self) -> Result<(), Why> {
        if !self.nullable {
            return Err(Why::Missing);
        }
        self.push_default();
        self.nulls.append_null();
        Ok(())
    }

    /// Adds a row that nobody will read. It is never null where the column may not be.
    pub(in crate::format) fn push_filler(&mut self) {
        self.push_default();
        self.nulls.append(!self.nullable);
    }

    fn push_default(&mut self) {
        self.rows += 1;
        for_each_vector!(&mut self.values, vector => vector.push(Default::default()), views => views.push_empty(), bits => bits.append(false));
    }

    /// Takes the rows as an array. `blocks` are the buffers that text may point into: the input's, and the side text.
    pub(in crate::format) fn finish(&mut self, blocks: &Arc<[Buffer]>) -> ArrayRef {
        let nulls = self.nulls.finish();
        self.rows = 0;
        macro_rules! primitive {
            ($type:ty, $values:expr) => {{
                let values: ScalarBuffer<<$type as ArrowPrimitiveType>::Native> = std::mem::take($values).into();
                Arc::new(PrimitiveArray::<$type>::new(values, nulls).with_data_type(self.data_type.clone()))
            }};
        }
        match &mut self.values {
            Values::Text(views) => Arc::new(views.finish(blocks, nulls)),
            Values::Boolean(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Values::I8(values) => primitive!(Int8Type, values),
            Values::I16(values) => primitive!(Int16Type, values),
            Values::I32(values) => primitive!(Int32Type, values),
            Values::I64(values) => primitive!(Int64Type, values),
            Values::U8(values) => primitive!(UInt8Type, values),
            Values::U16(values) => primitive!(UInt16Type, values),
            Values::U32(values) => primitive!(UInt32Type, values),
            Values::U64(values) => primitive!(UInt64Type, values),
            Values::F32(values) => primitive!(Float32Type, values),
            Values::F64(values) => primitive!(Float64Type, values),
            Values::Decimal { values, .. } => primitive!(Decimal128Type, values),
            Values::Date(values) => primitive!(Date32Type, values),
            Values::Timestamp { values, unit } => match unit {
                TimeUnit::Second => primitive!(TimestampSecondType, values),
                TimeUnit::Millisecond => primitive!(TimestampMillisecondType, values),
                TimeUnit::Microsecond => primitive!(TimestampMicrosecondType, values),
                TimeUnit::Nanosecond => primitive!(TimestampNanosecondType, values),
            },
        }
    }
}

#[inline(always)]
fn read_text(views: &mut Views, record: Record<'_>, at: usize, side: &mut Side) -> Result<usize, Why> {
    if record.bytes.get(at) != Some(&b'"') {
        return read_literal(views, record, at);
    }
    let string = JsonString::at(record.bytes, at)?;
    if string.escaped {
        read_escaped(views, string, side)?;
    } else {
        views.push_part(record, at + 1, string.raw.len());
    }
    Ok(string.end)
}

#[cold]
fn read_escaped(views: &mut Views, string: JsonString<'_>, side: &mut Side) -> Result<(), Why> {
    let from = side.text.len();
    // Text without its escapes is never longer, so that the sum bounds where it can end.
    if i32::try_from(from + string.raw.len()).is_err() {
        return Err(Why::TooLong);
    }
    if let Err(why) = unescape(string.raw, &mut side.text) {
        side.text.truncate(from);
        return Err(why);
    }
    if views.push_side(side, from) {
        side.text.truncate(from);
    }
    Ok(())
}

/// A value that is no string, taken as the text it is written in.
#[cold]
fn read_literal(views: &mut Views, record: Record<'_>, at: usize) -> Result<usize, Why> {
    let bytes = record.bytes;
    let end = match bytes.get(at) {
        None => return Err(Why::Truncated),
        Some(b'{' | b'[') => {
            let end = value_end(bytes, at).ok_or(Why::Truncated)?;
            let text = std::str::from_utf8(&bytes[at..end]).map_err(|_| Why::Utf8)?;
            serde_json::from_str::<IgnoredAny>(text).map_err(|_| Why::Type)?;
            end
        }
        Some(b't' | b'f') => boolean(bytes, at)?.1,
        Some(_) => number_end(bytes, at).ok_or(Why::Type)?.0,
    };
    views.push_part(record, at, end - at);
    Ok(end)
}

fn boolean(bytes: &[u8], at: usize) -> Result<(bool, usize), Why> {
    let rest = bytes.get(at..).ok_or(Why::Truncated)?;
    if rest.starts_with(b"true") {
        Ok((true, at + 4))
    } else if rest.starts_with(b"false") {
        Ok((false, at + 5))
    } else {
        Err(Why::Type)
    }
}

#[inline(always)]
fn read_integer<T: TryFrom<i64> + TryFrom<i128>>(values: &mut Vec<T>, bytes: &[u8], at: usize) -> Result<usize, Why> {
    let (value, end) = match short_integer(bytes, at) {
        Some((value, end)) => (T::try_from(value).ok(), end),
        None => {
            let (value, end) = long_integer(bytes, at)?;
            (T::try_from(value).ok(), end)
        }
    };
    values.push(value.ok_or(Why::Range)?);
    Ok(end)
}

#[cold]
fn long_integer(bytes: &[u8], at: usize) -> Result<(i128, usize), Why> {
    match integer(bytes, at) {
        Integer::Value(value, end) => Ok((value, end)),
        Integer::NoNumber => Err(Why::Type),
        Integer::NotRepresentable => Err(Why::Range),
    }
}

fn number(bytes: &[u8], at: usize) -> Result<(&str, usize), Why> {
    let (end, _) = number_end(bytes, at).ok_or(Why::Type)?;
    let text = std::str::from_utf8(&bytes[at..end]).expect("a number is ASCII");
    Ok((text, end))
}

fn string(bytes: &[u8], at: usize) -> Result<JsonString<'_>, Why> {
    if bytes.get(at) != Some(&b'"') {
        return Err(Why::Type);
    }
    JsonString::at(bytes, at)
}

fn decimal(bytes: &[u8], at: usize, precision: u8, scale: i8, scratch: &mut Vec<u8>) -> Result<(i128, usize), Why> {
    let (text, end) = if bytes.get(at) == Some(&b'"') {
        let string = string(bytes, at)?;
        let text = string.text(scratch)?;
        if number_end(text, 0).is_none_or(|(end, _)| end != text.len()) {
            return Err(Why::Type);
        }
        (text, string.end)
    } else {
        let (text, end) = number(bytes, at)?;
        (text.as_bytes(), end)
    };
    let value = scaled(text, i64::from(scale), Rest::Round).ok_or(Why::Range)?;
    if value.unsigned_abs() >= 10u128.pow(u32::from(precision)) {
        return Err(Why::Range);
    }
    Ok((value, end))
}

#[inline(always)]
fn timestamp(bytes: &[u8], at: usize, unit: TimeUnit, scratch: &mut Vec<u8>) -> Result<(i64, usize), Why> {
    if bytes.get(at) == Some(&b'"') {
        return timestamp_text(bytes, at, unit, scratch);
    }
    let (millis, end) = match short_integer(bytes, at) {
        Some((millis, end)) if unit == TimeUnit::Millisecond => return Ok((millis, end)),
        Some((millis, end)) => (i128::from(millis), end),
        None => long_integer(bytes, at)?,
    };
    let value = match unit {
        TimeUnit::Second => millis.div_euclid(1000),
        TimeUnit::Millisecond => millis,
        TimeUnit::Microsecond => millis.saturating_mul(1000),
        TimeUnit::Nanosecond => millis.saturating_mul(1_000_000),
    };
    Ok((i64::try_from(value).map_err(|_| Why::Range)?, end))
}

fn timestamp_text(bytes: &[u8], at: usize, unit: TimeUnit, scratch: &mut Vec<u8>) -> Result<(i64, usize), Why> {
    let string = string(bytes, at)?;
    Ok((instant(string.text(scratch)?, unit)?, string.end))
}

/// An ISO 8601 text, in whole units of `unit`.
fn instant(text: &[u8], unit: TimeUnit) -> Result<i64, Why> {
    let nanos = moment::nanos(text).ok_or(Why::Type)?;
    let value = match unit {
        TimeUnit::Second => nanos.div_euclid(1_000_000_000),
        TimeUnit::Millisecond => nanos.div_euclid(1_000_000),
        TimeUnit::Microsecond => nanos.div_euclid(1000),
        TimeUnit::Nanosecond => nanos,
    };
    i64::try_from(value).map_err(|_| Why::Range)
}
