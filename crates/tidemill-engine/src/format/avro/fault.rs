//! Why a record is bad, small while it is read and in words when it is told.

use super::schema::Schema;
use crate::format::excerpt::hex_excerpt;

/// Why a record is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A field of the record, and where its value begins.
    Field { field: usize, why: Why, at: usize },
    /// Bytes after the last field.
    More { at: usize },
    /// The header that each record has is not there.
    NoHeader,
    /// With its first five bytes taken as a header it is a record, and without that too.
    TwoWays,
    /// It is no record, neither with a header nor without: where the two readings end.
    NoWay { plain: usize, headed: usize },
}

/// Why a field can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The record ends inside it.
    Truncated,
    /// A number of more than 64 bits.
    Number,
    /// A number beyond its type.
    Range,
    /// A length below 0.
    Length,
    /// A branch that the union does not have.
    Branch,
    /// A symbol that the enum does not have.
    Symbol,
    /// A boolean that is neither 0 nor 1.
    Boolean,
    /// Text that is no UTF-8.
    Utf8,
    /// A block of an array or a map that does not end where it says.
    Block,
    /// Values within values without end.
    Deep,
    /// More text or items in one step than a column can address.
    TooLong,
}

impl Fault {
    /// The reason in words.
    pub(super) fn describe(self, schema: &Schema, record: &[u8]) -> String {
        let (what, at) = match self {
            Self::Field { field, why, at } => {
                let field = &schema.fields()[field];
                let kind = schema.get(field.of).shape.name();
                (format!("field {} ({kind}): {}", field.name, why.words()), at)
            }
            Self::More { at } => (format!("{} bytes follow the last field", record.len() - at), at),
            Self::NoHeader => ("wanted Confluent's header, a zero byte and four bytes of schema id,".to_owned(), 0),
            Self::TwoWays => (
                "it is a record of the schema with its first five bytes taken as Confluent's header, and without that too; \
                 say which by header = true or false,"
                    .to_owned(),
                0,
            ),
            Self::NoWay { plain, headed } => (
                format!(
                    "no record of the schema: the fields end at byte {plain}, with Confluent's header skipped at byte {headed},"
                ),
                0,
            ),
        };
        format!("{what} at byte {at} of {}", hex_excerpt(record, at))
    }
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Self::Truncated => "the record ends inside it",
            Self::Number => "found a number of more than 64 bits",
            Self::Range => "found a number that it can't hold",
            Self::Length => "found a length below 0",
            Self::Branch => "found a branch that the union does not have",
            Self::Symbol => "found a symbol that the enum does not have",
            Self::Boolean => "found a boolean that is neither 0 nor 1",
            Self::Utf8 => "found text that is not UTF-8",
            Self::Block => "found a block that does not end where it says",
            Self::Deep => "found values that nest too deep",
            Self::TooLong => "found more than fits into one step",
        }
    }
}
