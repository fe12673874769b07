//! Building one column from Avro values.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, ListArray, MapArray, NullArray, NullBufferBuilder, PrimitiveArray,
    StructArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields, Float32Type, Float64Type, Int32Type, Int64Type,
    Time32MillisecondType, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};

use super::fault::Why;
use super::keys::{Keys, ending, taken};
use super::schema::{Schema, Shape, TypeId};
use super::symbols::push_text;
use super::values::{Union, Values, entries, scalar, whole_number, without_null};
use super::wire::Cursor;
use crate::format::record::{Record, Side};

/// How deep the types of a column may nest.
const NESTING_MAX: usize = 16;
/// How many types a column may be made of, each counted as often as it stands there.
const PARTS_MAX: usize = 1000;

/// A column under construction.
#[derive(Debug)]
pub(super) struct Column {
    field: FieldRef,
    union: Union,
    /// Its length is the rows so far.
    nulls: NullBufferBuilder,
    values: Values,
}

impl Column {
    /// An empty column of a field of the record.
    ///
    /// # Errors
    /// Why the type can't be a column.
    pub(super) fn new(schema: &Schema, name: &str, of: TypeId) -> Result<Self, String> {
        Self::part(schema, name, of, 0, &mut 0)
    }

    fn part(schema: &Schema, name: &str, of: TypeId, depth: usize, parts: &mut usize) -> Result<Self, String> {
        *parts += 1;
        if depth > NESTING_MAX || *parts > PARTS_MAX {
            return Err(format!(
                "its type holds itself, nests deeper than {NESTING_MAX} or has more than {PARTS_MAX} parts"
            ));
        }
        let (union, of) = match &schema.get(of).shape {
            Shape::Union(branches) => without_null(schema, branches)?,
            _ => (Union::None, of),
        };
        let found = schema.get(of);
        let (data_type, values) = match &found.shape {
            Shape::Record(fields) => {
                let columns = fields
                    .iter()
                    .map(|field| Self::part(schema, &field.name, field.of, depth + 1, parts))
                    .collect::<Result<Vec<_>, _>>()?;
                let fields: Fields = columns.iter().map(|column| Arc::clone(&column.field)).collect();
                (DataType::Struct(fields), Values::Struct(columns))
            }
            Shape::Array(item) if schema.is_empty(*item) => return Err("its items are of no bytes".to_owned()),
            Shape::Array(item) => {
                let item = Self::part(schema, "item", *item, depth + 1, parts)?;
                let list = DataType::List(Arc::clone(&item.field));
                let offsets = vec![0];
                (
                    list,
                    Values::List {
                        offsets,
                        item: Box::new(item),
                    },
                )
            }
            Shape::Map(value) => {
                let value = Self::part(schema, "value", *value, depth + 1, parts)?;
                let map = DataType::Map(Arc::new(entries(&value.field)), false);
                let values = Values::Map {
                    offsets: vec![0],
                    keys: Keys::default(),
                    value: Box::new(value),
                };
                (map, values)
            }
            _ => scalar(found)?,
        };
        let nullable = matches!(union, Union::WithNull(_)) || data_type == DataType::Null;
        Ok(Self {
            field: Arc::new(Field::new(name, data_type, nullable)),
            union,
            nulls: NullBufferBuilder::new(0),
            values,
        })
    }

    /// Its name and type.
    pub(super) fn field(&self) -> &FieldRef {
        &self.field
    }

    fn rows(&self) -> usize {
        self.nulls.len()
    }

    /// Makes room for `rows` rows.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.nulls = NullBufferBuilder::new(rows);
        match &mut self.values {
            Values::Boolean(bits) => bits.reserve(rows),
            Values::I32(values, _) => values.reserve_exact(rows),
            Values::I64(values, _) => values.reserve_exact(rows),
            Values::F32(values) => values.reserve_exact(rows),
            Values::F64(values) => values.reserve_exact(rows),
            Values::Text(views) | Values::Bytes(views) | Values::Fixed(views, _) | Values::UuidOfBytes(views) => {
                views.reserve(rows);
            }
            Values::Enum(symbols) => symbols.views.reserve(rows),
            Values::Decimal { values, .. } => values.reserve_exact(rows),
            Values::Struct(columns) => columns.iter_mut().for_each(|column| column.reserve(rows)),
            Values::Null | Values::List { .. } | Values::Map { .. } => {}
        }
    }

    /// Reads the value at the cursor as the next row. On an error [`Column::truncate`] must follow.
    #[inline]
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>, record: Record<'_>, side: &mut Side) -> Result<(), Why> {
        match self.union {
            Union::None => {}
            Union::Single if cursor.long()? == 0 => {}
            Union::WithNull(null) => {
                let branch = cursor.long()?;
                if branch == null {
                    self.push_null();
                    return Ok(());
                }
                if branch != 1 - null {
                    return Err(Why::Branch);
                }
            }
            Union::Single => return Err(Why::Branch),
        }
        match &mut self.values {
            Values::Text(views) => {
                let length = cursor.length()?;
                let from = cursor.at;
                cursor.text(length)?;
                views.push_part(record, from, length);
            }
            Values::I64(values, beyond) => {
                let value = cursor.long()?;
                if beyond.is_some_and(|beyond| !(0..beyond).contains(&value)) {
                    return Err(Why::Range);
                }
                values.push(value);
            }
            _ => self.read_other(cursor, record, side)?,
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn read_other(&mut self, cursor: &mut Cursor<'_>, record: Record<'_>, side: &mut Side) -> Result<(), Why> {
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(bits) => match cursor.array::<1>()? {
                [0] => bits.append(false),
                [1] => bits.append(true),
                _ => return Err(Why::Boolean),
            },
            Values::I32(values, beyond) => {
                let value = cursor.int()?;
                if beyond.is_some_and(|beyond| !(0..beyond).contains(&value)) {
                    return Err(Why::Range);
                }
                values.push(value);
            }
            Values::F32(values) => values.push(f32::from_le_bytes(cursor.array()?)),
            Values::F64(values) => values.push(f64::from_le_bytes(cursor.array()?)),
            Values::Bytes(views) => {
                let length = cursor.length()?;
                let from = cursor.at;
                cursor.take(length)?;
                views.push_part(record, from, length);
            }
            Values::Fixed(views, size) => {
                let from = cursor.at;
                cursor.take(*size)?;
                views.push_part(record, from, *size);
            }
            Values::UuidOfBytes(views) => {
                let uuid = uuid::Uuid::from_bytes(cursor.array()?);
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                push_text(views, uuid.hyphenated().encode_lower(&mut text), side)?;
            }
            Values::Enum(symbols) => symbols.push(cursor.int()?, side)?,
            Values::Decimal { values, beyond, size } => {
                let length = match size {
                    Some(size) => *size,
                    None => cursor.length()?,
                };
                let value = whole_number(cursor.take(length)?).ok_or(Why::Range)?;
                if value.unsigned_abs() >= *beyond {
                    return Err(Why::Range);
                }
                values.push(value);
            }
            Values::Struct(columns) => columns
                .iter_mut()
                .try_for_each(|column| column.read(cursor, record, side))?,
            Values::List { offsets, item } => {
                read_blocks(cursor, |cursor| item.read(cursor, record, side))?;
                offsets.push(i32::try_from(item.rows()).map_err(|_beyond| Why::TooLong)?);
            }
            Values::Map { offsets, keys, value } => {
                read_blocks(cursor, |cursor| {
                    keys.read(cursor)?;
                    value.read(cursor, record, side)
                })?;
                offsets.push(i32::try_from(value.rows()).map_err(|_beyond| Why::TooLong)?);
            }
            Values::Text(_) | Values::I64(..) => unreachable!("read by the caller"),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        self.push_default();
        self.nulls.append_null();
    }

    /// Adds a row that nobody will read. It is never null where the column may not be.
    pub(super) fn push_filler(&mut self) {
        self.push_default();
        self.nulls.append(!self.field.is_nullable());
    }

    fn push_default(&mut self) {
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(bits) => bits.append(false),
            Values::I32(values, _) => values.push(0),
            Values::I64(values, _) => values.push(0),
            Values::F32(values) => values.push(0.0),
            Values::F64(values) => values.push(0.0),
            Values::Text(views) | Values::Bytes(views) | Values::Fixed(views, _) | Values::UuidOfBytes(views) => {
                views.push_empty();
            }
            Values::Enum(symbols) => symbols.views.push_empty(),
            Values::Decimal { values, .. } => values.push(0),
            Values::Struct(columns) => columns.iter_mut().for_each(Self::push_filler),
            Values::List { offsets, .. } | Values::Map { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
            }
        }
    }

    /// Forgets what came after the first `rows` rows, half of a row included.
    #[cold]
    pub(super) fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(bits) => bits.truncate(rows),
            Values::I32(values, _) => values.truncate(rows),
            Values::I64(values, _) => values.truncate(rows),
            Values::F32(values) => values.truncate(rows),
            Values::F64(values) => values.truncate(rows),
            Values::Text(views) | Values::Bytes(views) | Values::Fixed(views, _) | Values::UuidOfBytes(views) => {
                views.truncate(rows);
            }
            Values::Enum(symbols) => symbols.views.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Struct(columns) => columns.iter_mut().for_each(|column| column.truncate(rows)),
            Values::List { offsets, item } => item.truncate(ending(offsets, rows)),
            Values::Map { offsets, keys, value } => {
                let entries = ending(offsets, rows);
                keys.truncate(entries);
                value.truncate(entries);
            }
        }
    }

    /// Takes the rows as an array. `blocks` are the buffers that views may point into: the input's, and the side text.
    pub(super) fn finish(&mut self, blocks: &Arc<[Buffer]>) -> ArrayRef {
        let rows = self.rows();
        let nulls = self.nulls.finish();
        let data_type = self.field.data_type();
        macro_rules! primitive {
            ($type:ty, $values:expr) => {{
                let values: ScalarBuffer<<$type as ArrowPrimitiveType>::Native> = std::mem::take($values).into();
                Arc::new(PrimitiveArray::<$type>::new(values, nulls).with_data_type(data_type.clone()))
            }};
        }
        match &mut self.values {
            Values::Null => Arc::new(NullArray::new(rows)),
            Values::Boolean(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Values::I32(values, _) => match data_type {
                DataType::Date32 => primitive!(Date32Type, values),
                DataType::Time32(_) => primitive!(Time32MillisecondType, values),
                _ => primitive!(Int32Type, values),
            },
            Values::I64(values, _) => match data_type {
                DataType::Time64(_) => primitive!(Time64MicrosecondType, values),
                DataType::Timestamp(TimeUnit::Millisecond, _) => primitive!(TimestampMillisecondType, values),
                DataType::Timestamp(TimeUnit::Microsecond, _) => primitive!(TimestampMicrosecondType, values),
                DataType::Timestamp(..) => primitive!(TimestampNanosecondType, values),
                _ => primitive!(Int64Type, values),
            },
            Values::F32(values) => primitive!(Float32Type, values),
            Values::F64(values) => primitive!(Float64Type, values),
            Values::Text(views) | Values::UuidOfBytes(views) => Arc::new(views.finish(blocks, nulls)),
            Values::Bytes(views) | Values::Fixed(views, _) => Arc::new(views.finish_binary(blocks, nulls)),
            Values::Enum(symbols) => {
                symbols.forget();
                Arc::new(symbols.views.finish(blocks, nulls))
            }
            Values::Decimal { values, .. } => primitive!(Decimal128Type, values),
            Values::Struct(columns) if columns.is_empty() => Arc::new(StructArray::new_empty_fields(rows, nulls)),
            Values::Struct(columns) => {
                let fields: Fields = columns.iter().map(|column| Arc::clone(&column.field)).collect();
                let columns = columns.iter_mut().map(|column| column.finish(blocks)).collect();
                Arc::new(StructArray::new(fields, columns, nulls))
            }
            Values::List { offsets, item } => {
                let field = Arc::clone(&item.field);
                Arc::new(ListArray::new(field, taken(offsets), item.finish(blocks), nulls))
            }
            Values::Map { offsets, keys, value } => {
                let field = entries(&value.field);
                let fields = match field.data_type() {
                    DataType::Struct(fields) => fields.clone(),
                    _ => Fields::empty(),
                };
                let entries = StructArray::new(fields, vec![keys.finish(), value.finish(blocks)], None);
                Arc::new(MapArray::new(Arc::new(field), taken(offsets), entries, nulls, false))
            }
        }
    }
}

/// Reads the items of an array or a map. Each takes a byte at least, so that a count beyond the record ends with it.
fn read_blocks(cursor: &mut Cursor<'_>, mut item: impl FnMut(&mut Cursor<'_>) -> Result<(), Why>) -> Result<(), Why> {
    while let Some((count, end)) = cursor.block()? {
        for _ in 0..count {
            item(cursor)?;
        }
        if end.is_some_and(|end| end != cursor.at) {
            return Err(Why::Block);
        }
    }
    Ok(())
}
