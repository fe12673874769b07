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
    let version = connection.version(ApiKey::FindCoordinator, 3, 3)?;
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

/// What may be done to a group.
///
/// # Errors
/// Where the coordinator does not say.
pub(crate) async fn allowed(cluster: &Cluster, coordinator: &str, group: &str) -> Answer<Allowed> {
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![GroupId(text(group))])
        .with_include_authorized_operations(true);
    let mut connection = cluster.connection(coordinator).await?;
    // Later versions call a group that nobody has used yet an error.
    let version = connection.version(ApiKey::DescribeGroups, 5, 5)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, allowed) = read_allowed(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check(code, || format!("group {group}"))?;
    Ok(allowed)
}

pub(super) fn read_allowed(body: &Body) -> Result<(i16, Allowed), Malformed> {
    let mut fields = Fields::new(&body.bytes, true);
    fields.int32()?;
    let groups = fields.list(12, |fields| {
        let code = fields.int16()?;
        for _ in ["id", "state", "protocol type", "protocol"] {
            fields.text()?;
        }
        fields.list(7, |fields| {
            for _ in ["id", "instance", "client", "host"] {
                fields.text()?;
            }
            for _ in ["metadata", "assignment"] {
                let bytes = fields.count(1)?.unwrap_or(0);
                fields.take(bytes)?;
            }
            fields.tags()
        })?;
        let allowed = Allowed::of(fields.int32()?);
        fields.tags()?;
        Ok((code, allowed))
    })?;
    groups.into_iter().next().ok_or(Malformed("it describes no group"))
}

pub(super) fn read_coordinator(body: &Body) -> Result<(i16, String), Malformed> {
    let mut fields = Fields::new(&body.bytes, true);
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
    let version = connection.version(ApiKey::OffsetCommit, 8, 8)?;
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
    let mut fields = Fields::new(&body.bytes, true);
    fields.int32()?;
    let topics = fields.list(3, |fields| {
        let topic = fields.required_text()?;
        let partitions = fields.list(7, |fields| {
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
    let version = connection.version(ApiKey::OffsetFetch, 6, 6)?;
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
    let mut fields = Fields::new(&body.bytes, true);
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
