//! What a batch changes of the groups that an operator keeps, noted as the merged groups pass.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream};
use futures::future::try_join_all;
use futures::{Stream, StreamExt};
use tokio::sync::Notify;

use super::kept_groups::{Group, KeptGroups, ours};
use super::reach::Reach;
use super::{last_record, ttl};
use crate::error::{Error, Kind, Result};
use crate::sql::from_engine::from_engine;
use crate::state::{BUCKETS, Changes, StateReader};

/// The changes of one operator in one batch, and how far its slices are read. A query above may leave slices unread (a LIMIT,
/// the empty side of a join): the state takes the whole batch all the same.
pub(in crate::sql) struct Noted {
    groups: Arc<KeptGroups>,
    before: Option<StateReader>,
    reach: Arc<Reach>,
    /// Each group of the batch once, merged with what was kept of it.
    input: Arc<dyn ExecutionPlan>,
    // A leaf lock, held to note what is at hand: slices end on any thread.
    progress: Mutex<Progress>,
    /// Told of each slice that ended or was left.
    moved: Notify,
}

struct Progress {
    changes: Changes,
    slices: Vec<Slice>,
}

enum Slice {
    Untouched,
    BeingRead,
    Left(SendableRecordBatchStream),
    Ended,
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noted")
            .field("operator", &self.groups.operator.id)
            .finish_non_exhaustive()
    }
}

impl Noted {
    pub(super) fn new(
        groups: Arc<KeptGroups>,
        before: Option<StateReader>,
        reach: Arc<Reach>,
        input: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let slices = input.output_partitioning().partition_count();
        Self {
            groups,
            before,
            reach,
            input,
            progress: Mutex::new(Progress {
                changes: Changes::default(),
                slices: (0..slices).map(|_slice| Slice::Untouched).collect(),
            }),
            moved: Notify::new(),
        }
    }

    /// The operator's id.
    pub(in crate::sql) fn operator(&self) -> &str {
        &self.groups.operator.id
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of a slice, noted as they pass.
    pub(super) fn rows(
        self: Arc<Self>,
        slice: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<impl Stream<Item = DfResult<RecordBatch>> + Send + use<>> {
        let input = self.input.execute(slice, context)?;
        self.lock().slices[slice] = Slice::BeingRead;
        let reading = Reading {
            noted: self,
            slice,
            input: Some(input),
        };
        Ok(futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|rows| (rows, reading)))
        }))
    }

    /// Notes the groups that pass, and gives those that the batch does not forget.
    fn note(&self, rows: RecordBatch) -> DfResult<RecordBatch> {
        let Some(expiry) = &self.reach.expiry else {
            self.note_changed(&rows)?;
            return Ok(rows);
        };
        let (rows, times) = last_record::take(&rows, &self.groups.schema)?;
        let those =
            |keep: &dyn Fn(i64) -> bool| BooleanArray::from_iter(times.values().iter().map(|time| Some(keep(*time))));
        let with_records = those(&|time_ms| time_ms == expiry.now_ms());
        self.note_changed(&filter_record_batch(&rows, &with_records)?)?;
        Ok(filter_record_batch(&rows, &those(&|time_ms| expiry.keeps(time_ms)))?)
    }

    fn note_changed(&self, rows: &RecordBatch) -> DfResult<()> {
        if !self.reach.keeps() {
            return Ok(());
        }
        let groups = self.groups.groups(rows, &self.reach)?;
        let mut changed = Vec::with_capacity(groups.len());
        for (group, value) in groups.into_iter().zip(self.groups.values(rows)?) {
            let kept = match &self.before {
                Some(before) => self.groups.get(before, &group)?,
                None => None,
            };
            let kept = kept.as_deref().map(ttl::split);
            // With a time to live the time is new, where nothing else is.
            if self.reach.expiry.is_some() || kept.is_none_or(|(_, before)| before != value) {
                changed.push((group, value, kept.map_or(0, |(last_ms, _)| last_ms)));
            }
        }
        let changes = &mut self.lock().changes;
        for (group, value, last_ms) in changed {
            self.change(group, value, last_ms, changes)?;
        }
        Ok(())
    }

    fn change(&self, group: Group, value: Vec<u8>, last_ms: i64, changes: &mut Changes) -> DfResult<()> {
        let Group { bucket, key } = group;
        if changes.get(bucket, &key).is_some() {
            let text = format!("state of {}: a group came twice", self.groups.operator.id);
            return Err(ours(Error::new(Kind::Bug, text)));
        }
        ttl::forget_time(bucket, &key, last_ms, changes);
        let value = match &self.reach.expiry {
            Some(expiry) => {
                ttl::note_time(bucket, &key, expiry.now_ms(), changes);
                ttl::timed(expiry.now_ms(), &value)
            }
            None => value,
        };
        changes.set(bucket, key, Some(value));
        Ok(())
    }

    /// Reads what the query left unread, and gives all changes.
    ///
    /// # Errors
    /// Those of the query.
    pub(in crate::sql) async fn finish(self: &Arc<Self>, context: &Arc<TaskContext>) -> Result<Changes> {
        self.none_being_read().await;
        let slices = self.lock().slices.len();
        try_join_all((0..slices).map(|slice| self.read_left(slice, context))).await?;
        let mut changes = std::mem::take(&mut self.lock().changes);
        self.forget(&mut changes)?;
        Ok(changes)
    }

    /// Removes what no later window has, and what was too long without a record.
    fn forget(&self, changes: &mut Changes) -> Result<()> {
        let before = self.before.as_ref();
        match &self.reach.expiry {
            Some(expiry) => expiry.forget(before, changes),
            None if self.groups.scope.window().is_some() => self.forget_panes(changes),
            None => ttl::without_ttl(before, changes),
        }
    }

    fn forget_panes(&self, changes: &mut Changes) -> Result<()> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        for bucket in 0..BUCKETS {
            for entry in before.range(bucket, &[], Some(&self.reach.kept_from)) {
                changes.set(bucket, entry?.0, None);
            }
        }
        Ok(())
    }

    async fn read_left(&self, slice: usize, context: &Arc<TaskContext>) -> Result<()> {
        let left = std::mem::replace(&mut self.lock().slices[slice], Slice::Ended);
        let mut input = match left {
            Slice::Untouched => self.input.execute(slice, Arc::clone(context)).map_err(from_engine)?,
            Slice::Left(input) => input,
            Slice::BeingRead | Slice::Ended => return Ok(()),
        };
        while let Some(rows) = input.next().await {
            rows.and_then(|rows| self.note(rows)).map_err(from_engine)?;
        }
        Ok(())
    }

    /// Tasks that an operator no longer needs are dropped a little later.
    async fn none_being_read(&self) {
        loop {
            let moved = self.moved.notified();
            let being_read = |slice: &Slice| matches!(slice, Slice::BeingRead);
            if !self.lock().slices.iter().any(being_read) {
                return;
            }
            moved.await;
        }
    }
}

/// A slice while the query reads it. Dropped before its end it leaves its rows for [`Noted::finish`].
struct Reading {
    noted: Arc<Noted>,
    slice: usize,
    input: Option<SendableRecordBatchStream>,
}

impl Reading {
    async fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        let Some(input) = &mut self.input else {
            return Ok(None);
        };
        if let Some(rows) = input.next().await.transpose()? {
            return self.noted.note(rows).map(Some);
        }
        self.input = None;
        self.becomes(Slice::Ended);
        Ok(None)
    }

    fn becomes(&self, slice: Slice) {
        self.noted.lock().slices[self.slice] = slice;
        self.noted.moved.notify_waiters();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(input) = self.input.take() {
            self.becomes(Slice::Left(input));
        }
    }
}
