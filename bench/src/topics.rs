//! Topics of the bench: made, filled, counted, removed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidemill_kafka::Compression;
use tidemill_kafka::embedded::feed::{FeedOptions, Records, feed};

use crate::data::Data;
use crate::expected::Sums;
use crate::pace;

/// Partitions of a topic that a row makes, where it does not matter how many.
pub(crate) const PARTITIONS: i32 = 8;

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new topic may take to be there: a thousand partitions on a busy machine take half a minute.
const MAKING_TIMEOUT: Duration = Duration::from_secs(180);
/// Uncompressed bytes of a record batch at most: with these, 10 million events come in some 21,000 batches.
const BATCH_BYTES: &str = "110000";

/// What a topic is filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill<'a> {
    /// Its name.
    pub(crate) topic: &'a str,
    /// How many it has.
    pub(crate) partitions: i32,
    /// What is written.
    pub(crate) stream: Records,
    /// How many of it.
    pub(crate) records: u64,
    /// How batches are compressed.
    pub(crate) compression: Compression,
}

/// A written row: all seven columns are there.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "that they can be read is the check")]
struct Row<'a> {
    user_id: &'a str,
    page_id: &'a str,
    ad_id: &'a str,
    ad_type: &'a str,
    event_type: &'a str,
    event_time: IgnoredAny,
    ip_address: &'a str,
}

/// A written row: an ad and when.
#[derive(Debug, Deserialize)]
struct TimedRow<'a> {
    ad_id: &'a str,
    event_time: &'a str,
}

/// Takes `time` for the latest, a text as the sinks write it.
///
/// # Errors
/// Where it goes back.
fn go_on(latest: &mut String, time: &str) -> Result<()> {
    // Without the zone, whole seconds are the beginning of those with milliseconds.
    let time = time.trim_end_matches('Z');
    if time < latest.as_str() {
        bail!("{time} comes after {latest}");
    }
    latest.clear();
    latest.push_str(time);
    Ok(())
}

/// The broker as the bench uses it.
pub(crate) struct Topics {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    consumer: BaseConsumer,
}

impl Topics {
    /// Connects.
    ///
    /// # Errors
    /// Where no broker answers within 10 s.
    pub(crate) fn connect(brokers: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set_log_level(RDKafkaLogLevel::Emerg);
        let admin = config.create().context("make an admin client")?;
        config
            .set("group.id", "tidemill-bench")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "1")
            .set("queued.max.messages.kbytes", "65536");
        let consumer: BaseConsumer = config.create().context("make a consumer")?;
        consumer
            .fetch_metadata(None, Duration::from_secs(10))
            .with_context(|| {
                format!("no Kafka broker answers at {brokers}; start one: eval \"$(scripts/servers start)\"")
            })?;
        Ok(Self {
            brokers: brokers.to_owned(),
            admin,
            consumer,
        })
    }

    /// The bootstrap brokers.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Partitions of a topic; none where there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), TIMEOUT)
            .with_context(|| format!("ask for {topic}"))?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic && found.error().is_none());
        let led = found
            .into_iter()
            .flat_map(|found| found.partitions())
            .filter(|partition| partition.error().is_none());
        Ok(led.map(|partition| partition.id()).collect())
    }

    /// Records in a topic that nothing was removed from and no transaction wrote to; none where there is no such topic.
    ///
    /// # Errors
    /// Where the broker doesn't say.
    pub(crate) fn records(&self, topic: &str) -> Result<Option<u64>> {
        let partitions = self.partitions(topic)?;
        let mut records = 0;
        for partition in &partitions {
            let (low, high) = self
                .consumer
                .fetch_watermarks(topic, *partition, TIMEOUT)
                .with_context(|| format!("ask for the end of {topic}/{partition}"))?;
            records += u64::try_from(high - low)?;
        }
        Ok((!partitions.is_empty()).then_some(records))
    }

    /// Records of a topic that `load` has filled.
    ///
    /// # Errors
    /// Where it isn't there or is empty.
    pub(crate) fn loaded(&self, data: Data) -> Result<u64> {
        let topic = data.topic();
        match self.records(topic)? {
            Some(records) if records > 0 => Ok(records),
            _ => bail!(
                "topic {topic} at {} holds nothing; fill it first: tidemill-bench load",
                self.brokers
            ),
        }
    }

    /// Removes a topic, where there is one.
    ///
    /// # Errors
    /// The broker's.
    pub(crate) fn remove(&self, topic: &str) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let results = futures::executor::block_on(self.admin.delete_topics(&[topic], &options))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
                Err((_, code)) => bail!("remove topic {topic}: {code}"),
            }
        }
        Ok(())
    }

    /// Makes a topic, removing the one that is there, and waits until every partition has a leader.
    ///
    /// # Errors
    /// The broker's, and where it takes longer than 3 minutes.
    pub(crate) fn make(&self, topic: &str, partitions: i32) -> Result<()> {
        self.remove(topic)?;
        let deadline = Instant::now() + MAKING_TIMEOUT;
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        loop {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            let results = futures::executor::block_on(self.admin.create_topics([&new], &options))?;
            match results.into_iter().next() {
                Some(Ok(_)) => break,
                // The removed one is not quite gone yet.
                Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) if Instant::now() < deadline => {
                    pace::wait_until(Instant::now() + Duration::from_millis(100));
                }
                Some(Err((_, code))) => bail!("make topic {topic}: {code}"),
                None => bail!("make topic {topic}: no answer"),
            }
        }
        while self.partitions(topic)?.len() < partitions as usize || self.records(topic).is_err() {
            if Instant::now() > deadline {
                bail!("topic {topic} has no leaders after {MAKING_TIMEOUT:?}");
            }
            pace::wait_until(Instant::now() + Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes a topic hold the first records of a stream, unless it holds that many already. True where it wrote.
    ///
    /// # Errors
    /// The broker's.
    pub(crate) fn fill(&self, fill: Fill<'_>, progress: impl FnMut(u64)) -> Result<bool> {
        let Fill {
            topic,
            partitions,
            stream,
            records,
            compression,
        } = fill;
        if self.partitions(topic)?.len() == partitions as usize && self.records(topic)? == Some(records) {
            return Ok(false);
        }
        self.make(topic, partitions)?;
        let mut options = FeedOptions {
            compression,
            ..FeedOptions::default()
        };
        options
            .properties
            .insert("batch.size".to_owned(), BATCH_BYTES.to_owned());
        feed(&self.brokers, topic, partitions, stream, 0..records, &options, progress)
            .map_err(|error| anyhow!(error.chain()))?;
        match self.records(topic)? {
            Some(found) if found == records => Ok(true),
            found => bail!("topic {topic} was given {records} records and holds {found:?}"),
        }
    }

    /// Calls `take` with each committed record of a topic, those of a partition in their order.
    ///
    /// # Errors
    /// The broker's, and those of `take`, with the place of the record.
    fn each_committed(&self, topic: &str, mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>) -> Result<()> {
        let partitions = self.partitions(topic)?;
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition_offset(topic, *partition, Offset::Beginning)?;
        }
        self.consumer.assign(&list)?;
        let mut at_end = 0;
        while at_end < partitions.len() {
            match self.consumer.poll(TIMEOUT) {
                None => bail!("nothing came from {topic} for {TIMEOUT:?}"),
                Some(Err(KafkaError::PartitionEOF(_))) => at_end += 1,
                Some(Err(error)) => return Err(error).with_context(|| format!("read {topic}")),
                Some(Ok(message)) => take(&message)
                    .with_context(|| format!("wrong: {topic}/{} offset {}", message.partition(), message.offset()))?,
            }
        }
        self.consumer.unassign()?;
        Ok(())
    }

    /// Reads all committed records of a topic whose keys are ads' ids. Their times are not summed.
    ///
    /// # Errors
    /// The broker's; a key that is not the ad's, a value without all seven columns.
    pub(crate) fn read_committed(&self, topic: &str) -> Result<Sums> {
        let mut sums = Sums::default();
        self.each_committed(topic, |message| {
            let ad = std::str::from_utf8(message.key().unwrap_or_default())?;
            let row: Row<'_> = serde_json::from_slice(message.payload().unwrap_or_default())?;
            if row.ad_id != ad {
                bail!("a record about {} has the key {ad}", row.ad_id);
            }
            sums.count(ad);
            Ok(())
        })?;
        Ok(sums)
    }

    /// Reads all committed records of a topic, rows of an ad's id and an event time, whose times must not go back within a
    /// partition. They are not summed.
    ///
    /// # Errors
    /// The broker's; a value that is no such row; a time that goes back.
    pub(crate) fn read_in_order(&self, topic: &str) -> Result<Sums> {
        let mut sums = Sums::default();
        let mut latest: BTreeMap<i32, String> = BTreeMap::new();
        self.each_committed(topic, |message| {
            let row: TimedRow<'_> = serde_json::from_slice(message.payload().unwrap_or_default())?;
            go_on(latest.entry(message.partition()).or_default(), row.event_time)?;
            sums.count(row.ad_id);
            Ok(())
        })?;
        Ok(sums)
    }

    /// Writes ad events to `topic` one by one, `per_interval` of them spread evenly over each `interval`, partition by
    /// partition, until `time` has passed. Says how many, after all are acknowledged.
    ///
    /// # Errors
    /// The broker's, and where the clock ran away from the writer.
    pub(crate) fn trickle(&self, topic: &str, per_interval: u32, interval: Duration, time: Duration) -> Result<u64> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("linger.ms", "0")
            .set("enable.idempotence", "true")
            .set_log_level(RDKafkaLogLevel::Emerg)
            .create()
            .context("make a producer")?;
        let events = crate::expected::ad_events();
        let started = Instant::now();
        let gap = interval / per_interval;
        let mut value = Vec::new();
        let mut sent = 0_u32;
        while gap * sent < time {
            let due = started + gap * sent;
            pace::wait_until(due);
            value.clear();
            events.write_value(u64::from(sent), &mut value);
            let key = tidemill_kafka::embedded::ad_events::AdEvents::key(events.ad(u64::from(sent)));
            let partition = (sent % PARTITIONS as u32) as i32;
            let record = BaseRecord::to(topic)
                .partition(partition)
                .key(&key[..])
                .payload(&value[..]);
            producer
                .send(record)
                .map_err(|(error, _)| error)
                .with_context(|| format!("write to {topic}/{partition}"))?;
            producer.poll(Duration::ZERO);
            sent += 1;
        }
        let late = started.elapsed().saturating_sub(time);
        if late > time / 50 {
            bail!("the writer of {topic} fell {late:?} behind its own clock: the machine is too busy to measure on");
        }
        producer
            .flush(TIMEOUT)
            .with_context(|| format!("wait until {topic} holds every record"))?;
        Ok(u64::from(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_stand_still_but_not_go_back() {
        let mut latest = String::new();
        for time in [
            "2024-01-01T00:00:00.998Z",
            "2024-01-01T00:00:01Z",
            "2024-01-01T00:00:01Z",
            "2024-01-01T00:00:01.001Z",
            "2024-01-01T00:00:02Z",
        ] {
            go_on(&mut latest, time).unwrap();
        }
        for time in ["2024-01-01T00:00:01.999Z", "2024-01-01T00:00:01Z"] {
            let error = go_on(&mut latest, time).unwrap_err().to_string();
            assert!(error.ends_with("comes after 2024-01-01T00:00:02"), "{error}");
        }
    }
}
