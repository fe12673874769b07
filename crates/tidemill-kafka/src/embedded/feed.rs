//! Writing a made-up stream to a topic.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tidemill_engine::error::{Error, Kind, Result};

use super::client_error::client_error;
use crate::Compression;
use crate::embedded::ad_events::{AdEvents, RandomBytes};
use crate::murmur2;

/// Records without a key go to one partition in runs of this many, so that they fill whole batches.
const RUN_RECORDS: u64 = 500;
/// How many records lie between two calls of the progress function.
const PROGRESS_RECORDS: u64 = 10_000;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// Ad events, keyed by ad, in the partition where a Java client would put them.
    AdEvents(AdEvents),
    /// The same in Avro's binary encoding.
    AvroAdEvents(AdEvents),
    /// 100 random bytes without a key.
    RandomBytes(RandomBytes),
}

/// How to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedOptions {
    /// How batches are compressed. Default = LZ4.
    pub compression: Compression,
    /// How long the producer waits for a batch to fill. Default = 20 ms.
    pub linger: Duration,
    /// Records per second, at least 1. Default = as fast as it goes.
    pub rate: Option<u64>,
    /// More properties of librdkafka, such as those of a secured cluster. Default = none.
    pub properties: BTreeMap<String, String>,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Lz4,
            linger: Duration::from_millis(20),
            rate: None,
            properties: BTreeMap::new(),
        }
    }
}

/// What was written and acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

/// Writes the records with these numbers to `topic`, which has `partitions` partitions, in the order of their numbers
/// within each partition, and waits until all are acknowledged. Idempotent: a retry by the client doubles nothing.
/// Calls `progress` with the number of records handed over, every 10,000 records.
///
/// Blocks: call it from a thread of its own.
///
/// # Errors
/// `Refused` or `Unavailable` in the broker's words where any record was not acknowledged; some may have been.
pub fn feed(
    brokers: &str,
    topic: &str,
    partitions: i32,
    records: Records,
    numbers: Range<u64>,
    options: &FeedOptions,
    mut progress: impl FnMut(u64),
) -> Result<Fed> {
    let producer = producer(brokers, topic, options)?;
    let ad_partitions: Vec<i32> = (0..AdEvents::ads())
        .map(|ad| murmur2::partition_of(&AdEvents::key(ad), partitions))
        .collect();
    let started = Instant::now();
    let mut value = Vec::with_capacity(512);
    let mut fed = Fed { records: 0, bytes: 0 };
    for n in numbers {
        if let Some(rate) = options.rate {
            wait_for_turn(&producer, started, fed.records, rate.max(1));
        }
        value.clear();
        match records {
            Records::AdEvents(events) | Records::AvroAdEvents(events) => {
                let ad = events.ad(n);
                match records {
                    Records::AvroAdEvents(_) => events.write_avro(n, &mut value),
                    _ => events.write_value(n, &mut value),
                }
                let key = AdEvents::key(ad);
                send(&producer, topic, Some(&key), ad_partitions[usize::from(ad)], &value)?;
            }
            Records::RandomBytes(random) => {
                random.write_value(n, &mut value);
                let partition = (n / RUN_RECORDS) % u64::from(partitions.max(1).unsigned_abs());
                send(&producer, topic, None, partition as i32, &value)?;
            }
        }
        fed.records += 1;
        fed.bytes += value.len() as u64;
        if fed.records.is_multiple_of(PROGRESS_RECORDS) {
            progress(fed.records);
        }
    }
    producer
        .flush(Duration::from_secs(120))
        .map_err(|error| client_error(format!("waiting until topic {topic} holds every record"), error))?;
    producer.context().check(topic)?;
    progress(fed.records);
    Ok(fed)
}

fn producer(brokers: &str, topic: &str, options: &FeedOptions) -> Result<BaseProducer<Deliveries>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("compression.codec", options.compression.name())
        .set("linger.ms", options.linger.as_millis().to_string())
        .set("batch.num.messages", "100000")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "131072")
        // Successes are counted by the flush; only failures need a word each.
        .set("delivery.report.only.error", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in &options.properties {
        config.set(name, value);
    }
    config
        .create_with_context(Deliveries {
            first_failure: Mutex::new(None),
        })
        .map_err(|error| client_error(format!("making a producer for topic {topic}"), error))
}

fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    key: Option<&[u8]>,
    partition: i32,
    value: &[u8],
) -> Result<()> {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value);
    record.key = key;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                producer.poll(Duration::from_millis(1));
                producer.context().check(topic)?;
                record = returned;
            }
            Err((error, _)) => return Err(client_error(format!("writing to {topic}/{partition}"), error)),
        }
    }
}

/// Serves the producer until record number `sent` is due.
fn wait_for_turn(producer: &BaseProducer<Deliveries>, started: Instant, sent: u64, rate: u64) {
    let due = Duration::from_secs_f64(sent as f64 / rate as f64);
    let ahead = due.saturating_sub(started.elapsed());
    // Shorter waits are made up for by the next longer one.
    if ahead >= Duration::from_millis(1) {
        producer.poll(ahead);
    }
}

/// Keeps the first record that was not acknowledged.
#[derive(Debug)]
struct Deliveries {
    /// A leaf lock: taken for a failure and for a look, never held across a call.
    first_failure: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    fn check(&self, topic: &str) -> Result<()> {
        let failure = self
            .first_failure
            .lock()
            .map_err(|_poisoned| Error::new(Kind::Bug, "a delivery report panicked"))?;
        match &*failure {
            None => Ok(()),
            Some(error) => Err(client_error(format!("writing to topic {topic}"), error.clone())),
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "producer");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "producer");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Err((error, _)) = result
            && let Ok(mut failure) = self.first_failure.lock()
        {
            failure.get_or_insert_with(|| error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::broker::EmbeddedBroker;

    #[test]
    fn a_record_that_is_too_large_for_the_producer_is_reported() {
        let broker = EmbeddedBroker::start(&[("events", 1)]).unwrap();
        let options = FeedOptions {
            properties: BTreeMap::from([("message.max.bytes".to_owned(), "1000".to_owned())]),
            ..FeedOptions::default()
        };
        let producer = producer(broker.bootstrap_servers(), "events", &options).unwrap();
        let error = send(&producer, "events", None, 0, &[0; 2000]).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.chain().contains("events/0"), "{}", error.chain());
    }

    #[test]
    fn a_partition_that_does_not_exist_fails_the_feed() {
        let broker = EmbeddedBroker::start(&[("events", 1)]).unwrap();
        let records = Records::AdEvents(AdEvents::new(1));
        let options = FeedOptions::default();
        let error = feed(
            broker.bootstrap_servers(),
            "events",
            4,
            records,
            0..100,
            &options,
            |_| (),
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
    }

    #[test]
    fn a_rate_is_kept() {
        let broker = EmbeddedBroker::start(&[("events", 1)]).unwrap();
        let options = FeedOptions {
            rate: Some(500),
            ..FeedOptions::default()
        };
        let started = Instant::now();
        let records = Records::AdEvents(AdEvents::new(1));
        feed(
            broker.bootstrap_servers(),
            "events",
            1,
            records,
            0..1_000,
            &options,
            |_| (),
        )
        .unwrap();
        assert!(
            started.elapsed() >= Duration::from_millis(1_900),
            "{:?}",
            started.elapsed()
        );
    }
}
