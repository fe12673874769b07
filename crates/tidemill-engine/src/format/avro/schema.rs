//! The writer's schema, out of an `.avsc` file: types in one vector, which name each other by their place in it.
//!
//! A type may contain itself, by its name. Nothing is resolved against a second schema, so that defaults, aliases, documentation
//! and sort orders are not read.

use std::collections::{HashMap, HashSet};

use arrow::datatypes::TimeUnit;
use serde_json::{Map, Value};

/// The place of a type in its schema.
pub(super) type TypeId = usize;

/// A record's schema.
#[derive(Debug)]
pub(super) struct Schema {
    types: Vec<Type>,
    /// Whether the values of a type are of no bytes.
    empty: Vec<bool>,
    root: TypeId,
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Type {
    /// How its values are written.
    pub(super) shape: Shape,
    /// What they mean beyond that. One that does not fit its shape is ignored, as Avro wants it.
    pub(super) logical: Logical,
}

/// How the values of a type are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    /// So many bytes.
    Fixed(usize),
    /// Its symbols.
    Enum(Vec<String>),
    Record(Vec<Field>),
    Array(TypeId),
    /// From texts to these.
    Map(TypeId),
    Union(Vec<TypeId>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) of: TypeId,
}

/// What the values of a type mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logical {
    Nothing,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp {
        unit: TimeUnit,
        /// False for the local ones, which name no moment.
        utc: bool,
    },
    Decimal {
        precision: u64,
        scale: u64,
    },
    Uuid,
}

impl Schema {
    /// Reads a schema in JSON. The top must be a record.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| format!("no JSON: {error}"))?;
        let mut reader = Reader::default();
        let root = reader.read(&value, "", "the schema")?;
        let schema = Self {
            empty: reader.empty(),
            types: reader.types,
            root,
        };
        match &schema.types[root].shape {
            Shape::Record(_) => Ok(schema),
            other => Err(format!("the schema is {}, wanted a record", other.name())),
        }
    }

    /// The fields of the top.
    pub(super) fn fields(&self) -> &[Field] {
        match &self.types[self.root].shape {
            Shape::Record(fields) => fields,
            _ => &[],
        }
    }

    /// A type.
    #[inline(always)]
    pub(super) fn get(&self, of: TypeId) -> &Type {
        &self.types[of]
    }

    /// True where the values of a type are of no bytes, so that any number of them fits into a record.
    #[inline(always)]
    pub(super) fn is_empty(&self, of: TypeId) -> bool {
        self.empty[of]
    }
}

impl Shape {
    /// The type's name, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Int => "an int",
            Self::Long => "a long",
            Self::Float => "a float",
            Self::Double => "a double",
            Self::Bytes => "bytes",
            Self::String => "a string",
            Self::Fixed(_) => "a fixed",
            Self::Enum(_) => "an enum",
            Self::Record(_) => "a record",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Union(_) => "a union",
        }
    }
}

/// A schema while it is read. JSON nests no deeper than its parser allows (128), and so do the calls here.
#[derive(Debug, Default)]
struct Reader {
    types: Vec<Type>,
    /// Records, enums and fixeds by their full names.
    named: HashMap<String, TypeId>,
}

impl Reader {
    fn add(&mut self, shape: Shape, logical: Logical) -> TypeId {
        self.types.push(Type { shape, logical });
        self.types.len() - 1
    }

    fn read(&mut self, value: &Value, namespace: &str, place: &str) -> Result<TypeId, String> {
        match value {
            Value::String(name) => match primitive(name) {
                Some(shape) => Ok(self.add(shape, Logical::Nothing)),
                None => self.look_up(name, namespace, place),
            },
            Value::Array(branches) => self.union(branches, namespace, place),
            Value::Object(object) => self.object(object, namespace, place),
            other => Err(format!("{place}: {other} is no type")),
        }
    }

    fn look_up(&mut self, name: &str, namespace: &str, place: &str) -> Result<TypeId, String> {
        let full = full_name(name, namespace);
        let found = self.named.get(&full).or_else(|| self.named.get(name));
        found
            .copied()
            .ok_or_else(|| format!("{place}: there is no type {full} before this"))
    }

    fn union(&mut self, branches: &[Value], namespace: &str, place: &str) -> Result<TypeId, String> {
        let mut of = Vec::with_capacity(branches.len());
        for branch in branches {
            let branch = self.read(branch, namespace, place)?;
            if matches!(self.types[branch].shape, Shape::Union(_)) {
                return Err(format!("{place}: a union stands directly in a union"));
            }
            of.push(branch);
        }
        if of.is_empty() {
            return Err(format!("{place}: a union of nothing"));
        }
        Ok(self.add(Shape::Union(of), Logical::Nothing))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str, place: &str) -> Result<TypeId, String> {
        let kind = object.get("type").ok_or_else(|| format!("{place}: has no \"type\""))?;
        let Value::String(kind) = kind else {
            return self.read(kind, namespace, place);
        };
        let inner = |key: &str| {
            object
                .get(key)
                .ok_or_else(|| format!("{place}: {kind} without \"{key}\""))
        };
        let shape = match kind.as_str() {
            "record" | "error" => return self.record(object, namespace, place),
            "enum" => Shape::Enum(symbols(inner("symbols")?, place)?),
            "fixed" => Shape::Fixed(
                number(object, "size")
                    .and_then(|size| i32::try_from(size).ok())
                    .ok_or_else(|| format!("{place}: fixed without a \"size\""))? as usize,
            ),
            "array" => Shape::Array(self.read(inner("items")?, namespace, place)?),
            "map" => Shape::Map(self.read(inner("values")?, namespace, place)?),
            other => match primitive(other) {
                Some(shape) => shape,
                None => return self.look_up(other, namespace, place),
            },
        };
        let is_named = matches!(shape, Shape::Enum(_) | Shape::Fixed(_));
        let logical = logical(object, &shape);
        let of = self.add(shape, logical);
        if is_named {
            self.define(object, namespace, place, of)?;
        }
        Ok(of)
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: &str, place: &str) -> Result<TypeId, String> {
        let of = self.add(Shape::Record(Vec::new()), Logical::Nothing);
        let name = self.define(object, namespace, place, of)?;
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let list = object.get("fields").and_then(Value::as_array);
        let list = list.ok_or_else(|| format!("{place}: record {name} without \"fields\""))?;
        let mut fields = Vec::with_capacity(list.len());
        let mut names = HashSet::new();
        for field in list {
            let field_name = field.get("name").and_then(Value::as_str);
            let field_name = field_name.ok_or_else(|| format!("record {name}: a field without a \"name\""))?;
            let place = format!("field {field_name} of record {name}");
            if !names.insert(field_name) {
                return Err(format!("{place}: stands there twice"));
            }
            let kind = field.get("type").ok_or_else(|| format!("{place}: has no \"type\""))?;
            // Some tools write a logical type beside the field's type instead of into it; Avro reads only the latter.
            fields.push(Field {
                name: field_name.to_owned(),
                of: self.read(kind, namespace, &place)?,
            });
        }
        self.types[of].shape = Shape::Record(fields);
        Ok(of)
    }

    fn define(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        place: &str,
        of: TypeId,
    ) -> Result<String, String> {
        let name = object.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("{place}: a type without a \"name\""))?;
        let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, namespace);
        if self.named.insert(full.clone(), of).is_some() {
            return Err(format!("{place}: {full} is defined twice"));
        }
        Ok(full)
    }

    /// Which types' values are of no bytes: those of null, of nothing fixed, and of records of such. One that holds itself is
    /// none of them.
    fn empty(&self) -> Vec<bool> {
        let mut empty = vec![false; self.types.len()];
        loop {
            let mut changed = false;
            for (of, found) in self.types.iter().enumerate() {
                let is_empty = match &found.shape {
                    Shape::Null | Shape::Fixed(0) => true,
                    Shape::Record(fields) => fields.iter().all(|field| empty[field.of]),
                    _ => false,
                };
                changed |= is_empty && !std::mem::replace(&mut empty[of], is_empty);
            }
            if !changed {
                return empty;
            }
        }
    }
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int,
        "long" => Shape::Long,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::String,
        _ => return None,
    })
}

fn full_name(name: &str, namespace: &str) -> String {
    if namespace.is_empty() || name.contains('.') {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn number(object: &Map<String, Value>, key: &str) -> Option<u64> {
    object.get(key).and_then(Value::as_u64)
}

fn symbols(value: &Value, place: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{place}: the symbols of an enum are a list of texts");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter()
        .map(|symbol| symbol.as_str().map(str::to_owned).ok_or_else(wrong))
        .collect()
}

fn logical(object: &Map<String, Value>, shape: &Shape) -> Logical {
    let timestamp = |unit, utc| Logical::Timestamp { unit, utc };
    let name = object.get("logicalType").and_then(Value::as_str).unwrap_or_default();
    match (name, shape) {
        ("date", Shape::Int) => Logical::Date,
        ("time-millis", Shape::Int) => Logical::TimeMillis,
        ("time-micros", Shape::Long) => Logical::TimeMicros,
        ("timestamp-millis", Shape::Long) => timestamp(TimeUnit::Millisecond, true),
        ("timestamp-micros", Shape::Long) => timestamp(TimeUnit::Microsecond, true),
        ("timestamp-nanos", Shape::Long) => timestamp(TimeUnit::Nanosecond, true),
        ("local-timestamp-millis", Shape::Long) => timestamp(TimeUnit::Millisecond, false),
        ("local-timestamp-micros", Shape::Long) => timestamp(TimeUnit::Microsecond, false),
        ("local-timestamp-nanos", Shape::Long) => timestamp(TimeUnit::Nanosecond, false),
        ("uuid", Shape::String | Shape::Fixed(16)) => Logical::Uuid,
        ("decimal", Shape::Bytes | Shape::Fixed(_)) => {
            let precision = number(object, "precision").unwrap_or(0);
            let scale = number(object, "scale").unwrap_or(0);
            if precision == 0 || scale > precision {
                return Logical::Nothing;
            }
            Logical::Decimal { precision, scale }
        }
        _ => Logical::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(json: &str) -> Vec<(String, Type)> {
        let schema = Schema::parse(json).unwrap();
        schema
            .fields()
            .iter()
            .map(|field| (field.name.clone(), schema.get(field.of).clone()))
            .collect()
    }

    fn one(kind: &str) -> Type {
        let json = format!(r#"{{"type":"record","name":"r","fields":[{{"name":"f","type":{kind}}}]}}"#);
        shapes(&json).remove(0).1
    }

    #[test]
    fn primitives_stand_alone_or_in_an_object() {
        for (name, shape) in [
            ("null", Shape::Null),
            ("boolean", Shape::Boolean),
            ("int", Shape::Int),
            ("long", Shape::Long),
            ("float", Shape::Float),
            ("double", Shape::Double),
            ("bytes", Shape::Bytes),
            ("string", Shape::String),
        ] {
            assert_eq!(one(&format!("\"{name}\"")).shape, shape);
            assert_eq!(
                one(&format!(r#"{{"type":"{name}","avro.java.string":"String"}}"#)).shape,
                shape
            );
            assert_eq!(one(&format!(r#"{{"type":{{"type":"{name}"}}}}"#)).shape, shape);
        }
    }

    #[test]
    fn logical_types_that_do_not_fit_are_ignored() {
        let of = |kind: &str, name: &str, more: &str| {
            one(&format!(r#"{{"type":{kind},"logicalType":"{name}"{more}}}"#)).logical
        };
        assert_eq!(of("\"int\"", "date", ""), Logical::Date);
        assert_eq!(
            of("\"long\"", "local-timestamp-nanos", ""),
            Logical::Timestamp {
                unit: TimeUnit::Nanosecond,
                utc: false
            }
        );
        assert_eq!(
            of("\"bytes\"", "decimal", r#","precision":9,"scale":2"#),
            Logical::Decimal { precision: 9, scale: 2 }
        );
        assert_eq!(of("\"string\"", "uuid", ""), Logical::Uuid);
        for (kind, name, more) in [
            ("\"long\"", "date", ""),
            ("\"int\"", "timestamp-millis", ""),
            ("\"bytes\"", "decimal", r#","precision":2,"scale":9"#),
            ("\"bytes\"", "decimal", ""),
            ("\"bytes\"", "uuid", ""),
            ("\"string\"", "something else", ""),
        ] {
            assert_eq!(of(kind, name, more), Logical::Nothing, "{kind} {name}");
        }
    }

    #[test]
    fn names_are_found_in_their_namespace_and_a_type_may_hold_itself() {
        let json = r#"{"type":"record","name":"a.b.Tree","fields":[
            {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["LEAF","NODE"]}},
            {"name":"again","type":"a.b.Kind"},
            {"name":"plain","type":"Kind"},
            {"name":"left","type":["null","Tree"]},
            {"name":"other","type":{"type":"fixed","name":"x.Four","size":4}},
            {"name":"four","type":"x.Four"}]}"#;
        let fields = shapes(json);
        assert_eq!(fields[0].1, fields[1].1);
        assert_eq!(fields[1].1, fields[2].1);
        assert_eq!(fields[5].1.shape, Shape::Fixed(4));
        let schema = Schema::parse(json).unwrap();
        let Shape::Union(branches) = &fields[3].1.shape else {
            panic!("a union")
        };
        assert!(matches!(&schema.get(branches[1]).shape, Shape::Record(fields) if fields.len() == 6));
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        for (json, why) in [
            ("", "no JSON"),
            ("\"string\"", "the schema is a string, wanted a record"),
            (r#"{"type":"record","name":"r"}"#, "record r without \"fields\""),
            (r#"{"type":"record","fields":[]}"#, "without a \"name\""),
            (
                r#"{"type":"record","name":"r","fields":[{"name":"f","type":"texts"}]}"#,
                "field f of record r: there is no type texts",
            ),
            (
                r#"{"type":"record","name":"r","fields":[{"name":"f","type":"int"},{"name":"f","type":"int"}]}"#,
                "field f of record r: stands there twice",
            ),
            (
                r#"{"type":"record","name":"r","fields":[{"name":"f","type":{"type":"fixed","name":"x","size":-1}}]}"#,
                "field f of record r: fixed without a \"size\"",
            ),
            (
                r#"{"type":"record","name":"r","fields":[{"name":"f","type":["null",["null","int"]]}]}"#,
                "a union stands directly in a union",
            ),
            (
                r#"{"type":"record","name":"r","fields":[{"name":"f","type":{"type":"record","name":"r","fields":[]}}]}"#,
                "r is defined twice",
            ),
        ] {
            let problem = Schema::parse(json).unwrap_err();
            assert!(problem.contains(why), "{json}: {problem}");
        }
        let deep = format!("{}\"int\"{}", "{\"type\":".repeat(1000), "}".repeat(1000));
        assert!(Schema::parse(&deep).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn values_without_bytes_are_known() {
        let json = r#"{"type":"record","name":"r","fields":[{"name":"none","type":"null"},
            {"name":"empty","type":{"type":"record","name":"e","fields":[{"name":"n","type":"null"}]}},
            {"name":"full","type":{"type":"record","name":"f","fields":[{"name":"n","type":"null"},{"name":"i","type":"int"}]}},
            {"name":"list","type":{"type":"array","items":"null"}}]}"#;
        let schema = Schema::parse(json).unwrap();
        let empty: Vec<bool> = schema.fields().iter().map(|field| schema.is_empty(field.of)).collect();
        assert_eq!(empty, [true, true, false, false]);
    }
}
