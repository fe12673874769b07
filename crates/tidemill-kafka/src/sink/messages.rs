//! Rows as record keys and values, encoded where the rows are made and handed over by the buffer.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow_avro::errors::AvroError;
use tidemill_engine::error::{Error, Kind, Result};

use super::avro;
use super::config::{KafkaSinkConfig, ValueFormat};
use super::json::{Cells, Objects};
use crate::fetch::varint::put_varint;
use crate::murmur2;

/// The column that holds the value under [`ValueFormat::Raw`].
const VALUE_COLUMN: &str = "value";

/// How a record without headers ends: their number.
const NO_HEADERS: &[u8] = &[0];

/// Some encoded records, in order: of each its key, value and headers one after the other.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    partition: i32,
    key_len: Option<u32>,
    value_len: Option<u32>,
    headers_len: Option<u32>,
}

/// One record of [`Messages`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) partition: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// As a record ends with them: their number, and the headers.
    pub(super) headers: &'a [u8],
}

impl Message<'_> {
    /// Bytes of key, value and headers.
    pub(super) fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len()
    }
}

impl Messages {
    /// Appends a record without headers.
    pub(super) fn push(&mut self, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        let length = |part: Option<&[u8]>| part.and_then(|part| u32::try_from(part.len()).ok());
        self.entries.push(Entry {
            partition,
            key_len: length(key),
            value_len: length(value),
            headers_len: None,
        });
        for part in [key, value] {
            self.bytes.extend_from_slice(part.unwrap_or_default());
        }
    }

    /// Bytes of keys, values and headers.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets the records; their room is kept.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// The records.
    pub(super) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        let mut rest = self.bytes.as_slice();
        self.entries.iter().map(move |entry| {
            let mut take = |len: Option<u32>| {
                len.map(|len| {
                    let (taken, left) = rest.split_at(len as usize);
                    rest = left;
                    taken
                })
            };
            let (key, value) = (take(entry.key_len), take(entry.value_len));
            Message {
                partition: entry.partition,
                key,
                value,
                headers: take(entry.headers_len).unwrap_or(NO_HEADERS),
            }
        })
    }
}

/// Encodes the rows of one schema.
#[derive(Debug, Clone)]
pub(super) struct MessageEncoder {
    sink: Arc<str>,
    /// Columns of the value: all of the object's, or the one raw column.
    value: Vec<usize>,
    format: ValueFormat,
    /// The columns of the value under [`ValueFormat::Avro`], for which its schema is made.
    avro: Option<SchemaRef>,
    key: Option<usize>,
    headers: Option<usize>,
}

impl MessageEncoder {
    /// An encoder for rows of `schema`.
    ///
    /// # Errors
    /// `Refused`, naming the column, where one is missing or of a type that can't be written.
    pub(super) fn new(sink: &str, config: &KafkaSinkConfig, schema: &SchemaRef) -> Result<Self> {
        let refused = |text: String| Error::new(Kind::Refused, format!("sink {sink}: {text}"));
        let find = |what: &str, name: &str| {
            schema.index_of(name).map_err(|_absent| {
                let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                refused(format!(
                    "{what} column `{name}` is not among the columns {}",
                    columns.join(", ")
                ))
            })
        };
        let key = config.key.as_deref().map(|name| find("key", name)).transpose()?;
        let headers = config
            .headers
            .as_deref()
            .map(|name| find("headers", name))
            .transpose()?;
        if let Some(key) = key
            && !is_key(schema.field(key).data_type())
        {
            let field = schema.field(key);
            return Err(refused(format!(
                "key column `{}` of type {} can't be a key: cast it to VARCHAR or BINARY",
                field.name(),
                field.data_type()
            )));
        }
        if let Some(headers) = headers
            && !is_headers(schema.field(headers).data_type())
        {
            let field = schema.field(headers);
            return Err(refused(format!(
                "headers column `{}` of type {} is no list of structs of key (VARCHAR) and value (BINARY)",
                field.name(),
                field.data_type()
            )));
        }
        let value = match config.format {
            ValueFormat::Json | ValueFormat::Avro => (0..schema.fields().len())
                .filter(|column| Some(*column) != headers)
                .collect(),
            ValueFormat::Raw => {
                let value = find("raw", VALUE_COLUMN)?;
                if !is_text(schema.field(value).data_type()) && !is_binary(schema.field(value).data_type()) {
                    return Err(refused(format!(
                        "column `{VALUE_COLUMN}` of type {} is neither BINARY nor VARCHAR",
                        schema.field(value).data_type()
                    )));
                }
                let other = (0..schema.fields().len())
                    .find(|column| *column != value && Some(*column) != key && Some(*column) != headers);
                if let Some(other) = other {
                    return Err(refused(format!(
                        "format raw writes only the column `{VALUE_COLUMN}`: `{}` would be lost; \
                         leave it out of the query or use format json or avro",
                        schema.field(other).name()
                    )));
                }
                vec![value]
            }
        };
        let avro = (config.format == ValueFormat::Avro).then(|| avro::value_schema(schema, &value));
        let avro = avro
            .transpose()
            .map_err(|(column, why)| refused(format!("column `{column}` can't be written as Avro: {why}")))?;
        let encoder = Self {
            sink: Arc::from(sink),
            value,
            format: config.format,
            avro,
            key,
            headers,
        };
        if config.format == ValueFormat::Json {
            encoder.check_json(schema)?;
        }
        Ok(encoder)
    }

    /// The Avro schema of the values, in JSON, where they are Avro.
    pub(super) fn avro_schema(&self) -> Option<String> {
        self.avro.as_ref().and_then(avro::json)
    }

    fn check_json(&self, schema: &SchemaRef) -> Result<()> {
        let empty = RecordBatch::new_empty(Arc::clone(schema));
        for column in &self.value {
            let field = &schema.fields()[*column];
            Cells::new(field, empty.column(*column)).map_err(|error| {
                Error::with_source(
                    Kind::Refused,
                    format!("sink {}: column `{}` can't be written as JSON", self.sink, field.name()),
                    error,
                )
            })?;
        }
        Ok(())
    }

    /// Appends the rows from `first` on to `messages` until it holds `size_max` bytes; returns the row to go on with.
    ///
    /// A row without key goes to `partition`, one with a key to that of its key among `partitions`.
    ///
    /// # Errors
    /// `Data` where a key or value is longer than a record can be.
    pub(super) fn encode(
        &self,
        rows: &RecordBatch,
        first: usize,
        partition: i32,
        partitions: i32,
        size_max: usize,
        messages: &mut Messages,
    ) -> Result<usize> {
        let cannot = |error| Error::with_source(Kind::Bug, format!("sink {}: encoding rows", self.sink), error);
        let unfit = |error: AvroError| {
            let text = format!("sink {}: a value can't be written as Avro", self.sink);
            Error::with_source(Kind::Data, text, error)
        };
        let mut value = match (self.format, &self.avro) {
            (ValueFormat::Avro, Some(schema)) => {
                Value::Avro(Box::new(avro::Values::new(schema, rows, &self.value).map_err(unfit)?))
            }
            (ValueFormat::Json | ValueFormat::Avro, _) => {
                Value::Object(Objects::new(rows, &self.value).map_err(cannot)?)
            }
            (ValueFormat::Raw, _) => Value::Bytes(rows.column(self.value[0])),
        };
        let mut key = match self.key {
            None => None,
            Some(key) => Some(Key::new(rows, key).map_err(cannot)?),
        };
        let headers = self.headers.map(|column| rows.column(column).as_list::<i32>());
        let mut row = first;
        while row < rows.num_rows() && messages.bytes.len() < size_max {
            let start = messages.bytes.len();
            let has_key = key.as_mut().is_some_and(|key| key.write(row, &mut messages.bytes));
            let key_end = messages.bytes.len();
            let has_value = value.write(row, &mut messages.bytes).map_err(unfit)?;
            let value_end = messages.bytes.len();
            if let Some(headers) = headers {
                put_headers(headers, row, &mut messages.bytes);
            }
            let headers_end = messages.bytes.len();
            let entry = Entry {
                partition: if has_key {
                    murmur2::partition_of(&messages.bytes[start..key_end], partitions)
                } else {
                    partition
                },
                key_len: has_key.then(|| self.length(key_end - start)).transpose()?,
                value_len: has_value.then(|| self.length(value_end - key_end)).transpose()?,
                headers_len: headers.map(|_| self.length(headers_end - value_end)).transpose()?,
            };
            messages.entries.push(entry);
            row += 1;
        }
        Ok(row)
    }

    fn length(&self, length: usize) -> Result<u32> {
        u32::try_from(length).map_err(|_too_long| {
            Error::new(
                Kind::Data,
                format!("sink {}: a key or value of {length} bytes is no record", self.sink),
            )
        })
    }
}

enum Value<'a> {
    Object(Objects<'a>),
    Avro(Box<avro::Values>),
    Bytes(&'a ArrayRef),
}

impl Value<'_> {
    /// Appends the value of a row; false for a tombstone.
    fn write(&mut self, row: usize, out: &mut Vec<u8>) -> Result<bool, AvroError> {
        Ok(match self {
            Value::Object(objects) => {
                objects.write(row, out);
                true
            }
            Value::Avro(values) => {
                values.write(row, out)?;
                true
            }
            Value::Bytes(array) => bytes_at(array, row).is_some_and(|bytes| {
                out.extend_from_slice(bytes);
                true
            }),
        })
    }
}

enum Key<'a> {
    Bytes(&'a ArrayRef),
    /// Numbers, dates and the like: their JSON without quotes.
    Cells(Cells<'a>),
}

impl<'a> Key<'a> {
    fn new(rows: &'a RecordBatch, column: usize) -> Result<Self, arrow::error::ArrowError> {
        let array = rows.column(column);
        if is_text(array.data_type()) || is_binary(array.data_type()) {
            return Ok(Self::Bytes(array));
        }
        Ok(Self::Cells(Cells::new(&rows.schema_ref().fields()[column], array)?))
    }

    /// Appends the key of a row; false for none.
    fn write(&mut self, row: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Key::Bytes(array) => bytes_at(array, row).is_some_and(|bytes| {
                out.extend_from_slice(bytes);
                true
            }),
            Key::Cells(cells) => {
                if cells.is_null(row) {
                    return false;
                }
                let start = out.len();
                cells.write(row, out);
                if out[start] == b'"' {
                    out.pop();
                    out.remove(start);
                }
                true
            }
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

/// Types whose text is the same wherever it is made; floats and nested types are not.
fn is_key(data_type: &DataType) -> bool {
    is_text(data_type)
        || is_binary(data_type)
        || data_type.is_integer()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Decimal32(..)
                | DataType::Decimal64(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

fn is_headers(data_type: &DataType) -> bool {
    let DataType::List(item) = data_type else { return false };
    let DataType::Struct(fields) = item.data_type() else {
        return false;
    };
    fields.len() == 2
        && is_text(fields[0].data_type())
        && (is_binary(fields[1].data_type()) || is_text(fields[1].data_type()))
}

/// The bytes of a text or binary cell, `None` where it is NULL.
fn bytes_at(array: &ArrayRef, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).as_bytes(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).as_bytes(),
        DataType::Utf8View => array.as_string_view().value(row).as_bytes(),
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        _ => array.as_binary_view().value(row),
    })
}

/// Appends the number of headers and each of them.
fn put_headers(lists: &ListArray, row: usize, out: &mut Vec<u8>) {
    if lists.is_null(row) {
        out.extend_from_slice(NO_HEADERS);
        return;
    }
    let entries = lists.value(row);
    let entries = entries.as_struct();
    put_varint(out, entries.len() as i64);
    for entry in 0..entries.len() {
        let key = bytes_at(entries.column(0), entry).unwrap_or_default();
        let value = bytes_at(entries.column(1), entry);
        put_varint(out, key.len() as i64);
        out.extend_from_slice(key);
        put_varint(out, value.map_or(-1, |value| value.len() as i64));
        out.extend_from_slice(value.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringViewArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;
    use tidemill_engine::source::header_field;

    use super::*;

    fn encoder(config: &KafkaSinkConfig, rows: &RecordBatch) -> Result<MessageEncoder> {
        MessageEncoder::new("out", config, &rows.schema())
    }

    fn rows() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![Some(21), None])) as ArrayRef),
            ("name", Arc::new(StringViewArray::from(vec!["a", "b"]))),
        ])
        .unwrap()
    }

    #[test]
    fn a_key_chooses_the_partition_of_java_and_stays_in_the_value() {
        let config = KafkaSinkConfig {
            key: Some("id".to_owned()),
            ..KafkaSinkConfig::new("b:1", "t")
        };
        let mut messages = Messages::default();
        let next = encoder(&config, &rows())
            .unwrap()
            .encode(&rows(), 0, 5, 7, 1 << 20, &mut messages)
            .unwrap();
        assert_eq!(next, 2);
        let written: Vec<_> = messages.iter().collect();
        assert_eq!(
            written[0],
            Message {
                partition: (-973_932_308_i32 & 0x7fff_ffff) % 7,
                key: Some(b"21"),
                value: Some(br#"{"id":21,"name":"a"}"#),
                headers: NO_HEADERS,
            }
        );
        assert_eq!(
            written[1],
            Message {
                partition: 5,
                key: None,
                value: Some(br#"{"id":null,"name":"b"}"#),
                headers: NO_HEADERS,
            }
        );
    }

    #[test]
    fn encoding_stops_at_the_size_and_goes_on_there() {
        let encoder = encoder(&KafkaSinkConfig::new("b:1", "t"), &rows()).unwrap();
        let mut messages = Messages::default();
        assert_eq!(encoder.encode(&rows(), 0, 0, 1, 1, &mut messages).unwrap(), 1);
        assert_eq!(encoder.encode(&rows(), 1, 0, 1, 1 << 20, &mut messages).unwrap(), 2);
        assert_eq!(messages.iter().count(), 2);
    }

    #[test]
    fn a_raw_null_is_a_tombstone_and_an_empty_value_is_not() {
        let rows = RecordBatch::try_from_iter([(
            "value",
            Arc::new(arrow::array::BinaryArray::from(vec![
                Some(b"\xff".as_slice()),
                None,
                Some(b""),
            ])) as ArrayRef,
        )])
        .unwrap();
        let config = KafkaSinkConfig {
            format: ValueFormat::Raw,
            ..KafkaSinkConfig::new("b:1", "t")
        };
        let mut messages = Messages::default();
        encoder(&config, &rows)
            .unwrap()
            .encode(&rows, 0, 0, 1, 1 << 20, &mut messages)
            .unwrap();
        let values: Vec<_> = messages
            .iter()
            .map(|message| message.value.map(<[u8]>::to_vec))
            .collect();
        assert_eq!(values, [Some(vec![0xff]), None, Some(vec![])]);
    }

    #[test]
    fn headers_keep_order_repetition_and_nulls_and_leave_the_value() {
        let keys = Arc::new(arrow::array::StringArray::from(vec!["a", "a"])) as ArrayRef;
        let values = Arc::new(arrow::array::BinaryArray::from(vec![Some(b"1".as_slice()), None])) as ArrayRef;
        let DataType::Struct(fields) = header_field().data_type().clone() else {
            panic!("a struct")
        };
        let entries = StructArray::new(fields, vec![keys, values], None);
        let lists = ListArray::new(header_field(), OffsetBuffer::from_lengths([2]), Arc::new(entries), None);
        let rows = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("_headers", Arc::new(lists)),
        ])
        .unwrap();
        let config = KafkaSinkConfig {
            headers: Some("_headers".to_owned()),
            ..KafkaSinkConfig::new("b:1", "t")
        };
        let mut messages = Messages::default();
        encoder(&config, &rows)
            .unwrap()
            .encode(&rows, 0, 0, 1, 1 << 20, &mut messages)
            .unwrap();
        let message = messages.iter().next().unwrap();
        assert_eq!(message.value, Some(br#"{"n":1}"#.as_slice()));
        // Two headers: a = 1, a without a value. Lengths are zigzag numbers.
        assert_eq!(message.headers, [4, 2, b'a', 2, b'1', 2, b'a', 1]);
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_the_columns_name() {
        let rows = RecordBatch::try_from_iter([("f", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)]).unwrap();
        let refusal = |config: &KafkaSinkConfig| encoder(config, &rows).unwrap_err().chain();
        let base = KafkaSinkConfig::new("b:1", "t");
        let key = |name: &str| KafkaSinkConfig {
            key: Some(name.to_owned()),
            ..base.clone()
        };
        assert!(refusal(&key("absent")).contains("key column `absent` is not among the columns f"));
        assert!(refusal(&key("f")).contains("key column `f` of type Float64"));
        assert!(
            refusal(&KafkaSinkConfig {
                headers: Some("f".to_owned()),
                ..base.clone()
            })
            .contains("headers column `f`")
        );
        assert!(
            refusal(&KafkaSinkConfig {
                format: ValueFormat::Raw,
                ..base.clone()
            })
            .contains("`value`")
        );
        let fields = arrow::datatypes::UnionFields::from_fields([Field::new("a", DataType::Int32, false)]);
        let union = DataType::Union(fields, arrow::datatypes::UnionMode::Sparse);
        let rows = RecordBatch::try_from_iter([("u", arrow::array::new_empty_array(&union))]).unwrap();
        assert!(
            encoder(&base, &rows)
                .unwrap_err()
                .chain()
                .contains("column `u` can't be written as JSON")
        );
    }
}
