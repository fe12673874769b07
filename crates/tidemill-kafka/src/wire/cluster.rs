//! The brokers of one cluster: connections, and who leads what.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use tidemill_engine::error::{Error, Kind};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::connection::Connection;
use super::fault::{Answer, Fault};
use super::metadata::{self, Metadata};
use crate::config::KafkaConfig;

/// Idle connections kept for one broker.
const IDLE_PER_BROKER_MAX: usize = 4;

/// Finds brokers and keeps connections to them.
#[derive(Debug)]
pub(crate) struct Cluster {
    config: Arc<KafkaConfig>,
    /// A leaf lock: held for a look or an exchange, never across an await.
    known: Mutex<Known>,
    /// True once any broker took us for who we are.
    was_let_in: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    metadata: Option<Arc<Metadata>>,
    /// When the metadata was asked for; `None` where it is no longer believed.
    believed_since: Option<Instant>,
    idle: HashMap<String, Vec<Connection>>,
}

impl Cluster {
    /// A cluster that nothing was asked of yet.
    pub(crate) fn new(config: Arc<KafkaConfig>) -> Self {
        Self {
            config,
            known: Mutex::default(),
            was_let_in: AtomicBool::new(false),
        }
    }

    /// The settings.
    pub(crate) fn config(&self) -> &Arc<KafkaConfig> {
        &self.config
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the broker at `address`, an idle one where there is one that is still open.
    ///
    /// # Errors
    /// Where the broker can't be reached.
    pub(crate) async fn connection(&self, address: &str) -> Answer<Connection> {
        match self.idle_connection(address) {
            Some(connection) => Ok(connection),
            None => self.open(address, self.config.connect_timeout).await,
        }
    }

    /// A new connection. Once one was good, a refusal may pass too: passwords and certificates are changed at different times
    /// on the two sides.
    async fn open(&self, address: &str, wait: Duration) -> Answer<Connection> {
        match Connection::open(address, &self.config, wait).await {
            Ok(connection) => {
                self.was_let_in.store(true, Ordering::Relaxed);
                Ok(connection)
            }
            Err(Fault::Final(error)) if error.kind() == Kind::Refused && self.was_let_in.load(Ordering::Relaxed) => {
                Err(Fault::Passing(error.chain()))
            }
            Err(fault) => Err(fault),
        }
    }

    fn idle_connection(&self, address: &str) -> Option<Connection> {
        loop {
            let mut connection = self.known().idle.get_mut(address)?.pop()?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection without a request under way for later.
    pub(crate) fn put_back(&self, connection: Connection) {
        let mut known = self.known();
        let idle = known.idle.entry(connection.broker().to_owned()).or_default();
        if idle.len() < IDLE_PER_BROKER_MAX {
            idle.push(connection);
        }
    }

    /// A connection to any broker that answers.
    ///
    /// # Errors
    /// [`Kind::Unavailable`], naming all that were tried, when none does within the connect timeout.
    pub(crate) async fn any_connection(&self) -> Answer<Connection> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut backoff = Backoff::default();
        loop {
            let mut tried: Vec<String> = Vec::new();
            let candidates = self.candidates();
            for (index, address) in candidates.iter().enumerate() {
                if let Some(connection) = self.idle_connection(address) {
                    return Ok(connection);
                }
                // One broker that swallows packets must leave time for the others.
                let share = deadline.saturating_duration_since(Instant::now()) / (candidates.len() - index) as u32;
                match self.open(address, share.max(Duration::from_millis(100))).await {
                    Ok(connection) => return Ok(connection),
                    Err(Fault::Passing(reason)) => tried.push(reason),
                    Err(error) => return Err(error),
                }
            }
            let pause = backoff.pause();
            if Instant::now() + pause >= deadline {
                let wait = self.config.connect_timeout.as_secs_f32();
                let text = format!("no broker answered in {wait:.0} s; tried {}", tried.join(", "));
                return Err(Fault::Final(Error::new(Kind::Unavailable, text)));
            }
            sleep(pause).await;
        }
    }

    /// Brokers of the last metadata and those of the settings.
    fn candidates(&self) -> Vec<String> {
        let mut candidates: Vec<String> = match &self.known().metadata {
            Some(metadata) => metadata.brokers.values().cloned().collect(),
            None => Vec::new(),
        };
        candidates.sort();
        for broker in &self.config.brokers {
            if !candidates.contains(broker) {
                candidates.push(broker.clone());
            }
        }
        candidates
    }

    /// Topics and leaders, asked anew where what is known is older than `age_max`.
    ///
    /// # Errors
    /// Where no broker answers.
    pub(crate) async fn metadata(&self, age_max: Duration) -> Answer<Arc<Metadata>> {
        {
            let known = self.known();
            if let (Some(metadata), Some(since)) = (&known.metadata, known.believed_since)
                && since.elapsed() < age_max
            {
                return Ok(Arc::clone(metadata));
            }
        }
        let mut connection = self.any_connection().await?;
        let version = connection.version(ApiKey::Metadata, metadata::LOWEST, metadata::HIGHEST)?;
        let asked_at = Instant::now();
        let body = connection
            .call(&metadata::request(&self.config.topics, version), version)
            .await?;
        self.put_back(connection);
        let metadata = metadata::read(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
        let metadata = Arc::new(metadata);
        let mut known = self.known();
        known.metadata = Some(Arc::clone(&metadata));
        known.believed_since = Some(asked_at);
        drop(known);
        Ok(metadata)
    }

    /// Asks again, with fresh metadata, as long as the connect timeout allows. `what` says what is done.
    ///
    /// # Errors
    /// The first final one, or [`Kind::Unavailable`] with the last reason.
    pub(crate) async fn until_answered<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Answer<T>> + Send,
    {
        self.until_answered_within(self.config.connect_timeout, what, ask).await
    }

    /// [`until_answered`](Self::until_answered) for what may take longer than to connect.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn until_answered_within<T, F>(
        &self,
        wait: Duration,
        what: &str,
        ask: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Answer<T>> + Send,
    {
        let deadline = Instant::now() + wait;
        let mut backoff = Backoff::default();
        loop {
            let reason = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing(reason)) => reason,
            };
            self.forget_metadata();
            let pause = backoff.pause();
            if Instant::now() + pause >= deadline {
                let text = format!("{what} was not possible in {:.0} s: {reason}", wait.as_secs_f32());
                return Err(Error::new(Kind::Unavailable, text));
            }
            sleep(pause).await;
        }
    }

    /// Forgets leaders and topic ids, so that the next look asks for them.
    pub(crate) fn forget_metadata(&self) {
        self.known().believed_since = None;
    }
}
