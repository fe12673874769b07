//! One batch on its way into the table: encoded by its slices, fed into one COPY, committed with the ledger.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::SinkExt;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::failpoint;
use tidemill_engine::sink::{BatchCommit, Committed, SinkBatch, SliceWriter};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_postgres::CopyInSink;

use super::encode::{HEADER, Misfit, Rows, TRAILER};
use super::failure::failure;
use super::fence::Fence;
use super::session::{Ended, Keeper, Session};
use super::table::Table;
use super::types::Column;
use super::upsert::{Upsert, place};

/// Bytes that a slice gathers before it hands them over.
const CHUNK: usize = 512 * 1024;

/// Chunks that wait for the connection, of all slices together.
const CHUNKS: usize = 4;

type Copy = Pin<Box<CopyInSink<Bytes>>>;

/// Where rows go.
#[derive(Debug)]
pub(super) struct Into {
    pub(super) table: Table,
    pub(super) columns: Arc<[Column]>,
    /// How rows of one key are brought together, where they are not just appended.
    pub(super) upsert: Option<Upsert>,
}

/// What the parts of a batch share.
#[derive(Debug)]
struct Shared {
    /// Sink, table and batch, for messages.
    what: String,
    into: Into,
    /// Slices that were ended properly.
    finished: AtomicUsize,
}

impl Shared {
    fn lost(&self) -> Error {
        Error::new(
            Kind::Unavailable,
            format!("{}: the connection to PostgreSQL was lost", self.what),
        )
    }

    fn misfit(&self, misfit: &Misfit) -> Error {
        let kind = if misfit.bug { Kind::Bug } else { Kind::Refused };
        Error::new(
            kind,
            format!("{}, column {}: {}", self.what, misfit.column, misfit.reason),
        )
    }
}

/// Starts the COPY in the transaction that `session` has open: into the table, or into one of the transaction's own.
pub(super) async fn start(
    fence: Fence,
    session: Session,
    keeper: Keeper,
    into: Into,
    (what, batch_id, slices): (String, u64, usize),
) -> Result<SinkBatch> {
    let failed = |error| failure(&what, error);
    let statement = match &into.upsert {
        None => into.table.copy(&into.columns),
        Some(_) => {
            let stage = Upsert::stage(&into.columns);
            session.client.batch_execute(&stage).await.map_err(failed)?;
            Upsert::copy(&into.columns)
        }
    };
    let copy: CopyInSink<Bytes> = session.client.copy_in(&statement).await.map_err(failed)?;
    let (sender, receiver) = channel(CHUNKS);
    let shared = Arc::new(Shared {
        what,
        into,
        finished: AtomicUsize::new(0),
    });
    let writers = (0..slices)
        .map(|slice| {
            let writer: Box<dyn SliceWriter> = Box::new(Writer {
                shared: Arc::clone(&shared),
                sender: sender.clone(),
                buffer: BytesMut::new(),
                slice,
                rows: 0,
            });
            writer
        })
        .collect();
    let commit = Box::new(Commit {
        feed: Ended(tokio::spawn(feed(Box::pin(copy), receiver))),
        shared,
        fence,
        session,
        keeper,
        batch_id,
        slices,
    });
    Ok(SinkBatch { writers, commit })
}

/// Hands the chunks of all slices to the connection, until the last slice lets go.
async fn feed(mut copy: Copy, mut chunks: Receiver<Bytes>) -> Result<Copy, tokio_postgres::Error> {
    copy.feed(Bytes::from_static(HEADER)).await?;
    while let Some(chunk) = chunks.recv().await {
        copy.feed(chunk).await?;
    }
    Ok(copy)
}

/// Encodes one slice in the slice's own task.
struct Writer {
    shared: Arc<Shared>,
    sender: Sender<Bytes>,
    buffer: BytesMut,
    slice: usize,
    /// Rows written so far.
    rows: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Writer {
    async fn hand_over(&mut self) -> Result<()> {
        let chunk = self.buffer.split().freeze();
        self.sender.send(chunk).await.map_err(|_| self.shared.lost())
    }
}

#[async_trait]
impl SliceWriter for Writer {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let into = &shared.into;
        let rows = Rows::new(&into.columns, &batch).map_err(|misfit| shared.misfit(&misfit))?;
        for row in 0..batch.num_rows() {
            if self.buffer.capacity() == 0 {
                // A little more than a chunk, so that its last row seldom moves the whole.
                self.buffer.reserve(CHUNK + CHUNK / 8);
            }
            let place = into.upsert.as_ref().map(|_| place(self.slice, self.rows));
            rows.put(row, place, &mut self.buffer)
                .map_err(|misfit| shared.misfit(&misfit))?;
            self.rows += 1;
            if self.buffer.len() >= CHUNK {
                self.hand_over().await?;
                self.buffer = BytesMut::new();
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        if !self.buffer.is_empty() {
            self.hand_over().await?;
        }
        self.shared.finished.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Ends the COPY and commits. Dropped before that, it takes the connection with it and the server rolls back.
#[derive(Debug)]
struct Commit {
    // Before the session: the COPY is given up first.
    feed: Ended<Result<Copy, tokio_postgres::Error>>,
    shared: Arc<Shared>,
    fence: Fence,
    session: Session,
    keeper: Keeper,
    batch_id: u64,
    slices: usize,
}

#[async_trait]
impl BatchCommit for Commit {
    async fn commit(mut self: Box<Self>, permit: &CommitPermit, mut record: LedgerRecord) -> Result<Committed> {
        let shared = Arc::clone(&self.shared);
        let finished = shared.finished.load(Ordering::Acquire);
        if permit.batch_id() != self.batch_id || record.batch_id != self.batch_id || finished != self.slices {
            return Err(Error::new(
                Kind::Bug,
                format!(
                    "{}: commit of batch {} with the record of batch {}, {finished} of {} slices ended",
                    shared.what,
                    permit.batch_id(),
                    record.batch_id,
                    self.slices
                ),
            ));
        }
        let failed = |error| failure(&shared.what, error);
        let mut copy = match (&mut self.feed.0).await {
            Ok(fed) => fed.map_err(failed)?,
            Err(_) => return Err(shared.lost()),
        };
        // A failed feed shows in `finish` as the server's own error, if it sent one.
        copy.feed(Bytes::from_static(TRAILER)).await.map_err(failed)?;
        record.rows = copy.as_mut().finish().await.map_err(failed)?;
        drop(copy);
        failpoint::pass("postgres.after-copy");
        let Into { table, columns, upsert } = &shared.into;
        if let Some(upsert) = upsert {
            upsert.merge(&self.session, &shared.what, table, columns).await?;
        }
        table.took(&self.session, &shared.what, columns).await?;
        failpoint::pass("postgres.before-ledger");
        self.fence.insert(&self.session, &record, false).await?;
        failpoint::pass("postgres.after-ledger");
        self.session.client.batch_execute("COMMIT").await.map_err(failed)?;
        failpoint::pass("postgres.after-commit");
        self.keeper.put(self.session);
        Ok(Committed {
            rows: record.rows,
            files: Vec::new(),
        })
    }
}
