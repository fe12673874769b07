//! What a Kafka sink is told, and the clients made from it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use tidemill_engine::error::{Error, Kind, Result};

use crate::Compression;

/// The longest transaction asked for (X25); also the default maximum of brokers.
pub(super) const TRANSACTION_TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);

/// Properties that the sink's guarantees rest on, each with where it is set instead.
const OWN_PROPERTIES: [(&str, &str); 12] = [
    ("bootstrap.servers", "`brokers` sets it"),
    ("metadata.broker.list", "`brokers` sets it"),
    (
        "transactional.id",
        "it is derived from the names of pipeline and sink, for fencing",
    ),
    ("enable.idempotence", "it is always on"),
    ("acks", "it is always `all`"),
    ("request.required.acks", "it is always `all`"),
    ("compression.type", "`compression` sets it"),
    ("compression.codec", "`compression` sets it"),
    ("delivery.report.only.error", "it is always on"),
    ("isolation.level", "the sink's reads choose it"),
    ("group.id", "a sink has no group"),
    (
        "log.connection.close",
        "it is always on: dropped connections must be seen",
    ),
];

/// How rows become record values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueFormat {
    /// One JSON object per row, of all columns but `headers`; the key's column stays in it.
    #[default]
    Json,
    /// The bytes of one BINARY or VARCHAR column named `value`; NULL gives a tombstone.
    Raw,
}

/// What a Kafka sink is told.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSinkConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// The output topic; it must exist.
    pub topic: String,
    /// How rows become record values.
    pub format: ValueFormat,
    /// The column whose text (or bytes) becomes the key; the partition is then the one a Java client would choose.
    /// Without it, and for rows where it is NULL, a row goes to its source partition modulo the topic's partitions.
    pub key: Option<String>,
    /// The column whose entries become the headers: a list of structs of `key` and `value`, as `_headers` of a Kafka
    /// source is. It is left out of the value.
    pub headers: Option<String>,
    /// How batches are compressed. Default = LZ4.
    pub compression: Compression,
    /// More properties of librdkafka, by its names.
    pub properties: BTreeMap<String, String>,
}

impl KafkaSinkConfig {
    /// A sink of JSON without keys, and everything else by default.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            format: ValueFormat::default(),
            key: None,
            headers: None,
            compression: Compression::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Refuses properties that would break the sink's guarantees.
    pub(super) fn check_properties(&self, sink: &str) -> Result<()> {
        match OWN_PROPERTIES
            .iter()
            .find(|(name, _)| self.properties.contains_key(*name))
        {
            None => Ok(()),
            Some((name, why)) => Err(Error::new(
                Kind::Config,
                format!("sink {sink}: property `{name}` can't be set here: {why}"),
            )),
        }
    }

    /// The longest that one request may take before its connection is given up. Default = 60 s.
    pub(super) fn socket_timeout(&self) -> Duration {
        self.milliseconds("socket.timeout.ms")
            .unwrap_or(Duration::from_secs(60))
    }

    /// True where connections are neither encrypted nor authenticated.
    pub(super) fn is_plain(&self) -> bool {
        self.properties
            .get("security.protocol")
            .is_none_or(|protocol| protocol.eq_ignore_ascii_case("plaintext"))
    }

    /// The transaction timeout that the properties ask for.
    pub(super) fn transaction_timeout(&self) -> Option<Duration> {
        self.milliseconds("transaction.timeout.ms")
    }

    fn milliseconds(&self, property: &str) -> Option<Duration> {
        // A number that does not read is refused by librdkafka when the client is made.
        self.properties
            .get(property)
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis)
    }

    /// Room for what waits in the producer: more than 16 MiB is no faster, but two of the largest messages must fit.
    fn queue_kib(&self) -> u64 {
        let largest = self.properties.get("message.max.bytes");
        let largest: Option<u64> = largest.and_then(|bytes| bytes.parse().ok());
        (largest.unwrap_or(0) / 512).max(16 << 10)
    }

    /// The transactional producer's settings.
    pub(super) fn producer(&self, transactional_id: &str, transaction_timeout: Duration) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "100000")
            // Two bounds of what waits in the producer, whichever is met first.
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", self.queue_kib().to_string());
        self.connect(&mut config);
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", transaction_timeout.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", self.compression.name())
            // A failed delivery also fails the transaction; one report per success would cost more than the send.
            .set("delivery.report.only.error", "true");
        config
    }

    /// The settings of clients that read offsets, metadata and the ledger.
    pub(super) fn reader(&self, isolation: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        self.connect(&mut config);
        config
            .set("isolation.level", isolation)
            .set("allow.auto.create.topics", "false")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.queue.backoff.ms", "1")
            .set("fetch.wait.max.ms", "100");
        config
    }

    fn connect(&self, config: &mut ClientConfig) {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        // Dropped connections are told by log lines at this level (X24), whatever level the program logs at.
        config
            .set("bootstrap.servers", &self.brokers)
            .set_log_level(RDKafkaLogLevel::Info);
    }
}

impl std::fmt::Debug for KafkaSinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values of properties may be passwords.
        f.debug_struct("KafkaSinkConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("format", &self.format)
            .field("key", &self.key)
            .field("headers", &self.headers)
            .field("compression", &self.compression)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_carry_the_guarantee_are_refused_by_name() {
        let mut config = KafkaSinkConfig::new("b:1", "t");
        assert!(config.check_properties("out").is_ok());
        config.properties.insert("acks".to_owned(), "1".to_owned());
        let error = config.check_properties("out").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.chain().contains("sink out: property `acks`"), "{}", error.chain());
    }

    #[test]
    fn passwords_are_not_printed() {
        let mut config = KafkaSinkConfig::new("b:1", "t");
        config
            .properties
            .insert("sasl.password".to_owned(), "hunter2".to_owned());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
