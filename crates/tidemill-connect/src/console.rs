//! Standard output, for looking: at least once, no ledger.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{BatchCommit, Claim, Committed, Sink, SinkBatch, SinkInput, SinkState, SliceWriter};

/// Prints the first rows of each batch as a table.
#[derive(Debug)]
pub struct ConsoleSink {
    name: String,
    limit: usize,
}

impl ConsoleSink {
    /// A sink that prints at most `limit` rows per batch.
    pub fn new(name: impl Into<String>, limit: usize) -> Self {
        Self {
            name: name.into(),
            limit,
        }
    }
}

/// What the slices of a batch have in common. A leaf lock, held while a few rows are kept.
#[derive(Debug, Default)]
struct Kept {
    batches: Vec<RecordBatch>,
    kept: usize,
    rows: u64,
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Mutex<Kept>>,
    limit: usize,
}

#[derive(Debug)]
struct Print {
    batch: u64,
    shared: Arc<Mutex<Kept>>,
}

#[async_trait]
impl Sink for ConsoleSink {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "console".to_owned(),
            target: "standard output".to_owned(),
        }
    }

    fn exactly_once(&self) -> bool {
        false
    }

    async fn check(&mut self, _input: &SinkInput) -> Result<()> {
        Ok(())
    }

    async fn inspect(&mut self, _app: &str) -> Result<SinkState> {
        Ok(SinkState::default())
    }

    async fn fence(&mut self, _claim: &Claim) -> Result<()> {
        Ok(())
    }

    async fn ledger(&mut self) -> Result<Option<LedgerRecord>> {
        Ok(None)
    }

    async fn birth(&mut self, _record: &LedgerRecord) -> Result<()> {
        Ok(())
    }

    async fn begin(&mut self, plan: &BatchPlan, slices: usize, _attempt: u32) -> Result<SinkBatch> {
        let shared = Arc::new(Mutex::new(Kept::default()));
        let writers = (0..slices)
            .map(|_| -> Box<dyn SliceWriter> {
                Box::new(Writer {
                    shared: Arc::clone(&shared),
                    limit: self.limit,
                })
            })
            .collect();
        Ok(SinkBatch {
            writers,
            commit: Box::new(Print {
                batch: plan.batch_id,
                shared,
            }),
        })
    }
}

#[async_trait]
impl SliceWriter for Writer {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.rows += rows.num_rows() as u64;
        let room = self.limit.saturating_sub(shared.kept).min(rows.num_rows());
        if room > 0 {
            shared.kept += room;
            shared.batches.push(rows.slice(0, room));
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl BatchCommit for Print {
    async fn commit(self: Box<Self>, _permit: &CommitPermit, _record: LedgerRecord) -> Result<Committed> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let bug = |error| Error::with_source(Kind::Bug, "format rows for the console", error);
        let table = pretty_format_batches(&shared.batches).map_err(bug)?;
        let mut out = std::io::stdout().lock();
        let more = shared.rows.saturating_sub(shared.kept as u64);
        let printed = writeln!(out, "batch {}: {} rows", self.batch, shared.rows)
            .and_then(|()| {
                if shared.kept > 0 {
                    writeln!(out, "{table}")
                } else {
                    Ok(())
                }
            })
            .and_then(|()| {
                if more > 0 {
                    writeln!(out, "… and {more} more")
                } else {
                    Ok(())
                }
            })
            .and_then(|()| out.flush());
        printed.map_err(|error| Error::with_source(Kind::Refused, "write to standard output", error))?;
        Ok(Committed {
            rows: shared.rows,
            files: Vec::new(),
        })
    }
}
