//! Records of any bytes in chosen partitions, written by librdkafka.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::servers;

/// One record. Its offset is its place among those of its partition.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The partition.
    pub partition: i32,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` makes a tombstone.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970; the time of writing where there is none.
    pub timestamp: Option<i64>,
    /// Names and values in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// A record with nothing but this value.
    pub fn of(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self {
            partition,
            value: Some(value.into()),
            ..Self::default()
        }
    }
}

/// Writes the records to `topic` in order and waits until all are acknowledged.
///
/// # Errors
/// Where the broker doesn't take one.
pub fn produce(topic: &str, records: &[Record]) -> Result<()> {
    produce_at(&servers::kafka(), topic, records)
}

/// The same at other brokers.
///
/// # Errors
/// Where the broker doesn't take one.
pub fn produce_at(brokers: &str, topic: &str, records: &[Record]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "8388608")
        .create()?;
    for record in records {
        let mut one: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(record.partition);
        one.key = record.key.as_deref();
        one.payload = record.value.as_deref();
        one.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (name, value)| {
                    headers.insert(Header {
                        key: name,
                        value: Some(value),
                    })
                });
            one.headers = Some(headers);
        }
        producer
            .send(one)
            .map_err(|(error, _)| error)
            .with_context(|| format!("writing to {topic}"))?;
        producer.poll(Duration::ZERO);
    }
    producer
        .flush(Duration::from_secs(60))
        .with_context(|| format!("writing to {topic}"))
}
