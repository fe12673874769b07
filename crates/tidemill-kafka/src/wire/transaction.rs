//! Transactions, asked of their coordinator: the producer's id, its partitions, its end.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ApiKey, EndTxnRequest, InitProducerIdRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;

use super::cluster::Cluster;
use super::fault::{Answer, Fault, check_write};
use super::response::{Body, Fields, Malformed};

const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
const CONCURRENT_TRANSACTIONS: i16 = 51;
/// The code of partitions that were left alone because another one was refused.
const OPERATION_NOT_ATTEMPTED: i16 = 55;

/// A producer as the coordinator knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerId {
    /// The number of the transactional id.
    pub(crate) id: i64,
    /// Which of its producers this is; older ones are refused.
    pub(crate) epoch: i16,
}

fn named(transactional_id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(transactional_id.to_owned()))
}

/// Takes a transactional id: whoever had it is fenced, what was open is settled. `None` where the broker takes no
/// transactions of this length.
///
/// # Errors
/// Where the coordinator refuses, or is not ready yet.
pub(crate) async fn init(
    cluster: &Cluster,
    coordinator: &str,
    transactional_id: &str,
    timeout: Duration,
) -> Answer<Option<ProducerId>> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(named(transactional_id)))
        .with_transaction_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let mut connection = cluster.connection(coordinator).await?;
    let version = connection.version(ApiKey::InitProducerId, 1, 4)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, producer) = read_init(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if code == INVALID_TRANSACTION_TIMEOUT {
        return Ok(None);
    }
    check_write(code, || format!("transactional id {transactional_id}"))?;
    Ok(Some(producer))
}

pub(super) fn read_init(body: &Body) -> Result<(i16, ProducerId), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 2);
    fields.int32()?;
    let code = fields.int16()?;
    let (id, epoch) = (fields.int64()?, fields.int16()?);
    Ok((code, ProducerId { id, epoch }))
}

/// Makes partitions part of the open transaction, and opens it where none is. False where the one before is still being
/// ended: nothing was done then.
///
/// # Errors
/// Where the coordinator refuses.
pub(crate) async fn add_partitions(
    cluster: &Cluster,
    coordinator: &str,
    transactional_id: &str,
    producer: ProducerId,
    partitions: &[TopicPartition],
) -> Answer<bool> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topics = topics.into_iter().map(|(topic, numbers)| {
        AddPartitionsToTxnTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(numbers)
    });
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(named(transactional_id))
        .with_v3_and_below_producer_id(producer.id.into())
        .with_v3_and_below_producer_epoch(producer.epoch)
        .with_v3_and_below_topics(topics.collect());
    let mut connection = cluster.connection(coordinator).await?;
    // Later versions are for brokers among themselves.
    let version = connection.version(ApiKey::AddPartitionsToTxn, 0, 3)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let answers = read_added(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    let is_verdict = |code: i16| code != 0 && code != OPERATION_NOT_ATTEMPTED;
    // One refusal holds for all; the others are not attempted.
    match answers.iter().find(|(_, code)| is_verdict(*code)) {
        Some((_, CONCURRENT_TRANSACTIONS)) => Ok(false),
        Some((partition, code)) => {
            check_write(*code, || format!("{partition} in a transaction of {transactional_id}"))?;
            Ok(true)
        }
        None if answers.len() < partitions.len() => Err(Fault::malformed(
            &body.broker,
            "it leaves out partitions of the transaction",
        )),
        None => Ok(true),
    }
}

pub(super) fn read_added(body: &Body) -> Result<Vec<(TopicPartition, i16)>, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 3);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(6, |fields| {
            let added = (TopicPartition::new(topic, fields.int32()?), fields.int16()?);
            fields.tags()?;
            Ok(added)
        })?;
        fields.tags()?;
        Ok(partitions)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

/// Commits the open transaction.
///
/// # Errors
/// After any, the outcome is unknown.
pub(crate) async fn commit(
    cluster: &Cluster,
    coordinator: &str,
    transactional_id: &str,
    producer: ProducerId,
) -> Answer<()> {
    let request = EndTxnRequest::default()
        .with_transactional_id(named(transactional_id))
        .with_producer_id(producer.id.into())
        .with_producer_epoch(producer.epoch)
        .with_committed(true);
    let mut connection = cluster.connection(coordinator).await?;
    let version = connection.version(ApiKey::EndTxn, 0, 4)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let mut fields = Fields::new(&body.bytes, body.version >= 3);
    let code = fields.int32().and_then(|_throttled| fields.int16());
    let code = code.map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check_write(code, || format!("the end of the transaction of {transactional_id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    fn body(bytes: Vec<u8>, version: i16) -> Body {
        Body {
            bytes: bytes.into(),
            version,
            broker: "b".into(),
        }
    }

    #[test]
    fn a_producer_is_read() {
        let answer = Writer::default().int32(0).int16(0).int64(77).int16(3).tags();
        let expected = ProducerId { id: 77, epoch: 3 };
        assert_eq!(read_init(&body(answer.bytes, 4)), Ok((0, expected)));
    }

    #[test]
    fn cut_off_answers_are_refused() {
        let partition = |writer: Writer, (number, code)| writer.int32(number).int16(code).tags();
        let answer = Writer::default().int32(0).list(["t"], |writer, topic| {
            writer.text(Some(topic)).list([(0, 0), (1, 51)], partition).tags()
        });
        let expected = vec![(TopicPartition::new("t", 0), 0), (TopicPartition::new("t", 1), 51)];
        assert_eq!(read_added(&body(answer.bytes.clone(), 3)), Ok(expected));
        for length in 0..answer.bytes.len() {
            assert!(read_added(&body(answer.bytes[..length].to_vec(), 3)).is_err());
        }
    }
}
