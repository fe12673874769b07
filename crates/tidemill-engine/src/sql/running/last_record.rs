//! The column that tells when a group of a query with a time to live got its last record.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Column;

const NAME: &str = "last record";

/// The columns of `schema`, and this one behind them.
pub(super) fn beside(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().cloned().chain([Arc::new(field())]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Of rows of one group the last of the times counts.
pub(super) fn latest() -> DfResult<Arc<AggregateFunctionExpr>> {
    AggregateExprBuilder::new(max_udaf(), vec![Arc::new(Column::new(NAME, 0))])
        .schema(Arc::new(Schema::new(vec![field()])))
        .alias(NAME)
        .build()
        .map(Arc::new)
}

fn field() -> Field {
    Field::new(NAME, DataType::Int64, true)
}

/// Rows and the time of each, in milliseconds since 1970 UTC.
pub(super) fn put(rows: &RecordBatch, times: Int64Array, schema: &SchemaRef) -> DfResult<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(times) as ArrayRef);
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The rows without their times, and these.
pub(super) fn take(rows: &RecordBatch, schema: &SchemaRef) -> DfResult<(RecordBatch, Int64Array)> {
    let columns = rows.columns()[..schema.fields().len()].to_vec();
    let times = rows.column(columns.len()).as_primitive::<Int64Type>().clone();
    Ok((RecordBatch::try_new(Arc::clone(schema), columns)?, times))
}
