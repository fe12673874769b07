//! Where the records of a leader epoch end.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{ApiKey, OffsetForLeaderEpochRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;

use super::cluster::Cluster;
use super::fault::{Answer, Fault, check};
use super::response::{Body, Fields, Malformed};

/// A partition, the epoch that is asked about, and the epoch of its leader now.
pub(crate) type AskedEpoch = (TopicPartition, i32, i32);

/// Asks the broker at `address`, which leads all of `asked`, where the records of each epoch and those before it end.
/// -1 where it knows none of them.
///
/// # Errors
/// The first fault of any partition.
pub(crate) async fn epoch_ends(
    cluster: &Cluster,
    address: &str,
    asked: &[AskedEpoch],
) -> Answer<Vec<(TopicPartition, i64)>> {
    let mut connection = cluster.connection(address).await?;
    let version = connection.version(ApiKey::OffsetForLeaderEpoch, 2, 4)?;
    let body = connection.call(&request(asked), version).await?;
    cluster.put_back(connection);
    let ends = read(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if ends.len() != asked.len() {
        return Err(Fault::malformed(
            &body.broker,
            "it leaves out partitions that were asked for",
        ));
    }
    ends.into_iter()
        .map(|(partition, code, end)| {
            check(code, || {
                format!("{partition}: no end of an epoch from broker {}", body.broker)
            })?;
            Ok((partition, end))
        })
        .collect()
}

fn request(asked: &[AskedEpoch]) -> OffsetForLeaderEpochRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for (partition, epoch, current) in asked {
        let entry = OffsetForLeaderPartition::default()
            .with_partition(partition.partition)
            .with_leader_epoch(*epoch)
            .with_current_leader_epoch(*current);
        topics.entry(&partition.topic).or_default().push(entry);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        OffsetForLeaderTopic::default()
            .with_topic(name)
            .with_partitions(partitions)
    });
    OffsetForLeaderEpochRequest::default()
        .with_replica_id((-1).into())
        .with_topics(topics.collect())
}

type End = (TopicPartition, i16, i64);

pub(super) fn read(body: &Body) -> Result<Vec<End>, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 4);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(18, |fields| {
            let code = fields.int16()?;
            let partition = TopicPartition::new(topic, fields.int32()?);
            fields.int32()?;
            let end = fields.int64()?;
            fields.tags()?;
            Ok((partition, code, end))
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
    fn an_answer_is_read_and_a_cut_off_one_refused() {
        for version in 2..=4 {
            let answer = Writer::old(version < 4).int32(0).list(["t"], |writer, topic| {
                writer
                    .text(Some(topic))
                    .list([(0, 17), (1, -1)], |writer, (number, end)| {
                        writer.int16(0).int32(number).int32(3).int64(end).tags()
                    })
                    .tags()
            });
            let body = |length: usize| Body {
                bytes: answer.bytes[..length].to_vec().into(),
                version,
                broker: "b".into(),
            };
            let length = answer.bytes.len();
            let of = |number| TopicPartition::new("t", number);
            assert_eq!(read(&body(length)).unwrap(), [(of(0), 0, 17), (of(1), 0, -1)]);
            for cut in 0..length {
                assert!(read(&body(cut)).is_err(), "version {version}, {cut} bytes of {length}");
            }
        }
    }
}
