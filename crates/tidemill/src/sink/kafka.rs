//! A topic of Kafka.

use arrow::datatypes::{DataType, Schema};
use tidemill_engine::error::Result;
use tidemill_engine::sink::Sink;
use tidemill_kafka::Compression;
use tidemill_kafka::sink::{KafkaSink, KafkaSinkConfig, ValueFormat, refused_property};

use super::{SinkSettings, unfit_columns};

/// Where [`DStream::to_kafka`](crate::DStream::to_kafka) writes: a topic that is there, in transactions. Readers with
/// `isolation.level=read_committed` see every row once.
///
/// ```
/// use tidemill::KafkaTopic;
/// let _views = KafkaTopic::new("localhost:9092", "views").columns("ad_id VARCHAR, views BIGINT").key("ad_id");
/// ```
#[derive(Debug, Clone)]
pub struct KafkaTopic {
    config: KafkaSinkConfig,
    columns: String,
}

impl KafkaTopic {
    /// JSON objects without keys in this topic of these bootstrap brokers, `host:port` separated by commas.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT");
    /// ```
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            config: KafkaSinkConfig::new(brokers, topic),
            columns: String::new(),
        }
    }

    /// The columns, as a pipeline file declares them: `"ad_id VARCHAR, views BIGINT NOT NULL"`.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT");
    /// ```
    #[must_use]
    pub fn columns(mut self, columns: impl Into<String>) -> Self {
        self.columns = columns.into();
        self
    }

    /// The VARCHAR or BINARY column that becomes the key, and chooses the partition as a Java client would. Default = no key.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT").key("word");
    /// ```
    #[must_use]
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.config.key = Some(column.into());
        self
    }

    /// Avro's binary encoding of all columns instead of JSON.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT").avro();
    /// ```
    #[must_use]
    pub fn avro(mut self) -> Self {
        self.config.format = ValueFormat::Avro;
        self
    }

    /// The bytes of the one VARCHAR or BINARY column named `value` instead of JSON; NULL gives a tombstone.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("value BINARY").raw();
    /// ```
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.config.format = ValueFormat::Raw;
        self
    }

    /// How batches are compressed. Default = LZ4.
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT").compression(tidemill::KafkaCompression::Zstd);
    /// ```
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// A property of the client, by librdkafka's name or Java's: `security.protocol`, `ssl.ca.location`, …
    ///
    /// ```
    /// use tidemill::KafkaTopic;
    ///
    /// let sink = KafkaTopic::new("localhost:9092", "counts").columns("word VARCHAR, count BIGINT").property("linger.ms", "50");
    /// ```
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.properties.insert(name.into(), value.into());
        self
    }
}

impl SinkSettings for KafkaTopic {
    fn columns(&self) -> &str {
        &self.columns
    }

    fn problems(&self, schema: &Schema) -> Vec<String> {
        let config = &self.config;
        let mut problems = unfit_columns("key", config.key.as_slice(), schema);
        for (what, text) in [("brokers", &config.brokers), ("topic", &config.topic)] {
            if text.is_empty() {
                problems.push(format!("{what}: is empty"));
            }
        }
        let refused =
            |(name, value): (&String, &String)| Some(format!("property {name} {}", refused_property(name, value)?));
        problems.extend(config.properties.iter().filter_map(refused));
        let is_value = |data_type: &DataType| matches!(data_type, DataType::Utf8View | DataType::BinaryView);
        let value = schema.field_with_name("value").ok();
        if config.format == ValueFormat::Raw && !value.is_some_and(|field| is_value(field.data_type())) {
            problems.push("raw needs a column named value, VARCHAR or BINARY".to_owned());
        }
        problems
    }

    fn open(&self, app: &str, name: &str) -> Result<Box<dyn Sink>> {
        Ok(Box::new(KafkaSink::new(name, app, self.config.clone())))
    }
}
