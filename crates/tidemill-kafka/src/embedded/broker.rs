//! librdkafka's mock cluster as a broker inside the process.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use tidemill_engine::error::{Error, Kind, Result};

use super::client_error::client_error;

/// Bytes of one partition, as stored, beyond which its oldest batches are dropped without a word.
pub const PARTITION_BYTES_MAX: u64 = 5 * 1024 * 1024;

/// A broker inside the process, on a loopback port; it lives until it is dropped, and its records with it.
///
/// It is librdkafka's mock cluster, for the quickstart, examples and fast tests. Its limits:
///
/// * a partition keeps [`PARTITION_BYTES_MAX`] and 100,000 record batches and drops older ones silently: ask
///   [`log_start_check`] before any verdict about completeness;
/// * no topics are made but those given at the start (a topic that is asked for appears with four partitions);
/// * transactions are accepted, but nothing is ever held back or taken away: no last stable offset, no aborted records;
/// * no offsets by timestamp, no rights, no compaction.
///
/// Of one million [`AdEvents`](super::ad_events::AdEvents), 215 bytes each, LZ4, keyed by ad, all survive in 64 and in 32
/// partitions, 978,549 in 24 and 360,598 in 8: [`partitions_for`] gives a number with room to spare.
#[derive(Debug)]
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    /// Dropped to end the thread that owns the cluster.
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The number of partitions that keeps `events` ad events, LZ4, keyed by ad, with twice the room they need: 64 for a
/// million.
pub fn partitions_for(events: u64) -> i32 {
    const EVENTS_PER_PARTITION: u64 = 15_625;
    i32::try_from(events.div_ceil(EVENTS_PER_PARTITION).max(1)).unwrap_or(i32::MAX)
}

impl EmbeddedBroker {
    /// Starts a broker with these topics, each with its number of partitions. Returns when it can be connected to.
    ///
    /// # Errors
    /// `Unavailable` where no loopback port can be opened, `Config` where a topic's name or number of partitions is
    /// impossible.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let topics: Vec<(String, i32)> = topics
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        let (started, starting) = mpsc::sync_channel(1);
        let (stop, stopped) = mpsc::sync_channel::<()>(1);
        // The cluster can't be sent between threads, so one thread makes, keeps and drops it.
        let thread = std::thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || match create(&topics) {
                Ok(cluster) => {
                    if started.send(Ok(cluster.bootstrap_servers())).is_ok() {
                        // Ends when the sender is dropped.
                        let _end = stopped.recv();
                    }
                }
                Err(error) => {
                    let _unheard = started.send(Err(error));
                }
            })
            .map_err(|error| Error::with_source(Kind::Unavailable, "starting the embedded broker's thread", error))?;
        let bootstrap_servers = starting
            .recv()
            .map_err(|error| Error::with_source(Kind::Bug, "the embedded broker's thread ended early", error))??;
        Ok(Self {
            bootstrap_servers,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// `host:port` to connect to.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}

fn create(topics: &[(String, i32)]) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>> {
    let cluster = MockCluster::new(1).map_err(|error| client_error("starting the embedded broker", error))?;
    for (name, partitions) in topics {
        cluster.create_topic(name, *partitions, 1).map_err(|error| {
            Error::with_source(
                Kind::Config,
                format!("making topic {name} with {partitions} partitions in the embedded broker"),
                error,
            )
        })?;
    }
    Ok(cluster)
}

/// What one partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// The partition's number.
    pub partition: i32,
    /// First offset that can still be read. Above 0: older records are gone.
    pub earliest: i64,
    /// The offset after the last record.
    pub end: i64,
}

/// First and end offset of each of the topic's partitions, by number; works with any broker. A caller that wants to say
/// that nothing was lost refuses a verdict where any `earliest` lies above what it read from.
///
/// Blocks; at most 10 s per partition.
///
/// # Errors
/// `Refused` where the topic is missing, `Unavailable` where no broker answers.
pub fn log_start_check(brokers: &str, topic: &str) -> Result<Vec<LogBounds>> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let what = || format!("reading the bounds of topic {topic} at {brokers}");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("isolation.level", "read_uncommitted")
        .set("allow.auto.create.topics", "false")
        .create()
        .map_err(|error| client_error(what(), error))?;
    let metadata = consumer
        .fetch_metadata(Some(topic), TIMEOUT)
        .map_err(|error| client_error(what(), error))?;
    let mut partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .filter(|described| described.name() == topic)
        .flat_map(|described| {
            described
                .partitions()
                .iter()
                .map(rdkafka::metadata::MetadataPartition::id)
        })
        .collect();
    partitions.sort_unstable();
    if partitions.is_empty() {
        return Err(Error::new(
            Kind::Refused,
            format!("topic {topic} does not exist at {brokers}"),
        ));
    }
    partitions
        .into_iter()
        .map(|partition| {
            let (earliest, end) = consumer
                .fetch_watermarks(topic, partition, TIMEOUT)
                .map_err(|error| client_error(format!("{}, partition {partition}", what()), error))?;
            Ok(LogBounds {
                partition,
                earliest,
                end,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::ad_events::{AdEvents, RandomBytes};
    use crate::embedded::feed::{FeedOptions, Records, feed};

    fn fed(partitions: i32, records: Records, count: u64, options: &FeedOptions) -> Vec<LogBounds> {
        let broker = EmbeddedBroker::start(&[("events", partitions)]).unwrap();
        let fed = feed(
            broker.bootstrap_servers(),
            "events",
            partitions,
            records,
            0..count,
            options,
            |_| (),
        )
        .unwrap();
        assert_eq!(fed.records, count);
        log_start_check(broker.bootstrap_servers(), "events").unwrap()
    }

    #[test]
    fn the_partitions_asked_for_keep_all_that_is_fed() {
        assert_eq!(partitions_for(1_000_000), 64);
        let partitions = partitions_for(100_000);
        let bounds = fed(
            partitions,
            Records::AdEvents(AdEvents::new(1)),
            100_000,
            &FeedOptions::default(),
        );
        assert_eq!(bounds.len(), partitions as usize);
        assert_eq!(bounds.iter().map(|log| log.end - log.earliest).sum::<i64>(), 100_000);
        assert!(bounds.iter().all(|log| log.earliest == 0));
    }

    #[test]
    fn a_partition_beyond_its_limit_shows_a_later_start() {
        let options = FeedOptions {
            compression: crate::Compression::None,
            ..FeedOptions::default()
        };
        let bounds = fed(1, Records::RandomBytes(RandomBytes::new(1)), 100_000, &options);
        assert_eq!(bounds[0].end, 100_000);
        assert!(bounds[0].earliest > 0, "{bounds:?}");
    }
}
