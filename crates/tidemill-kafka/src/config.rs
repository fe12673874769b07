//! What a Kafka source needs to know.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;

use crate::security::Security;

/// Which records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Only records of committed transactions and records outside of any; ends are last stable offsets.
    #[default]
    ReadCommitted,
    /// All records; ends are high watermarks.
    ReadUncommitted,
}

impl Isolation {
    /// The protocol's number.
    pub(crate) fn level(self) -> i8 {
        match self {
            Self::ReadCommitted => 1,
            Self::ReadUncommitted => 0,
        }
    }
}

/// Which topics a source reads.
#[derive(Debug, Clone)]
pub enum Topics {
    /// These, all of which must exist.
    Named(Vec<String>),
    /// All whose whole name matches, the cluster's own left out; looked for anew as long as the source is read.
    Matching(Regex),
}

impl Topics {
    /// The topics whose whole name matches `pattern`.
    ///
    /// # Errors
    /// Where it is no regular expression, in the words of the crate `regex`.
    pub fn matching(pattern: &str) -> Result<Self, String> {
        Regex::new(&format!("^(?:{pattern})$"))
            .map(Self::Matching)
            .map_err(|error| error.to_string())
    }

    /// True where `topic` is one of them.
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Self::Named(names) => names.iter().any(|name| name == topic),
            Self::Matching(pattern) => pattern.is_match(topic),
        }
    }
}

impl<T: Into<String>, I: IntoIterator<Item = T>> From<I> for Topics {
    fn from(names: I) -> Self {
        Self::Named(names.into_iter().map(Into::into).collect())
    }
}

/// What fetches the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reader {
    /// Our own: records stay where they were fetched.
    #[default]
    Native,
    /// librdkafka, with these of its properties.
    Librdkafka(BTreeMap<String, String>),
}

/// Settings of a Kafka source.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// Brokers to start from, `host:port` each.
    pub brokers: Vec<String>,
    /// How connections are encrypted and who we are on them. Default neither.
    pub security: Security,
    /// How the client names itself to brokers. Default `tidemill`.
    pub client_id: String,
    /// Topics to read.
    pub topics: Topics,
    /// Which records are seen. Default read committed.
    pub isolation: Isolation,
    /// What fetches the records. Default native.
    pub reader: Reader,
    /// The group that positions are published to; `None` publishes nothing. Default `None`.
    pub group: Option<String>,
    /// How long a call may look for a broker that answers, all attempts together. Default 10 s.
    pub connect_timeout: Duration,
    /// How long one request may take once it was sent. Default 30 s.
    pub request_timeout: Duration,
    /// How long topic ids, partitions and leaders are believed without an error. Default 30 s.
    pub metadata_age_max: Duration,
    /// Bytes of one partition in one response, unless a single batch is larger. Default 1 MiB.
    pub partition_fetch_bytes: u32,
    /// Bytes of one response. Default 16 MiB.
    pub response_bytes_max: u32,
    /// Bytes that are requested or fetched and not yet handed on, all scans of the source together. Does not grow with
    /// lag or partitions. At least twice `partition_fetch_bytes`; default 32 MiB.
    pub fetch_budget_bytes: u32,
    /// Longest response frame that is accepted, so that a damaged length can't ask for all memory. A single batch may be
    /// as large. Default 128 MiB.
    pub frame_bytes_max: u32,
}

impl KafkaConfig {
    /// The defaults for these brokers (`host:port`, separated by commas) and topics.
    pub fn new(brokers: &str, topics: impl Into<Topics>) -> Self {
        Self {
            brokers: brokers
                .split(',')
                .map(|broker| broker.trim().to_owned())
                .filter(|b| !b.is_empty())
                .collect(),
            security: Security::default(),
            client_id: "tidemill".to_owned(),
            topics: topics.into(),
            isolation: Isolation::default(),
            reader: Reader::default(),
            group: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            metadata_age_max: Duration::from_secs(30),
            partition_fetch_bytes: 1 << 20,
            response_bytes_max: 16 << 20,
            fetch_budget_bytes: 32 << 20,
            frame_bytes_max: 128 << 20,
        }
    }
}
