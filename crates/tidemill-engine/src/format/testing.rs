//! Records for the tests of the formats.

use arrow::array::{Array, BinaryViewBuilder, Int64Array};
use arrow::datatypes::Schema;

use super::Decoded;
use crate::source::RawRows;

/// Rows of these values, in small buffers, so that views point into several.
pub(super) fn rows<B: AsRef<[u8]>>(records: &[Option<B>]) -> RawRows {
    let mut values = BinaryViewBuilder::new().with_fixed_block_size(512);
    records.iter().for_each(|record| values.append_option(record.as_ref()));
    RawRows {
        offsets: Int64Array::from_iter_values(0..records.len() as i64),
        keys: None,
        values: Some(values.finish()),
        timestamps: None,
        headers: None,
        position: records.len() as i64,
        bytes: 0,
    }
}

/// Holds what was decoded against the columns that were wanted.
pub(super) fn check(decoded: &Decoded, schema: &Schema, wanted: &[usize], records: usize) {
    assert_eq!(decoded.columns.len(), wanted.len());
    for (column, index) in decoded.columns.iter().zip(wanted) {
        let field = schema.field(*index);
        assert_eq!(column.data_type(), field.data_type());
        assert_eq!(column.len(), records);
        assert!(field.is_nullable() || column.null_count() == 0, "{field}");
        column.to_data().validate_full().unwrap();
    }
    if let Some(bad) = &decoded.bad {
        assert_eq!(bad.keep.len(), records);
        assert_eq!(bad.keep.false_count(), bad.count);
        assert!(!bad.keep.value(bad.first_row));
    }
}

/// The reason of the only record, which is bad.
pub(super) fn reason(decoded: &Decoded) -> &str {
    &decoded.bad.as_ref().expect("a bad record").first_reason
}
