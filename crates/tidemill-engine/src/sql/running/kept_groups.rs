//! Groups with their partial aggregates, as rows and as entries of an operator's state.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{DataFusionError, Result as DfResult};

use super::reach::{PANE_BYTES, Reach};
use super::row_bytes::RowBytes;
use super::window::Window;
use crate::error::Error;
use crate::state::{OperatorSpec, StateReader, bucket_of};

/// The rows of a partial aggregate, the group's columns first, and how they are kept: the group is the key, behind its pane
/// where there is a window; the partial aggregates are the value.
#[derive(Debug)]
pub(super) struct KeptGroups {
    pub(super) operator: OperatorSpec,
    pub(super) schema: SchemaRef,
    pub(super) window: Option<Window>,
    keys: RowBytes,
    values: RowBytes,
    group_columns: usize,
}

/// A group as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) bucket: u16,
    pub(super) key: Vec<u8>,
}

impl KeptGroups {
    pub(super) fn new(operator: OperatorSpec, schema: SchemaRef, group_columns: usize, window: Option<Window>) -> Self {
        let (groups, states) = schema.fields().split_at(group_columns);
        Self {
            operator,
            keys: RowBytes::new(groups),
            values: RowBytes::new(states),
            schema,
            window,
            group_columns,
        }
    }

    /// The group of each row, as a batch of this reach keeps it.
    pub(super) fn groups(&self, rows: &RecordBatch, reach: &Reach) -> DfResult<Vec<Group>> {
        // The two zeros are one group; which of them stands in a row is chance.
        let columns: Vec<ArrayRef> = rows.columns()[..self.group_columns]
            .iter()
            .map(normalize_float_zero)
            .collect();
        let keys = self.keys.encode(&columns, rows.num_rows())?;
        let group = |key: Vec<u8>| Group {
            bucket: bucket_of(hash(&key)),
            key: [reach.pane.as_slice(), &key].concat(),
        };
        Ok(keys.into_iter().map(group).collect())
    }

    /// The partial aggregates of each row, as they are kept.
    pub(super) fn values(&self, rows: &RecordBatch) -> DfResult<Vec<Vec<u8>>> {
        Ok(self
            .values
            .encode(&rows.columns()[self.group_columns..], rows.num_rows())?)
    }

    /// Kept entries as rows.
    pub(super) fn rows(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> DfResult<RecordBatch> {
        let pane_bytes = if self.window.is_some() { PANE_BYTES } else { 0 };
        let groups = entries.iter().map(|(key, _)| key.get(pane_bytes..).unwrap_or_default());
        let mut columns = self.keys.decode(groups)?;
        columns.extend(self.values.decode(entries.iter().map(|(_, value)| value.as_slice()))?);
        Ok(RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)?)
    }

    /// What is kept of a group.
    pub(super) fn get(&self, before: &StateReader, group: &Group) -> DfResult<Option<Vec<u8>>> {
        before.get(group.bucket, &group.key).map_err(ours)
    }
}

/// An error of ours on its way through DataFusion.
pub(super) fn ours(error: Error) -> DataFusionError {
    DataFusionError::External(error.into())
}

/// The same for ever: it says where a group is kept.
fn hash(key: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, key)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn a_group_keeps_its_key_and_its_place() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("of", DataType::Float64, true),
            Field::new("count", DataType::Int64, false),
        ]));
        let operator = OperatorSpec {
            id: "query-x".to_owned(),
            kind: "running-aggregate".to_owned(),
            shape: String::new(),
        };
        let kept = KeptGroups::new(operator, Arc::clone(&schema), 1, None);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), Some(1.5), None])),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
        ];
        let rows = RecordBatch::try_new(schema, columns).expect("rows");
        let groups = kept.groups(&rows, &Reach::of(None, 0)).expect("groups");
        assert_eq!(groups[0], groups[1]);
        let places: Vec<u16> = groups.iter().map(|group| group.bucket).collect();
        assert_eq!(places, [52, 52, 10, 53], "every later version must find them there");
        let values = kept.values(&rows).expect("values");
        let entries: Vec<_> = groups
            .iter()
            .map(|group| group.key.clone())
            .zip(values)
            .skip(1)
            .collect();
        let back = kept.rows(&entries).expect("rows");
        assert_eq!(back.column(1).as_ref(), rows.slice(1, 3).column(1).as_ref());
        assert_eq!(
            back.column(0).as_ref(),
            &Float64Array::from(vec![Some(0.0), Some(1.5), None])
        );
    }
}
