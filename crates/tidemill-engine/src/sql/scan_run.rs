//! One scan of a source in one batch: its ranges, what became of each, and what a query left unread.

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DfResult};
use tidemill_core::commit::SliceReport;
use tidemill_core::plan::RangePlan;
use tokio::sync::Notify;

use super::slice_read::SliceRead;
use super::table::{SourceTable, Take};
use crate::error::Error;
use crate::failpoint;
use crate::source::Scan;

/// The ranges of one scan in one batch, what became of them, and the streams that a query left unread.
#[derive(Debug)]
pub struct ScanRun {
    pub(super) table: Arc<SourceTable>,
    pub(super) take: Take,
    /// The declared columns that are read of each record, the wanted ones first.
    decoded: Vec<usize>,
    pub(super) schema: SchemaRef,
    ranges: Vec<RangePlan>,
    scan: Arc<dyn Scan>,
    // A leaf lock, held for a push or a take only: slices end on any thread.
    ended: Mutex<Ended>,
    /// Told of each slice that ended or was left.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ended {
    reports: Vec<SliceReport>,
    left: Vec<SliceRead>,
    taken: Vec<bool>,
}

impl ScanRun {
    pub(super) fn open(table: Arc<SourceTable>, take: Take, schema: SchemaRef, ranges: Vec<RangePlan>) -> Self {
        let decoded = table.decoded(&take);
        let scan = table.source.scan(
            ranges.clone(),
            take.raw_columns(!decoded.is_empty() || table.format.validates_without_columns()),
        );
        let taken = vec![false; ranges.len()];
        Self {
            table,
            take,
            decoded,
            schema,
            ranges,
            scan,
            ended: Mutex::new(Ended {
                taken,
                ..Ended::default()
            }),
            changed: Notify::new(),
        }
    }

    /// The source's name.
    pub fn source(&self) -> &str {
        &self.table.name
    }

    fn slice(&self, index: usize) -> SliceRead {
        let range = self.ranges[index].clone();
        let decoder = self.table.format.decoder(&self.decoded);
        SliceRead::new(self.scan.stream(index), decoder, range)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The rows of one range.
    pub(super) fn read(run: Arc<Self>, index: usize) -> impl futures::Stream<Item = DfResult<RecordBatch>> + Send {
        run.lock().taken[index] = true;
        let slice = Reading {
            read: Some(run.slice(index)),
            run,
        };
        futures::stream::try_unfold(slice, |mut slice| async move {
            let rows = match &mut slice.read {
                Some(read) => read
                    .next(&slice.run)
                    .await
                    .map_err(|error| DataFusionError::External(error.into()))?,
                None => None,
            };
            match rows {
                Some(rows) => Ok(Some((rows, slice))),
                None => {
                    slice.end();
                    Ok(None)
                }
            }
        })
    }

    /// Reads what the query left unread (a LIMIT, an empty side of a join), so that every record is counted and every
    /// bad one found; then gives the reports of all ranges.
    ///
    /// # Errors
    /// As the source and the bad-record policy say.
    pub async fn finish(self: &Arc<Self>) -> Result<Vec<SliceReport>, Error> {
        self.all_ended_or_left().await;
        let left = {
            let mut ended = self.lock();
            let untouched: Vec<usize> = (0..self.ranges.len()).filter(|index| !ended.taken[*index]).collect();
            let mut left = std::mem::take(&mut ended.left);
            left.extend(untouched.into_iter().map(|index| self.slice(index)));
            left
        };
        for mut read in left {
            while read.next(self).await?.is_some() {}
            self.lock().reports.push(read.into_report());
        }
        Ok(std::mem::take(&mut self.lock().reports))
    }
}

impl ScanRun {
    /// Waits until the query holds no slice any more: tasks that an operator no longer needs are dropped a little later.
    async fn all_ended_or_left(&self) {
        let held = || {
            let ended = self.lock();
            let taken = ended.taken.iter().filter(|taken| **taken).count();
            taken > ended.reports.len() + ended.left.len()
        };
        loop {
            let changed = self.changed.notified();
            if !held() {
                return;
            }
            changed.await;
        }
    }
}

/// A slice while the query reads it. Dropped before its end it leaves its stream for [`ScanRun::finish`].
struct Reading {
    read: Option<SliceRead>,
    run: Arc<ScanRun>,
}

impl Reading {
    fn end(&mut self) {
        if let Some(read) = self.read.take() {
            failpoint::pass("read.slice-end");
            self.run.lock().reports.push(read.into_report());
            self.run.changed.notify_waiters();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(read) = self.read.take() {
            self.run.lock().left.push(read);
            self.run.changed.notify_waiters();
        }
    }
}
