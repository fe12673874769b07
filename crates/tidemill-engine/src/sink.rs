//! The sink trait: visible rows and ledger in one atomic act.

use std::fmt::Debug;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchId, BatchPlan, Epoch, SinkIdentity};

use crate::error::Result;

/// Who claims a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The application's name.
    pub app: String,
    /// The application's uuid.
    pub app_uuid: String,
    /// The epoch taken.
    pub epoch: Epoch,
    /// The incarnation's uuid.
    pub incarnation: String,
}

/// What a sink holds of an application, read without touching anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SinkState {
    /// The uuid of the application that owns it, where anything owns it.
    pub app_uuid: Option<String>,
    /// The highest epoch seen in it.
    pub epoch: Epoch,
    /// Its newest ledger record.
    pub ledger: Option<LedgerRecord>,
}

/// Whom a sink is taken over from by a person's order (X8, X9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// The uuid of the application that owns it.
    pub app_uuid: String,
    /// The sink's name there.
    pub sink: String,
}

/// What becomes of rows that a sink is given a second time, after a rewind (X32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// They are there twice.
    Twice,
    /// They take the place of those with their key; rows whose key does not come again stay.
    Replaced,
    /// They are there twice, the first ones named by the manifests of their batches, which a reader may leave out.
    TwiceByManifest,
}

/// What a sink gets to know before the first batch.
#[derive(Debug, Clone)]
pub struct SinkInput {
    /// Columns of the rows it will be given.
    pub schema: SchemaRef,
    /// True where the rows of a slice keep the order of a Kafka partition (no shuffle lies between).
    pub ordered: bool,
}

/// A place where output becomes visible.
///
/// The driver calls, in this order: [`check`](Sink::check), [`inspect`](Sink::inspect), [`fence`](Sink::fence),
/// [`ledger`](Sink::ledger), [`birth`](Sink::birth) once, then per batch [`begin`](Sink::begin). After any error of
/// `begin`, a write or a commit the outcome is unknown: the driver calls `fence` and `ledger` again before it decides
/// (X20, X24); implementations drop connections and producers then rather than reuse them.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    /// Name, kind and target, without secrets.
    fn identity(&self) -> SinkIdentity;

    /// True where output and ledger are one atomic act; false for console and callbacks, which keep no ledger.
    fn exactly_once(&self) -> bool;

    /// How long a batch may take before the sink's server ends it, where it does; known once the sink was fenced (X19).
    fn time_limit(&self) -> Option<Duration> {
        None
    }

    /// Looks whether rows of this schema can be written: connection, table, rights, types. Creates nothing.
    ///
    /// # Errors
    /// `Unavailable`, or `Refused` / `Config` naming the column, table or right and the way out.
    async fn check(&mut self, input: &SinkInput) -> Result<()>;

    /// What a person should know of the sink beyond its being fine, one sentence each; asked by `tidemill check` only, after
    /// [`check`](Sink::check). Touches nothing.
    ///
    /// # Errors
    /// As [`check`](Sink::check).
    async fn describe(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Reads what the sink holds of `app`, touching nothing (X6).
    ///
    /// # Errors
    /// `Unavailable` where it can't be read.
    async fn inspect(&mut self, app: &str) -> Result<SinkState>;

    /// Lets the next [`fence`](Sink::fence) take the sink over from `from`, whose ledger then counts as this sink's: to be
    /// read, and to be followed by a birth.
    fn take_over(&mut self, _from: Predecessor) {}

    /// What a rewind does to the rows that are there.
    fn again(&self) -> Again {
        Again::Twice
    }

    /// Takes the sink: from here on nothing that an older epoch does can become visible. Makes tables, topics and folders
    /// that are missing. Called at start and again after every unknown outcome.
    ///
    /// # Errors
    /// `Fenced` where a newer epoch holds it; `Config` where another application does (X8).
    async fn fence(&mut self, claim: &Claim) -> Result<()>;

    /// The newest ledger record, read after the fence was taken.
    ///
    /// # Errors
    /// `Unavailable` where it can't be read.
    async fn ledger(&mut self) -> Result<Option<LedgerRecord>>;

    /// Writes the sink's birth record (X9). A repeated call with the same record is no error. A sink that was born
    /// before may be born again after a later batch.
    ///
    /// # Errors
    /// As [`fence`](Sink::fence).
    async fn birth(&mut self, record: &LedgerRecord) -> Result<()>;

    /// Removes what earlier runs left behind and no reader will see, after batch `settled` was committed by all sinks.
    /// Called at start and every few hundred batches.
    ///
    /// # Errors
    /// Whatever went wrong; the caller warns and goes on.
    async fn tidy(&mut self, _settled: BatchId) -> Result<()> {
        Ok(())
    }

    /// Begins the sink stage of a batch: `slices` writers, one per slice of the job's output.
    ///
    /// # Errors
    /// `Fenced`, `Unavailable` or `Refused`.
    async fn begin(&mut self, plan: &BatchPlan, slices: usize, attempt: u32) -> Result<SinkBatch>;
}

/// The sink stage of one batch.
#[derive(Debug)]
pub struct SinkBatch {
    /// One writer per slice of the job's output.
    pub writers: Vec<Box<dyn SliceWriter>>,
    /// Makes everything written visible.
    pub commit: Box<dyn BatchCommit>,
}

/// Takes the rows of one slice, in order.
#[async_trait]
pub trait SliceWriter: Debug + Send {
    /// Writes some rows; waits where the sink is slower than the slice.
    ///
    /// # Errors
    /// The sink's own words. The batch is then given up.
    async fn write(&mut self, rows: RecordBatch) -> Result<()>;

    /// Ends the slice: everything written is with the sink, nothing is visible.
    ///
    /// # Errors
    /// As [`write`](SliceWriter::write).
    async fn finish(self: Box<Self>) -> Result<()>;
}

/// What a commit made visible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows made visible.
    pub rows: u64,
    /// Files made visible, for sinks that have them.
    pub files: Vec<String>,
}

/// Ends the sink stage. Dropping it without a commit gives the batch up.
#[async_trait]
pub trait BatchCommit: Debug + Send {
    /// Makes the rows and `record` visible in one atomic act. `record.rows` is filled in by the sink.
    ///
    /// # Errors
    /// `Fenced` where a newer epoch holds the sink; any other error leaves the outcome unknown.
    async fn commit(self: Box<Self>, permit: &CommitPermit, record: LedgerRecord) -> Result<Committed>;
}
