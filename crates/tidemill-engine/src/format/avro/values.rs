//! What holds the values of a type while a column is built, and which Arrow type it becomes.

use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::column::Column;
use super::keys::Keys;
use super::schema::{Logical, Schema, Shape, Type, TypeId};
use super::symbols::Symbols;
use crate::format::views::Views;

const MILLIS_PER_DAY: i32 = 86_400_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What stands before each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Union {
    /// Nothing.
    None,
    /// The only branch of a union: 0.
    Single,
    /// The branch of a union of null, which stands at this place, and something.
    WithNull(i64),
}

#[derive(Debug)]
pub(super) enum Values {
    Null,
    Boolean(BooleanBufferBuilder),
    /// And the first value that is too large.
    I32(Vec<i32>, Option<i32>),
    I64(Vec<i64>, Option<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Text(Views),
    Bytes(Views),
    Fixed(Views, usize),
    UuidOfBytes(Views),
    Enum(Symbols),
    Decimal {
        values: Vec<i128>,
        /// The first value that has too many digits.
        beyond: u128,
        /// Bytes of each, where it is a fixed.
        size: Option<usize>,
    },
    Struct(Vec<Column>),
    List {
        offsets: Vec<i32>,
        item: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Keys,
        value: Box<Column>,
    },
}

/// What stands before the values of a union, and the type of those that are not null.
pub(super) fn without_null(schema: &Schema, branches: &[TypeId]) -> Result<(Union, TypeId), String> {
    let is_null = |of: &TypeId| schema.get(*of).shape == Shape::Null;
    match branches {
        [only] => Ok((Union::Single, *only)),
        [null, other] if is_null(null) && !is_null(other) => Ok((Union::WithNull(0), *other)),
        [other, null] if is_null(null) && !is_null(other) => Ok((Union::WithNull(1), *other)),
        _ => {
            let names: Vec<&str> = branches.iter().map(|of| schema.get(*of).shape.name()).collect();
            Err(format!(
                "it is a union of {}; of unions only those of null and one more type can be read",
                names.join(", ")
            ))
        }
    }
}

/// Types that hold no others.
pub(super) fn scalar(of: &Type) -> Result<(DataType, Values), String> {
    let utc = |utc: bool| utc.then(|| "UTC".into());
    Ok(match (&of.shape, of.logical) {
        (Shape::Null, _) => (DataType::Null, Values::Null),
        (Shape::Boolean, _) => (DataType::Boolean, Values::Boolean(BooleanBufferBuilder::new(0))),
        (Shape::Int, Logical::Date) => (DataType::Date32, Values::I32(Vec::new(), None)),
        (Shape::Int, Logical::TimeMillis) => (
            DataType::Time32(TimeUnit::Millisecond),
            Values::I32(Vec::new(), Some(MILLIS_PER_DAY)),
        ),
        (Shape::Int, _) => (DataType::Int32, Values::I32(Vec::new(), None)),
        (Shape::Long, Logical::TimeMicros) => (
            DataType::Time64(TimeUnit::Microsecond),
            Values::I64(Vec::new(), Some(MICROS_PER_DAY)),
        ),
        (Shape::Long, Logical::Timestamp { unit, utc: is_utc }) => {
            (DataType::Timestamp(unit, utc(is_utc)), Values::I64(Vec::new(), None))
        }
        (Shape::Long, _) => (DataType::Int64, Values::I64(Vec::new(), None)),
        (Shape::Float, _) => (DataType::Float32, Values::F32(Vec::new())),
        (Shape::Double, _) => (DataType::Float64, Values::F64(Vec::new())),
        (Shape::String, _) => (DataType::Utf8View, Values::Text(Views::default())),
        (Shape::Bytes, Logical::Decimal { precision, scale }) => decimal(precision, scale, None)?,
        (Shape::Fixed(size), Logical::Decimal { precision, scale }) => decimal(precision, scale, Some(*size))?,
        (Shape::Bytes, _) => (DataType::BinaryView, Values::Bytes(Views::default())),
        (Shape::Fixed(16), Logical::Uuid) => (DataType::Utf8View, Values::UuidOfBytes(Views::default())),
        (Shape::Fixed(size), _) => (DataType::BinaryView, Values::Fixed(Views::default(), *size)),
        (Shape::Enum(symbols), _) => (DataType::Utf8View, Values::Enum(Symbols::new(symbols))),
        (Shape::Record(_) | Shape::Array(_) | Shape::Map(_) | Shape::Union(_), _) => {
            return Err(format!("{} stands where it can't", of.shape.name()));
        }
    })
}

fn decimal(precision: u64, scale: u64, size: Option<usize>) -> Result<(DataType, Values), String> {
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) => Ok((
            DataType::Decimal128(precision, scale),
            Values::Decimal {
                values: Vec::new(),
                beyond: 10u128.pow(u32::from(precision)),
                size,
            },
        )),
        _ => Err(format!("it is a decimal of {precision} digits; 38 are the most")),
    }
}

/// The entries of a map to such values.
pub(super) fn entries(value: &FieldRef) -> Field {
    let key = Arc::new(Field::new("key", DataType::Utf8, false));
    let fields = Fields::from(vec![key, Arc::clone(value)]);
    Field::new("entries", DataType::Struct(fields), false)
}

/// The number of bytes that are a two's complement, first byte first; `None` where it takes more than 128 bits or none.
pub(super) fn whole_number(bytes: &[u8]) -> Option<i128> {
    let sign: u8 = if bytes.first()? & 0x80 == 0 { 0 } else { 0xff };
    let (beyond, low) = bytes.split_at(bytes.len().saturating_sub(16));
    if beyond.iter().any(|byte| *byte != sign) {
        return None;
    }
    let mut number = [sign; 16];
    number[16 - low.len()..].copy_from_slice(low);
    let number = i128::from_be_bytes(number);
    ((number < 0) == (sign != 0)).then_some(number)
}
