//! Values of a program as rows of declared columns.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt8Type};
use arrow::error::ArrowError;
use arrow::json::{ReaderBuilder, StructMode};
use serde::Serialize;
use tidemill_engine::error::{Error, Kind, Result};

use super::fraction::refuse_fractions;
use crate::batch::Batch;
use crate::outcome::guarded_call;
use crate::output::Handed;

/// Rows that are encoded at once.
pub(crate) const ROWS_MAX: usize = 8192;

/// Makes rows of values: a struct or map gives columns by name, a tuple by place.
#[derive(Debug)]
pub(crate) struct RowEncoder {
    schema: SchemaRef,
    /// What values are decoded as: all columns nullable, so that a missing value can be told by its column, and bytes as the lists of
    /// numbers that serde makes of them.
    decoded: SchemaRef,
}

impl RowEncoder {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let decoded = schema.fields().iter().map(decoded_as).collect::<Vec<_>>();
        Self {
            schema,
            decoded: Arc::new(Schema::new(decoded)),
        }
    }

    /// The values as rows, so many at once.
    pub(crate) fn encode<T: Serialize>(&self, values: &[T]) -> Result<Vec<RecordBatch>> {
        let Some(first) = values.first() else {
            return Ok(Vec::new());
        };
        // A struct and a tuple are told apart by what serde makes of one.
        let by_place = serde_json::to_value(first).is_ok_and(|value| value.is_array());
        let mode = if by_place {
            StructMode::ListOnly
        } else {
            StructMode::ObjectOnly
        };
        let mut decoder = ReaderBuilder::new(Arc::clone(&self.decoded))
            .with_batch_size(ROWS_MAX)
            .with_strict_mode(true)
            .with_struct_mode(mode)
            .build_decoder()
            .map_err(unfit)?;
        let mut rows = Vec::new();
        for values in values.chunks(ROWS_MAX) {
            refuse_fractions(values, &self.schema)?;
            decoder.serialize(values).map_err(unfit)?;
            if let Some(decoded) = decoder.flush().map_err(unfit)? {
                rows.push(self.declared(&decoded)?);
            }
        }
        Ok(rows)
    }

    /// The rows with the columns as they were declared.
    fn declared(&self, decoded: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(decoded.num_columns());
        for (field, column) in self.schema.fields().iter().zip(decoded.columns()) {
            if !field.is_nullable() && column.null_count() > 0 {
                let text = format!("column {} is NOT NULL, and a value has none for it", field.name());
                return Err(Error::new(Kind::UserCode, text));
            }
            columns.push(match field.data_type() {
                DataType::BinaryView => bytes(column),
                _ => Arc::clone(column),
            });
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Error::with_source(Kind::Bug, "rows of declared columns", error))
    }
}

fn decoded_as(field: &FieldRef) -> Field {
    let data_type = match field.data_type() {
        DataType::BinaryView => DataType::List(Arc::new(Field::new("byte", DataType::UInt8, false))),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

fn unfit(error: ArrowError) -> Error {
    Error::with_source(Kind::UserCode, "a value does not fit the columns", error)
}

fn bytes(lists: &ArrayRef) -> ArrayRef {
    let lists = lists.as_list::<i32>();
    let numbers = lists.values().as_primitive::<UInt8Type>().values();
    let mut bytes = BinaryViewBuilder::with_capacity(lists.len());
    for (row, ends) in lists.value_offsets().windows(2).enumerate() {
        if lists.is_null(row) {
            bytes.append_null();
        } else {
            let at = |offset: i32| usize::try_from(offset).unwrap_or(0);
            bytes.append_value(&numbers[at(ends[0])..at(ends[1])]);
        }
    }
    Arc::new(bytes.finish())
}

impl<T: Serialize + Send + 'static> Handed<T> for RowEncoder {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn begin(&self, _batch: Option<&Batch<T>>) {}

    fn rows(&self, _slice: usize, values: Vec<T>) -> Result<Vec<RecordBatch>> {
        // What a value becomes is told by its type's own code.
        guarded_call(|| self.encode(&values))
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use tidemill_engine::format::parse_columns;

    use super::*;

    fn rows<T: Serialize>(columns: &str, values: &[T]) -> Result<String> {
        let encoder = RowEncoder::new(parse_columns(columns).unwrap());
        let rows = encoder.encode(values)?;
        assert!(rows.iter().all(|rows| rows.schema() == encoder.schema));
        let table = pretty_format_batches(&rows).unwrap().to_string();
        let lines = table.lines().skip(3).filter(|line| line.starts_with('|'));
        Ok(lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("\n"))
    }

    #[derive(Serialize)]
    struct Ad {
        views: Option<u64>,
        ad: &'static str,
        raw: Option<Vec<u8>>,
    }

    const COLUMNS: &str = "ad VARCHAR NOT NULL, views BIGINT, raw BINARY, at TIMESTAMP(3)";

    #[test]
    fn a_struct_gives_columns_by_name() {
        let ads = [(Some(3), Some(vec![0, 255])), (None, None)].map(|(views, raw)| Ad { ad: "a", views, raw });
        assert_eq!(rows(COLUMNS, &ads).unwrap(), "| a | 3 | 00ff | |\n| a | | | |");
    }

    #[test]
    fn a_tuple_gives_columns_by_place() {
        let counts = [("a", 1u64, 1.5f64, 1_000i64), ("b", 2, 2.5, -1)];
        assert_eq!(
            rows("ad VARCHAR, views INT, rate DOUBLE, at TIMESTAMP(3)", &counts).unwrap(),
            "| a | 1 | 1.5 | 1970-01-01T00:00:01 |\n| b | 2 | 2.5 | 1969-12-31T23:59:59.999 |"
        );
    }

    #[test]
    fn more_rows_than_are_encoded_at_once_keep_their_order() {
        let numbers: Vec<(usize,)> = (0..=ROWS_MAX).map(|number| (number,)).collect();
        let encoder = RowEncoder::new(parse_columns("number BIGINT").unwrap());
        let rows = encoder.encode(&numbers).unwrap();
        let counts: Vec<usize> = rows.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(counts, [ROWS_MAX, 1]);
        let last = rows[1].column(0).as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(last.value(0), 8192);
    }

    #[track_caller]
    fn refused<T: Serialize>(columns: &str, value: T, words: &[&str]) {
        let error = rows(columns, &[value]).unwrap_err();
        assert_eq!(error.kind(), Kind::UserCode);
        let text = error.chain();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn a_fraction_is_not_cut_off() {
        refused(
            "ad VARCHAR, views BIGINT",
            ("a", 1.5),
            &["column views BIGINT", "1.5 is no whole number"],
        );
        refused(
            "ad VARCHAR, views INT UNSIGNED",
            ("a", Some(0.5f32)),
            &["column views INT UNSIGNED", "0.5"],
        );
        refused(
            "ad VARCHAR, at TIMESTAMP(3)",
            ("a", 1.25),
            &["column at TIMESTAMP(3)", "1.25"],
        );
        refused("day DATE", (f64::NAN,), &["column day DATE", "NaN"]);
        refused("views BIGINT", [1.5], &["column views", "1.5"]);
        refused("views BIGINT", vec![1e-30], &["column views"]);
        refused(
            "ad VARCHAR, views BIGINT",
            std::collections::BTreeMap::from([("views", 2.5)]),
            &["column views", "2.5"],
        );
        #[derive(Serialize)]
        struct Views(f64);
        #[derive(Serialize)]
        struct Ad {
            rate: f64,
            views: Views,
        }
        let ad = |views| Ad {
            rate: 0.5,
            views: Views(views),
        };
        refused("views BIGINT, rate DOUBLE", ad(2.5), &["column views", "2.5"]);
        assert_eq!(rows("views BIGINT, rate DOUBLE", &[ad(2.0)]).unwrap(), "| 2 | 0.5 |");
        assert_eq!(
            rows("rate DOUBLE, price DECIMAL(5, 2)", &[(0.5, 1.25)]).unwrap(),
            "| 0.5 | 1.25 |"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_by_its_column() {
        refused("ad VARCHAR, views BIGINT", ("a", "many"), &["views", "many"]);
        refused("ad VARCHAR, views INT", ("a", i64::MAX), &["views", "Int32"]);
        refused("ad VARCHAR, views INT", (1, 1), &["ad", "string"]);
        refused("ad VARCHAR, raw BINARY", ("a", "text"), &["raw"]);
        refused("ad VARCHAR NOT NULL", (None::<String>,), &["ad", "NOT NULL"]);
        refused("ad VARCHAR", ("a", 1), &["1 fields"]);
        let ad = Ad {
            ad: "a",
            views: None,
            raw: None,
        };
        refused("ad VARCHAR, views BIGINT", ad, &["raw"]);
        refused("ad VARCHAR", 7, &["7"]);
    }
}
