//! The fence and the ledger in the output's database (X20).

use std::future::Future;
use std::time::Duration;

use tidemill_core::ledger::LedgerRecord;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{Claim, SinkState};
use tokio_postgres::types::Type;

use super::address::Address;
use super::failure::failure;
use super::session::Session;

/// Begins every transaction. Each statement sees what was committed before it, whatever the server's default is.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Held while tables are made; two at once would collide in the catalogue.
const DDL_LOCK: i64 = 0x7469_6465_6d69_6c6c;

/// How long a taker waits for the row before it ends the blocking backends.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it does so before it gives up.
const ROUNDS: u32 = 5;

/// Rows of the ledger that are kept, in batches.
const KEPT: i64 = 1_000;

/// Every so many batches older rows are deleted.
const PRUNE_EVERY: i64 = 100;

const FENCE_TABLE: &str = "CREATE TABLE tidemill_fence (app text, sink text, app_uuid text NOT NULL, \
    epoch bigint NOT NULL, incarnation text NOT NULL, PRIMARY KEY (app, sink))";

const LEDGER_TABLE: &str = "CREATE TABLE tidemill_ledger (app text, sink text, batch_id bigint, \
    epoch bigint NOT NULL, incarnation text NOT NULL, plan_hash text NOT NULL, rows bigint NOT NULL, \
    record text NOT NULL, committed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (app, sink, batch_id))";

const READ_FENCE: &str = "SELECT app_uuid, epoch, incarnation FROM tidemill_fence WHERE app = $1 AND sink = $2";

/// The row of the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    app_uuid: String,
    epoch: u64,
    incarnation: String,
}

/// One application's fence and ledger for one sink.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub(super) app: String,
    pub(super) sink: String,
    /// `host:port/database`, for messages.
    pub(super) place: String,
    /// The uuid of another application that may be replaced (X8).
    pub(super) adopts: Option<String>,
}

impl Fence {
    fn what(&self, doing: &str) -> String {
        format!(
            "sink {}: {doing} for application {} at {}",
            self.sink, self.app, self.place
        )
    }

    /// Makes the tables that are missing: fence, ledger, and `output` (its quoted name and its CREATE TABLE).
    pub(super) async fn make_tables(&self, session: &Session, output: Option<(&str, &str)>) -> Result<()> {
        let what = || self.what("making the tables");
        let mut wanted = vec![("tidemill_fence", FENCE_TABLE), ("tidemill_ledger", LEDGER_TABLE)];
        wanted.extend(output);
        let client = &session.client;
        let mut missing = false;
        for (name, _) in &wanted {
            missing |= !exists(session, name).await.map_err(|error| failure(what(), error))?;
        }
        if !missing {
            return Ok(());
        }
        let make = async {
            client.batch_execute(BEGIN).await?;
            client
                .batch_execute(&format!(
                    "SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock({DDL_LOCK})"
                ))
                .await?;
            // Both looks are needed: IF NOT EXISTS sees the first schema of the search path only, and the server may
            // answer to_regclass from a cache older than the lock.
            for (name, create) in wanted {
                if !exists(session, name).await? {
                    let create = create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1);
                    client.batch_execute(&create).await?;
                }
            }
            client.batch_execute("COMMIT").await
        };
        make.await.map_err(|error| failure(what(), error))
    }

    /// Takes the fence for `claim`, ending the backends of older epochs that hold it.
    pub(super) async fn take(&self, address: &Address, session: &Session, claim: &Claim) -> Result<()> {
        let what = || self.what("taking the fence");
        let client = &session.client;
        let epoch = bigint(claim.epoch)?;
        // Compared before waiting too: who is fenced already must not end the backend of the newer one.
        if let Some(holder) = self.read(session, READ_FENCE).await? {
            self.compare(claim, &holder)?;
        }
        client
            .batch_execute(&format!("{BEGIN}; SET LOCAL lock_timeout = '30s'"))
            .await
            .map_err(|error| failure(what(), error))?;
        self.patiently(address, session, async {
            client
                .execute_typed(
                    "INSERT INTO tidemill_fence (app, sink, app_uuid, epoch, incarnation) VALUES ($1, $2, $3, $4, $5) \
                     ON CONFLICT (app, sink) DO NOTHING",
                    &[
                        (&self.app, Type::TEXT),
                        (&self.sink, Type::TEXT),
                        (&claim.app_uuid, Type::TEXT),
                        (&epoch, Type::INT8),
                        (&claim.incarnation, Type::TEXT),
                    ],
                )
                .await
                .map_err(|error| failure(what(), error))
        })
        .await?;
        let lock = format!("{READ_FENCE} FOR UPDATE");
        let holder = self.patiently(address, session, self.read(session, &lock)).await?;
        let holder = holder.ok_or_else(|| Error::new(Kind::Unavailable, format!("{}: the row is gone", what())))?;
        self.compare(claim, &holder)?;
        let write = async {
            client
                .execute_typed(
                    "UPDATE tidemill_fence SET epoch = $3, incarnation = $4, app_uuid = $5 WHERE app = $1 AND sink = $2",
                    &[
                        (&self.app, Type::TEXT),
                        (&self.sink, Type::TEXT),
                        (&epoch, Type::INT8),
                        (&claim.incarnation, Type::TEXT),
                        (&claim.app_uuid, Type::TEXT),
                    ],
                )
                .await?;
            client.batch_execute("COMMIT").await
        };
        write.await.map_err(|error| failure(what(), error))
    }

    /// Begins a transaction that holds the fence row to its end, and is `claim`'s.
    pub(super) async fn hold(&self, session: &Session, claim: &Claim) -> Result<()> {
        let what = || self.what("locking the fence");
        session
            .client
            .batch_execute(&format!("{BEGIN}; SET LOCAL lock_timeout = '2s'"))
            .await
            .map_err(|error| failure(what(), error))?;
        let holder = self.read(session, &format!("{READ_FENCE} FOR UPDATE")).await?;
        let Some(holder) = holder else {
            return Err(Error::new(Kind::Unavailable, format!("{}: the row is gone", what())));
        };
        self.compare(claim, &holder)?;
        if holder.epoch < claim.epoch {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "{}: epoch {} stands in it, {} was taken (a restored backup?)",
                    what(),
                    holder.epoch,
                    claim.epoch
                ),
            ));
        }
        session
            .client
            .batch_execute("SET LOCAL lock_timeout = DEFAULT")
            .await
            .map_err(|error| failure(what(), error))
    }

    /// Waits for `locked`, a statement of `session`; after [`PATIENCE`] ends what blocks it.
    async fn patiently<T>(
        &self,
        address: &Address,
        session: &Session,
        locked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::pin!(locked);
        for _ in 0..ROUNDS {
            if let Ok(done) = tokio::time::timeout(PATIENCE, &mut locked).await {
                return done;
            }
            self.end_blockers(address, session.pid).await?;
        }
        match tokio::time::timeout(PATIENCE, &mut locked).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "{}: another transaction still holds its row after {ROUNDS} attempts to end it (pg_locks names it)",
                    self.what("taking the fence")
                ),
            )),
        }
    }

    /// Ends the backends that `waiter` waits for: a frozen predecessor would hold the row for ever.
    async fn end_blockers(&self, address: &Address, waiter: i32) -> Result<()> {
        let second = address.connect(&self.sink).await?;
        let ended = second
            .client
            .query_typed(
                "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.state, ''), pg_terminate_backend(a.pid) \
                 FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1))",
                &[(&waiter, Type::INT4)],
            )
            .await
            .map_err(|error| failure(self.what("ending the backend that holds the fence"), error))?;
        for row in ended {
            let read = || -> Result<(i32, String, String), tokio_postgres::Error> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
            };
            let (pid, application, state) =
                read().map_err(|error| failure(self.what("ending the backend that holds the fence"), error))?;
            tracing::warn!(
                sink = self.sink,
                app = self.app,
                pid,
                application,
                state,
                "ended the PostgreSQL backend that held the fence"
            );
        }
        Ok(())
    }

    async fn read(&self, session: &Session, statement: &str) -> Result<Option<Holder>> {
        let what = || self.what("reading the fence");
        let row = session
            .client
            .query_typed_opt(statement, &[(&self.app, Type::TEXT), (&self.sink, Type::TEXT)])
            .await
            .map_err(|error| failure(what(), error))?;
        let Some(row) = row else { return Ok(None) };
        let read = || -> Result<Holder, tokio_postgres::Error> {
            Ok(Holder {
                app_uuid: row.try_get(0)?,
                // Only ever written from an unsigned number.
                epoch: u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0),
                incarnation: row.try_get(2)?,
            })
        };
        read().map(Some).map_err(|error| failure(what(), error))
    }

    /// Whether `claim` may take the place of `holder`.
    fn compare(&self, claim: &Claim, holder: &Holder) -> Result<()> {
        if holder.app_uuid != claim.app_uuid && self.adopts.as_ref() != Some(&holder.app_uuid) {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "sink {}: tidemill_fence at {} belongs to another application named {}: its uuid is {}, this one's \
                     {}; give this application another name, or take the sink over with --adopt",
                    self.sink, self.place, self.app, holder.app_uuid, claim.app_uuid
                ),
            ));
        }
        let newer = holder.epoch > claim.epoch;
        if newer || (holder.epoch == claim.epoch && holder.incarnation != claim.incarnation) {
            return Err(Error::new(
                Kind::Fenced,
                format!(
                    "sink {}: a newer instance of {} holds {}: its epoch is {} (incarnation {}), this one's {} \
                     (incarnation {})",
                    self.sink, self.app, self.place, holder.epoch, holder.incarnation, claim.epoch, claim.incarnation
                ),
            ));
        }
        Ok(())
    }

    /// The newest record of the ledger; none where the table is missing.
    pub(super) async fn newest(&self, session: &Session) -> Result<Option<LedgerRecord>> {
        let what = || self.what("reading the ledger");
        if !exists(session, "tidemill_ledger")
            .await
            .map_err(|error| failure(what(), error))?
        {
            return Ok(None);
        }
        let row = session
            .client
            .query_typed_opt(
                "SELECT batch_id, record FROM tidemill_ledger WHERE app = $1 AND sink = $2 \
                 ORDER BY batch_id DESC LIMIT 1",
                &[(&self.app, Type::TEXT), (&self.sink, Type::TEXT)],
            )
            .await
            .map_err(|error| failure(what(), error))?;
        let Some(row) = row else { return Ok(None) };
        let batch_id: i64 = row.try_get(0).map_err(|error| failure(what(), error))?;
        let record: &str = row.try_get(1).map_err(|error| failure(what(), error))?;
        serde_json::from_str(record).map(Some).map_err(|error| {
            Error::with_source(
                Kind::Refused,
                format!(
                    "{}: the record of batch {batch_id} in tidemill_ledger can't be read; restore the row or the \
                     version that wrote it",
                    what()
                ),
                error,
            )
        })
    }

    /// What the sink holds of the application, read only.
    pub(super) async fn state(&self, session: &Session) -> Result<SinkState> {
        let what = || self.what("reading the fence");
        let holder = if exists(session, "tidemill_fence")
            .await
            .map_err(|error| failure(what(), error))?
        {
            self.read(session, READ_FENCE).await?
        } else {
            None
        };
        let ledger = self.newest(session).await?;
        let by_ledger = ledger.as_ref().map_or(0, |record| record.epoch);
        Ok(SinkState {
            epoch: holder.as_ref().map_or(0, |holder| holder.epoch).max(by_ledger),
            app_uuid: holder
                .map(|holder| holder.app_uuid)
                .or_else(|| ledger.as_ref().map(|record| record.app_uuid.clone())),
            ledger,
        })
    }

    /// Inserts `record` in the open transaction. With `repeat`, one that stands there already is no error.
    pub(super) async fn insert(&self, session: &Session, record: &LedgerRecord, repeat: bool) -> Result<()> {
        let what = || format!("{}, batch {}", self.what("writing the ledger"), record.batch_id);
        let text = serde_json::to_string(record)
            .map_err(|error| Error::with_source(Kind::Bug, format!("{}: no JSON of the record", what()), error))?;
        let batch_id = bigint(record.batch_id)?;
        let conflict = if repeat {
            " ON CONFLICT (app, sink, batch_id) DO NOTHING"
        } else {
            ""
        };
        session
            .client
            .execute_typed(
                &format!(
                    "INSERT INTO tidemill_ledger (app, sink, batch_id, epoch, incarnation, plan_hash, rows, record) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8){conflict}"
                ),
                &[
                    (&self.app, Type::TEXT),
                    (&self.sink, Type::TEXT),
                    (&batch_id, Type::INT8),
                    (&bigint(record.epoch)?, Type::INT8),
                    (&record.incarnation, Type::TEXT),
                    (&record.plan_hash, Type::TEXT),
                    (&bigint(record.rows)?, Type::INT8),
                    (&text, Type::TEXT),
                ],
            )
            .await
            .map_err(|error| failure(what(), error))?;
        if batch_id % PRUNE_EVERY == 0 {
            session
                .client
                .execute_typed(
                    "DELETE FROM tidemill_ledger WHERE app = $1 AND sink = $2 AND batch_id < $3",
                    &[
                        (&self.app, Type::TEXT),
                        (&self.sink, Type::TEXT),
                        (&(batch_id - KEPT), Type::INT8),
                    ],
                )
                .await
                .map_err(|error| failure(what(), error))?;
        }
        Ok(())
    }
}

/// True where the search path leads to a table `name` (quoted as in SQL).
async fn exists(session: &Session, name: &str) -> Result<bool, tokio_postgres::Error> {
    session
        .client
        .query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&name, Type::TEXT)])
        .await?
        .try_get(0)
}

fn bigint(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::new(Kind::Bug, format!("{number} is no bigint")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_only_the_newest_instance_of_the_same_application_in() {
        let fence = Fence {
            app: "shop".to_owned(),
            sink: "out".to_owned(),
            place: "localhost:5432/d".to_owned(),
            adopts: None,
        };
        let holder = Holder {
            app_uuid: "u".to_owned(),
            epoch: 4,
            incarnation: "a".to_owned(),
        };
        let kind = |app_uuid: &str, epoch, incarnation: &str| {
            let claim = Claim {
                app: "shop".to_owned(),
                app_uuid: app_uuid.to_owned(),
                epoch,
                incarnation: incarnation.to_owned(),
            };
            fence.compare(&claim, &holder).map_err(|error| error.kind()).err()
        };
        assert_eq!(kind("u", 4, "a"), None);
        assert_eq!(kind("u", 5, "b"), None);
        assert_eq!(kind("u", 4, "b"), Some(Kind::Fenced));
        assert_eq!(kind("u", 3, "a"), Some(Kind::Fenced));
        assert_eq!(kind("v", 5, "b"), Some(Kind::Config));
    }
}
