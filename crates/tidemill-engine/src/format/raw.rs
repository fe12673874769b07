//! Records as they are: one column `value BINARY`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{Decoded, Decoder, Format};
use crate::source::RawRows;

/// Values untouched. No record is bad; a tombstone is NULL.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawFormat;

impl RawFormat {
    /// The columns of every raw table: `value BINARY`.
    pub fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("value", DataType::BinaryView, true)]))
    }
}

impl Format for RawFormat {
    fn decoder(&self, wanted: &[usize]) -> Box<dyn Decoder> {
        Box::new(RawDecoder { wanted: wanted.len() })
    }

    fn validates_without_columns(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct RawDecoder {
    /// 0 or 1, unless somebody wants the only column twice.
    wanted: usize,
}

impl Decoder for RawDecoder {
    fn decode(&mut self, rows: &RawRows) -> Decoded {
        let column = || -> ArrayRef {
            match &rows.values {
                Some(values) => Arc::new(values.clone()),
                None => Arc::new(BinaryViewArray::new_null(rows.offsets.len())),
            }
        };
        Decoded {
            columns: (0..self.wanted).map(|_| column()).collect(),
            bad: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};

    use super::*;

    #[test]
    fn values_pass_as_they_are() {
        let values = BinaryViewArray::from_iter([Some(&b"\xff\x00 no text, and long"[..]), None, Some(b"")]);
        let rows = RawRows {
            offsets: Int64Array::from_iter_values([4, 5, 9]),
            keys: None,
            values: Some(values.clone()),
            timestamps: None,
            headers: None,
            position: 10,
            bytes: 0,
        };
        let decoded = RawFormat.decoder(&[0]).decode(&rows);
        assert!(decoded.bad.is_none());
        assert_eq!(decoded.columns.len(), 1);
        assert_eq!(decoded.columns[0].as_binary_view(), &values);
        assert_eq!(decoded.columns[0].data_type(), RawFormat::schema().field(0).data_type());
        let fetched = values.data_buffers()[0].as_ptr();
        assert_eq!(
            decoded.columns[0].as_binary_view().data_buffers()[0].as_ptr(),
            fetched,
            "nothing is copied"
        );
        assert!(RawFormat.decoder(&[]).decode(&rows).columns.is_empty());
    }
}
