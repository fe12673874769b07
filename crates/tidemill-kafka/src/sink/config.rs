//! What a Kafka sink is told.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_engine::error::{Error, Kind, Result};

use crate::Compression;
use crate::security::{Security, is_security};

/// The longest transaction asked for (X25); also the default maximum of brokers.
pub(super) const TRANSACTION_TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// Well below what topics take by default (`max.message.bytes`, 1 MiB), whatever the compression comes to.
const BATCH_BYTES_MAX: usize = 512 << 10;

/// The properties that a sink takes, by librdkafka's names or Java's, and what each is a number of.
pub const PROPERTIES: [(&str, Option<&str>); 6] = [
    ("client.id", None),
    ("transaction.timeout.ms", Some("milliseconds")),
    ("socket.timeout.ms", Some("milliseconds")),
    ("request.timeout.ms", Some("milliseconds")),
    ("batch.size", Some("bytes")),
    ("socket.connection.setup.timeout.ms", Some("milliseconds")),
];

/// What can't be set, each with the reason; all others are simply not known.
const OWN_PROPERTIES: [(&str, &str); 8] = [
    ("bootstrap.servers", "`brokers` sets it"),
    ("metadata.broker.list", "`brokers` sets it"),
    (
        "transactional.id",
        "it is derived from the names of pipeline and sink, for fencing",
    ),
    ("enable.idempotence", "it is always on: exactly once depends on it"),
    ("acks", "it is always `all`: exactly once depends on it"),
    (
        "request.required.acks",
        "it is always `all`: exactly once depends on it",
    ),
    ("compression.type", "`compression` sets it"),
    ("compression.codec", "`compression` sets it"),
];

/// Why a property of this name and value can't be honoured; nothing where it can, or where it is one of
/// [`Security`](crate::security::Security).
pub fn refused_property(name: &str, value: &str) -> Option<String> {
    if let Some((_, why)) = OWN_PROPERTIES.iter().find(|(own, _)| *own == name) {
        return Some(format!("can't be set here: {why}"));
    }
    if is_security(name) {
        return None;
    }
    match PROPERTIES.iter().find(|(known, _)| *known == name) {
        Some((_, Some(unit))) if value.parse::<u32>().is_err() => Some(format!("{value:?} is no number of {unit}")),
        Some(_) => None,
        None => {
            let known: Vec<&str> = PROPERTIES.iter().map(|(known, _)| *known).collect();
            Some(format!("has no meaning here; known are {}", known.join(", ")))
        }
    }
}

/// How rows become record values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueFormat {
    /// One JSON object per row, of all columns but `headers`; the key's column stays in it.
    #[default]
    Json,
    /// Avro's binary encoding of the same columns, without a header; `describe` of the sink gives the schema.
    Avro,
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
    /// More properties; see [`PROPERTIES`].
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

    /// Refuses properties that can't be honoured.
    pub(super) fn check_properties(&self, sink: &str) -> Result<()> {
        let refused = |(name, value): (&String, &String)| Some((name.clone(), refused_property(name, value)?));
        let security = Security::of(&self.properties).err().unwrap_or_default();
        let of_security = security.into_iter().next().map(|refused| (refused.name, refused.why));
        match self.properties.iter().find_map(refused).or(of_security) {
            None => Ok(()),
            Some((name, why)) => Err(Error::new(
                Kind::Config,
                format!("sink {sink}: property `{name}` {why}"),
            )),
        }
    }

    /// The transaction timeout that the properties ask for.
    pub(super) fn transaction_timeout(&self) -> Option<Duration> {
        self.milliseconds("transaction.timeout.ms")
    }

    fn number(&self, property: &str) -> Option<u32> {
        self.properties.get(property).and_then(|text| text.parse().ok())
    }

    /// A time that the properties give.
    pub(super) fn milliseconds(&self, property: &str) -> Option<Duration> {
        self.number(property).map(|number| Duration::from_millis(number.into()))
    }

    /// Bytes of records in one batch before it is compressed, unless a single record is longer.
    pub(super) fn batch_bytes_max(&self) -> usize {
        self.number("batch.size")
            .map_or(BATCH_BYTES_MAX, |bytes| bytes as usize)
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
    fn properties_without_a_meaning_or_with_a_wrong_value_are_refused() {
        assert_eq!(refused_property("transaction.timeout.ms", "2000"), None);
        for (name, value, why) in [
            ("linger.ms", "5", "has no meaning here; known are client.id"),
            ("batch.size", "-1", "\"-1\" is no number of bytes"),
        ] {
            let refused = refused_property(name, value).expect(name);
            assert!(refused.contains(why), "{refused}");
        }
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
