//! Numbers with a fraction where a column takes whole ones: the decoder would cut the fraction off.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema};
use serde::Serialize;
use serde::ser::{self, Impossible, Serializer};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::sql_name;

/// Refuses the first fraction that a column would lose.
///
/// # Errors
/// `UserCode` naming column and value.
pub(super) fn refuse_fractions<T: Serialize>(values: &[T], schema: &Schema) -> Result<()> {
    if !schema.fields().iter().any(takes_whole_numbers) {
        return Ok(());
    }
    let lost = |value: &T| value.serialize(RowProbe { schema }).err()?.0;
    match values.iter().find_map(lost) {
        Some(text) => Err(Error::new(Kind::UserCode, text)),
        None => Ok(()),
    }
}

fn takes_whole_numbers(field: &FieldRef) -> bool {
    let data_type = field.data_type();
    data_type.is_integer() || matches!(data_type, DataType::Timestamp(..) | DataType::Date32)
}

/// Ends a look at a value: with what it would lose, or with nothing where the value is not for this to judge.
#[derive(Debug)]
struct Ended(Option<String>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("not for this to judge"))
    }
}

impl std::error::Error for Ended {}

impl ser::Error for Ended {
    fn custom<T: fmt::Display>(_text: T) -> Self {
        // The encoder meets it too, and tells of it.
        Self(None)
    }
}

type Looked = Result<(), Ended>;

/// Methods of a serializer for which there is nothing to see.
macro_rules! nothing_in {
    ($($method:ident: $of:ty),* $(,)?) => {$(
        fn $method(self, _value: $of) -> Looked {
            Ok(())
        }
    )*};
}

/// What is the same in both looks.
macro_rules! of_both {
    () => {
        nothing_in! {
            serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
            serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
            serialize_u128: u128, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
            serialize_unit_struct: &'static str,
        }

        fn serialize_none(self) -> Looked {
            Ok(())
        }

        fn serialize_unit(self) -> Looked {
            Ok(())
        }

        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Looked {
            value.serialize(self)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Looked {
            value.serialize(self)
        }

        fn serialize_unit_variant(self, _name: &'static str, _index: u32, _variant: &'static str) -> Looked {
            Ok(())
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _name: &'static str,
            _index: u32,
            _variant: &'static str,
            _value: &T,
        ) -> Looked {
            Ok(())
        }

        fn serialize_tuple_variant(
            self,
            _name: &'static str,
            _index: u32,
            _variant: &'static str,
            _len: usize,
        ) -> Result<Self::SerializeTupleVariant, Ended> {
            Err(Ended(None))
        }

        fn serialize_struct_variant(
            self,
            _name: &'static str,
            _index: u32,
            _variant: &'static str,
            _len: usize,
        ) -> Result<Self::SerializeStructVariant, Ended> {
            Err(Ended(None))
        }
    };
}

/// Looks at one value of a column of whole numbers.
struct NumberProbe<'a> {
    column: &'a FieldRef,
}

impl NumberProbe<'_> {
    fn look(&self, has_fraction: bool, number: impl fmt::Display) -> Looked {
        if !has_fraction {
            return Ok(());
        }
        Err(Ended(Some(format!(
            "column {} {}: {number} is no whole number; round it, or declare the column DOUBLE",
            self.column.name(),
            sql_name(self.column.data_type())
        ))))
    }
}

impl Serializer for NumberProbe<'_> {
    type Ok = ();
    type Error = Ended;
    type SerializeSeq = Impossible<(), Ended>;
    type SerializeTuple = Impossible<(), Ended>;
    type SerializeTupleStruct = Impossible<(), Ended>;
    type SerializeTupleVariant = Impossible<(), Ended>;
    type SerializeMap = Impossible<(), Ended>;
    type SerializeStruct = Impossible<(), Ended>;
    type SerializeStructVariant = Impossible<(), Ended>;

    of_both! {}

    fn serialize_f32(self, number: f32) -> Looked {
        self.look(number.fract() != 0.0, number)
    }

    fn serialize_f64(self, number: f64) -> Looked {
        self.look(number.fract() != 0.0, number)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Self::SerializeSeq, Ended> {
        Err(Ended(None))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self::SerializeTuple, Ended> {
        Err(Ended(None))
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self::SerializeTupleStruct, Ended> {
        Err(Ended(None))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap, Ended> {
        Err(Ended(None))
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self::SerializeStruct, Ended> {
        Err(Ended(None))
    }
}

/// Looks at a row.
struct RowProbe<'a> {
    schema: &'a Schema,
}

impl<'a> RowProbe<'a> {
    fn columns(self) -> Columns<'a> {
        Columns {
            schema: self.schema,
            at: 0,
            key: None,
        }
    }
}

impl<'a> Serializer for RowProbe<'a> {
    type Ok = ();
    type Error = Ended;
    type SerializeSeq = Columns<'a>;
    type SerializeTuple = Columns<'a>;
    type SerializeTupleStruct = Columns<'a>;
    type SerializeTupleVariant = Impossible<(), Ended>;
    type SerializeMap = Columns<'a>;
    type SerializeStruct = Columns<'a>;
    type SerializeStructVariant = Impossible<(), Ended>;

    of_both! {}

    nothing_in! { serialize_f32: f32, serialize_f64: f64 }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Columns<'a>, Ended> {
        Ok(self.columns())
    }

    fn serialize_tuple(self, _len: usize) -> Result<Columns<'a>, Ended> {
        Ok(self.columns())
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Columns<'a>, Ended> {
        Ok(self.columns())
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Columns<'a>, Ended> {
        Ok(self.columns())
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Columns<'a>, Ended> {
        Ok(self.columns())
    }
}

/// The values of a row, one after another.
struct Columns<'a> {
    schema: &'a Schema,
    /// The next column of a tuple.
    at: usize,
    /// The next column of a map.
    key: Option<FieldRef>,
}

impl Columns<'_> {
    fn look<T: Serialize + ?Sized>(column: Option<&FieldRef>, value: &T) -> Looked {
        let Some(column) = column.filter(|column| takes_whole_numbers(column)) else {
            return Ok(());
        };
        match value.serialize(NumberProbe { column }) {
            Err(Ended(None)) => Ok(()),
            looked => looked,
        }
    }

    fn next<T: Serialize + ?Sized>(&mut self, value: &T) -> Looked {
        self.at += 1;
        Self::look(self.schema.fields().get(self.at - 1), value)
    }

    fn named<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Looked {
        Self::look(self.schema.fields().find(name).map(|(_, column)| column), value)
    }
}

impl ser::SerializeSeq for Columns<'_> {
    type Ok = ();
    type Error = Ended;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Looked {
        self.next(value)
    }

    fn end(self) -> Looked {
        Ok(())
    }
}

impl ser::SerializeTuple for Columns<'_> {
    type Ok = ();
    type Error = Ended;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Looked {
        self.next(value)
    }

    fn end(self) -> Looked {
        Ok(())
    }
}

impl ser::SerializeTupleStruct for Columns<'_> {
    type Ok = ();
    type Error = Ended;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Looked {
        self.next(value)
    }

    fn end(self) -> Looked {
        Ok(())
    }
}

impl ser::SerializeStruct for Columns<'_> {
    type Ok = ();
    type Error = Ended;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Looked {
        self.named(name, value)
    }

    fn end(self) -> Looked {
        Ok(())
    }
}

impl ser::SerializeMap for Columns<'_> {
    type Ok = ();
    type Error = Ended;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Looked {
        let name = serde_json::to_value(key).ok();
        let name = name.as_ref().and_then(|name| name.as_str());
        self.key = name
            .and_then(|name| self.schema.fields().find(name))
            .map(|(_, column)| Arc::clone(column));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Looked {
        Self::look(self.key.take().as_ref(), value)
    }

    fn end(self) -> Looked {
        Ok(())
    }
}
