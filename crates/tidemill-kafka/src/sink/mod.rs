//! The transactional sink: rows and ledger record in one Kafka transaction.
//!
//! A batch is one transaction of the producer with the id `tidemill-<app>-<sink>`, the same for ever (X22): its rows in
//! the output topic, and a [`LedgerRecord`] with the sink's name as key in the topic `tidemill-ledger-<app>` of the same
//! cluster (X23). A consumer with `isolation.level=read_committed` sees both or neither.
//!
//! After a restart or an unknown outcome a new producer takes the id, which fences the old one and settles its
//! transaction; then the ledger, read to its end, says which batch was the last. No end of a transaction is ever asked
//! for twice, no producer is used again after a doubt (X24). A batch that is given up is not aborted: the next producer
//! settles it.
//!
//! Rows are encoded in the slice's own task; whole buffers go through one bounded queue to the producer's thread.

mod config;
mod json;
mod ledger_topic;
mod messages;
mod observer;
mod output;
mod rights;
mod transaction;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
pub use config::{KafkaSinkConfig, ValueFormat};
use rdkafka::admin::{AdminClient, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{Claim, Sink, SinkBatch, SinkInput, SinkState};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::client_error::client_error;
use config::TRANSACTION_TIMEOUT_MAX;
use ledger_topic::{Ledger, LedgerRead, Until, admin_client, describe, ledger_topic, partition_count, watcher};
use messages::MessageEncoder;
use rights::Rights;
use transaction::{Target, Transactions};
use writer::{BatchEnd, lanes};

/// What producers use by default; tried where the broker's maximum can't be read and 15 minutes are above it.
const TRANSACTION_TIMEOUT_COMMON: Duration = Duration::from_secs(60);

/// A Kafka topic as a sink, exactly once for readers with `isolation.level=read_committed`.
#[derive(Debug)]
pub struct KafkaSink {
    name: String,
    app: String,
    config: Arc<KafkaSinkConfig>,
    /// Known after `check`.
    input: Option<Checked>,
    claim: Option<Claim>,
    producer: Option<Transactions>,
    /// The longest transaction that the broker allows, where it says; asked for at each fence.
    broker_timeout: Option<Duration>,
    /// The newest ledger record that this instance has read or written.
    newest: Option<LedgerRecord>,
    /// Where the record of the batch begun last arrives once it is visible.
    committing: Option<oneshot::Receiver<LedgerRecord>>,
    /// What the last look at rights had to say.
    said: Vec<String>,
    /// Batches begun, to tell the rows of one from those of another.
    begun: u64,
}

#[derive(Debug)]
struct Checked {
    encoder: Arc<MessageEncoder>,
    partitions: i32,
    ordered: bool,
}

impl KafkaSink {
    /// The sink `name` of the pipeline `app`. Connects to nothing yet.
    pub fn new(name: impl Into<String>, app: impl Into<String>, config: KafkaSinkConfig) -> Self {
        Self {
            name: name.into(),
            app: app.into(),
            config: Arc::new(config),
            input: None,
            claim: None,
            producer: None,
            broker_timeout: None,
            newest: None,
            committing: None,
            said: Vec::new(),
            begun: 0,
        }
    }

    /// Runs something that blocks, away from the runtime's own threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&str, &KafkaSinkConfig, &Handle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (name, config, runtime) = (self.name.clone(), Arc::clone(&self.config), Handle::current());
        tokio::task::spawn_blocking(move || work(&name, &config, &runtime))
            .await
            .map_err(|error| {
                Error::with_source(Kind::Bug, format!("sink {}: a client call panicked", self.name), error)
            })?
    }

    /// The same for ever (X22).
    fn transactional_id(&self) -> String {
        format!("tidemill-{}-{}", self.app, self.name)
    }

    async fn read_ledger(&self, app: &str, until: Until) -> Result<LedgerRead> {
        let topic = ledger_topic(app);
        self.blocking(move |sink, config, _runtime| {
            Ledger {
                sink,
                topic: &topic,
                config,
            }
            .read(&until)
        })
        .await
    }

    /// Reads the ledger to its high watermark and refuses what is not ours (X7, X8, X23).
    async fn settled_ledger(&self, claim: &Claim) -> Result<Option<LedgerRecord>> {
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let read = self
            .read_ledger(&claim.app, Until::HighWatermark(Arc::clone(&stop.0)))
            .await?;
        self.refuse_foreign(claim, &read)?;
        Ok(read.record)
    }

    fn refuse_foreign(&self, claim: &Claim, read: &LedgerRead) -> Result<()> {
        if let Some(owner) = &read.app_uuid
            && *owner != claim.app_uuid
        {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "sink {}: ledger topic {} belongs to application {owner}, not to {} (both are named {}); \
                     rename the pipeline, or take it over with --adopt",
                    self.name,
                    ledger_topic(&claim.app),
                    claim.app_uuid,
                    claim.app
                ),
            ));
        }
        if read.epoch > claim.epoch {
            return Err(Error::new(
                Kind::Fenced,
                format!(
                    "sink {}: ledger topic {} holds epoch {}, newer than {}",
                    self.name,
                    ledger_topic(&claim.app),
                    read.epoch,
                    claim.epoch
                ),
            ));
        }
        Ok(())
    }

    /// Makes a producer that holds the transactional id.
    async fn connect(&mut self, claim: &Claim) -> Result<()> {
        if let Some(old) = self.producer.take() {
            old.give_up();
        }
        let target = Target {
            sink: self.name.clone(),
            topic: self.config.topic.clone(),
            ledger_topic: ledger_topic(&claim.app),
            transactional_id: self.transactional_id(),
        };
        let broker_max = self.broker_timeout;
        let producer = self
            .blocking(move |_sink, config, _runtime| start(config, target, broker_max))
            .await?;
        self.producer = Some(producer);
        Ok(())
    }

    /// A producer fit for another transaction. One that was given up after a success is replaced; the ledger must then
    /// say what this instance knows.
    async fn producer(&mut self) -> Result<Transactions> {
        let Some(claim) = self.claim.clone() else {
            return Err(Error::new(
                Kind::Bug,
                format!("sink {}: used before it was fenced", self.name),
            ));
        };
        if let Some(record) = self
            .committing
            .take()
            .and_then(|mut committed| committed.try_recv().ok())
        {
            self.newest = Some(record);
        }
        if let Some(producer) = self.producer.as_ref().filter(|producer| !producer.is_spent()) {
            return Ok(producer.clone());
        }
        self.connect(&claim).await?;
        let found = self.settled_ledger(&claim).await?;
        let batch = |record: &Option<LedgerRecord>| {
            record
                .as_ref()
                .map(|record| (record.batch_id, record.plan_hash.clone()))
        };
        if batch(&found) != batch(&self.newest) {
            self.give_up();
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "sink {}: its ledger stands at batch {}, not where this instance left it ({}); fence it and read it again",
                    self.name,
                    found.map_or_else(|| "none".to_owned(), |record| record.batch_id.to_string()),
                    self.newest
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), |record| record.batch_id.to_string()),
                ),
            ));
        }
        self.producer
            .clone()
            .ok_or_else(|| Error::new(Kind::Bug, format!("sink {}: connected without a producer", self.name)))
    }

    fn give_up(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.give_up();
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "kafka".to_owned(),
            target: format!("{}/{}", self.config.brokers, self.config.topic),
        }
    }

    fn exactly_once(&self) -> bool {
        true
    }

    fn time_limit(&self) -> Option<Duration> {
        self.producer.as_ref().map(Transactions::timeout)
    }

    async fn check(&mut self, input: &SinkInput) -> Result<()> {
        self.config.check_properties(&self.name)?;
        let encoder = MessageEncoder::new(&self.name, &self.config, &input.schema)?;
        let rights = Rights {
            config: &self.config,
            ledger_topic: &ledger_topic(&self.app),
            transactional_id: &self.transactional_id(),
        };
        let named = |error: Error| Error::with_source(error.kind(), format!("sink {}", self.name), error);
        self.said = rights.check().await.map_err(named)?;
        let partitions = self.blocking(output_partitions).await?;
        self.input = Some(Checked {
            encoder: Arc::new(encoder),
            partitions,
            ordered: input.ordered,
        });
        Ok(())
    }

    async fn describe(&mut self) -> Result<Vec<String>> {
        let mut said = std::mem::take(&mut self.said);
        said.push(self.blocking(limits).await?);
        Ok(said)
    }

    async fn inspect(&mut self, app: &str) -> Result<SinkState> {
        let read = self.read_ledger(app, Until::Settled).await?;
        Ok(SinkState {
            app_uuid: read.app_uuid,
            epoch: read.epoch,
            ledger: read.record,
        })
    }

    async fn fence(&mut self, claim: &Claim) -> Result<()> {
        self.give_up();
        if claim.app != self.app {
            return Err(Error::new(
                Kind::Bug,
                format!(
                    "sink {} of application {} was claimed for {}",
                    self.name, self.app, claim.app
                ),
            ));
        }
        let topic = ledger_topic(&claim.app);
        self.broker_timeout = self
            .blocking(move |sink, config, runtime| prepare(sink, config, runtime, &topic))
            .await?;
        // Before the id is taken: a foreign application must not be fenced by mistake.
        let read = self.read_ledger(&claim.app, Until::Settled).await?;
        self.refuse_foreign(claim, &read)?;
        self.connect(claim).await?;
        self.claim = Some(claim.clone());
        self.newest = None;
        self.committing = None;
        Ok(())
    }

    async fn ledger(&mut self) -> Result<Option<LedgerRecord>> {
        let Some(claim) = self.claim.clone() else {
            return Err(Error::new(
                Kind::Bug,
                format!("sink {}: its ledger was read before it was fenced", self.name),
            ));
        };
        self.newest = self.settled_ledger(&claim).await?;
        Ok(self.newest.clone())
    }

    async fn birth(&mut self, record: &LedgerRecord) -> Result<()> {
        if let Some(newest) = &self.newest {
            if newest.birth && newest.batch_id == record.batch_id && newest.plan_hash == record.plan_hash {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Bug,
                format!(
                    "sink {}: born a second time; its ledger stands at batch {}",
                    self.name, newest.batch_id
                ),
            ));
        }
        let producer = self.producer().await?;
        self.begun += 1;
        let mut guard = GiveUp(Some(producer.clone()));
        producer.commit(self.begun, record.clone()).await?;
        guard.0 = None;
        self.newest = Some(LedgerRecord {
            rows: 0,
            ..record.clone()
        });
        Ok(())
    }

    async fn begin(&mut self, plan: &BatchPlan, slices: usize, attempt: u32) -> Result<SinkBatch> {
        let producer = self.producer().await?;
        let Some(checked) = &self.input else {
            return Err(Error::new(
                Kind::Bug,
                format!("sink {}: used before it was checked", self.name),
            ));
        };
        self.begun += 1;
        tracing::debug!(sink = self.name, batch = plan.batch_id, attempt, slices, "begins");
        let lanes = lanes(plan, slices, checked.ordered);
        let (batch, committed) = BatchEnd::begin(producer, self.begun, &checked.encoder, checked.partitions, lanes);
        self.committing = Some(committed);
        Ok(batch)
    }
}

/// Makes a blocking read end soon after nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Gives a producer up unless it is taken out before.
#[derive(Debug)]
struct GiveUp(Option<Transactions>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        if let Some(producer) = &self.0 {
            producer.give_up();
        }
    }
}

/// The output topic's partitions; the topic is never made here.
fn output_partitions(sink: &str, config: &KafkaSinkConfig, _runtime: &Handle) -> Result<i32> {
    let topic = &config.topic;
    let watcher = watcher(config, sink, "read_committed")?;
    let Some(partitions) = partition_count(&watcher, sink, config, topic)?.filter(|partitions| *partitions > 0) else {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "sink {sink}: topic {topic} does not exist at {brokers}; make it: \
                 kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 8",
                brokers = config.brokers
            ),
        ));
    };
    watcher
        .fetch_watermarks(topic, 0, Duration::from_secs(30))
        .map_err(|error| client_error(format!("sink {sink}: reading the end of {topic}/0"), error))?;
    Ok(partitions)
}

/// Makes sure that the ledger topic is there and sound; returns the longest transaction that the broker allows.
fn prepare(sink: &str, config: &KafkaSinkConfig, runtime: &Handle, topic: &str) -> Result<Option<Duration>> {
    let admin = admin_client(config, sink)?;
    Ledger { sink, topic, config }.ensure(&admin, runtime)?;
    Ok(
        broker_transaction_timeout(sink, config, &admin, runtime).unwrap_or_else(|error| {
            tracing::debug!(
                sink,
                "the broker's transaction.max.timeout.ms can't be read: {}",
                error.chain()
            );
            None
        }),
    )
}

/// The longest transaction timeout that broker and properties allow (X25).
fn transaction_timeout(config: &KafkaSinkConfig, broker_max: Option<Duration>) -> Duration {
    let asked = config.transaction_timeout().unwrap_or(TRANSACTION_TIMEOUT_MAX);
    asked
        .min(TRANSACTION_TIMEOUT_MAX)
        .min(broker_max.unwrap_or(TRANSACTION_TIMEOUT_MAX))
}

/// How long transactions may take and how they end, for a person.
fn limits(sink: &str, config: &KafkaSinkConfig, runtime: &Handle) -> Result<String> {
    let admin = admin_client(config, sink)?;
    let broker_max = broker_transaction_timeout(sink, config, &admin, runtime)?;
    let broker = broker_max.map_or("unknown".to_owned(), |max| format!("{} s", max.as_secs()));
    Ok(format!(
        "a batch may take {} s (the broker's transaction.max.timeout.ms: {broker}); {} lacks the second part of KIP-890, so that \
         a producer in doubt is replaced",
        transaction_timeout(config, broker_max).as_secs(),
        librdkafka_version(),
    ))
}

fn librdkafka_version() -> String {
    let (_number, text) = rdkafka::util::get_rdkafka_version();
    format!("librdkafka {text}")
}

/// A producer for transactions as long as may be.
fn start(config: &KafkaSinkConfig, target: Target, broker_max: Option<Duration>) -> Result<Transactions> {
    let timeout = transaction_timeout(config, broker_max);
    match Transactions::start(config, target.clone(), timeout) {
        Err(error) if is_invalid_timeout(&error) && timeout > TRANSACTION_TIMEOUT_COMMON => {
            tracing::info!(
                sink = target.sink,
                "the broker takes no transactions of {} s: asking for 60 s",
                timeout.as_secs()
            );
            Transactions::start(config, target, TRANSACTION_TIMEOUT_COMMON)
        }
        outcome => outcome,
    }
}

fn is_invalid_timeout(error: &Error) -> bool {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<KafkaError>())
        .is_some_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTransactionTimeout))
}

fn broker_transaction_timeout(
    sink: &str,
    config: &KafkaSinkConfig,
    admin: &AdminClient<DefaultClientContext>,
    runtime: &Handle,
) -> Result<Option<Duration>> {
    let metadata = admin
        .inner()
        .fetch_metadata(Some(&config.topic), Duration::from_secs(30))
        .map_err(|error| client_error(format!("sink {sink}: asking {} for its brokers", config.brokers), error))?;
    let Some(broker) = metadata.brokers().first() else {
        return Ok(None);
    };
    let setting = describe(
        admin,
        runtime,
        ResourceSpecifier::Broker(broker.id()),
        "transaction.max.timeout.ms",
    )?;
    Ok(setting.and_then(|text| text.parse().ok()).map(Duration::from_millis))
}
