//! Topics, their ids and their leaders.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::allowed::Allowed;
use super::response::{Body, Fields, Malformed};
use crate::config::Topics;

/// Lowest version that is read: the first with leader epochs. What may be done comes with 8, topic ids with 10.
pub(crate) const LOWEST: i16 = 7;
/// Highest version that is read.
pub(crate) const HIGHEST: i16 = 12;
/// The first version in the compact encoding.
const COMPACT: i16 = 9;
const WITH_RIGHTS: i16 = 8;
const WITH_IDS: i16 = 10;

/// What a broker knows of some topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// `host:port` by node id.
    pub(crate) brokers: HashMap<i32, String>,
    /// Node id of the broker that makes topics, -1 where unknown.
    pub(crate) controller: i32,
    /// The topics asked for, by name.
    pub(crate) topics: BTreeMap<String, Topic>,
}

/// One topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topic {
    /// Error code, 0 where the topic can be used.
    pub(crate) code: i16,
    /// True for the cluster's own topics.
    pub(crate) is_internal: bool,
    /// The id, where the broker gives one.
    pub(crate) id: Option<Uuid>,
    /// What may be done to it.
    pub(crate) allowed: Allowed,
    /// Partitions by number.
    pub(crate) partitions: BTreeMap<i32, Leader>,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Node id, -1 for nobody.
    pub(crate) node: i32,
    /// Counts the leaders, -1 where unknown.
    pub(crate) epoch: i32,
}

/// The request for these topics in this version; for a pattern, of all. Never creates one.
pub(crate) fn request(topics: &Topics, version: i16) -> MetadataRequest {
    let named = match topics {
        Topics::Named(names) => Some(names.iter().map(|topic| {
            let name = TopicName(StrBytes::from_string(topic.clone()));
            MetadataRequestTopic::default().with_name(Some(name))
        })),
        Topics::Matching(_) => None,
    };
    MetadataRequest::default()
        .with_topics(named.map(Iterator::collect))
        .with_include_topic_authorized_operations(version >= WITH_RIGHTS)
        .with_allow_auto_topic_creation(false)
}

/// Reads the answer.
///
/// # Errors
/// A malformed answer.
pub(crate) fn read(body: &Body) -> Result<Metadata, Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= COMPACT);
    fields.int32()?;
    let brokers = fields.list(11, |fields| {
        let node = fields.int32()?;
        let host = fields.required_text()?;
        let port = fields.int32()?;
        let address = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        fields.text()?;
        fields.tags()?;
        Ok((node, address))
    })?;
    fields.text()?;
    let controller = fields.int32()?;
    let topics = fields.list(9, |fields| {
        let code = fields.int16()?;
        let name = fields.text()?.unwrap_or_default().to_owned();
        let id = if body.version >= WITH_IDS { fields.uuid()? } else { None };
        let is_internal = fields.boolean()?;
        let partitions = fields.list(18, partition)?;
        let allowed = if body.version >= WITH_RIGHTS {
            Allowed::of(fields.int32()?)
        } else {
            Allowed::default()
        };
        fields.tags()?;
        Ok((
            name,
            Topic {
                code,
                is_internal,
                id,
                allowed,
                partitions: partitions.into_iter().collect(),
            },
        ))
    })?;
    Ok(Metadata {
        brokers: brokers.into_iter().collect(),
        controller,
        topics: topics.into_iter().collect(),
    })
}

fn partition(fields: &mut Fields<'_>) -> Result<(i32, Leader), Malformed> {
    // A partition without a leader has an error code too, but the leader says as much.
    fields.int16()?;
    let number = fields.int32()?;
    let leader = Leader {
        node: fields.int32()?,
        epoch: fields.int32()?,
    };
    for _ in ["replicas", "in sync", "offline"] {
        let count = fields.count(4)?.unwrap_or(0);
        fields.take(4 * count)?;
    }
    fields.tags()?;
    Ok((number, leader))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    fn body(version: i16) -> Body {
        let answer = Writer::old(version < COMPACT)
            .int32(0)
            .list([(3, "::1", 9092)], |writer, (node, host, port)| {
                writer.int32(node).text(Some(host)).int32(port).text(None).tags()
            })
            .text(Some("cluster"))
            .int32(3)
            .list(["t"], |writer, name| {
                let writer = writer.int16(0).text(Some(name));
                let writer = if version >= 10 {
                    writer.uuid(Some(Uuid::from_u128(77)))
                } else {
                    writer
                };
                let partition = |writer: Writer, number| {
                    let lists = writer.int16(0).int32(number).int32(3).int32(9);
                    lists
                        .list([3, 4], Writer::int32)
                        .list([3], Writer::int32)
                        .list([], Writer::int32)
                        .tags()
                };
                let writer = writer.int8(0).list([5], partition);
                let writer = if version >= WITH_RIGHTS {
                    writer.int32(1 << 3)
                } else {
                    writer
                };
                writer.tags()
            });
        let answer = if (8..=10).contains(&version) {
            answer.int32(0)
        } else {
            answer
        };
        Body {
            bytes: answer.tags().bytes.into(),
            version,
            broker: "b".into(),
        }
    }

    #[test]
    fn answers_of_all_versions_are_read() {
        for version in LOWEST..=HIGHEST {
            let metadata = read(&body(version)).unwrap();
            assert_eq!(metadata.brokers[&3], "[::1]:9092");
            let topic = &metadata.topics["t"];
            assert_eq!(topic.id, (version >= 10).then(|| Uuid::from_u128(77)));
            assert_eq!(topic.partitions[&5], Leader { node: 3, epoch: 9 });
            let allowed = if version >= WITH_RIGHTS {
                Allowed::of(1 << 3)
            } else {
                Allowed::default()
            };
            assert_eq!(topic.allowed, allowed);
        }
    }

    #[test]
    fn a_cut_off_answer_is_refused_wherever_it_ends() {
        let whole = body(12);
        // The last byte holds no more than the number of tagged fields, which nobody needs.
        for length in 0..whole.bytes.len() - 1 {
            let cut = Body {
                bytes: whole.bytes.slice(..length),
                ..whole.clone()
            };
            assert!(read(&cut).is_err(), "{length} bytes of {}", whole.bytes.len());
        }
    }
}
