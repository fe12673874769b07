//! The topic that holds an application's ledger, and reading it back (X23).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::Epoch;
use tidemill_engine::error::{Error, Kind, Result};
use tokio::runtime::Handle;

use super::config::KafkaSinkConfig;
use super::observer::Observer;
use crate::client_error::client_error;

/// How long one request for metadata or offsets may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a wait is named in the log.
const NAME_WAIT_EVERY: Duration = Duration::from_secs(10);
/// How many of the ledger's last offsets are read first; the whole ledger only where they don't hold the sink's record.
const TAIL_OFFSETS: i64 = 64;

/// The ledger topic of an application.
pub(super) fn ledger_topic(app: &str) -> String {
    format!("tidemill-ledger-{app}")
}

/// What was read of a ledger.
#[derive(Debug, Default)]
pub(super) struct LedgerRead {
    /// The newest record of the sink.
    pub(super) record: Option<LedgerRecord>,
    /// The application's uuid in the newest record of any sink that was read.
    pub(super) app_uuid: Option<String>,
    /// The highest epoch in any record that was read.
    pub(super) epoch: Epoch,
}

/// How far a ledger is read.
#[derive(Debug, Clone)]
pub(super) enum Until {
    /// To what is settled now: what an open transaction holds back is not waited for.
    Settled,
    /// To the high watermark of now: everything that was ever sent before is decided then. Waits as long as it takes,
    /// or until this is set.
    HighWatermark(Arc<AtomicBool>),
}

/// Reads and makes the ledger topic of one application. All of it blocks.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    pub(super) sink: &'a str,
    pub(super) topic: &'a str,
    pub(super) config: &'a KafkaSinkConfig,
}

impl Ledger<'_> {
    /// The sink's newest record; nothing where the topic is missing.
    pub(super) fn read(&self, until: &Until) -> Result<LedgerRead> {
        let committed = watcher(self.config, self.sink, "read_committed")?;
        let Some(partitions) = partition_count(&committed, self.sink, self.config, self.topic)? else {
            return Ok(LedgerRead::default());
        };
        self.check_partitions(partitions)?;
        let (low, stable) = self.watermarks(&committed)?;
        let high = match until {
            Until::Settled => stable,
            Until::HighWatermark(stop) => {
                let high = self
                    .watermarks(&watcher(self.config, self.sink, "read_uncommitted")?)?
                    .1;
                self.wait_until_stable(&committed, high, stop)?;
                high
            }
        };
        if low >= high {
            return Ok(LedgerRead::default());
        }
        let consumer = self.consumer()?;
        let tail = low.max(high - TAIL_OFFSETS);
        let read = self.scan(&consumer, tail, high)?;
        if read.record.is_some() || tail == low {
            return Ok(read);
        }
        self.scan(&consumer, low, high)
    }

    /// Waits until the last stable offset has reached `high`.
    fn wait_until_stable(&self, committed: &BaseConsumer<Observer>, high: i64, stop: &AtomicBool) -> Result<()> {
        let started = Instant::now();
        let mut named = started;
        loop {
            let stable = self.watermarks(committed)?.1;
            if stable >= high {
                return Ok(());
            }
            if stop.load(Ordering::Acquire) {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("sink {}: reading the ledger was given up", self.sink),
                ));
            }
            if named.elapsed() >= NAME_WAIT_EVERY {
                named = Instant::now();
                tracing::warn!(
                    sink = self.sink,
                    topic = self.topic,
                    stable,
                    high,
                    waited_s = started.elapsed().as_secs(),
                    "waiting for an open transaction in the ledger to be settled"
                );
            }
            // Serves the client's events meanwhile; nothing is assigned yet.
            if let Some(Err(error)) = committed.poll(Duration::from_millis(50)) {
                tracing::debug!(sink = self.sink, %error, "while waiting for the ledger");
            }
        }
    }

    /// Reads committed records from `from` until the position is at or beyond `until`.
    fn scan(&self, committed: &BaseConsumer<Observer>, from: i64, until: i64) -> Result<LedgerRead> {
        let mut read = LedgerRead::default();
        let what = || {
            format!(
                "sink {}: reading its ledger {}/0 from offset {from}",
                self.sink, self.topic
            )
        };
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(self.topic, 0, Offset::Offset(from))
            .and_then(|()| committed.assign(&assignment))
            .map_err(|error| client_error(what(), error))?;
        let mut heard = Instant::now();
        loop {
            match committed.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if let Some(value) = message.payload() {
                        self.take(&mut read, message.key(), value, message.offset())?;
                    }
                    if message.offset() + 1 >= until {
                        break;
                    }
                }
                // The position has reached the last stable offset, which lies at or beyond `until`: markers and aborted
                // records at the end give no message.
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if is_passing(&error) && heard.elapsed() < REQUEST_TIMEOUT => {}
                Some(Err(error)) => return Err(client_error(what(), error)),
                None if heard.elapsed() < REQUEST_TIMEOUT => {}
                None => {
                    let why = committed
                        .context()
                        .complaint()
                        .unwrap_or_else(|| "no answer".to_owned());
                    return Err(Error::new(Kind::Unavailable, format!("{}: {why}", what())));
                }
            }
        }
        committed.unassign().map_err(|error| client_error(what(), error))?;
        Ok(read)
    }

    fn take(&self, read: &mut LedgerRead, key: Option<&[u8]>, value: &[u8], offset: i64) -> Result<()> {
        let record: LedgerRecord = serde_json::from_slice(value).map_err(|error| {
            Error::with_source(
                Kind::Data,
                format!(
                    "sink {}: {}/0 offset {offset} holds no ledger record",
                    self.sink, self.topic
                ),
                error,
            )
        })?;
        read.epoch = read.epoch.max(record.epoch);
        read.app_uuid = Some(record.app_uuid.clone());
        if key == Some(self.sink.as_bytes()) {
            read.record = Some(record);
        }
        Ok(())
    }

    /// Makes the topic where it is missing, then checks that it has one partition and is compacted.
    pub(super) fn ensure(&self, admin: &AdminClient<DefaultClientContext>, runtime: &Handle) -> Result<()> {
        let watcher = watcher(self.config, self.sink, "read_committed")?;
        let partitions = match partition_count(&watcher, self.sink, self.config, self.topic)? {
            Some(partitions) => partitions,
            None => {
                self.create(admin, runtime)?;
                self.wait_until_there(&watcher)?;
                1
            }
        };
        self.check_partitions(partitions)?;
        self.check_compacted(admin, runtime)
    }

    fn create(&self, admin: &AdminClient<DefaultClientContext>, runtime: &Handle) -> Result<()> {
        let what = || format!("sink {}: making its ledger topic {}", self.sink, self.topic);
        // Small segments let compaction reach all but the newest records; -1 takes the broker's replication.
        let topic = NewTopic::new(self.topic, 1, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "compact")
            .set("segment.bytes", "16777216");
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let results = runtime
            .block_on(admin.create_topics([&topic], &options))
            .map_err(|error| client_error(what(), error))?;
        match results.into_iter().next() {
            Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(client_error(what(), KafkaError::Global(code))),
            None => return Err(Error::new(Kind::Unavailable, format!("{}: no answer", what()))),
        }
        tracing::info!(sink = self.sink, topic = self.topic, "made the ledger topic");
        Ok(())
    }

    /// The answer to the making may come before every broker knows the topic.
    fn wait_until_there(&self, watcher: &BaseConsumer<Observer>) -> Result<()> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while partition_count(watcher, self.sink, self.config, self.topic)?.is_none()
            || self.watermarks(watcher).is_err()
        {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "sink {}: ledger topic {} was made and has not appeared",
                        self.sink, self.topic
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_partitions(&self, partitions: i32) -> Result<()> {
        if partitions == 1 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "sink {}: ledger topic {} has {partitions} partitions and needs exactly one; \
                 if nothing of the application is in it, delete it and start again",
                self.sink, self.topic
            ),
        ))
    }

    fn check_compacted(&self, admin: &AdminClient<DefaultClientContext>, runtime: &Handle) -> Result<()> {
        let policy = match describe(admin, runtime, ResourceSpecifier::Topic(self.topic), "cleanup.policy") {
            Ok(policy) => policy,
            Err(error) => {
                tracing::warn!(
                    sink = self.sink,
                    topic = self.topic,
                    "can't see whether the ledger topic is compacted: {}; it must be, or its records are deleted in time",
                    error.chain()
                );
                return Ok(());
            }
        };
        match policy.as_deref() {
            None | Some("compact") => Ok(()),
            Some(policy) => Err(Error::new(
                Kind::Refused,
                format!(
                    "sink {sink}: ledger topic {topic} has cleanup.policy={policy} and would forget what was committed; \
                     set it: kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
                     --add-config cleanup.policy=compact",
                    sink = self.sink,
                    topic = self.topic,
                ),
            )),
        }
    }

    /// A consumer of committed records that is assigned by hand and commits nothing.
    fn consumer(&self) -> Result<BaseConsumer<Observer>> {
        let mut settings = self.config.reader("read_committed");
        // librdkafka consumes only with a group; this one is never joined.
        settings.set("group.id", "tidemill-ledger-reader");
        connect(&settings, self.config, self.sink)
    }

    /// First and end offset of the ledger's partition, as the consumer's isolation sees them.
    fn watermarks(&self, consumer: &BaseConsumer<Observer>) -> Result<(i64, i64)> {
        consumer
            .fetch_watermarks(self.topic, 0, REQUEST_TIMEOUT)
            .map_err(|error| {
                client_error(
                    format!("sink {}: reading the end of {}/0", self.sink, self.topic),
                    error,
                )
            })
    }
}

/// A client that asks for metadata and offsets as this isolation level sees them, and can't consume.
pub(super) fn watcher(config: &KafkaSinkConfig, sink: &str, isolation: &str) -> Result<BaseConsumer<Observer>> {
    connect(&config.reader(isolation), config, sink)
}

fn connect(settings: &ClientConfig, config: &KafkaSinkConfig, sink: &str) -> Result<BaseConsumer<Observer>> {
    settings
        .create_with_context(Observer::new(sink))
        .map_err(|error| client_error(format!("sink {sink}: connecting to {}", config.brokers), error))
}

/// The number of partitions of `topic`, nothing where it does not exist.
pub(super) fn partition_count(
    watcher: &BaseConsumer<Observer>,
    sink: &str,
    config: &KafkaSinkConfig,
    topic: &str,
) -> Result<Option<i32>> {
    let what = || format!("sink {sink}: asking {} for topic {topic}", config.brokers);
    let metadata = watcher.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|error| {
        let error = client_error(what(), error);
        // A client's events are only told when it is served.
        for _ in 0..8 {
            let _event = watcher.poll(Duration::ZERO);
        }
        match watcher.context().complaint() {
            Some(complaint) => Error::new(error.kind(), format!("{}: {complaint}", error.chain())),
            None => error,
        }
    })?;
    let Some(described) = metadata.topics().iter().find(|described| described.name() == topic) else {
        return Ok(None);
    };
    match described.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(i32::try_from(described.partitions().len()).unwrap_or(i32::MAX))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(client_error(what(), KafkaError::MetadataFetch(code))),
    }
}

/// An admin client.
pub(super) fn admin_client(config: &KafkaSinkConfig, sink: &str) -> Result<AdminClient<DefaultClientContext>> {
    config
        .reader("read_committed")
        .create()
        .map_err(|error| client_error(format!("sink {sink}: connecting to {}", config.brokers), error))
}

/// The value of one setting of a topic or broker, nothing where the broker does not know it.
pub(super) fn describe(
    admin: &AdminClient<DefaultClientContext>,
    runtime: &Handle,
    resource: ResourceSpecifier<'_>,
    setting: &str,
) -> Result<Option<String>> {
    let what = || format!("asking for {setting}");
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let described = runtime
        .block_on(admin.describe_configs([&resource], &options))
        .map_err(|error| client_error(what(), error))?;
    match described.into_iter().next() {
        Some(Ok(resource)) => Ok(resource.get(setting).and_then(|entry| entry.value.clone())),
        Some(Err(code)) => Err(client_error(what(), KafkaError::Global(code))),
        None => Ok(None),
    }
}

/// True for what librdkafka mends by itself.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::Resolve
                // The group is a formality of the client; nobody needs rights on it.
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}
