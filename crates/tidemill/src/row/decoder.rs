//! Rows of a query as values of a program: a struct or map takes columns by name, a tuple by place, anything else the only column.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, Float64Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::sql_name;

/// Gives each row to `each` as a value.
///
/// # Errors
/// `UserCode` naming the column, its type, and what does not fit.
pub(crate) fn decode<R: DeserializeOwned>(rows: &RecordBatch, mut each: impl FnMut(R)) -> Result<()> {
    let unfit = |error: Unfit| {
        let name = std::any::type_name::<R>();
        Error::with_source(Kind::UserCode, format!("a row does not fit the type {name}"), error)
    };
    let schema = rows.schema();
    let fields = schema.fields().iter().zip(rows.columns());
    let columns = fields.map(|(field, values)| Column::new(field.name(), values));
    let columns: Vec<Column> = columns.collect::<Result<_, Unfit>>().map_err(unfit)?;
    for row in 0..rows.num_rows() {
        let row = Row { columns: &columns, row };
        each(R::deserialize(row).map_err(unfit)?);
    }
    Ok(())
}

/// What does not fit, in words.
#[derive(Debug)]
struct Unfit(String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

/// A column, or what is in one.
struct Column {
    name: String,
    data_type: DataType,
    array: ArrayRef,
    values: Values,
}

/// Values by what serde takes them as.
enum Values {
    Null,
    Boolean(BooleanBuffer),
    Integer(Int64Array),
    Unsigned(UInt64Array),
    Float(Float64Array),
    Text(StringViewArray),
    Bytes(BinaryViewArray),
    /// A number in the unit of the column, or its text.
    Moment(Int64Array),
    /// Its text, or a number.
    Decimal,
    List {
        ends: Vec<usize>,
        items: Box<Column>,
    },
    Struct(Vec<Column>),
}

impl Column {
    fn new(name: &str, array: &ArrayRef) -> Result<Self, Unfit> {
        let values = values(array).map_err(|error| named(name, array.data_type(), error))?;
        Ok(Self {
            name: name.to_owned(),
            data_type: array.data_type().clone(),
            array: Arc::clone(array),
            values,
        })
    }

    fn at(&self, row: usize) -> Cell<'_> {
        Cell { column: self, row }
    }

    /// A value of the column; what does not fit is told with its name.
    fn take<'de, S: DeserializeSeed<'de>>(&'de self, row: usize, seed: S) -> Result<S::Value, Unfit> {
        let taken = seed.deserialize(self.at(row));
        taken.map_err(|error| named(&self.name, &self.data_type, error))
    }
}

fn named(name: &str, data_type: &DataType, error: Unfit) -> Unfit {
    Unfit(format!("column {name} {}: {error}", sql_name(data_type)))
}

fn values(array: &ArrayRef) -> Result<Values, Unfit> {
    let cast_to = |to: &DataType| cast(array, to).map_err(|error| Unfit(error.to_string()));
    Ok(match array.data_type() {
        DataType::Null => Values::Null,
        DataType::Boolean => Values::Boolean(array.as_boolean().values().clone()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            Values::Integer(cast_to(&DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            Values::Unsigned(cast_to(&DataType::UInt64)?.as_primitive::<UInt64Type>().clone())
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            Values::Float(cast_to(&DataType::Float64)?.as_primitive::<Float64Type>().clone())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Values::Text(cast_to(&DataType::Utf8View)?.as_string_view().clone())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Values::Bytes(cast_to(&DataType::BinaryView)?.as_binary_view().clone())
        }
        DataType::Date32 | DataType::Time32(_) => {
            let numbers = cast_to(&DataType::Int32)
                .and_then(|days| cast(&days, &DataType::Int64).map_err(|error| Unfit(error.to_string())))?;
            Values::Moment(numbers.as_primitive::<Int64Type>().clone())
        }
        DataType::Date64 | DataType::Timestamp(..) | DataType::Time64(_) | DataType::Duration(_) => {
            Values::Moment(cast_to(&DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            Values::Decimal
        }
        DataType::Dictionary(_, of) => return values(&cast_to(of)?),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            return values(&cast_to(&DataType::List(Arc::clone(item)))?);
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let ends = lists.value_offsets().iter();
            Values::List {
                ends: ends.map(|end| usize::try_from(*end).unwrap_or(0)).collect(),
                items: Box::new(Column::new("of the list", lists.values())?),
            }
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().zip(array.as_struct().columns());
            let columns = fields.map(|(field, values)| Column::new(field.name(), values));
            Values::Struct(columns.collect::<Result<_, Unfit>>()?)
        }
        _ => {
            return Err(Unfit(
                "this type has no value in a program; CAST it in the query".to_owned(),
            ));
        }
    })
}

/// One row of a query.
#[derive(Clone, Copy)]
struct Row<'a> {
    columns: &'a [Column],
    row: usize,
}

impl<'de> Row<'de> {
    /// The value of a type that is no row.
    fn only(self) -> Result<(&'de Column, Cell<'de>), Unfit> {
        match self.columns {
            [column] => Ok((column, column.at(self.row))),
            columns => Err(Unfit(format!(
                "it takes one column, and the query gives {}: {}",
                columns.len(),
                self.names()
            ))),
        }
    }

    fn names(self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    fn by_name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let fields = Fields {
            columns: self.columns,
            row: self.row,
        };
        visitor.visit_map(fields).map_err(|error| match error {
            missing if missing.0.starts_with("missing field") => {
                Unfit(format!("{missing}; the columns are {}", self.names()))
            }
            other => other,
        })
    }

    fn by_place<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_seq(Fields {
            columns: self.columns,
            row: self.row,
        })
    }
}

/// The columns of a row that are still to be taken.
struct Fields<'a> {
    columns: &'a [Column],
    row: usize,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = Unfit;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Unfit> {
        let Some(column) = self.columns.first() else {
            return Ok(None);
        };
        seed.deserialize(column.name.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unfit> {
        let Some((column, rest)) = self.columns.split_first() else {
            return Err(Unfit("a value without a column".to_owned()));
        };
        self.columns = rest;
        column.take(self.row, seed)
    }
}

impl<'de> de::SeqAccess<'de> for Fields<'de> {
    type Error = Unfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Unfit> {
        let Some((column, rest)) = self.columns.split_first() else {
            return Ok(None);
        };
        self.columns = rest;
        column.take(self.row, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.columns.len())
    }
}

/// The value of the only column, for types that are no row.
macro_rules! only_column {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            let (column, cell) = self.only()?;
            cell.$method(visitor).map_err(|error| named(&column.name, &column.data_type, error))
        }
    )*};
}

impl<'de> Deserializer<'de> for Row<'de> {
    type Error = Unfit;

    only_column! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.by_name(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.by_name(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.by_name(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.by_place(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Unfit> {
        if len != self.columns.len() {
            return Err(Unfit(format!(
                "it takes {len} columns, and the query gives {}: {}",
                self.columns.len(),
                self.names()
            )));
        }
        self.by_place(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        let (column, cell) = self.only()?;
        let value = cell.deserialize_enum(name, variants, visitor);
        value.map_err(|error| named(&column.name, &column.data_type, error))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }
}

/// One value of a column.
#[derive(Clone, Copy)]
struct Cell<'a> {
    column: &'a Column,
    row: usize,
}

impl<'de> IntoDeserializer<'de, Unfit> for Cell<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Cell<'de> {
    fn is_null(self) -> bool {
        matches!(self.column.values, Values::Null) || self.column.array.is_null(self.row)
    }

    fn text(self) -> Result<String, Unfit> {
        array_value_to_string(&self.column.array, self.row).map_err(|error| Unfit(error.to_string()))
    }

    /// The value where a type wants one.
    fn some<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.is_null() {
            return Err(de::Error::invalid_type(Unexpected::Other("NULL"), &visitor));
        }
        let row = self.row;
        match &self.column.values {
            Values::Null => visitor.visit_unit(),
            Values::Boolean(values) => visitor.visit_bool(values.value(row)),
            Values::Integer(values) | Values::Moment(values) => visitor.visit_i64(values.value(row)),
            Values::Unsigned(values) => visitor.visit_u64(values.value(row)),
            Values::Float(values) => visitor.visit_f64(values.value(row)),
            Values::Text(values) => visitor.visit_str(values.value(row)),
            Values::Bytes(values) => visitor.visit_bytes(values.value(row)),
            Values::Decimal => visitor.visit_string(self.text()?),
            Values::List { ends, items } => {
                let items = (ends[row]..ends[row + 1]).map(|item| items.at(item));
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            Values::Struct(columns) => {
                let fields = columns.iter().map(|column| (column.name.as_str(), column.at(row)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
        }
    }

    /// A decimal where a number is wanted.
    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.is_null() || !matches!(self.column.values, Values::Decimal) {
            return self.some(visitor);
        }
        let text = self.text()?;
        match text.parse::<f64>() {
            Ok(number) => visitor.visit_f64(number),
            Err(_) => visitor.visit_string(text),
        }
    }

    /// The same where it must have no fraction.
    fn whole<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if !self.is_null() && matches!(self.column.values, Values::Decimal) {
            let text = self.text()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            if fraction.bytes().all(|digit| digit == b'0')
                && let Ok(number) = whole.parse::<i64>()
            {
                return visitor.visit_i64(number);
            }
        }
        self.number(visitor)
    }
}

macro_rules! forwarded {
    ($to:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            self.$to(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Cell<'de> {
    type Error = Unfit;

    forwarded! { whole:
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    forwarded! { number: deserialize_f32 deserialize_f64 }

    forwarded! { some:
        deserialize_bool deserialize_char deserialize_bytes deserialize_byte_buf deserialize_map deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.is_null() {
            return visitor.visit_unit();
        }
        self.some(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.is_null() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match &self.column.values {
            Values::Moment(_) if !self.is_null() => visitor.visit_string(self.text()?),
            _ => self.some(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match &self.column.values {
            Values::Bytes(values) if !self.is_null() => {
                visitor.visit_seq(SeqDeserializer::new(values.value(self.row).iter().copied()))
            }
            _ => self.some(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        match &self.column.values {
            Values::Text(values) if !self.is_null() => visitor.visit_enum(values.value(self.row).into_deserializer()),
            _ => self.some(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.some(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.deserialize_tuple(len, visitor)
    }

    forward_to_deserialize_any! { unit ignored_any unit_struct }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use tidemill_engine::sql::row_tables::RowTables;

    use super::*;

    /// The rows of a query over nothing.
    fn rows<R: DeserializeOwned>(query: &str) -> Result<Vec<R>> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let rows = runtime.block_on(async {
            let tables = RowTables::new(1, 1_000, 1 << 20)?;
            tables.rows(tables.sql(query).await?).await
        });
        let mut values = Vec::new();
        for rows in rows? {
            decode(&rows, |value| values.push(value))?;
        }
        Ok(values)
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Ad {
        views: Option<u32>,
        ad: String,
        #[serde(default)]
        place: Option<String>,
        colour: Colour,
    }

    #[test]
    fn a_struct_takes_columns_by_name() {
        let ads: Vec<Ad> =
            rows("SELECT 'a' AS ad, 3 AS views, 'red' AS colour, 1 AS unused UNION ALL SELECT 'b', NULL, 'red', 2")
                .unwrap();
        let ad = |ad: &str, views| Ad {
            ad: ad.to_owned(),
            views,
            place: None,
            colour: Colour::Red,
        };
        assert_eq!(ads, [ad("a", Some(3)), ad("b", None)]);
        let maps: Vec<BTreeMap<String, Option<i64>>> = rows("SELECT 1 AS x, NULL AS y").unwrap();
        assert_eq!(maps, [BTreeMap::from([("x".into(), Some(1)), ("y".into(), None)])]);
    }

    #[test]
    fn a_tuple_takes_columns_by_place_and_anything_else_the_only_one() {
        assert_eq!(
            rows::<(String, i64, f64, bool)>("SELECT 'a', 1, 1.5, true").unwrap(),
            [("a".to_owned(), 1, 1.5, true)]
        );
        assert_eq!(rows::<(u8,)>("SELECT 1").unwrap(), [(1,)]);
        assert_eq!(rows::<i64>("SELECT 1").unwrap(), [1]);
        assert_eq!(rows::<Option<i64>>("SELECT NULL").unwrap(), [None]);
        assert_eq!(rows::<String>("SELECT 'a'").unwrap(), ["a"]);
        assert_eq!(rows::<Colour>("SELECT 'red'").unwrap(), [Colour::Red]);
    }

    #[test]
    fn every_type_of_a_query_has_a_value() {
        let moment = "arrow_cast(1500, 'Timestamp(Millisecond, None)')";
        assert_eq!(
            rows::<(i64, String)>(&format!("SELECT {moment} AS a, {moment} AS b")).unwrap(),
            [(1_500, "1970-01-01T00:00:01.500".to_owned())]
        );
        assert_eq!(
            rows::<(i32, String)>("SELECT DATE '1970-01-03' AS a, DATE '1970-01-03' AS b").unwrap(),
            [(2, "1970-01-03".to_owned())]
        );
        let price = "CAST(12.00 AS DECIMAL(10, 2))";
        assert_eq!(
            rows::<(String, f64, i64)>(&format!("SELECT {price} AS a, {price} AS b, {price} AS c")).unwrap(),
            [("12.00".to_owned(), 12.0, 12)]
        );
        assert_eq!(
            rows::<(Vec<u8>, Vec<i64>)>("SELECT X'00ff', [1, 2]").unwrap(),
            [(vec![0, 255], vec![1, 2])]
        );
        assert_eq!(
            rows::<(BTreeMap<String, i64>, u64, f32)>(
                "SELECT named_struct('a', 1), arrow_cast(7, 'UInt8'), CAST(1.1 AS FLOAT)"
            )
            .unwrap(),
            [(BTreeMap::from([("a".to_owned(), 1)]), 7, 1.1)]
        );
    }

    #[track_caller]
    fn refused<R: DeserializeOwned + fmt::Debug>(query: &str, words: &[&str]) {
        let error = rows::<R>(query).unwrap_err();
        assert_eq!(error.kind(), Kind::UserCode);
        let text = error.chain();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_told_by_column_and_type() {
        refused::<(String, u8)>("SELECT 'a', 300 AS views", &["column views BIGINT", "300", "u8"]);
        refused::<(String, i64)>("SELECT 'a', 1.5 AS views", &["column views DOUBLE", "1.5", "i64"]);
        refused::<(String, i64)>(
            "SELECT 'a', CAST(1.5 AS DECIMAL(3, 1)) AS views",
            &["column views DECIMAL(3, 1)", "1.5", "i64"],
        );
        refused::<(String, i64)>("SELECT 'a', NULL::BIGINT AS views", &["column views", "NULL", "i64"]);
        refused::<(String, i64)>("SELECT 'a' AS ad", &["2 columns", "gives 1: ad"]);
        refused::<i64>("SELECT 1 AS ad, 2 AS views", &["one column", "gives 2: ad, views"]);
        refused::<Ad>(
            "SELECT 1 AS views, 'red' AS colour",
            &["missing field `ad`", "views, colour", "Ad"],
        );
        refused::<Colour>("SELECT 'blue' AS colour", &["column colour", "blue"]);
        refused::<Vec<u8>>("SELECT INTERVAL '1 day' AS age", &["column age", "CAST"]);
    }
}
