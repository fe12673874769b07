//! A direct stream of a Kafka topic: what to read and from where.

use std::collections::BTreeMap;

use tidemill_core::start::StartPolicy;

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
    pub(crate) start: StartPolicy,
    pub(crate) rate_max: Option<u64>,
    pub(crate) batch_bytes_max: u64,
    pub(crate) group: Option<String>,
    pub(crate) read_committed: bool,
}

impl DirectKafka {
    /// A stream from these bootstrap brokers, `host:port` separated by commas.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topics: Vec::new(),
            start: StartPolicy::Earliest,
            rate_max: None,
            batch_bytes_max: 256 << 20,
            group: None,
            read_committed: true,
        }
    }

    /// The topics.
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Begins at the end of the topics instead of their first offset. Only the first start looks at this.
    #[must_use]
    pub fn from_latest(mut self) -> Self {
        self.start = StartPolicy::Latest;
        self
    }

    /// Begins at these offsets, topic → partition → offset; every partition must be named. Only the first start looks at
    /// this.
    #[must_use]
    pub fn from_offsets(mut self, offsets: BTreeMap<String, BTreeMap<i32, i64>>) -> Self {
        self.start = StartPolicy::Offsets(offsets);
        self
    }

    /// Records per second that one partition gives at most. Default = no bound but that on bytes.
    #[must_use]
    pub fn max_rate_per_partition(mut self, records: u64) -> Self {
        self.rate_max = Some(records.max(1));
        self
    }

    /// Bytes that one batch reads at most, by the average size of the records before. Default = 256 MiB.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.batch_bytes_max = bytes.max(1);
        self
    }

    /// The group that positions are published to, for monitors. Default = the application's name.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Reads records of open and aborted transactions too.
    #[must_use]
    pub fn read_uncommitted(mut self) -> Self {
        self.read_committed = false;
        self
    }
}
