//! The columns of a table, as the pipeline file declares them: `"user_id VARCHAR, event_time TIMESTAMP(3)"`.
//!
//! Read with the parser that reads the queries, so that names are quoted and types spelled alike in both; but names keep
//! their case without quotes, since they are the field names of records.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{ColumnDef, ColumnOption, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::error::{Error, Kind, Result};

/// Columns that every Kafka table has beside its own.
pub const METADATA_COLUMNS: [&str; 6] = ["_topic", "_partition", "_offset", "_timestamp", "_key", "_headers"];

const KNOWN_TYPES: &str = "VARCHAR (TEXT, STRING), BINARY (BYTEA), BOOLEAN, TINYINT, SMALLINT, INT, BIGINT (each with UNSIGNED), \
                           REAL (FLOAT), DOUBLE, DECIMAL(p, s), DATE, TIMESTAMP(0 | 3 | 6 | 9) [WITH TIME ZONE]";

/// Values nest no deeper in a declaration; the parser refuses the rest.
const NESTING_MAX: usize = 20;

/// Reads a `columns` declaration into an Arrow schema. A column is nullable unless it says `NOT NULL`.
///
/// TIMESTAMP without a precision is TIMESTAMP(3), FLOAT is REAL as in the queries, DECIMAL without figures is DECIMAL(38, 10).
///
/// # Errors
/// `Config`, naming each column that can't be used with its type, and what is known.
pub fn parse(columns: &str) -> Result<SchemaRef> {
    let mut problems = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    for definition in definitions(columns)? {
        let name = definition.name.value.clone();
        if fields.iter().any(|field| *field.name() == name) {
            problems.push(format!("column {name} is declared twice"));
        }
        if METADATA_COLUMNS.contains(&name.as_str()) {
            problems.push(format!(
                "column {name}: the table has it already, as one of {}",
                METADATA_COLUMNS.join(", ")
            ));
        }
        match field(&definition) {
            Ok(field) => fields.push(field),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(Arc::new(Schema::new(fields)))
    } else {
        Err(Error::new(Kind::Config, problems.join("; ")))
    }
}

/// The spelling of a type in a pipeline file, for messages.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8View | DataType::Utf8 => "VARCHAR".into(),
        DataType::BinaryView | DataType::Binary => "BINARY".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 => "TINYINT UNSIGNED".into(),
        DataType::UInt16 => "SMALLINT UNSIGNED".into(),
        DataType::UInt32 => "INT UNSIGNED".into(),
        DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 => "DATE".into(),
        DataType::Time32(TimeUnit::Second) => "TIME(0)".into(),
        DataType::Time32(_) => "TIME(3)".into(),
        DataType::Time64(TimeUnit::Microsecond) => "TIME(6)".into(),
        DataType::Time64(_) => "TIME(9)".into(),
        DataType::Timestamp(unit, zone) => {
            let precision = match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            let zone = if zone.is_some() { " WITH TIME ZONE" } else { "" };
            format!("TIMESTAMP({precision}){zone}")
        }
        other => other.to_string(),
    }
}

fn definitions(columns: &str) -> Result<Vec<ColumnDef>> {
    let unreadable = |error| {
        Error::with_source(
            Kind::Config,
            format!("columns can't be read, wanted `name TYPE, name TYPE`; the types are {KNOWN_TYPES}"),
            error,
        )
    };
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(NESTING_MAX)
        .try_with_sql(&format!("({columns}\n)"))
        .map_err(unreadable)?;
    let (definitions, constraints) = parser.parse_columns().map_err(unreadable)?;
    let rest = parser.peek_token();
    if rest.token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(Error::new(
            Kind::Config,
            format!("columns: `{rest}` stands after the last column"),
        ));
    }
    if let Some(constraint) = constraints.first() {
        return Err(Error::new(
            Kind::Config,
            format!("columns: `{constraint}` is not a column; only NOT NULL is known"),
        ));
    }
    if definitions.is_empty() {
        return Err(Error::new(
            Kind::Config,
            "columns is empty, wanted `name TYPE, name TYPE`",
        ));
    }
    Ok(definitions)
}

fn field(definition: &ColumnDef) -> Result<Field, String> {
    let name = &definition.name.value;
    let mut nullable = true;
    for option in &definition.options {
        match option.option {
            ColumnOption::NotNull => nullable = false,
            ColumnOption::Null => nullable = true,
            _ => {
                return Err(format!(
                    "column {name}: `{option}` is not known; NOT NULL is the only option"
                ));
            }
        }
    }
    let data_type = arrow_type(&definition.data_type).map_err(|problem| format!("column {name}: {problem}"))?;
    Ok(Field::new(name, data_type, nullable))
}

fn arrow_type(sql: &SqlType) -> Result<DataType, String> {
    let data_type = match sql {
        SqlType::Varchar(None)
        | SqlType::CharacterVarying(None)
        | SqlType::CharVarying(None)
        | SqlType::Text
        | SqlType::String(None) => DataType::Utf8View,
        SqlType::Varchar(Some(_)) | SqlType::CharacterVarying(Some(_)) | SqlType::CharVarying(Some(_)) => {
            return Err(format!("{sql}: a length is not kept, write VARCHAR"));
        }
        SqlType::Binary(None) | SqlType::Varbinary(None) | SqlType::Bytea => DataType::BinaryView,
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(None) => DataType::Int8,
        SqlType::SmallInt(None) | SqlType::Int2(None) => DataType::Int16,
        SqlType::Int(None) | SqlType::Integer(None) | SqlType::Int4(None) => DataType::Int32,
        SqlType::BigInt(None) | SqlType::Int8(None) => DataType::Int64,
        SqlType::TinyIntUnsigned(None) | SqlType::UTinyInt => DataType::UInt8,
        SqlType::SmallIntUnsigned(None) | SqlType::Int2Unsigned(None) | SqlType::USmallInt => DataType::UInt16,
        SqlType::IntUnsigned(None) | SqlType::IntegerUnsigned(None) | SqlType::Int4Unsigned(None) => DataType::UInt32,
        SqlType::BigIntUnsigned(None) | SqlType::Int8Unsigned(None) | SqlType::UBigInt => DataType::UInt64,
        SqlType::Real | SqlType::Float4 | SqlType::Float(ExactNumberInfo::None) => DataType::Float32,
        SqlType::Double(ExactNumberInfo::None) | SqlType::DoublePrecision | SqlType::Float8 => DataType::Float64,
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => return decimal(sql, info),
        SqlType::Date => DataType::Date32,
        SqlType::Timestamp(precision, zone) => return timestamp(sql, *precision, zone),
        SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(..) | SqlType::Tuple(_) | SqlType::Nested(_) => {
            return Err(format!(
                "{sql}: nested types are not in this version; VARCHAR takes the value as JSON text"
            ));
        }
        _ => return Err(format!("{sql} is not a known type; known are {KNOWN_TYPES}")),
    };
    Ok(data_type)
}

fn decimal(sql: &SqlType, info: &ExactNumberInfo) -> Result<DataType, String> {
    let (precision, scale) = match *info {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale @ 0..)) if i16::from(scale) <= i16::from(precision) => {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(format!("{sql}: wanted DECIMAL(p, s) with 1 <= p <= 38 and 0 <= s <= p")),
    }
}

fn timestamp(sql: &SqlType, precision: Option<u64>, zone: &TimezoneInfo) -> Result<DataType, String> {
    let unit = match precision {
        Some(0) => TimeUnit::Second,
        None | Some(3) => TimeUnit::Millisecond,
        Some(6) => TimeUnit::Microsecond,
        Some(9) => TimeUnit::Nanosecond,
        Some(_) => return Err(format!("{sql}: wanted TIMESTAMP(0), (3), (6) or (9)")),
    };
    let zone = match zone {
        TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => Some("UTC".into()),
        TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => None,
    };
    Ok(DataType::Timestamp(unit, zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(columns: &str) -> Vec<(String, DataType, bool)> {
        let schema = parse(columns).unwrap();
        schema
            .fields()
            .iter()
            .map(|f| (f.name().clone(), f.data_type().clone(), f.is_nullable()))
            .collect()
    }

    fn problem(columns: &str) -> String {
        parse(columns).unwrap_err().chain()
    }

    #[test]
    fn every_known_type_has_its_arrow_type() {
        let wanted = [
            ("VARCHAR", DataType::Utf8View),
            ("text", DataType::Utf8View),
            ("STRING", DataType::Utf8View),
            ("BINARY", DataType::BinaryView),
            ("BYTEA", DataType::BinaryView),
            ("BOOLEAN", DataType::Boolean),
            ("TINYINT", DataType::Int8),
            ("SMALLINT", DataType::Int16),
            ("INT", DataType::Int32),
            ("INTEGER", DataType::Int32),
            ("BIGINT", DataType::Int64),
            ("TINYINT UNSIGNED", DataType::UInt8),
            ("SMALLINT UNSIGNED", DataType::UInt16),
            ("INT UNSIGNED", DataType::UInt32),
            ("BIGINT UNSIGNED", DataType::UInt64),
            ("REAL", DataType::Float32),
            ("FLOAT", DataType::Float32),
            ("DOUBLE", DataType::Float64),
            ("DOUBLE PRECISION", DataType::Float64),
            ("DECIMAL(12, 2)", DataType::Decimal128(12, 2)),
            ("DECIMAL(5)", DataType::Decimal128(5, 0)),
            ("NUMERIC", DataType::Decimal128(38, 10)),
            ("DATE", DataType::Date32),
            ("TIMESTAMP", DataType::Timestamp(TimeUnit::Millisecond, None)),
            ("TIMESTAMP(0)", DataType::Timestamp(TimeUnit::Second, None)),
            ("TIMESTAMP(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
            ("TIMESTAMP(6)", DataType::Timestamp(TimeUnit::Microsecond, None)),
            (
                "TIMESTAMP(9) WITH TIME ZONE",
                DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            ),
        ];
        for (sql, data_type) in wanted {
            assert_eq!(
                types(&format!("a {sql}")),
                [("a".into(), data_type.clone(), true)],
                "{sql}"
            );
            assert_eq!(
                types(&format!("a {}", sql_name(&data_type)))[0].1,
                data_type,
                "{sql} by its own name"
            );
        }
    }

    #[test]
    fn names_keep_their_case_and_their_order() {
        let columns = types("user_id VARCHAR, adId BIGINT NOT NULL, \"Event Time\" TIMESTAMP(3)\n");
        assert_eq!(
            columns.iter().map(|c| (c.0.as_str(), c.2)).collect::<Vec<_>>(),
            [("user_id", true), ("adId", false), ("Event Time", true)]
        );
        assert_eq!(types("id INT, ID INT").len(), 2);
    }

    #[test]
    fn every_problem_names_its_column_at_once() {
        let text =
            problem("a MONEY, b INT, c TIMESTAMP(4), b INT, _offset BIGINT, d INT PRIMARY KEY, e DECIMAL(50, 2)");
        for part in [
            "column a: MONEY",
            "column c: TIMESTAMP(4)",
            "column b is declared twice",
            "column _offset",
            "column d",
            "column e",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("known are VARCHAR"), "{text}");
    }

    #[test]
    fn nested_types_are_refused_as_not_in_this_version() {
        for sql in ["STRUCT<x INT>", "INT[]", "ARRAY<INT>", "MAP(VARCHAR, INT)"] {
            let text = problem(&format!("tags {sql}"));
            assert!(
                text.contains("column tags") && text.contains("not in this version"),
                "{sql}: {text}"
            );
        }
    }

    #[test]
    fn what_is_no_list_of_columns_is_refused() {
        for columns in [
            "",
            "  ",
            "a",
            "a INT,, b INT",
            "a INT) WITH (b INT",
            "PRIMARY KEY (a)",
            "a VARCHAR(20)",
            "a INT b INT",
        ] {
            let error = parse(columns).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{columns}");
        }
        assert!(problem("a").contains("the types are VARCHAR"), "{}", problem("a"));
    }
}
