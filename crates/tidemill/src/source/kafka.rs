//! A direct stream of a Kafka topic: what to read and from where.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_core::loss::OnOutOfRange;
use tidemill_core::start::{OnNewPartition, StartPolicy};
use tidemill_engine::error::Result;
use tidemill_engine::source::Source;
use tidemill_kafka::security::Security;
use tidemill_kafka::{Isolation, KafkaConfig, KafkaSource};

use super::{Opens, SourceLimits};

/// Which topics a direct stream reads, and where it begins on the first start of the application.
///
/// ```
/// use tidemill::DirectKafka;
/// let _stream = DirectKafka::new("localhost:9092").topics(["events"]).max_rate_per_partition(10_000);
/// ```
#[derive(Debug, Clone)]
pub struct DirectKafka {
    pub(crate) brokers: String,
    pub(crate) topics: Vec<String>,
    pub(crate) limits: SourceLimits,
    pub(crate) group: Option<String>,
    pub(crate) read_committed: bool,
    pub(crate) security: Security,
}

impl DirectKafka {
    /// A stream from these bootstrap brokers, `host:port` separated by commas.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]);
    /// ```
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topics: Vec::new(),
            limits: SourceLimits {
                batch_bytes_max: 256 << 20,
                ..SourceLimits::none()
            },
            group: None,
            read_committed: true,
            security: Security::default(),
        }
    }

    /// The topics.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]);
    /// ```
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Begins at the end of the topics instead of their first offset. Only the first start looks at this.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).from_latest();
    /// ```
    #[must_use]
    pub fn from_latest(mut self) -> Self {
        self.limits.start = StartPolicy::Latest;
        self
    }

    /// Begins at these offsets, topic → partition → offset; every partition must be named. Only the first start looks at
    /// this.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    /// use std::collections::BTreeMap;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).from_offsets(BTreeMap::from([("events".to_owned(), BTreeMap::from([(0, 17)]))]));
    /// ```
    #[must_use]
    pub fn from_offsets(mut self, offsets: BTreeMap<String, BTreeMap<i32, i64>>) -> Self {
        self.limits.start = StartPolicy::Offsets(offsets);
        self
    }

    /// Begins at the offsets that the group has; see [`group`](Self::group). Every partition must have one. Only the first
    /// start looks at this.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).from_committed();
    /// ```
    #[must_use]
    pub fn from_committed(mut self) -> Self {
        self.limits.start = StartPolicy::Committed;
        self
    }

    /// Begins at the first record of this time or later, in milliseconds since 1970 UTC. Only the first start looks at this.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).from_time(1_700_000_000_000);
    /// ```
    #[must_use]
    pub fn from_time(mut self, millis: i64) -> Self {
        self.limits.start = StartPolicy::Since(millis);
        self
    }

    /// Begins at the end of partitions that are met after the first start, instead of their first offset.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).new_partitions_from_latest();
    /// ```
    #[must_use]
    pub fn new_partitions_from_latest(mut self) -> Self {
        self.limits.on_new_partition = OnNewPartition::Latest;
        self
    }

    /// Where retention removed offsets before they were read: records the loss and goes on at the first offset that is left,
    /// instead of stopping.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).lost_offsets_to_earliest();
    /// ```
    #[must_use]
    pub fn lost_offsets_to_earliest(mut self) -> Self {
        self.limits.on_out_of_range = OnOutOfRange::Earliest;
        self
    }

    /// The same, going on at the end.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).lost_offsets_to_latest();
    /// ```
    #[must_use]
    pub fn lost_offsets_to_latest(mut self) -> Self {
        self.limits.on_out_of_range = OnOutOfRange::Latest;
        self
    }

    /// Records per second that one partition gives at most. Default = no bound but that on bytes.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).max_rate_per_partition(10_000);
    /// ```
    #[must_use]
    pub fn max_rate_per_partition(mut self, records: u64) -> Self {
        self.limits.bound.max_rate = records.max(1);
        self
    }

    /// Records per *batch* that every partition with as many gives at least where any rate is in force. Default = 1.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).min_records_per_partition(1);
    /// ```
    #[must_use]
    pub fn min_records_per_partition(mut self, records: u64) -> Self {
        self.limits.bound.min_records = records;
        self
    }

    /// Records per second of the whole stream while back-pressure has no estimate yet. Default = no bound but that on bytes.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).initial_rate(1_000);
    /// ```
    #[must_use]
    pub fn initial_rate(mut self, records: u64) -> Self {
        self.limits.initial_rate = Some(records.max(1));
        self
    }

    /// Bytes that one batch reads at most, by the average size of the records before. Default = 256 MiB.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).max_batch_bytes(64 << 20);
    /// ```
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.limits.batch_bytes_max = bytes.max(1);
        self
    }

    /// The group that positions are published to, for monitors. Default = the application's name.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).group("ad-views");
    /// ```
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// How connections are encrypted and who we are on them. Default neither.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).security(tidemill::Security::default());
    /// ```
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// Reads records of open and aborted transactions too.
    ///
    /// ```
    /// use tidemill::DirectKafka;
    ///
    /// let events = DirectKafka::new("localhost:9092").topics(["events"]).read_uncommitted();
    /// ```
    #[must_use]
    pub fn read_uncommitted(mut self) -> Self {
        self.read_committed = false;
        self
    }
}

impl Opens for DirectKafka {
    fn open(&self, app: &str) -> Result<Arc<dyn Source>> {
        let mut config = KafkaConfig::new(&self.brokers, self.topics.clone());
        config.security.clone_from(&self.security);
        config.group = Some(self.group.clone().unwrap_or_else(|| app.to_owned()));
        config.isolation = if self.read_committed {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        };
        Ok(Arc::new(KafkaSource::new(config)?))
    }
}
