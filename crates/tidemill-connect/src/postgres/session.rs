//! One connection to the server.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_engine::error::{Error, Kind, Result};
use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{Address, CONNECT_TIMEOUT};
use super::failure::failure;

impl Address {
    /// Opens a connection for the sink `sink`.
    pub(super) async fn connect(&self, sink: &str) -> Result<Session> {
        let what = format!("sink {sink}: connecting to PostgreSQL at {}", self.place());
        match &self.tls {
            None => self.open(NoTls, what).await,
            Some(tls) => {
                let config = tls
                    .client_config()
                    .map_err(|why| Error::new(Kind::Refused, format!("{what}: {why}")))?;
                self.open(MakeRustlsConnect::new(config), what).await
            }
        }
    }

    async fn open<T>(&self, tls: T, what: String) -> Result<Session>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let open = async {
            let (client, connection) = self.config.connect(tls).await?;
            let task = Ended(tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to PostgreSQL ended");
                }
            }));
            // A commit that the server may forget in a crash would leave the checkpoint ahead of the ledger.
            let row = client
                .query_typed_one(
                    "SELECT pg_backend_pid(), set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
                     WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
                    &[],
                )
                .await?;
            Ok(Session {
                pid: row.try_get(0)?,
                client,
                _task: task,
            })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, open).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(failure(what, error)),
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                format!("{what}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            )),
        }
    }
}

/// A task that ends with its owner.
pub(super) struct Ended<T>(pub(super) JoinHandle<T>);

impl<T> fmt::Debug for Ended<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ended").field(&self.0.id()).finish()
    }
}

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One connection. Dropping it closes the socket at once, and the server gives up what was open in it.
pub(super) struct Session {
    pub(super) client: Client,
    /// The server's process that serves it.
    pub(super) pid: i32,
    _task: Ended<()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Keeps a healthy connection between batches. Who takes it puts it back only if nothing failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Keeper(Arc<Mutex<Option<Session>>>);

impl Keeper {
    /// The kept connection, where it is still open.
    pub(super) fn take(&self) -> Option<Session> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|session| !session.client.is_closed())
    }

    pub(super) fn put(&self, session: Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}
