//! Writing record batches.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, TopicName, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;

use super::cluster::Cluster;
use super::fault::{Answer, Fault};
use super::response::{Body, Fields, Malformed};

/// In-sync replicas have the records before the answer comes.
const ALL_REPLICAS: i16 = -1;

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where it went.
    pub(crate) partition: TopicPartition,
    /// Error code, 0 where it is in the log.
    pub(crate) code: i16,
    /// The broker's words for it, where it has any.
    pub(crate) words: Option<String>,
}

/// Writes one record batch to each of these partitions, which the broker at `address` leads, within a transaction.
///
/// # Errors
/// After any, it is unknown what was written.
pub(crate) async fn produce(
    cluster: &Cluster,
    address: &str,
    transactional_id: &str,
    batches: Vec<(TopicPartition, Bytes)>,
    timeout: Duration,
) -> Answer<Vec<Written>> {
    let count = batches.len();
    let mut topics: BTreeMap<String, Vec<PartitionProduceData>> = BTreeMap::new();
    for (partition, records) in batches {
        let data = PartitionProduceData::default()
            .with_index(partition.partition)
            .with_records(Some(records));
        topics.entry(partition.topic).or_default().push(data);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(topic)))
            .with_partition_data(partitions)
    });
    let transactional_id = TransactionalId(StrBytes::from_string(transactional_id.to_owned()));
    let request = ProduceRequest::default()
        .with_transactional_id(Some(transactional_id))
        .with_acks(ALL_REPLICAS)
        .with_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
        .with_topic_data(topics.collect());
    let mut connection = cluster.connection(address).await?;
    let version = connection.version(ApiKey::Produce, 7, 11)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let written = read(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if written.len() != count {
        return Err(Fault::malformed(
            &body.broker,
            "it leaves out partitions that were written",
        ));
    }
    Ok(written)
}

pub(super) fn read(body: &Body) -> Result<Vec<Written>, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 9);
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(30, |fields| {
            let partition = TopicPartition::new(topic, fields.int32()?);
            let code = fields.int16()?;
            for _ in ["base offset", "append time", "log start"] {
                fields.int64()?;
            }
            let mut words = None;
            if body.version >= 8 {
                let of_records = fields.list(6, |fields| {
                    fields.int32()?;
                    let words = fields.text()?.map(str::to_owned);
                    fields.tags()?;
                    Ok(words)
                })?;
                let of_batch = fields.text()?.map(str::to_owned);
                words = of_batch.or_else(|| of_records.into_iter().flatten().next());
            }
            fields.tags()?;
            Ok(Written { partition, code, words })
        })?;
        fields.tags()?;
        Ok(partitions)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    #[test]
    fn what_became_of_each_batch_is_read_and_a_cut_off_answer_refused() {
        let partition = |writer: Writer, (number, code, words)| {
            let fixed = writer.int32(number).int16(code).int64(5).int64(-1).int64(0);
            let no_records = fixed.list([(); 0], |writer, ()| writer);
            no_records.text(words).tags()
        };
        let answer = Writer::default().list(["t"], |writer, topic| {
            let batches = [(0, 0, None), (3, 10, Some("too large"))];
            writer.text(Some(topic)).list(batches, partition).tags()
        });
        let of = |bytes: &[u8]| Body {
            bytes: Bytes::copy_from_slice(bytes),
            version: 11,
            broker: "b".into(),
        };
        let expected = |number, code, words: Option<&str>| Written {
            partition: TopicPartition::new("t", number),
            code,
            words: words.map(str::to_owned),
        };
        let written = read(&of(&answer.bytes));
        assert_eq!(
            written,
            Ok(vec![expected(0, 0, None), expected(3, 10, Some("too large"))])
        );
        for length in 0..answer.bytes.len() {
            assert!(read(&of(&answer.bytes[..length])).is_err(), "{length} bytes");
        }
    }
}
