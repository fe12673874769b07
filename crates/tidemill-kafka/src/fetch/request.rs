//! Fetch requests, always whole and without a session on the broker's side.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidemill_core::position::TopicPartition;
use uuid::Uuid;

use crate::config::Isolation;

/// Lowest version that is used: the first whose records may be compressed with zstd, one after leader epochs came.
pub(crate) const LOWEST: i16 = 10;
/// The first version in the compact encoding.
pub(crate) const COMPACT: i16 = 12;
/// Highest version without topic ids.
pub(crate) const BY_NAME: i16 = 12;
/// The version with topic ids that is used.
pub(crate) const BY_ID: i16 = 13;

/// One partition to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: Option<Uuid>,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) bytes_max: u32,
}

/// The request for these partitions, in this order as far as topics allow: brokers fill in the order of the request.
pub(crate) fn request(asks: &[Ask], isolation: Isolation, bytes_max: u32) -> FetchRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for ask in asks {
        let entry = FetchPartition::default()
            .with_partition(ask.partition.partition)
            .with_current_leader_epoch(ask.leader_epoch)
            .with_fetch_offset(ask.offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(clamped(ask.bytes_max));
        match topics
            .iter_mut()
            .find(|topic| topic.topic.as_str() == ask.partition.topic)
        {
            Some(topic) => topic.partitions.push(entry),
            None => topics.push(
                FetchTopic::default()
                    .with_topic(TopicName(StrBytes::from_string(ask.partition.topic.clone())))
                    .with_topic_id(ask.topic_id.unwrap_or_default())
                    .with_partitions(vec![entry]),
            ),
        }
    }
    // Ranges end at offsets that existed at planning, so an answer never has to wait for data.
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(clamped(bytes_max))
        .with_isolation_level(isolation.level())
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
}

fn clamped(bytes: u32) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
