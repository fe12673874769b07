//! Rows as CSV by RFC 4180, lines ended by a line feed, with a line of the columns' names before them.
//!
//! A NULL is an empty field, an empty text is one of two quotes: arrow-csv and the crate `csv` below it write both alike. Values
//! stand as the CSV source reads them, which is as JSON has them without a string's quotes; NaN and the infinities are empty,
//! as JSON's `null` is.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Writes rows of one schema.
pub(super) struct CsvWriter<W: Write> {
    out: BufWriter<W>,
    line: String,
    cell: String,
}

/// Looks whether a CSV file can hold such rows.
///
/// # Errors
/// The column that can't be written, and why.
pub(super) fn check(schema: &Schema) -> Result<(), String> {
    for field in schema.fields() {
        if !can_hold(field.data_type()) {
            return Err(format!(
                "column {} of type {} can't be written as csv: it has no values of that type. Cast it in the query, or use \
                 format json or parquet",
                field.name(),
                field.data_type()
            ));
        }
    }
    match schema.fields().as_ref() {
        [only] if only.is_nullable() => Err(format!(
            "column {} can't be written as csv alone: its NULLs would be empty lines, which readers leave out. Add a column \
             to the query, or use format json or parquet",
            only.name()
        )),
        _ => Ok(()),
    }
}

fn can_hold(data_type: &DataType) -> bool {
    data_type.is_numeric()
        || is_text(data_type)
        || matches!(
            data_type,
            DataType::Boolean | DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..)
        )
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl<W: Write> CsvWriter<W> {
    /// Writes the names of the columns.
    ///
    /// # Errors
    /// Those of `out`.
    pub(super) fn new(out: W, schema: &Schema) -> io::Result<Self> {
        let mut writer = Self {
            out: BufWriter::new(out),
            line: String::new(),
            cell: String::new(),
        };
        for (at, field) in schema.fields().iter().enumerate() {
            writer.separate(at);
            push_text(field.name(), &mut writer.line);
        }
        writer.end_line()?;
        Ok(writer)
    }

    /// Writes rows.
    ///
    /// # Errors
    /// Those of `out`, and a value that has no text.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let options = FormatOptions::new();
        let columns = rows
            .columns()
            .iter()
            .map(|column| Ok((column, ArrayFormatter::try_new(column, &options)?)))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        for row in 0..rows.num_rows() {
            for (at, (column, formatter)) in columns.iter().enumerate() {
                self.separate(at);
                if !is_empty(column, row) {
                    self.cell.clear();
                    write!(self.cell, "{}", formatter.value(row))
                        .map_err(|error| ArrowError::CsvError(error.to_string()))?;
                    if is_text(column.data_type()) {
                        push_text(&self.cell, &mut self.line);
                    } else {
                        self.line.push_str(&self.cell);
                    }
                }
            }
            self.end_line()?;
        }
        Ok(())
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Those of `out`.
    pub(super) fn into_inner(self) -> io::Result<W> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn separate(&mut self, column: usize) {
        if column > 0 {
            self.line.push(',');
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }
}

fn is_empty(column: &ArrayRef, row: usize) -> bool {
    column.is_null(row)
        || match column.data_type() {
            DataType::Float32 => !column.as_primitive::<Float32Type>().value(row).is_finite(),
            DataType::Float64 => !column.as_primitive::<Float64Type>().value(row).is_finite(),
            _ => false,
        }
}

/// In quotes where it must, and where it is empty.
fn push_text(text: &str, line: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for (at, part) in text.split('"').enumerate() {
        if at > 0 {
            line.push_str("\"\"");
        }
        line.push_str(part);
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, StringViewArray, TimestampMillisecondArray,
    };
    use arrow::datatypes::Field;

    use super::*;

    fn text(columns: Vec<(&str, ArrayRef)>) -> String {
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = CsvWriter::new(Vec::new(), &rows.schema()).unwrap();
        writer.write(&rows).unwrap();
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn null_and_empty_text_are_told_apart_and_quotes_stand_where_they_must() {
        let words = StringViewArray::from(vec![
            Some("plain"),
            None,
            Some(""),
            Some("a,b"),
            Some("say \"hi\""),
            Some("two\nlines"),
        ]);
        let numbers = Int64Array::from(vec![Some(1), None, Some(-3), Some(4), Some(5), Some(6)]);
        let written = text(vec![
            ("n", Arc::new(numbers) as ArrayRef),
            ("a \"word\"", Arc::new(words)),
        ]);
        assert_eq!(
            written,
            "n,\"a \"\"word\"\"\"\n1,plain\n,\n-3,\"\"\n4,\"a,b\"\n5,\"say \"\"hi\"\"\"\n6,\"two\nlines\"\n"
        );
    }

    #[test]
    fn values_stand_as_they_are_read() {
        let decimal = Decimal128Array::from(vec![-12_345])
            .with_precision_and_scale(10, 2)
            .unwrap();
        let written = text(vec![
            ("f", Arc::new(Float64Array::from(vec![1e300])) as ArrayRef),
            ("nan", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("d", Arc::new(Date32Array::from(vec![-1]))),
            ("t", Arc::new(TimestampMillisecondArray::from(vec![1_795_428_930_250]))),
            (
                "z",
                Arc::new(TimestampMillisecondArray::from(vec![1_795_428_930_250]).with_timezone("UTC")),
            ),
            ("dec", Arc::new(decimal)),
        ]);
        let line = written.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "1e300,,1969-12-31,2026-11-23T10:15:30.250,2026-11-23T10:15:30.250Z,-123.45"
        );
    }

    #[test]
    fn what_a_file_cannot_hold_is_refused_by_the_columns_name() {
        let problem = |data_type| {
            let fields = vec![Field::new("n", DataType::Int64, true), Field::new("x", data_type, true)];
            check(&Schema::new(fields)).unwrap_err()
        };
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        for data_type in [DataType::BinaryView, DataType::Binary, DataType::List(item)] {
            assert!(problem(data_type).starts_with("column x of type "));
        }
        let alone = |nullable| check(&Schema::new(vec![Field::new("n", DataType::Int64, nullable)]));
        assert!(
            alone(true)
                .unwrap_err()
                .starts_with("column n can't be written as csv alone")
        );
        assert!(alone(false).is_ok());
    }
}
