//! Where partitions begin and end, and what came when.

use std::collections::BTreeMap;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;

use super::cluster::Cluster;
use super::fault::{Answer, Fault, check};
use super::response::{Body, Fields, Malformed};
use crate::config::Isolation;

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The first that can still be read.
    Earliest,
    /// The one after the last readable record, as the isolation says.
    End,
    /// The one after the last record, in an open transaction or not.
    HighWatermark,
    /// The first whose timestamp, in milliseconds since 1970 UTC, is this or later; -1 where there is none.
    Since(i64),
}

impl Which {
    /// The protocol's number.
    pub(crate) fn timestamp(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::End | Self::HighWatermark => -1,
            // Smaller ones stand for something else.
            Self::Since(millis) => millis.max(0),
        }
    }
}

/// Asks the broker at `address`, which leads all of `partitions` (with the leader epoch each), for their offsets.
///
/// # Errors
/// The first fault of any partition.
pub(crate) async fn list(
    cluster: &Cluster,
    address: &str,
    partitions: &[(TopicPartition, i32)],
    which: Which,
) -> Answer<Vec<(TopicPartition, i64)>> {
    let mut connection = cluster.connection(address).await?;
    let version = connection.version(ApiKey::ListOffsets, 4, 7)?;
    let body = connection.call(&request(cluster, partitions, which), version).await?;
    cluster.put_back(connection);
    let offsets = read(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if offsets.len() != partitions.len() {
        return Err(Fault::malformed(
            &body.broker,
            "it leaves out offsets that were asked for",
        ));
    }
    offsets
        .into_iter()
        .map(|(partition, code, offset)| {
            check(code, || format!("{partition}: no offset from broker {}", body.broker))?;
            Ok((partition, offset))
        })
        .collect()
}

fn request(cluster: &Cluster, partitions: &[(TopicPartition, i32)], which: Which) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (partition, leader_epoch) in partitions {
        let entry = ListOffsetsPartition::default()
            .with_partition_index(partition.partition)
            .with_current_leader_epoch(*leader_epoch)
            .with_timestamp(which.timestamp());
        topics.entry(&partition.topic).or_default().push(entry);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        ListOffsetsTopic::default().with_name(name).with_partitions(partitions)
    });
    let isolation = match which {
        Which::HighWatermark => Isolation::ReadUncommitted,
        _ => cluster.config().isolation,
    };
    ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(isolation.level())
        .with_topics(topics.collect())
}

type Offset = (TopicPartition, i16, i64);

pub(super) fn read(body: &Body) -> Result<Vec<Offset>, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 6);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(26, |fields| {
            let partition = TopicPartition::new(topic, fields.int32()?);
            let code = fields.int16()?;
            fields.int64()?;
            let offset = fields.int64()?;
            fields.int32()?;
            fields.tags()?;
            Ok((partition, code, offset))
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
    fn answers_of_all_versions_are_read_and_cut_off_ones_refused() {
        for version in 4..=7 {
            let partition = |writer: Writer, (number, code, offset)| {
                let fixed = writer.int32(number).int16(code).int64(-1);
                fixed.int64(offset).int32(2).tags()
            };
            let answer = Writer::old(version < 6).int32(0).list(["t"], |writer, topic| {
                let partitions = [(0, 0, 17), (1, 6, -1)];
                writer.text(Some(topic)).list(partitions, partition).tags()
            });
            let of = |length: usize| Body {
                bytes: answer.bytes[..length].to_vec().into(),
                version,
                broker: "b".into(),
            };
            let length = answer.bytes.len();
            let expected = vec![
                (TopicPartition::new("t", 0), 0, 17),
                (TopicPartition::new("t", 1), 6, -1),
            ];
            assert_eq!(read(&of(length)), Ok(expected), "version {version}");
            for cut in 0..length {
                assert!(read(&of(cut)).is_err(), "version {version}, {cut} bytes of {length}");
            }
        }
    }
}
