//! Rows appended to a PostgreSQL table, or upserted by a key, with the ledger in the same transaction (X20).
//!
//! Two small tables beside the output hold the state: `tidemill_fence`, whose row every transaction of a sink locks
//! first and holds to its end, and `tidemill_ledger`, one row per batch. Timestamps are stored to the microsecond; the
//! nanoseconds of finer ones are cut off.

mod address;
mod batch;
mod encode;
mod failure;
mod fence;
mod session;
mod table;
mod types;
mod upsert;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{Again, Claim, Predecessor, Sink, SinkBatch, SinkInput, SinkState};

use address::Address;
use batch::Into;
use fence::Fence;
use session::{Keeper, Session};
use table::Table;
use types::Column;
use upsert::Upsert;

/// Where a [`PostgresSink`] writes.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, or `postgres:///database?host=/socket/folder&port=5432`. With libpq's
    /// `sslmode` (`disable`, `require`, `verify-ca`, `verify-full`), `sslrootcert`, `sslcert` and `sslkey`; without
    /// `sslmode` loopback addresses and sockets are not encrypted and every other host is checked in full.
    pub url: String,
    /// `table` or `schema.table`, taken as written: not folded to lower case, not quoted. Without a schema the search
    /// path decides.
    pub table: String,
    /// Makes the table when it is missing.
    pub create_table: bool,
    /// Columns by which a row takes the place of an earlier one; none: rows are appended.
    pub key: Vec<String>,
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("table", &self.table)
            .field("create_table", &self.create_table)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Appends rows to a table, or upserts them by a key, exactly once.
#[derive(Debug)]
pub struct PostgresSink {
    name: String,
    address: Address,
    table: Table,
    create_table: bool,
    key: Vec<String>,
    keeper: Keeper,
    /// Known after `check`.
    columns: Option<Arc<[Column]>>,
    /// Known after `check`, where rows are not just appended.
    upsert: Option<Upsert>,
    /// The uuid of the application that the sink is to be taken over from.
    adopts: Option<String>,
    /// Known after `fence`.
    claim: Option<Claim>,
}

impl PostgresSink {
    /// A sink named `name` in the pipeline. Opens no connection.
    ///
    /// # Errors
    /// `Config` where the URL or the table's name can't be read, or asks for what there is not.
    pub fn new(name: String, config: PostgresConfig) -> Result<Self> {
        Ok(Self {
            address: Address::parse(&name, &config.url)?,
            table: Table::parse(&name, &config.table)?,
            create_table: config.create_table,
            key: config.key,
            keeper: Keeper::default(),
            columns: None,
            upsert: None,
            adopts: None,
            claim: None,
            name,
        })
    }

    /// The kept connection or a new one. It is put back only after everything went well.
    async fn session(&self) -> Result<Session> {
        match self.keeper.take() {
            Some(session) => Ok(session),
            None => self.address.connect(&self.name).await,
        }
    }

    fn fence_of(&self, app: &str) -> Fence {
        Fence {
            app: app.to_owned(),
            sink: self.name.clone(),
            place: self.address.place().to_owned(),
            adopts: self.adopts.clone(),
        }
    }

    fn claim(&self) -> Result<&Claim> {
        self.claim.as_ref().ok_or_else(|| {
            Error::new(
                Kind::Bug,
                format!("sink {}: used before its fence was taken", self.name),
            )
        })
    }

    fn columns(&self) -> Result<&Arc<[Column]>> {
        self.columns
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Bug, format!("sink {}: used before it was checked", self.name)))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "postgres".to_owned(),
            target: format!("{}/{}", self.address.place(), self.table),
        }
    }

    fn exactly_once(&self) -> bool {
        true
    }

    async fn check(&mut self, input: &SinkInput) -> Result<()> {
        let columns = types::columns(&input.schema).map_err(|problems| {
            Error::new(
                Kind::Config,
                format!("sink {}: table {}: {}", self.name, self.table, problems.join("; ")),
            )
        })?;
        if !self.key.is_empty() {
            let what = format!("sink {}: table {}", self.name, self.table);
            self.upsert = Some(Upsert::new(&what, &self.key, &columns, input.ordered)?);
        }
        let session = self.session().await?;
        self.table
            .check(&session, &self.name, &columns, self.upsert.as_ref(), self.create_table)
            .await?;
        self.keeper.put(session);
        self.columns = Some(columns.into());
        Ok(())
    }

    async fn inspect(&mut self, app: &str) -> Result<SinkState> {
        let session = self.session().await?;
        let state = self.fence_of(app).state(&session).await?;
        self.keeper.put(session);
        Ok(state)
    }

    fn take_over(&mut self, from: Predecessor) {
        // Fence and ledger have a row per sink name: a renamed sink begins with rows of its own.
        self.adopts = Some(from.app_uuid);
    }

    fn again(&self) -> Again {
        if self.key.is_empty() {
            Again::Twice
        } else {
            Again::Replaced
        }
    }

    async fn fence(&mut self, claim: &Claim) -> Result<()> {
        let session = self.session().await?;
        let fence = self.fence_of(&claim.app);
        let output = if self.create_table {
            Some((
                self.table.quoted(),
                self.table.create(self.columns()?, self.upsert.as_ref()),
            ))
        } else {
            None
        };
        let output = output.as_ref().map(|(name, create)| (name.as_str(), create.as_str()));
        fence.make_tables(&session, output).await?;
        fence.take(&self.address, &session, claim).await?;
        self.keeper.put(session);
        self.claim = Some(claim.clone());
        Ok(())
    }

    async fn ledger(&mut self) -> Result<Option<LedgerRecord>> {
        let fence = self.fence_of(&self.claim()?.app);
        let session = self.session().await?;
        let newest = fence.newest(&session).await?;
        self.keeper.put(session);
        Ok(newest)
    }

    async fn birth(&mut self, record: &LedgerRecord) -> Result<()> {
        let claim = self.claim()?;
        let fence = self.fence_of(&claim.app);
        let session = self.session().await?;
        fence.hold(&session, claim).await?;
        fence.insert(&session, record, true).await?;
        session
            .client
            .batch_execute("COMMIT")
            .await
            .map_err(|error| failure::failure(format!("sink {}: writing the birth record", self.name), error))?;
        self.keeper.put(session);
        Ok(())
    }

    async fn begin(&mut self, plan: &BatchPlan, slices: usize, _attempt: u32) -> Result<SinkBatch> {
        let claim = self.claim()?;
        let columns = Arc::clone(self.columns()?);
        let fence = self.fence_of(&claim.app);
        let session = self.session().await?;
        fence.hold(&session, claim).await?;
        let what = format!("sink {}: table {}, batch {}", self.name, self.table, plan.batch_id);
        let into = Into {
            table: self.table.clone(),
            columns,
            upsert: self.upsert.clone(),
        };
        let batch = (what, plan.batch_id, slices);
        batch::start(fence, session, self.keeper.clone(), into, batch).await
    }
}
