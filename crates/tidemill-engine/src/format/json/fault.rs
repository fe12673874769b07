//! Why a record is bad, small while it is scanned and in words when it is told.

use arrow::datatypes::Field;

use crate::format::columns::sql_name;
use crate::format::excerpt::excerpt;

/// Why a record is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The record as a whole: what was wanted at this byte.
    Record { wanted: &'static str, at: usize },
    /// A wanted column: its place among the wanted ones, and where its value begins.
    Column { column: usize, why: Why, at: usize },
}

/// Why a column can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::format) enum Why {
    /// The value has another type, or is no value.
    Type,
    /// The type can't hold the number.
    Range,
    /// A string that is no UTF-8.
    Utf8,
    /// A string with an escape that JSON does not know, or half a surrogate pair.
    Escape,
    /// The record ends inside the value.
    Truncated,
    /// Missing or null in a column that is NOT NULL.
    Missing,
    /// More text with escapes in one step than a view can address.
    TooLong,
}

impl Fault {
    /// The reason in words. `fields` are the wanted columns.
    pub(super) fn describe(self, fields: &[Field], record: &[u8]) -> String {
        match self {
            Fault::Record { wanted, at } => format!("wanted {wanted} at byte {at} of {}", excerpt(record, at)),
            Fault::Column { column, why, at } => {
                let (name, data_type) = (fields[column].name(), sql_name(fields[column].data_type()));
                let found = found(record, at);
                let what = match why {
                    Why::Type => format!("found {found}"),
                    Why::Range => format!("found {found} that it can't hold"),
                    Why::Utf8 => "found text that is not UTF-8".to_owned(),
                    Why::Escape => "found a string with an escape that JSON does not know".to_owned(),
                    Why::Truncated => format!("found {found} that does not end"),
                    Why::Missing if found == "null" => "found null where it is NOT NULL".to_owned(),
                    Why::Missing => "found no such field where it is NOT NULL".to_owned(),
                    Why::TooLong => "found more text with escapes than fits into one step".to_owned(),
                };
                format!(
                    "column {name} {data_type}: {what} at byte {at} of {}",
                    excerpt(record, at)
                )
            }
        }
    }
}

fn found(record: &[u8], at: usize) -> &'static str {
    match record.get(at) {
        None => "the end",
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(_) => "no value",
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::format::excerpt::EXCERPT_CHARS_MAX;

    #[test]
    fn reasons_name_the_column_and_show_a_bounded_part_of_the_record() {
        let field = Field::new("ad_id", DataType::Int64, true);
        let record = format!(
            r#"{{"pad":"{}","ad_id":"abc","more":"{}"}}"#,
            "x".repeat(500),
            "é".repeat(500)
        );
        let at = record.find(r#""abc""#).unwrap();
        let reason = Fault::Column {
            column: 0,
            why: Why::Type,
            at,
        }
        .describe(&[field], record.as_bytes());
        assert!(
            reason.starts_with("column ad_id BIGINT: found a string at byte 518 of …"),
            "{reason}"
        );
        let shown = reason.split('…').nth(1).unwrap();
        assert_eq!(shown.chars().count(), EXCERPT_CHARS_MAX);
        assert!(shown.contains(r#""ad_id":"abc""#), "{reason}");
    }

    #[test]
    fn a_short_record_is_shown_whole_on_one_line() {
        let reason = Fault::Record {
            wanted: "an object",
            at: 0,
        }
        .describe(&[], b"hello\n\xff");
        assert_eq!(reason, "wanted an object at byte 0 of hello \u{fffd}");
    }
}
