//! Rows as bytes that every later version reads: what groups and partial aggregates are kept as.
//!
//! Column after column: a byte that is 0 for NULL and 1 for a value, then the value. Numbers and times are their Arrow bytes,
//! little-endian; a boolean is a byte; texts and bytes are led by their length (`u32`). Any other type is a length and an Arrow
//! IPC stream of that one value.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, LargeBinaryArray, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, make_array, new_null_array,
};
use arrow::buffer::{MutableBuffer, NullBuffer};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Encodes and decodes rows of the same columns.
#[derive(Debug, Clone)]
pub(super) struct RowBytes {
    fields: Vec<FieldRef>,
}

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Fixed(usize),
    Boolean,
    Bytes,
    Ipc,
}

impl Layout {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => Self::Bytes,
            other => other.primitive_width().map_or(Self::Ipc, Self::Fixed),
        }
    }
}

/// The name of a type that tells whether bytes of one column can be read as another's: the layouts of text are one.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytes".to_owned(),
        other => other.to_string(),
    }
}

impl RowBytes {
    pub(super) fn new(fields: &[FieldRef]) -> Self {
        Self {
            fields: fields.to_vec(),
        }
    }

    /// The bytes of each row.
    pub(super) fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<Vec<u8>>, ArrowError> {
        let mut encoded = vec![Vec::new(); rows];
        for (field, column) in self.fields.iter().zip(columns) {
            match Layout::of(field.data_type()) {
                Layout::Fixed(width) => put_fixed(column, width, &mut encoded),
                Layout::Boolean => put(column.as_boolean().iter(), &mut encoded, |value, row| {
                    row.push(u8::from(value));
                    Ok(())
                })?,
                Layout::Bytes => put(bytes(column)?.into_iter(), &mut encoded, put_bytes)?,
                Layout::Ipc => {
                    let values = (0..column.len()).map(|at| column.is_valid(at).then(|| column.slice(at, 1)));
                    put(values, &mut encoded, |value, row| put_bytes(&ipc(field, value)?, row))?;
                }
            }
        }
        Ok(encoded)
    }

    /// The columns of these rows.
    pub(super) fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut rest: Vec<&[u8]> = rows.collect();
        let columns = self.fields.iter().map(|field| column(field, &mut rest)).collect();
        if rest.iter().any(|row| !row.is_empty()) {
            return Err(damaged());
        }
        columns
    }
}

fn damaged() -> ArrowError {
    ArrowError::ParseError("a kept row does not fit its columns".to_owned())
}

fn put<T>(
    values: impl Iterator<Item = Option<T>>,
    rows: &mut [Vec<u8>],
    mut one: impl FnMut(T, &mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    for (value, row) in values.zip(rows) {
        row.push(u8::from(value.is_some()));
        if let Some(value) = value {
            one(value, row)?;
        }
    }
    Ok(())
}

fn put_fixed(column: &ArrayRef, width: usize, rows: &mut [Vec<u8>]) {
    let data = column.to_data();
    let values = &data.buffers()[0].as_slice()[data.offset() * width..];
    for ((at, row), value) in rows.iter_mut().enumerate().zip(values.chunks_exact(width)) {
        let valid = column.is_valid(at);
        row.push(u8::from(valid));
        if valid {
            row.extend_from_slice(value);
        }
    }
}

fn put_bytes(value: &[u8], row: &mut Vec<u8>) -> Result<(), ArrowError> {
    let length = u32::try_from(value.len())
        .map_err(|_| ArrowError::InvalidArgumentError("a value beyond 4 GiB can't be kept".to_owned()))?;
    row.extend_from_slice(&length.to_le_bytes());
    row.extend_from_slice(value);
    Ok(())
}

/// The values of a column of texts or bytes.
fn bytes(column: &ArrayRef) -> Result<Vec<Option<&[u8]>>, ArrowError> {
    fn of_text(text: Option<&str>) -> Option<&[u8]> {
        text.map(str::as_bytes)
    }
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().map(of_text).collect(),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().map(of_text).collect(),
        DataType::Utf8View => column.as_string_view().iter().map(of_text).collect(),
        DataType::Binary => column.as_binary::<i32>().iter().collect(),
        DataType::LargeBinary => column.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => column.as_binary_view().iter().collect(),
        other => return Err(ArrowError::SchemaError(format!("{other} where text was planned"))),
    })
}

fn ipc(field: &FieldRef, value: ArrayRef) -> Result<Vec<u8>, ArrowError> {
    let schema = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&RecordBatch::try_new(schema, vec![value])?)?;
    writer.into_inner()
}

/// Takes the next column off all rows.
fn column(field: &FieldRef, rest: &mut [&[u8]]) -> Result<ArrayRef, ArrowError> {
    match Layout::of(field.data_type()) {
        Layout::Fixed(width) => fixed(field.data_type(), width, rest),
        Layout::Boolean => {
            let values = taken(rest, |row| take(row, 1))?;
            let values = values.into_iter().map(|value| value.map(|byte| byte == [1]));
            Ok(Arc::new(values.collect::<BooleanArray>()))
        }
        Layout::Bytes => of_bytes(field.data_type(), &taken(rest, take_bytes)?),
        Layout::Ipc => {
            let values = taken(rest, take_bytes)?;
            let arrays = values.into_iter().map(|value| match value {
                None => Ok(new_null_array(field.data_type(), 1)),
                Some(bytes) => of_ipc(bytes),
            });
            let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
            if arrays.is_empty() {
                return Ok(new_null_array(field.data_type(), 0));
            }
            concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        }
    }
}

fn take<'a>(row: &mut &'a [u8], length: usize) -> Result<&'a [u8], ArrowError> {
    let (value, after) = row.split_at_checked(length).ok_or_else(damaged)?;
    *row = after;
    Ok(value)
}

fn take_bytes<'a>(row: &mut &'a [u8]) -> Result<&'a [u8], ArrowError> {
    let (length, after) = row.split_first_chunk::<4>().ok_or_else(damaged)?;
    *row = after;
    take(row, u32::from_le_bytes(*length) as usize)
}

fn taken<'a>(
    rest: &mut [&'a [u8]],
    one: impl Fn(&mut &'a [u8]) -> Result<&'a [u8], ArrowError>,
) -> Result<Vec<Option<&'a [u8]>>, ArrowError> {
    rest.iter_mut()
        .map(|row| match take(row, 1)? {
            [0] => Ok(None),
            _ => one(row).map(Some),
        })
        .collect()
}

fn fixed(data_type: &DataType, width: usize, rest: &mut [&[u8]]) -> Result<ArrayRef, ArrowError> {
    let values = taken(rest, |row| take(row, width))?;
    let mut buffer = MutableBuffer::with_capacity(values.len() * width);
    for value in &values {
        match value {
            Some(value) => buffer.extend_from_slice(value),
            None => buffer.extend_zeros(width),
        }
    }
    let nulls = NullBuffer::from_iter(values.iter().map(Option::is_some));
    let data = arrow::array::ArrayData::builder(data_type.clone())
        .len(values.len())
        .add_buffer(buffer.into())
        .nulls(Some(nulls))
        .build()?;
    Ok(make_array(data))
}

fn of_bytes(data_type: &DataType, values: &[Option<&[u8]>]) -> Result<ArrayRef, ArrowError> {
    let bytes = values.iter().copied();
    let texts = || {
        let texts = values.iter().map(|value| value.map(str::from_utf8).transpose());
        let texts: Result<Vec<Option<&str>>, _> = texts.collect();
        texts.map_err(|_| damaged())
    };
    Ok(match data_type {
        DataType::Utf8 => Arc::new(StringArray::from(texts()?)),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from(texts()?)),
        DataType::Utf8View => Arc::new(StringViewArray::from(texts()?)),
        DataType::Binary => Arc::new(bytes.collect::<BinaryArray>()),
        DataType::LargeBinary => Arc::new(bytes.collect::<LargeBinaryArray>()),
        _ => Arc::new(bytes.collect::<BinaryViewArray>()),
    })
}

fn of_ipc(bytes: &[u8]) -> Result<ArrayRef, ArrowError> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let rows = reader.next().ok_or_else(damaged)??;
    match rows.columns() {
        [column] if column.len() == 1 => Ok(Arc::clone(column)),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, Int64Array, ListArray, TimestampMillisecondArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn columns() -> Vec<ArrayRef> {
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
            Arc::new(Float64Array::from(vec![0.5, f64::NAN, -0.0])),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            Arc::new(StringViewArray::from(vec![
                Some("a text beyond twelve bytes"),
                Some(""),
                None,
            ])),
            Arc::new(StringArray::from(vec![None, Some("ü"), Some("x")])),
            Arc::new(BinaryArray::from(vec![Some([0_u8, 255].as_slice()), None, Some(&[])])),
            Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3]).with_timezone("+00:00")),
            Arc::new(
                Decimal128Array::from(vec![Some(12345), None, Some(-1)])
                    .with_precision_and_scale(20, 3)
                    .expect("fits"),
            ),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
                Some(vec![Some(1), None]),
                None,
                Some(vec![]),
            ])),
        ]
    }

    fn codec(columns: &[ArrayRef]) -> RowBytes {
        let field = |column: &ArrayRef| Arc::new(Field::new("c", column.data_type().clone(), true));
        RowBytes::new(&columns.iter().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn every_type_comes_back() {
        let columns = columns();
        let rows = codec(&columns).encode(&columns, 3).expect("encoded");
        let back = codec(&columns).decode(rows.iter().map(Vec::as_slice)).expect("decoded");
        assert_eq!(format!("{back:?}"), format!("{columns:?}"));
        let sliced: Vec<ArrayRef> = columns.iter().map(|column| column.slice(1, 2)).collect();
        assert_eq!(codec(&columns).encode(&sliced, 2).expect("encoded"), rows[1..]);
    }

    /// What is kept by one version is read by every later one.
    #[test]
    fn the_bytes_stay_the_same() {
        let columns: Vec<ArrayRef> = columns().into_iter().take(5).collect();
        let rows = codec(&columns).encode(&columns, 3).expect("encoded");
        let expected: &[u8] = b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\x80\0\0\x01\x01\0\0\0x";
        assert_eq!(rows[2], expected);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let columns = columns();
        let codec = codec(&columns);
        let row = codec.encode(&columns, 3).expect("encoded").swap_remove(0);
        for end in 0..row.len() {
            assert!(codec.decode([&row[..end]].into_iter()).is_err(), "{end}");
        }
        let longer = [row.as_slice(), &[0]].concat();
        assert!(codec.decode([longer.as_slice()].into_iter()).is_err());
    }

    #[test]
    fn layouts_of_text_have_one_name() {
        assert_eq!(type_name(&DataType::Utf8View), type_name(&DataType::Utf8));
        assert_eq!(type_name(&DataType::Int64), "Int64");
    }
}
