//! A group's offsets, published for monitors and read for display.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    ApiKey, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;

use super::allowed::Allowed;
use super::cluster::Cluster;
use super::fault::{Answer, Fault, check};
use super::response::{Body, Fields, Malformed};

/// The first version of DescribeGroups that tells what may be done.
const GROUPS_WITH_RIGHTS: i16 = 3;
const GROUPS_WITH_INSTANCES: i16 = 4;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Whose coordinator is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coordinates {
    /// A group.
    Group = 0,
    /// A transactional id.
    Transactions = 1,
}

/// The address of the coordinator of a group or transactional id, asked of any broker.
///
/// # Errors
/// Where there is none yet, or no right to know.
pub(crate) async fn find_coordinator(cluster: &Cluster, what: Coordinates, key: &str) -> Answer<String> {
    let mut connection = cluster.any_connection().await?;
    let version = connection.version(ApiKey::FindCoordinator, 1, 3)?;
    let request = FindCoordinatorRequest::default()
        .with_key(text(key))
        .with_key_type(what as i8);
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, address) = read_coordinator(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check(code, || match what {
        Coordinates::Group => format!("group {key}: no coordinator"),
        Coordinates::Transactions => format!("transactional id {key}: no coordinator"),
    })?;
    Ok(address)
}

/// What may be done to a group. Brokers before Kafka 2.3 do not say.
///
/// # Errors
/// Where the coordinator does not say.
pub(crate) async fn allowed(cluster: &Cluster, coordinator: &str, group: &str) -> Answer<Allowed> {
    let mut connection = cluster.connection(coordinator).await?;
    // Later versions call a group that nobody has used yet an error.
    let version = connection.version(ApiKey::DescribeGroups, 1, 5)?;
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![GroupId(text(group))])
        .with_include_authorized_operations(version >= GROUPS_WITH_RIGHTS);
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, allowed) = read_allowed(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check(code, || format!("group {group}"))?;
    Ok(allowed)
}

pub(super) fn read_allowed(body: &Body) -> Result<(i16, Allowed), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 5);
    fields.int32()?;
    let groups = fields.list(12, |fields| {
        let code = fields.int16()?;
        for _ in ["id", "state", "protocol type", "protocol"] {
            fields.text()?;
        }
        fields.list(7, |fields| {
            for _ in ["id", "client", "host"] {
                fields.text()?;
            }
            if body.version >= GROUPS_WITH_INSTANCES {
                fields.text()?;
            }
            for _ in ["metadata", "assignment"] {
                let bytes = fields.count(1)?.unwrap_or(0);
                fields.take(bytes)?;
            }
            fields.tags()
        })?;
        let allowed = if body.version >= GROUPS_WITH_RIGHTS {
            Allowed::of(fields.int32()?)
        } else {
            Allowed::default()
        };
        fields.tags()?;
        Ok((code, allowed))
    })?;
    groups.into_iter().next().ok_or(Malformed("it describes no group"))
}

pub(super) fn read_coordinator(body: &Body) -> Result<(i16, String), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 3);
    fields.int32()?;
    let code = fields.int16()?;
    fields.text()?;
    fields.int32()?;
    let host = fields.text()?.unwrap_or_default();
    Ok((code, format!("{host}:{}", fields.int32()?)))
}

/// Stores next offsets for the group, as a client that is no member.
///
/// # Errors
/// The first fault of any partition.
pub(crate) async fn commit(
    cluster: &Cluster,
    coordinator: &str,
    group: &str,
    positions: &[(TopicPartition, i64)],
) -> Answer<()> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (partition, offset) in positions {
        let entry = OffsetCommitRequestPartition::default()
            .with_partition_index(partition.partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::new()));
        topics.entry(&partition.topic).or_default().push(entry);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(partitions)
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics.collect());
    let mut connection = cluster.connection(coordinator).await?;
    let version = connection.version(ApiKey::OffsetCommit, 6, 8)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    for (partition, code) in read_commit(&body).map_err(|error| Fault::malformed(&body.broker, error.0))? {
        check(code, || {
            format!("{partition}: the offset of group {group} was not stored")
        })?;
    }
    Ok(())
}

pub(super) fn read_commit(body: &Body) -> Result<Vec<(TopicPartition, i16)>, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 8);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(6, |fields| {
            let stored = (TopicPartition::new(topic, fields.int32()?), fields.int16()?);
            fields.tags()?;
            Ok(stored)
        })?;
        fields.tags()?;
        Ok(partitions)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

/// Reads the group's offsets.
///
/// # Errors
/// The first fault of the group or any partition.
pub(crate) async fn fetch(
    cluster: &Cluster,
    coordinator: &str,
    group: &str,
    partitions: &[TopicPartition],
) -> Answer<HashMap<TopicPartition, i64>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topics = topics.into_iter().map(|(topic, numbers)| {
        OffsetFetchRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partition_indexes(numbers)
    });
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(topics.collect()));
    let mut connection = cluster.connection(coordinator).await?;
    let version = connection.version(ApiKey::OffsetFetch, 5, 6)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (offsets, code) = read_fetch(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check(code, || format!("group {group}: its offsets can't be read"))?;
    let mut stored = HashMap::new();
    for (partition, offset, code) in offsets {
        check(code, || {
            format!("{partition}: the offset of group {group} can't be read")
        })?;
        if offset >= 0 {
            stored.insert(partition, offset);
        }
    }
    Ok(stored)
}

type Stored = (TopicPartition, i64, i16);

pub(super) fn read_fetch(body: &Body) -> Result<(Vec<Stored>, i16), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 6);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(20, |fields| {
            let partition = TopicPartition::new(topic, fields.int32()?);
            let offset = fields.int64()?;
            fields.int32()?;
            fields.text()?;
            let code = fields.int16()?;
            fields.tags()?;
            Ok((partition, offset, code))
        })?;
        fields.tags()?;
        Ok(partitions)
    })?;
    Ok((topics.into_iter().flatten().collect(), fields.int16()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    fn body(writer: &Writer, version: i16) -> Body {
        Body {
            bytes: writer.bytes.clone().into(),
            version,
            broker: "b".into(),
        }
    }

    fn partition() -> TopicPartition {
        TopicPartition::new("t", 1)
    }

    #[test]
    fn coordinators_of_all_versions_are_read() {
        for version in 1..=3 {
            let head = Writer::old(version < 3).int32(0).int16(0).text(None);
            let answer = head.int32(2).text(Some("host")).int32(9092).tags();
            let expected = Ok((0, "host:9092".to_owned()));
            assert_eq!(read_coordinator(&body(&answer, version)), expected);
        }
    }

    #[test]
    fn what_is_allowed_is_known_where_the_version_tells_it() {
        let member = |writer: Writer, version: i16| {
            let writer = writer.text(Some("member"));
            let writer = if version >= 4 { writer.text(None) } else { writer };
            let named = writer.text(Some("client")).text(Some("host"));
            named.bytes(Some(b"metadata")).bytes(None).tags()
        };
        for version in 1..=5 {
            let answer = Writer::old(version < 5).int32(0).list([version], |writer, version| {
                let texts = writer
                    .int16(0)
                    .text(Some("g"))
                    .text(Some("Stable"))
                    .text(None)
                    .text(None);
                let writer = texts.list([version], member);
                let writer = if version >= 3 { writer.int32(1 << 3) } else { writer };
                writer.tags()
            });
            let known = if version >= 3 {
                Allowed::of(1 << 3)
            } else {
                Allowed::default()
            };
            assert_eq!(
                read_allowed(&body(&answer, version)),
                Ok((0, known)),
                "version {version}"
            );
        }
    }

    #[test]
    fn stored_and_fetched_offsets_of_all_versions_are_read() {
        for version in 6..=8 {
            let answer = Writer::old(version < 8).int32(0).list(["t"], |writer, topic| {
                let stored = |writer: Writer, number| writer.int32(number).int16(22).tags();
                writer.text(Some(topic)).list([1], stored).tags()
            });
            assert_eq!(read_commit(&body(&answer.tags(), version)), Ok(vec![(partition(), 22)]));
        }
        for version in 5..=6 {
            let answer = Writer::old(version < 6).int32(0).list(["t"], |writer, topic| {
                let fetched = |writer: Writer, number| {
                    let fixed = writer.int32(number).int64(17).int32(-1);
                    fixed.text(Some("")).int16(0).tags()
                };
                writer.text(Some(topic)).list([1], fetched).tags()
            });
            let answer = answer.int16(0).tags();
            assert_eq!(read_fetch(&body(&answer, version)), Ok((vec![(partition(), 17, 0)], 0)));
        }
    }
}
