//! The bad records of a source as a table of their own, `<source>.dead_letter` (X17).
//!
//! Which records are bad depends on the columns that are read. With dead letters these are the same for every output of a
//! pipeline ([`same_for_all`](super::same_for_all::same_for_all)), so that in = out + skipped + dead letters holds for each of them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BinaryViewBuilder, Int32Array, Int64Builder, ListBuilder, RecordBatch,
    StringArray, StringBuilder, StructBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use tidemill_core::position::TopicPartition;

use crate::source::{RawRows, header_field};

/// The name of the table, and of the sink that takes it.
pub fn table_name(source: &str) -> String {
    format!("{source}.dead_letter")
}

/// The query for a sink of records: key and value as they came, the headers with what Tidemill knows of the record.
pub fn query_for_records(source: &str) -> String {
    format!(
        r#"SELECT "key", "value", annotated_headers AS headers FROM "{}""#,
        table_name(source)
    )
}

/// The query for a sink that people read: text where a key or value is text, base64 where it is not.
pub fn query_for_text(source: &str) -> String {
    format!(
        r#"SELECT "source", "topic", "partition", "offset", "timestamp", "reason", key_text AS "key",
           CASE WHEN key_text IS NULL THEN encode("key", 'base64') END AS key_base64, value_text AS "value",
           CASE WHEN value_text IS NULL THEN encode("value", 'base64') END AS value_base64, "headers" FROM "{}""#,
        table_name(source)
    )
}

/// Columns of the table.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let headers = |name: &str| Field::new(name, DataType::List(header_field()), false);
    Arc::new(Schema::new(vec![
        text("source", false),
        text("topic", false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        text("reason", false),
        Field::new("key", DataType::BinaryView, true),
        text("key_text", true),
        Field::new("value", DataType::BinaryView, true),
        text("value_text", true),
        headers("headers"),
        headers("annotated_headers"),
    ]))
}

/// A bad record.
#[derive(Debug)]
pub(super) struct DeadLetter {
    /// The record: one row.
    pub(super) record: RawRows,
    /// Why it is bad.
    pub(super) reason: String,
}

/// Dead letters as rows of [`schema`].
pub(super) fn rows(
    source: &str,
    partition: &TopicPartition,
    letters: &[DeadLetter],
) -> Result<RecordBatch, ArrowError> {
    let mut offsets = Int64Builder::new();
    let mut times = TimestampMillisecondBuilder::new();
    let mut keys = Part::default();
    let mut values = Part::default();
    let mut headers = headers_builder();
    let mut annotated = headers_builder();
    for DeadLetter { record, reason } in letters {
        let offset = record.offsets.value(0);
        offsets.append_value(offset);
        times.append_option(record.timestamps.as_ref().map(|times| times.value(0)));
        let key = record.keys.as_ref().filter(|keys| keys.is_valid(0));
        keys.push(key.map(|keys| keys.value(0)));
        let value = record.values.as_ref().filter(|values| values.is_valid(0));
        values.push(value.map(|values| values.value(0)));
        copy_headers(&mut headers, record)?;
        headers.append(true);
        copy_headers(&mut annotated, record)?;
        for (name, text) in [
            ("tidemill.source", source),
            ("tidemill.topic", &partition.topic),
            ("tidemill.partition", &partition.partition.to_string()),
            ("tidemill.offset", &offset.to_string()),
            ("tidemill.reason", reason),
        ] {
            push_header(&mut annotated, name, Some(text.as_bytes()))?;
        }
        annotated.append(true);
    }
    let same = |text: &str| Arc::new(StringArray::from_iter_values(letters.iter().map(|_letter| text))) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        same(source),
        same(&partition.topic),
        Arc::new(Int32Array::from_value(partition.partition, letters.len())),
        Arc::new(offsets.finish()),
        Arc::new(times.finish()),
        Arc::new(StringArray::from_iter_values(
            letters.iter().map(|letter| &letter.reason),
        )),
        Arc::new(keys.bytes.finish()),
        Arc::new(keys.text.finish()),
        Arc::new(values.bytes.finish()),
        Arc::new(values.text.finish()),
        Arc::new(headers.finish()),
        Arc::new(annotated.finish()),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Keys or values: their bytes, and their text where they are text.
#[derive(Debug, Default)]
struct Part {
    bytes: BinaryViewBuilder,
    text: StringBuilder,
}

impl Part {
    fn push(&mut self, bytes: Option<&[u8]>) {
        self.bytes.append_option(bytes);
        self.text
            .append_option(bytes.and_then(|bytes| str::from_utf8(bytes).ok()));
    }
}

fn headers_builder() -> ListBuilder<StructBuilder> {
    let field = header_field();
    let fields = match field.data_type() {
        DataType::Struct(fields) => fields.clone(),
        other => unreachable!("headers are structs, not {other}"),
    };
    let builders: Vec<Box<dyn arrow::array::ArrayBuilder>> =
        vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())];
    ListBuilder::new(StructBuilder::new(fields, builders)).with_field(field)
}

fn copy_headers(into: &mut ListBuilder<StructBuilder>, record: &RawRows) -> Result<(), ArrowError> {
    let Some(headers) = &record.headers else { return Ok(()) };
    let headers = headers.value(0);
    let headers = headers.as_struct();
    let (names, values) = (
        headers.column(0).as_string::<i32>(),
        headers.column(1).as_binary::<i32>(),
    );
    for at in 0..headers.len() {
        push_header(into, names.value(at), values.is_valid(at).then(|| values.value(at)))?;
    }
    Ok(())
}

fn push_header(into: &mut ListBuilder<StructBuilder>, name: &str, value: Option<&[u8]>) -> Result<(), ArrowError> {
    let header = into.values();
    let other = || ArrowError::SchemaError("headers are pairs of text and bytes".to_owned());
    header
        .field_builder::<StringBuilder>(0)
        .ok_or_else(other)?
        .append_value(name);
    header
        .field_builder::<BinaryBuilder>(1)
        .ok_or_else(other)?
        .append_option(value);
    header.append(true);
    Ok(())
}
