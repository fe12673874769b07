//! Where the server is, and one connection to it.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_engine::error::{Error, Kind, Result};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

use super::failure::failure;

/// How long a connection may take, from the first packet to the first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's address and how to log in.
pub(super) struct Address {
    config: Config,
    /// `host:port/database`, without user and password.
    place: String,
}

impl Address {
    /// Reads `url`, given for the sink `sink`. Nothing of a URL that can't be read is repeated: it may hold the password.
    pub(super) fn parse(sink: &str, url: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(Kind::Config, format!("sink {sink}: url: {why}")));
        let form = "expected postgres://user:password@host:port/database, or \
                    postgres:///database?host=/socket/folder&port=5432; write special characters in user and password \
                    as %XX";
        let before_query = url.split('?').next().unwrap_or_default();
        let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
        // A second @ means a password that wasn't escaped, parts of which would be taken for a host.
        if !is_url || before_query.matches('@').count() > 1 {
            return refuse(form);
        }
        let Ok(mut config) = url.parse::<Config>() else {
            return refuse(form);
        };
        let [host] = config.get_hosts() else {
            return refuse(
                "name exactly one host; a sink that could move to another server would lose its ledger on the way",
            );
        };
        let (host, local) = match host {
            Host::Tcp(name) => (name.clone(), is_loopback(name)),
            Host::Unix(folder) => (folder.display().to_string(), true),
        };
        if !local || !config.get_hostaddrs().iter().all(IpAddr::is_loopback) {
            return refuse(&format!(
                "host {host}: TLS to PostgreSQL is not in this version; only loopback and sockets"
            ));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return refuse("sslmode=require: TLS to PostgreSQL is not in this version; only loopback and sockets");
        }
        let Some(database) = config.get_dbname() else {
            return refuse("names no database");
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let place = format!("{host}:{port}/{database}");
        config.connect_timeout(CONNECT_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name(format!("tidemill {sink}"));
        }
        Ok(Self { config, place })
    }

    /// `host:port/database`.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Opens a connection for the sink `sink`.
    pub(super) async fn connect(&self, sink: &str) -> Result<Session> {
        let what = format!("sink {sink}: connecting to PostgreSQL at {}", self.place);
        let open = async {
            let (client, connection) = self.config.connect(NoTls).await?;
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

/// Without user, password and options.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.place).finish()
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_hosts_until_there_is_tls() {
        let error = Address::parse("out", "postgres://me:secret@db.example.com/shop").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert_eq!(
            error.to_string(),
            "sink out: url: host db.example.com: TLS to PostgreSQL is not in this version; only loopback and sockets"
        );
        for url in [
            "postgres://localhost/d?hostaddr=10.0.0.1",
            "postgres://localhost/d?sslmode=require",
            "postgres://localhost,127.0.0.1/d",
            "postgres://localhost",
            "postgres://me:se@cret@localhost/d",
            "postgres://me@localhost:secret/d",
            "host=localhost dbname=d password=secret",
        ] {
            let error = Address::parse("out", url).unwrap_err();
            assert!(!error.chain().contains("cret"), "{}", error.chain());
        }
    }

    #[test]
    fn names_its_place_without_user_and_password() {
        for (url, place) in [
            ("postgres://me:secret@127.0.0.2:55/shop", "127.0.0.2:55/shop"),
            ("postgresql://me:secret@[::1]/shop", "::1:5432/shop"),
            (
                "postgres:///shop?host=/run/pg&port=7&user=me&password=secret",
                "/run/pg:7/shop",
            ),
        ] {
            let address = Address::parse("out", url).unwrap();
            assert_eq!(address.place(), place);
            assert!(!format!("{address:?}").contains("secret"));
        }
    }
}
