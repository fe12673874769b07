//! A consumer and the thread that serves it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};
use tokio::sync::{Notify, oneshot, watch};

use super::progress::{self, AllProgress};
use crate::embedded::client_error::client_error;

/// How long the thread waits for an event before it looks whether anybody still reads.
const EVENT_WAIT: Duration = Duration::from_millis(100);

/// What a consumer says beside its records.
#[derive(Debug)]
pub(super) struct Reports {
    progress: watch::Sender<AllProgress>,
}

impl ClientContext for Reports {
    fn stats_raw(&self, statistics: &[u8]) {
        match progress::read(statistics) {
            Ok(all) => drop(self.progress.send_replace(all)),
            Err(error) => tracing::warn!(%error, "librdkafka's statistics can't be read"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            tracing::warn!(
                reason,
                "reading from kafka is interrupted; trying again until it goes on"
            );
        } else {
            tracing::debug!(%error, reason, "librdkafka");
        }
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, "librdkafka: {text}");
    }
}

impl ConsumerContext for Reports {}

/// The records of one partition, as they come.
pub(super) struct Feed {
    // The queue goes before the end of `open`, which lets the thread drop the consumer.
    pub(super) queue: PartitionQueue<Reports>,
    /// Told when records come into the empty queue.
    pub(super) arrived: Arc<Notify>,
    pub(super) progress: watch::Receiver<AllProgress>,
    _open: oneshot::Sender<()>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// Where a range waits for its feed.
pub(super) type Waiting = oneshot::Sender<Result<Feed>>;

/// Starts a consumer of these ranges, each of another partition, on a thread that ends with the last feed.
pub(super) fn start(config: ClientConfig, ranges: Vec<(RangePlan, Waiting)>) {
    let spawned = std::thread::Builder::new()
        .name("tidemill-librdkafka".to_owned())
        .spawn(move || serve(&config, ranges));
    if let Err(error) = spawned {
        // The ranges find their feeds gone, and say so.
        tracing::warn!(%error, "no thread for librdkafka");
    }
}

fn serve(config: &ClientConfig, ranges: Vec<(RangePlan, Waiting)>) {
    let partitions: Vec<RangePlan> = ranges.iter().map(|(range, _)| range.clone()).collect();
    match open(config, &partitions) {
        Ok((consumer, mut feeds)) => {
            let mut open = Vec::new();
            for (range, waiting) in ranges {
                if let Some((feed, end)) = feeds.remove(&range.partition)
                    && waiting.send(Ok(feed)).is_ok()
                {
                    open.push(end);
                }
            }
            drop(feeds);
            while {
                open.retain_mut(|end| end.try_recv() == Err(oneshot::error::TryRecvError::Empty));
                !open.is_empty()
            } {
                if let Some(Err(error)) = consumer.poll(EVENT_WAIT) {
                    tracing::debug!(%error, "librdkafka");
                }
            }
        }
        Err(error) => {
            for (_, waiting) in ranges {
                let _nobody = waiting.send(Err(Error::new(error.kind(), error.chain())));
            }
        }
    }
}

type Feeds = HashMap<TopicPartition, (Feed, oneshot::Receiver<()>)>;

fn open(config: &ClientConfig, ranges: &[RangePlan]) -> Result<(Arc<BaseConsumer<Reports>>, Feeds)> {
    let failed = |error| client_error("reading through librdkafka", error);
    let (sender, progress) = watch::channel(AllProgress::new());
    let consumer = config.create_with_context(Reports { progress: sender });
    let consumer: Arc<BaseConsumer<Reports>> = Arc::new(consumer.map_err(failed)?);
    let mut assignment = TopicPartitionList::new();
    for range in ranges {
        let TopicPartition { topic, partition } = &range.partition;
        assignment
            .add_partition_offset(topic, *partition, Offset::Offset(range.from))
            .map_err(failed)?;
    }
    consumer.assign(&assignment).map_err(failed)?;
    let mut feeds = Feeds::new();
    for range in ranges {
        let TopicPartition { topic, partition } = &range.partition;
        let queue = consumer.split_partition_queue(topic, *partition);
        let mut queue = queue.ok_or_else(|| {
            let text = format!("{}: librdkafka has no queue for it", range.partition);
            Error::new(Kind::Bug, text)
        })?;
        let arrived = Arc::new(Notify::new());
        let told = Arc::clone(&arrived);
        queue.set_nonempty_callback(move || told.notify_one());
        let (open, end) = oneshot::channel();
        let feed = Feed {
            queue,
            arrived,
            progress: progress.clone(),
            _open: open,
        };
        feeds.insert(range.partition.clone(), (feed, end));
    }
    Ok((consumer, feeds))
}
