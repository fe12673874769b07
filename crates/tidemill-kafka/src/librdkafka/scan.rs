//! All ranges of one scan, through as few consumers as there are parts of one partition among them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{RangeStream, RawColumns, Scan};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::client_config;
use super::feed::{self, Feed, Waiting};
use super::lookups::Lookups;
use super::range::{RangeReader, Source};
use crate::fetch::scan::planned_topic;
use crate::wire::cluster::Cluster;
use crate::wire::fault::Answer;
use crate::wire::metadata::Metadata;

/// A range that nobody reads yet, and where its records will come from.
type Untaken = (RangePlan, oneshot::Receiver<Result<Feed>>);

/// A consumer that was not started, and the ranges that wait for it.
type Unstarted = (rdkafka::ClientConfig, Vec<(RangePlan, Waiting)>);

/// The ranges of one source in one scan.
#[derive(Debug)]
pub(crate) struct LibrdkafkaScan {
    columns: RawColumns,
    identities: Arc<Identities>,
    /// Leaf locks: taken once per range, at its beginning.
    ranges: Mutex<Vec<Option<Untaken>>>,
    /// The consumers that were not started, until the first range is.
    consumers: Arc<Mutex<Vec<Unstarted>>>,
}

/// What the topics of a scan must be for its records to be the planned ones.
#[derive(Debug)]
pub(super) struct Identities {
    cluster: Arc<Cluster>,
    lookups: Option<Arc<Lookups>>,
    ranges: Vec<RangePlan>,
    /// When they were last found right. Held while they are looked at, so that ranges that end together look once.
    verified: AsyncMutex<Option<Instant>>,
}

impl Identities {
    /// Looks whether every topic is still the planned one, at any moment from now on.
    ///
    /// # Errors
    /// `Loss` where one was deleted or made anew.
    pub(super) async fn verify(&self) -> Result<()> {
        let called = Instant::now();
        let mut verified = self.verified.lock().await;
        if verified.is_some_and(|at| at >= called) {
            return Ok(());
        }
        let now = Instant::now();
        let absent_since = Mutex::new(None);
        let look = || async {
            let metadata = self.metadata().await?;
            for range in &self.ranges {
                let mut absent_since = absent_since.lock().unwrap_or_else(PoisonError::into_inner);
                let planned_id = range.topic_id.as_deref();
                planned_topic(&range.partition, planned_id, range.until, &mut absent_since, &metadata)?;
            }
            Ok(())
        };
        // Longer than a topic may be missing before that counts.
        let wait = self.cluster.config().connect_timeout * 3;
        self.cluster
            .until_answered_within(wait, "looking whether topics are the planned ones", look)
            .await?;
        *verified = Some(now);
        Ok(())
    }
}

impl Identities {
    async fn metadata(&self) -> Answer<Arc<Metadata>> {
        match &self.lookups {
            Some(lookups) => lookups.metadata(Duration::ZERO).await,
            None => self.cluster.metadata(Duration::ZERO).await,
        }
    }
}

impl LibrdkafkaScan {
    /// A scan of `ranges` that has not begun.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        lookups: Option<Arc<Lookups>>,
        properties: &BTreeMap<String, String>,
        ranges: Vec<RangePlan>,
        columns: RawColumns,
    ) -> Self {
        let config = client_config(cluster.config(), properties, ranges.len());
        let mut consumers: Vec<Unstarted> = Vec::new();
        let mut parts: HashMap<TopicPartition, usize> = HashMap::new();
        let waiting = ranges.iter().map(|range| {
            let part = parts.entry(range.partition.clone()).or_insert(0);
            if consumers.len() == *part {
                consumers.push((config.clone(), Vec::new()));
            }
            let (sender, receiver) = oneshot::channel();
            consumers[*part].1.push((range.clone(), sender));
            *part += 1;
            Some((range.clone(), receiver))
        });
        Self {
            columns,
            ranges: Mutex::new(waiting.collect()),
            consumers: Arc::new(Mutex::new(consumers)),
            identities: Arc::new(Identities {
                cluster,
                lookups,
                ranges,
                verified: AsyncMutex::new(None),
            }),
        }
    }
}

impl Scan for LibrdkafkaScan {
    fn stream(&self, range: usize) -> RangeStream {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((range, coming)) = ranges.get_mut(range).and_then(Option::take) else {
            let text = format!("range {range} of the scan does not exist or was taken before");
            return stream::once(async { Err(Error::new(Kind::Bug, text)) }).boxed();
        };
        let reader = RangeReader {
            position: range.from,
            range,
            columns: self.columns,
            identities: Arc::clone(&self.identities),
            feed: Source::Coming(coming),
            short_since: None,
        };
        let state = (reader, Arc::clone(&self.consumers), false);
        stream::unfold(state, |(mut reader, consumers, done)| async move {
            if done {
                return None;
            }
            let first = std::mem::take(&mut *consumers.lock().unwrap_or_else(PoisonError::into_inner));
            for (config, ranges) in first {
                feed::start(config, ranges);
            }
            let item = reader.next().await;
            let done = item.is_err() || reader.position >= reader.range.until;
            Some((item, (reader, consumers, done)))
        })
        .boxed()
    }
}
