//! Groups with their partial aggregates, as rows and as entries of an operator's state.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{DataFusionError, Result as DfResult};

use super::reach::{Reach, TIME_BYTES};
use super::row_bytes::RowBytes;
use super::ttl::{GROUPS_END, split};
use super::{Scope, last_record};
use crate::error::Error;
use crate::state::{OperatorSpec, StateRange, StateReader, bucket_of};

/// The rows of a partial aggregate, the group's columns first, and how they are kept: the group is the key, behind its pane
/// where there is a window; the partial aggregates are the value, behind the time of the last record where there is a time to
/// live.
#[derive(Debug)]
pub(super) struct KeptGroups {
    pub(super) operator: OperatorSpec,
    pub(super) schema: SchemaRef,
    /// With the time of the last record behind, where there is a time to live.
    pub(super) timed_schema: SchemaRef,
    pub(super) scope: Scope,
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
    pub(super) fn new(operator: OperatorSpec, schema: SchemaRef, group_columns: usize, scope: Scope) -> Self {
        let (groups, states) = schema.fields().split_at(group_columns);
        let timed_schema = match scope.ttl() {
            Some(_) => last_record::beside(&schema),
            None => Arc::clone(&schema),
        };
        Self {
            operator,
            keys: RowBytes::new(groups),
            values: RowBytes::new(states),
            schema,
            timed_schema,
            scope,
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

    /// Kept entries as rows, with the time of the last record where that is asked.
    pub(super) fn rows(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> DfResult<RecordBatch> {
        let pane_bytes = if self.scope.window().is_some() { TIME_BYTES } else { 0 };
        let groups = entries.iter().map(|(key, _)| key.get(pane_bytes..).unwrap_or_default());
        let mut columns = self.keys.decode(groups)?;
        let (times, values): (Vec<i64>, Vec<&[u8]>) = entries.iter().map(|(_, kept)| split(kept)).unzip();
        columns.extend(self.values.decode(values.into_iter())?);
        let rows = RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)?;
        self.timed(rows, || times)
    }

    /// Rows of a batch, with its time as that of their last record where that is asked.
    pub(super) fn rows_of_batch(&self, rows: RecordBatch, reach: &Reach) -> DfResult<RecordBatch> {
        let (count, expiry) = (rows.num_rows(), reach.expiry);
        self.timed(rows, || vec![expiry.map_or(0, |expiry| expiry.now_ms()); count])
    }

    fn timed(&self, rows: RecordBatch, times: impl FnOnce() -> Vec<i64>) -> DfResult<RecordBatch> {
        match self.scope.ttl() {
            Some(_) => last_record::put(&rows, times().into(), &self.timed_schema),
            None => Ok(rows),
        }
    }

    /// The groups that are kept in a bucket, from this key on.
    pub(super) fn range(&self, before: &StateReader, bucket: u16, from: &[u8]) -> StateRange {
        let until = self.scope.window().is_none().then_some(GROUPS_END);
        before.range(bucket, from, until)
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
        let kept = KeptGroups::new(operator, Arc::clone(&schema), 1, Scope::default());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), Some(1.5), None])),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
        ];
        let rows = RecordBatch::try_new(schema, columns).expect("rows");
        let groups = kept
            .groups(&rows, &Reach::of(Scope::default(), 0, None).expect("reach"))
            .expect("groups");
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
