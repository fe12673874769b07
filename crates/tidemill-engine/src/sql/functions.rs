//! Functions whose answer belongs to the batch: the same in every run of it (X12).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The batch that a template runs. One template runs one batch at a time, so a cell is enough.
#[derive(Debug, Default)]
pub struct BatchCell {
    time_ms: AtomicI64,
    id: AtomicU64,
}

impl BatchCell {
    /// Sets the batch before its plan is executed.
    pub fn set(&self, id: u64, time_ms: i64) {
        self.id.store(id, Ordering::Release);
        self.time_ms.store(time_ms, Ordering::Release);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// Milliseconds, no zone: `batch_time()`.
    Time,
    /// Nanoseconds in UTC: `now()`, `current_timestamp`.
    Now,
    /// `current_date`, `today`.
    Date,
    /// `current_time`.
    TimeOfDay,
    /// `batch_id()`.
    Id,
    /// Refused.
    Chance,
}

#[derive(Debug, Clone)]
struct BatchFunction {
    name: &'static str,
    aliases: Vec<String>,
    what: What,
    cell: Arc<BatchCell>,
    signature: Signature,
}

impl PartialEq for BatchFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.cell, &other.cell)
    }
}

impl Eq for BatchFunction {}

impl std::hash::Hash for BatchFunction {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// The functions, bound to `cell`. They replace DataFusion's own `now`, `current_date`, `current_time`, `random`, `uuid`.
pub fn functions(cell: &Arc<BatchCell>) -> Vec<ScalarUDF> {
    let make = |name, aliases: &[&str], what| {
        ScalarUDF::from(BatchFunction {
            name,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            what,
            cell: Arc::clone(cell),
            // Volatile keeps the planner from folding the first batch's answer into the template.
            signature: Signature::nullary(Volatility::Volatile),
        })
    };
    vec![
        make("batch_time", &[], What::Time),
        make("batch_id", &[], What::Id),
        make("now", &["current_timestamp"], What::Now),
        make("current_date", &["today"], What::Date),
        make("current_time", &[], What::TimeOfDay),
        make("random", &[], What::Chance),
        make("uuid", &[], What::Chance),
    ]
}

/// True for a function that has another answer in each batch.
pub(super) fn tells_batches_apart(function: &ScalarUDF) -> bool {
    let of_batch = function.inner().downcast_ref::<BatchFunction>();
    of_batch.is_some_and(|function| matches!(function.what, What::Time | What::Now | What::Id))
}

impl ScalarUDFImpl for BatchFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(match self.what {
            What::Time => DataType::Timestamp(TimeUnit::Millisecond, None),
            What::Now => DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
            What::Date => DataType::Date32,
            What::TimeOfDay => DataType::Time64(TimeUnit::Nanosecond),
            What::Id => DataType::UInt64,
            What::Chance => {
                return Err(DataFusionError::Plan(format!(
                    "{}() would give another answer when a batch runs again; use a hash of the record's own columns, \
                     such as md5(_topic || _partition || _offset)",
                    self.name
                )));
            }
        })
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        const DAY_MS: i64 = 86_400_000;
        let time_ms = self.cell.time_ms.load(Ordering::Acquire);
        let value = match self.what {
            What::Time => ScalarValue::TimestampMillisecond(Some(time_ms), None),
            What::Now => ScalarValue::TimestampNanosecond(Some(time_ms * 1_000_000), Some("+00:00".into())),
            What::Date => ScalarValue::Date32(i32::try_from(time_ms.div_euclid(DAY_MS)).ok()),
            What::TimeOfDay => ScalarValue::Time64Nanosecond(Some(time_ms.rem_euclid(DAY_MS) * 1_000_000)),
            What::Id => ScalarValue::UInt64(Some(self.cell.id.load(Ordering::Acquire))),
            What::Chance => return Err(DataFusionError::Internal("a refused function was called".into())),
        };
        Ok(ColumnarValue::Scalar(value))
    }
}
