//! What an output computes, one batch after another: a query, or a program's chain of closures.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::stream::BoxStream;
use tidemill_core::plan::BatchPlan;

use crate::error::Result;
use crate::sql::scan_run::ScanRun;
use crate::state::{Changes, OperatorSpec, StateReader};

/// A batch of so few offsets is read by one task, and by one fetch per broker: waking threads for them would cost more than it saves.
pub const FEW_OFFSETS: i64 = 50_000;

/// What each stateful operator holds before a batch, by operator id.
pub type StateReaders = BTreeMap<String, StateReader>;

/// The rows of a slice.
pub type SliceRows = BoxStream<'static, Result<RecordBatch>>;

/// What an output computes. The same plan and the same state give the same rows, however often it is run.
#[async_trait]
pub trait Job: Debug + Send + Sync {
    /// Columns of the rows.
    fn schema(&self) -> SchemaRef;

    /// True where each slice is one range with its records in order.
    fn ordered(&self) -> bool;

    /// The stateful operators that a run passes through.
    fn operators(&self) -> Vec<OperatorSpec> {
        Vec::new()
    }

    /// The operators with windows, by id: milliseconds from the end of one window to the end of the next. What such an operator
    /// keeps is what its next window has so far.
    fn slides(&self) -> BTreeMap<String, i64> {
        BTreeMap::new()
    }

    /// The job for one batch, over the state that the batch before left.
    ///
    /// # Errors
    /// `UserCode` where a closure that runs once per batch fails; else a bug.
    fn for_batch(&self, plan: &BatchPlan, before: &StateReaders) -> Result<Arc<dyn BatchRun>>;

    /// True where it gives rows without any input, as `count(*)` without GROUP BY does.
    ///
    /// # Errors
    /// `Config` where it fails even so.
    async fn yields_without_input(&self) -> Result<bool>;
}

/// A job in one batch. Every slice is executed once, then it is finished.
#[async_trait]
pub trait BatchRun: Debug + Send + Sync {
    /// The number of slices to execute.
    fn slices(&self) -> usize;

    /// True where rows cross from slice to slice, so that all slices must run at once.
    fn exchanges(&self) -> bool;

    /// False where the output has nothing to say at this batch's time, not even that there are no rows: a window between two
    /// of its slides.
    fn is_due(&self) -> bool {
        true
    }

    /// The rows of a slice.
    ///
    /// # Errors
    /// Those of the query.
    fn execute(&self, slice: usize) -> Result<SliceRows>;

    /// Ends the run after its slices: brings state forward where no slice did, and gives what was scanned and what changed.
    ///
    /// # Errors
    /// Those of the sources and of user code.
    async fn finish(&self) -> Result<Finished>;
}

/// What a run leaves behind.
#[derive(Debug, Default)]
pub struct Finished {
    /// One per scan of a source, for the counts; none is finished yet.
    pub scans: Vec<Arc<ScanRun>>,
    /// What changes in the state of each operator, by its id.
    pub changes: BTreeMap<String, Changes>,
}
