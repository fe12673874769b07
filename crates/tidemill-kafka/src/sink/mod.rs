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
//! Rows are encoded, packed and compressed in the slice's own task; whole batches go through one bounded queue to the
//! producer's task.

mod avro;
mod clients;
mod config;
mod json;
mod ledger_topic;
mod messages;
mod pack;
mod producer;
mod rights;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use config::{KafkaSinkConfig, PROPERTIES, ValueFormat, refused_property};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{Claim, Predecessor, Sink, SinkBatch, SinkInput, SinkState};

use crate::wire::admin::{Resource, setting};
use clients::Clients;
use config::TRANSACTION_TIMEOUT_MAX;
use ledger_topic::{Ledger, LedgerRead, Until, ledger_topic, partition_count};
use messages::MessageEncoder;
use producer::{Target, Transactions};
use rights::Rights;
use writer::{BatchEnd, lanes};

/// A Kafka topic as a sink, exactly once for readers with `isolation.level=read_committed`.
#[derive(Debug)]
pub struct KafkaSink {
    name: String,
    app: String,
    clients: Clients,
    /// Known after `check`.
    input: Option<Checked>,
    claim: Option<Claim>,
    /// The uuid of the application that the sink is to be taken over from.
    adopts: Option<String>,
    producer: Option<Transactions>,
    /// The longest transaction that the broker allows, where it says; asked for at each fence.
    broker_timeout: Option<Duration>,
    /// The newest ledger record when the ledger was last read, and the birth where it was written since.
    newest: Option<LedgerRecord>,
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
            clients: Clients::new(config),
            input: None,
            claim: None,
            adopts: None,
            producer: None,
            broker_timeout: None,
            newest: None,
            said: Vec::new(),
            begun: 0,
        }
    }

    /// The same for ever (X22).
    fn transactional_id(&self) -> String {
        format!("tidemill-{}-{}", self.app, self.name)
    }

    async fn read_ledger(&self, app: &str, until: Until) -> Result<LedgerRead> {
        let ledger = Ledger {
            sink: &self.name,
            topic: &ledger_topic(app),
            clients: &self.clients,
        };
        ledger.read(until).await
    }

    /// Reads the ledger to its high watermark and refuses what is not ours (X7, X8, X23).
    async fn settled_ledger(&self, claim: &Claim) -> Result<Option<LedgerRecord>> {
        let read = self.read_ledger(&claim.app, Until::HighWatermark).await?;
        self.refuse_foreign(claim, &read)?;
        Ok(read.record)
    }

    fn refuse_foreign(&self, claim: &Claim, read: &LedgerRead) -> Result<()> {
        if let Some(owner) = &read.app_uuid
            && *owner != claim.app_uuid
            && self.adopts.as_ref() != Some(owner)
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
            topic: self.clients.config.topic.clone(),
            ledger_topic: ledger_topic(&claim.app),
            transactional_id: self.transactional_id(),
        };
        let timeout = transaction_timeout(&self.clients.config, self.broker_timeout);
        self.producer = Some(Transactions::start(&self.clients, target, timeout).await?);
        Ok(())
    }

    /// A producer fit for another transaction.
    fn producer(&self) -> Result<Transactions> {
        match &self.producer {
            Some(producer) if !producer.is_spent() => Ok(producer.clone()),
            Some(_) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "sink {}: its producer was given up; it is to be fenced and its ledger read again",
                    self.name
                ),
            )),
            None => Err(Error::new(
                Kind::Bug,
                format!("sink {}: used before it was fenced", self.name),
            )),
        }
    }

    /// The output topic's partitions; the topic is never made here.
    async fn output_partitions(&self) -> Result<i32> {
        let (sink, topic, brokers) = (&self.name, &self.clients.config.topic, &self.clients.config.brokers);
        let cluster = self.clients.cluster([topic.as_str()]);
        let partitions = partition_count(&cluster, topic).await.map_err(|error| {
            let text = format!("sink {sink}: asking {brokers} for topic {topic}");
            Error::with_source(error.kind(), text, error)
        })?;
        match partitions.filter(|partitions| *partitions > 0) {
            Some(partitions) => Ok(i32::try_from(partitions).unwrap_or(i32::MAX)),
            None => Err(Error::new(
                Kind::Refused,
                format!(
                    "sink {sink}: topic {topic} does not exist at {brokers}; make it: \
                     kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 8"
                ),
            )),
        }
    }

    /// How long transactions may take and how they end, for a person.
    async fn limits(&self) -> Result<String> {
        let broker_max = self.broker_transaction_timeout().await?;
        let broker = broker_max.map_or("unknown".to_owned(), |max| format!("{} s", max.as_secs()));
        Ok(format!(
            "a batch may take {} s (the broker's transaction.max.timeout.ms: {broker}); a producer in doubt is replaced, \
             which fences what it left under way",
            transaction_timeout(&self.clients.config, broker_max).as_secs(),
        ))
    }

    /// The longest transaction that a broker allows, where it says.
    async fn broker_transaction_timeout(&self) -> Result<Option<Duration>> {
        let cluster = self.clients.cluster([self.clients.config.topic.as_str()]);
        let ask = || async {
            let metadata = cluster.metadata(cluster.config().metadata_age_max).await?;
            match metadata.brokers.keys().next() {
                Some(node) => setting(&cluster, Resource::Broker(*node), "transaction.max.timeout.ms").await,
                None => Ok(None),
            }
        };
        let text = cluster
            .until_answered("reading its transaction.max.timeout.ms", ask)
            .await?;
        Ok(text.and_then(|text| text.parse().ok()).map(Duration::from_millis))
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
            target: format!("{}/{}", self.clients.config.brokers, self.clients.config.topic),
        }
    }

    fn exactly_once(&self) -> bool {
        true
    }

    fn time_limit(&self) -> Option<Duration> {
        self.producer.as_ref().map(Transactions::timeout)
    }

    async fn check(&mut self, input: &SinkInput) -> Result<()> {
        self.clients.config.check_properties(&self.name)?;
        let encoder = MessageEncoder::new(&self.name, &self.clients.config, &input.schema)?;
        let rights = Rights {
            clients: &self.clients,
            ledger_topic: &ledger_topic(&self.app),
            transactional_id: &self.transactional_id(),
        };
        let named = |error: Error| Error::with_source(error.kind(), format!("sink {}", self.name), error);
        self.said = rights.check().await.map_err(named)?;
        let partitions = self.output_partitions().await?;
        self.input = Some(Checked {
            encoder: Arc::new(encoder),
            partitions,
            ordered: input.ordered,
        });
        Ok(())
    }

    async fn describe(&mut self) -> Result<Vec<String>> {
        let mut said = std::mem::take(&mut self.said);
        let schema = self.input.as_ref().and_then(|checked| checked.encoder.avro_schema());
        said.extend(schema.map(|schema| format!("the schema of its records is {schema}")));
        said.push(self.limits().await?);
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

    fn take_over(&mut self, from: Predecessor) {
        // Transactional id and ledger key have the sink's name: a renamed sink begins with its own.
        self.adopts = Some(from.app_uuid);
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
        let ledger = Ledger {
            sink: &self.name,
            topic: &ledger_topic(&claim.app),
            clients: &self.clients,
        };
        ledger.ensure().await?;
        self.broker_timeout = self.broker_transaction_timeout().await.unwrap_or_else(|error| {
            tracing::debug!(
                sink = self.name,
                "the broker's transaction.max.timeout.ms can't be read: {}",
                error.chain()
            );
            None
        });
        // Before the id is taken: a foreign application must not be fenced by mistake.
        let read = self.read_ledger(&claim.app, Until::Settled).await?;
        self.refuse_foreign(claim, &read)?;
        self.connect(claim).await?;
        self.claim = Some(claim.clone());
        self.newest = None;
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
        let newest = self.newest.as_ref().filter(|newest| newest.birth);
        if newest.is_some_and(|newest| newest.batch_id == record.batch_id && newest.plan_hash == record.plan_hash) {
            return Ok(());
        }
        if let Some(newest) = self.newest.as_ref().filter(|newest| newest.batch_id >= record.batch_id) {
            return Err(Error::new(
                Kind::Bug,
                format!(
                    "sink {}: born a second time; its ledger stands at batch {}",
                    self.name, newest.batch_id
                ),
            ));
        }
        let producer = self.producer()?;
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
        let producer = self.producer()?;
        let Some(checked) = &self.input else {
            return Err(Error::new(
                Kind::Bug,
                format!("sink {}: used before it was checked", self.name),
            ));
        };
        self.begun += 1;
        tracing::debug!(sink = self.name, batch = plan.batch_id, attempt, slices, "begins");
        let lanes = lanes(plan, slices, checked.ordered);
        let (encoder, partitions) = (&checked.encoder, checked.partitions);
        Ok(BatchEnd::begin(
            producer,
            self.begun,
            encoder,
            &self.clients.config,
            partitions,
            lanes,
        ))
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

/// The longest transaction timeout that broker and properties allow (X25).
fn transaction_timeout(config: &KafkaSinkConfig, broker_max: Option<Duration>) -> Duration {
    let asked = config.transaction_timeout().unwrap_or(TRANSACTION_TIMEOUT_MAX);
    asked
        .min(TRANSACTION_TIMEOUT_MAX)
        .min(broker_max.unwrap_or(TRANSACTION_TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x25_a_transaction_may_last_as_long_as_broker_and_properties_let_it() {
        let seconds = |asked: Option<&str>, broker: Option<u64>| {
            let mut config = KafkaSinkConfig::new("localhost:1", "t");
            let asked = asked.map(|millis| ("transaction.timeout.ms".to_owned(), millis.to_owned()));
            config.properties.extend(asked);
            transaction_timeout(&config, broker.map(Duration::from_secs)).as_secs()
        };
        assert_eq!(seconds(None, None), 900);
        assert_eq!(seconds(None, Some(60)), 60);
        assert_eq!(seconds(None, Some(3600)), 900);
        assert_eq!(seconds(Some("5000"), Some(60)), 5);
        assert_eq!(seconds(Some("120000"), Some(60)), 60);
    }
}
