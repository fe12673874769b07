//! Which PostgreSQL type takes an Arrow type.

use std::fmt;

use arrow::datatypes::{DataType, SchemaRef};

/// The most columns a table can have.
const COLUMNS_MAX: usize = 1600;

/// A column type of the output table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PgType {
    Boolean,
    Smallint,
    Integer,
    Bigint,
    Real,
    Double,
    Numeric { precision: u8, scale: u8 },
    Text,
    Bytea,
    Date,
    Timestamp,
    Timestamptz,
}

impl PgType {
    /// The one type that holds every value of `arrow`, if there is one.
    pub(super) fn of(arrow: &DataType) -> Option<Self> {
        Some(match arrow {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::Smallint,
            DataType::Int32 | DataType::UInt16 => Self::Integer,
            DataType::Int64 | DataType::UInt32 => Self::Bigint,
            DataType::UInt64 => Self::Numeric {
                precision: 20,
                scale: 0,
            },
            DataType::Float32 => Self::Real,
            DataType::Float64 => Self::Double,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Bytea,
            DataType::Date32 => Self::Date,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::Timestamptz,
            // Servers before 15 know neither a negative scale nor one above the precision.
            DataType::Decimal128(precision, scale) => {
                let scale = u8::try_from(*scale).ok().filter(|scale| scale <= precision)?;
                Self::Numeric {
                    precision: *precision,
                    scale,
                }
            }
            _ => return None,
        })
    }

    /// True where a column that the server calls `name` (by `format_type`) takes exactly these values.
    pub(super) fn is_named(self, name: &str) -> bool {
        name == self.to_string() || (self == Self::Text && name.starts_with("character varying"))
    }
}

/// As `format_type` of the server names it.
impl fmt::Display for PgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Smallint => "smallint",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Real => "real",
            Self::Double => "double precision",
            Self::Numeric { precision, scale } => return write!(f, "numeric({precision},{scale})"),
            Self::Text => "text",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Timestamp => "timestamp without time zone",
            Self::Timestamptz => "timestamp with time zone",
        })
    }
}

/// One column that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: PgType,
}

/// The columns of `schema`, or one line for each that no PostgreSQL type takes.
pub(super) fn columns(schema: &SchemaRef) -> Result<Vec<Column>, Vec<String>> {
    let mut columns: Vec<Column> = Vec::new();
    let mut problems = Vec::new();
    for field in schema.fields() {
        if columns.iter().any(|column| column.name == *field.name()) {
            problems.push(format!("column {} comes twice; rename one with AS", field.name()));
        }
        match PgType::of(field.data_type()) {
            Some(kind) => columns.push(Column {
                name: field.name().clone(),
                kind,
            }),
            None => problems.push(format!(
                "column {}: no PostgreSQL type for {}; CAST it in the query",
                field.name(),
                field.data_type()
            )),
        }
    }
    if schema.fields().is_empty() {
        problems.push("the query has no columns".to_owned());
    }
    if schema.fields().len() > COLUMNS_MAX {
        problems.push(format!(
            "{} columns; a table has at most {COLUMNS_MAX}",
            schema.fields().len()
        ));
    }
    if problems.is_empty() {
        Ok(columns)
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use std::sync::Arc;

    #[test]
    fn names_every_column_it_cannot_write() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("fine", DataType::Int64, true),
            Field::new("span", DataType::Duration(TimeUnit::Second), true),
            Field::new("fine", DataType::Int64, true),
            Field::new("big", DataType::Decimal128(10, -2), true),
        ]));
        let problems = columns(&schema).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].starts_with("column span: no PostgreSQL type for Duration"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("column fine comes twice"), "{problems:?}");
        assert!(
            problems[2].starts_with("column big: no PostgreSQL type for Decimal128"),
            "{problems:?}"
        );
    }

    #[test]
    fn takes_varchar_for_text_and_nothing_wider_elsewhere() {
        assert!(PgType::Text.is_named("character varying(20)"));
        assert!(!PgType::Integer.is_named("bigint"));
        assert!(!PgType::of(&DataType::UInt64).unwrap().is_named("numeric"));
        assert!(PgType::of(&DataType::UInt64).unwrap().is_named("numeric(20,0)"));
    }
}
