//! Rows as Avro's binary encoding, a value per row, without a header: no registry is asked, so that there is no schema id.
//!
//! The schema comes from the query's columns alone, never from the rows at hand, so that a sink's records have one schema.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use arrow_avro::errors::AvroError;
use arrow_avro::schema::SCHEMA_METADATA_KEY;
use arrow_avro::writer::format::AvroBinaryFormat;
use arrow_avro::writer::{EncodedRows, Encoder, WriterBuilder};

/// Rows that are encoded at once.
const STEP_ROWS: usize = 256;

/// The columns of the values, in a schema that [`Values`] can write.
///
/// # Errors
/// The first column that Avro has no type for, and why.
pub(super) fn value_schema(schema: &Schema, columns: &[usize]) -> Result<SchemaRef, (String, String)> {
    let fields: Vec<FieldRef> = columns.iter().map(|column| plain(schema.field(*column))).collect();
    for field in &fields {
        let wrong = |why: String| (field.name().clone(), why);
        check_type(field).map_err(wrong)?;
        let one = Arc::new(Schema::new(vec![Arc::clone(field)]));
        let row = new_null_array(field.data_type(), usize::from(field.is_nullable()));
        let row = RecordBatch::try_new(Arc::clone(&one), vec![row]).map_err(|error| wrong(error.to_string()))?;
        let encoded = encoder(&one).and_then(|mut encoder| encoder.encode(&row));
        encoded.map_err(|error| wrong(error.to_string()))?;
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The Avro schema of the values, in JSON.
pub(super) fn json(schema: &SchemaRef) -> Option<String> {
    let encoder = encoder(schema).ok()?;
    encoder.schema().metadata().get(SCHEMA_METADATA_KEY).cloned()
}

fn encoder(schema: &SchemaRef) -> Result<Encoder, AvroError> {
    WriterBuilder::new(schema.as_ref().clone()).build_encoder::<AvroBinaryFormat>()
}

/// A field without notes, which could name other types.
fn plain(field: &Field) -> FieldRef {
    Arc::new(Field::new(field.name(), field.data_type().clone(), field.is_nullable()))
}

/// What the encoder would write although it does not come back: names that Avro does not take and would be changed, and
/// types whose values it cuts or writes as others.
fn check_type(field: &Field) -> Result<(), String> {
    let name = field.name();
    let mut letters = name.chars();
    let begins = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        return Err(format!(
            "`{name}` is no name in Avro, which takes letters, digits and _; name it by AS"
        ));
    }
    match field.data_type() {
        DataType::UInt64 => {
            Err("Avro has no whole numbers beyond BIGINT; cast it to BIGINT or DECIMAL(20, 0)".to_owned())
        }
        DataType::Time64(TimeUnit::Nanosecond) => Err("Avro's times have microseconds; cast it to TIME(6)".to_owned()),
        DataType::Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime | IntervalUnit::MonthDayNano)
        | DataType::Duration(_)
        | DataType::Date64
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Dictionary(..) => Err("Avro has no such type; cast it to VARCHAR".to_owned()),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check_type(field)),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => check_type(item),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                if !matches!(fields[0].data_type(), DataType::Utf8 | DataType::LargeUtf8) {
                    return Err("the keys of Avro's maps are texts (Utf8); cast the map".to_owned());
                }
                check_type(&fields[1])
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The values of some rows, encoded a step at a time: a message is often full before the rows end.
pub(super) struct Values {
    encoder: Encoder,
    rows: RecordBatch,
    encoded: EncodedRows,
    /// The first row that is encoded.
    first: usize,
}

impl Values {
    /// The columns `columns` of `rows`, which `schema` was made from.
    ///
    /// # Errors
    /// Rows that are not of the schema.
    pub(super) fn new(schema: &SchemaRef, rows: &RecordBatch, columns: &[usize]) -> Result<Self, AvroError> {
        let columns: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let mut encoder = encoder(schema)?;
        // The encoder wants its own notes on the schema.
        let rows =
            RecordBatch::try_new(encoder.schema(), columns).map_err(|error| AvroError::External(Box::new(error)))?;
        let encoded = encoder.flush();
        Ok(Self {
            encoder,
            rows,
            encoded,
            first: 0,
        })
    }

    /// Appends the value of a row.
    ///
    /// # Errors
    /// A value that Avro can't hold: a time beyond its unit.
    pub(super) fn write(&mut self, row: usize, out: &mut Vec<u8>) -> Result<(), AvroError> {
        if row < self.first || row >= self.first + self.encoded.len() {
            let rows = STEP_ROWS.min(self.rows.num_rows() - row);
            self.encoder.encode(&self.rows.slice(row, rows))?;
            self.encoded = self.encoder.flush();
            self.first = row;
        }
        let ends = &self.encoded.offsets()[row - self.first..];
        out.extend_from_slice(&self.encoded.bytes()[ends[0]..ends[1]]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};

    use super::*;

    fn rows() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("word", DataType::Utf8View, true),
        ]);
        let words = StringViewArray::from_iter((0..600).map(|n| (n % 3 > 0).then(|| format!("w{n}"))));
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(Int64Array::from_iter_values(0..600)), Arc::new(words)],
        )
        .unwrap()
    }

    #[test]
    fn values_are_the_bytes_that_the_specification_gives() {
        let rows = rows();
        let schema = value_schema(&rows.schema(), &[0, 1]).unwrap();
        let mut values = Values::new(&schema, &rows, &[0, 1]).unwrap();
        let mut of = |row| {
            let mut out = Vec::new();
            values.write(row, &mut out).unwrap();
            out
        };
        // 0; the branch of null. 1; the branch of a text, its length, it. 599 = zigzag 1198 in two bytes.
        assert_eq!(of(0), [0, 0]);
        assert_eq!(of(1), [2, 2, 4, b'w', b'1']);
        assert_eq!(of(599), [0xae, 0x09, 2, 8, b'w', b'5', b'9', b'9']);
        assert_eq!(of(256), [0x80, 0x04, 2, 8, b'w', b'2', b'5', b'6']);
        assert_eq!(of(255), [0xfe, 0x03, 0]);
    }

    #[test]
    fn the_schema_is_that_of_the_query_and_not_of_the_rows() {
        let declared = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let rows = rows();
        let schema = value_schema(&declared, &[0]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json(&schema).unwrap()).unwrap();
        assert_eq!(
            json["fields"],
            serde_json::json!([{"name": "n", "type": ["null", "long"]}])
        );
        let mut out = Vec::new();
        Values::new(&schema, &rows, &[0]).unwrap().write(1, &mut out).unwrap();
        assert_eq!(out, [2, 2], "with its branch, although these rows have no NULL");
    }

    #[test]
    fn what_does_not_come_back_is_refused_by_the_columns_name() {
        let utf8 = |name: &str| Field::new(name, DataType::Utf8, true);
        for (field, why) in [
            (Field::new("big", DataType::UInt64, true), "beyond BIGINT"),
            (
                Field::new("at", DataType::Time64(TimeUnit::Nanosecond), true),
                "TIME(6)",
            ),
            (
                Field::new("gap", DataType::Duration(TimeUnit::Second), true),
                "no such type",
            ),
            (utf8("count(*)"), "name it by AS"),
            (utf8("1st"), "name it by AS"),
            (
                Field::new("pair", DataType::Struct(vec![utf8("a b")].into()), true),
                "`a b` is no name",
            ),
        ] {
            let name = field.name().clone();
            let (column, problem) = value_schema(&Schema::new(vec![utf8("fine"), field]), &[0, 1]).unwrap_err();
            assert_eq!(column, name);
            assert!(problem.contains(why), "{problem}");
        }
    }
}
