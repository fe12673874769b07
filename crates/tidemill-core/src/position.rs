//! Where a source stands.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A Kafka partition by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The position of one partition: the next offset to read, and what identifies the log it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// The source's name in the pipeline.
    pub source: String,
    /// The partition.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// The topic's id, in its usual text form, where the broker gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last planned end, -1 where unknown.
    pub leader_epoch: i32,
}

/// Positions of all partitions of all sources, in a fixed order.
///
/// Serialised as a list, since JSON has no composite keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<PartitionPosition>", into = "Vec<PartitionPosition>")]
pub struct Positions {
    by_partition: BTreeMap<(String, TopicPartition), PartitionPosition>,
}

impl From<Vec<PartitionPosition>> for Positions {
    fn from(list: Vec<PartitionPosition>) -> Self {
        list.into_iter().collect()
    }
}

impl From<Positions> for Vec<PartitionPosition> {
    fn from(positions: Positions) -> Self {
        positions.by_partition.into_values().collect()
    }
}

impl FromIterator<PartitionPosition> for Positions {
    fn from_iter<I: IntoIterator<Item = PartitionPosition>>(iter: I) -> Self {
        let by_partition = iter
            .into_iter()
            .map(|position| ((position.source.clone(), position.partition.clone()), position))
            .collect();
        Self { by_partition }
    }
}

impl Positions {
    /// The position of a partition of a source, if it is known.
    pub fn get(&self, source: &str, partition: &TopicPartition) -> Option<&PartitionPosition> {
        self.by_partition.get(&(source.to_owned(), partition.clone()))
    }

    /// Sets one partition's position.
    pub fn set(&mut self, position: PartitionPosition) {
        self.by_partition
            .insert((position.source.clone(), position.partition.clone()), position);
    }

    /// All positions, by source, topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = &PartitionPosition> {
        self.by_partition.values()
    }

    /// All positions of one source.
    pub fn of_source<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a PartitionPosition> {
        self.iter().filter(move |position| position.source == source)
    }

    /// The number of partitions.
    pub fn len(&self) -> usize {
        self.by_partition.len()
    }

    /// True where no partition is known.
    pub fn is_empty(&self) -> bool {
        self.by_partition.is_empty()
    }
}
