//! Kafka as a source of ranges, on our own wire path.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{PartitionEnds, RawColumns, Scan, Source};

use crate::config::{KafkaConfig, Reader, Topics};
use crate::fetch::budget::Budget;
use crate::fetch::buffer_pool::BufferPool;
use crate::fetch::reader;
use crate::fetch::scan::KafkaScan;
use crate::fetch::session::Shared;
use crate::librdkafka::lookups::Lookups;
use crate::librdkafka::{self, LibrdkafkaScan};
use crate::wire::allowed::{Allowed, Operation, missing};
use crate::wire::cluster::Cluster;
use crate::wire::epoch_end::{AskedEpoch, epoch_ends};
use crate::wire::fault::{Answer, Fault, check};
use crate::wire::group::{self, Coordinates};
use crate::wire::list_offsets::{Which, list};
use crate::wire::metadata::{Metadata, Topic};
use crate::wire::topic_id;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Scans of no more offsets are read where they are decoded: waking another thread would cost more than it saves.
const FEW_OFFSETS: u64 = 50_000;
/// What a person should know of a source that is asked about through librdkafka.
const LIBRDKAFKA_TELLS_LESS: &str = "warning: all is asked through librdkafka, which tells neither topic ids nor leader epochs: a topic \
     that was deleted and made anew is noticed only where it ends before what was read";

/// What a check says of brokers that give topics no ids.
const NO_TOPIC_IDS: &str = "warning: its brokers give topics no ids, as Kafka before 2.8 does: a topic that was deleted and \
                            created again is noticed where it is missing, its end lies before the position or its leader epoch \
                            went back, but not where it has grown past the position meanwhile; start under a new name after a \
                            topic was created again";

/// Topics of one Kafka cluster.
#[derive(Debug)]
pub struct KafkaSource {
    shared: Shared,
    /// The same cluster for long scans, with connections of their own.
    apart: Shared,
    /// Who answers in place of our own wire, where that is not let in.
    lookups: Option<Arc<Lookups>>,
    /// Leaf locks, taken once per call. The first holds the last ends: an end that moves back shows a topic that was
    /// made anew under known metadata.
    last_ends: Mutex<HashMap<TopicPartition, i64>>,
    coordinator: Mutex<Option<String>>,
}

impl KafkaSource {
    /// A source with these settings. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Kind::Config`] for settings that can't work.
    pub fn new(config: KafkaConfig) -> Result<Self> {
        let refuse = |text: &str| Err(Error::new(Kind::Config, text));
        if config.brokers.is_empty() {
            return refuse("a kafka source needs `brokers`, as host:port");
        }
        if matches!(&config.topics, Topics::Named(names) if names.is_empty()) {
            return refuse("a kafka source needs at least one topic");
        }
        if config.partition_fetch_bytes == 0 || config.fetch_budget_bytes / 2 < config.partition_fetch_bytes {
            return refuse("fetch_budget_bytes must be at least twice partition_fetch_bytes, and that more than 0");
        }
        if config.frame_bytes_max < config.response_bytes_max
            || config.response_bytes_max < config.partition_fetch_bytes
        {
            return refuse("partition_fetch_bytes, response_bytes_max and frame_bytes_max must not decrease");
        }
        Ok(Self::over(Cluster::new(Arc::new(config))))
    }

    /// A source of the topics of this cluster, whose settings can work.
    pub(crate) fn over(cluster: Cluster) -> Self {
        let budget = cluster.config().fetch_budget_bytes;
        let shared = Shared {
            budget: Budget::new(budget),
            pool: BufferPool::new(budget as usize),
            cluster: Arc::new(cluster),
        };
        let apart = Shared {
            cluster: Arc::new(Cluster::new(Arc::clone(shared.cluster.config()))),
            ..shared.clone()
        };
        Self {
            lookups: librdkafka::lookups(shared.cluster.config()),
            shared,
            apart,
            last_ends: Mutex::default(),
            coordinator: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn config(&self) -> &KafkaConfig {
        self.shared.cluster.config()
    }

    /// False where the brokers say nothing of the ids of the topics that are read.
    async fn knows_topic_ids(&self) -> Answer<bool> {
        let metadata = self.metadata(self.config().metadata_age_max).await?;
        Ok(self.topics(&metadata)?.iter().all(|(_, topic)| topic.id.is_some()))
    }

    async fn metadata(&self, age_max: Duration) -> Answer<Arc<Metadata>> {
        match &self.lookups {
            Some(lookups) => lookups.metadata(age_max).await,
            None => self.shared.cluster.metadata(age_max).await,
        }
    }

    /// An offset of each of these partitions, which the broker at `address` leads.
    async fn list(
        &self,
        address: &str,
        partitions: &[(TopicPartition, i32)],
        which: Which,
    ) -> Answer<Vec<(TopicPartition, i64)>> {
        match &self.lookups {
            Some(lookups) => {
                let partitions: Vec<_> = partitions.iter().map(|(partition, _)| partition.clone()).collect();
                lookups.list(&partitions, which).await
            }
            None => list(&self.shared.cluster, address, partitions, which).await,
        }
    }

    async fn commit(&self, group: &str, positions: &[(TopicPartition, i64)]) -> Answer<()> {
        if let Some(lookups) = &self.lookups {
            return lookups.commit(positions).await;
        }
        let coordinator = self.coordinator(group).await?;
        let stored = group::commit(&self.shared.cluster, &coordinator, group, positions).await;
        stored.inspect_err(|_fault| self.forget_coordinator())
    }

    async fn stored(&self, group: &str, partitions: &[TopicPartition]) -> Answer<Vec<Option<i64>>> {
        let stored: HashMap<TopicPartition, i64> = match &self.lookups {
            Some(lookups) => {
                let stored = lookups.committed(partitions).await?.into_iter();
                stored
                    .filter_map(|(partition, offset)| Some((partition, offset?)))
                    .collect()
            }
            None => {
                let coordinator = self.coordinator(group).await?;
                let stored = group::fetch(&self.shared.cluster, &coordinator, group, partitions).await;
                stored.inspect_err(|_fault| self.forget_coordinator())?
            }
        };
        Ok(partitions
            .iter()
            .map(|partition| stored.get(partition).copied())
            .collect())
    }

    async fn group_allowed(&self, group: &str) -> Answer<Allowed> {
        let coordinator = self.coordinator(group).await?;
        let allowed = group::allowed(&self.shared.cluster, &coordinator, group).await;
        allowed.inspect_err(|_fault| self.forget_coordinator())
    }

    fn forget_coordinator(&self) {
        *self.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn read_ends(&self, with_earliest: bool) -> Answer<Vec<PartitionEnds>> {
        let metadata = self.metadata(self.config().metadata_age_max).await?;
        let mut ends = self.list_ends(&metadata, with_earliest).await?;
        if self.went_back(&ends) {
            let metadata = self.metadata(Duration::ZERO).await?;
            ends = self.list_ends(&metadata, with_earliest).await?;
        }
        *self.last_ends.lock().unwrap_or_else(PoisonError::into_inner) =
            ends.iter().map(|end| (end.partition.clone(), end.end)).collect();
        Ok(ends)
    }

    fn went_back(&self, ends: &[PartitionEnds]) -> bool {
        let last = self.last_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter()
            .any(|end| last.get(&end.partition).is_some_and(|last| end.end < *last))
    }

    async fn list_ends(&self, metadata: &Metadata, with_earliest: bool) -> Answer<Vec<PartitionEnds>> {
        let mut ends = self.partitions(metadata)?;
        let asked = by_leader(&ends).into_iter().map(|(address, partitions)| async move {
            let latest = self.list(address, &partitions, Which::End).await?;
            let earliest = match with_earliest {
                true => self.list(address, &partitions, Which::Earliest).await?,
                false => Vec::new(),
            };
            Answer::Ok((latest, earliest))
        });
        let mut latest = HashMap::new();
        let mut earliest = HashMap::new();
        for answer in try_join_all(asked).await? {
            latest.extend(answer.0);
            earliest.extend(answer.1);
        }
        for (end, _) in &mut ends {
            let Some(offset) = latest.get(&end.partition) else {
                return Err(Fault::Passing(format!("{}: no broker gave its end", end.partition)));
            };
            end.end = *offset;
            end.earliest = earliest.get(&end.partition).copied().unwrap_or(-1);
        }
        Ok(ends.into_iter().map(|(end, _)| end).collect())
    }

    async fn list_all(&self, which: Which) -> Answer<Vec<(TopicPartition, i64)>> {
        let metadata = self.metadata(self.config().metadata_age_max).await?;
        let partitions = self.partitions(&metadata)?;
        let asked = by_leader(&partitions)
            .into_iter()
            .map(|(address, partitions)| async move { self.list(address, &partitions, which).await });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    async fn ends_of_epochs(&self, epochs: &[(TopicPartition, i32)]) -> Answer<Vec<(TopicPartition, i64)>> {
        let metadata = self.metadata(self.config().metadata_age_max).await?;
        let mut by_leader: HashMap<&str, Vec<AskedEpoch>> = HashMap::new();
        for (end, address) in self.partitions(&metadata)? {
            if let Some((partition, epoch)) = epochs.iter().find(|(partition, _)| *partition == end.partition) {
                let asked = (partition.clone(), *epoch, end.leader_epoch);
                by_leader.entry(address).or_default().push(asked);
            }
        }
        let cluster = &self.shared.cluster;
        let asked = by_leader
            .iter()
            .map(|(address, asked)| epoch_ends(cluster, address, asked));
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// All partitions without their offsets, with the address of their leader.
    fn partitions<'a>(&self, metadata: &'a Metadata) -> Answer<Vec<(PartitionEnds, &'a str)>> {
        let mut partitions = Vec::new();
        for (name, topic) in self.topics(metadata)? {
            check(topic.code, || format!("topic {name}: its metadata can't be read"))?;
            if topic.allowed.lacks(Operation::Read) {
                let brokers = self.config().brokers.join(",");
                let text = format!(
                    "topic {name}: {}",
                    missing(Operation::Read, &format!("--topic {name}"), &brokers)
                );
                return Err(Fault::Final(Error::new(Kind::Refused, text)));
            }
            let id = topic.id.map(topic_id::to_text);
            for (number, leader) in &topic.partitions {
                let partition = TopicPartition::new(name, *number);
                let Some(address) = metadata.brokers.get(&leader.node) else {
                    return Err(Fault::Passing(format!("{partition} has no leader")));
                };
                let topic_id = id.clone();
                let end = PartitionEnds {
                    partition,
                    topic_id,
                    leader_epoch: leader.epoch,
                    earliest: -1,
                    end: -1,
                };
                partitions.push((end, address.as_str()));
            }
        }
        Ok(partitions)
    }

    /// The topics that are read, by name.
    fn topics<'a>(&self, metadata: &'a Metadata) -> Answer<Vec<(&'a str, &'a Topic)>> {
        let there = metadata
            .topics
            .iter()
            .filter(|(_, topic)| topic.code != UNKNOWN_TOPIC_OR_PARTITION);
        match &self.config().topics {
            Topics::Matching(pattern) => Ok(there
                .filter(|(name, topic)| !topic.is_internal && pattern.is_match(name))
                .map(|(name, topic)| (name.as_str(), topic))
                .collect()),
            Topics::Named(names) => {
                let there: HashMap<&str, &Topic> = there.map(|(name, topic)| (name.as_str(), topic)).collect();
                let found = names.iter().map(|name| match there.get_key_value(name.as_str()) {
                    Some((name, topic)) => Ok((*name, *topic)),
                    None => {
                        let text = format!("topic {name} does not exist; create it, or correct `topics`");
                        Err(Fault::Final(Error::new(Kind::Refused, text)))
                    }
                });
                found.collect()
            }
        }
    }

    async fn coordinator(&self, group: &str) -> Answer<String> {
        let known = self.coordinator.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(address) => Ok(address),
            None => {
                let address = group::find_coordinator(&self.shared.cluster, Coordinates::Group, group).await?;
                *self.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.clone());
                Ok(address)
            }
        }
    }
}

/// The partitions of each leader, with their leader epochs.
fn by_leader<'a>(partitions: &[(PartitionEnds, &'a str)]) -> HashMap<&'a str, Vec<(TopicPartition, i32)>> {
    let mut by_leader: HashMap<&str, Vec<_>> = HashMap::new();
    for (end, address) in partitions {
        let of = by_leader.entry(*address).or_default();
        of.push((end.partition.clone(), end.leader_epoch));
    }
    by_leader
}

#[async_trait]
impl Source for KafkaSource {
    async fn ends(&self, with_earliest: bool) -> Result<Vec<PartitionEnds>> {
        let ask = || self.read_ends(with_earliest);
        self.shared.cluster.until_answered("reading end offsets", ask).await
    }

    async fn since(&self, millis: i64) -> Result<Vec<(TopicPartition, Option<i64>)>> {
        let ask = || self.list_all(Which::Since(millis));
        let cluster = &self.shared.cluster;
        let found = cluster.until_answered("looking for the offsets of a time", ask).await?;
        Ok(found
            .into_iter()
            .map(|(partition, offset)| (partition, (offset >= 0).then_some(offset)))
            .collect())
    }

    async fn high_watermarks(&self) -> Result<Vec<(TopicPartition, i64)>> {
        let ask = || self.list_all(Which::HighWatermark);
        self.shared.cluster.until_answered("reading high watermarks", ask).await
    }

    async fn epoch_ends(&self, epochs: &[(TopicPartition, i32)]) -> Result<Vec<(TopicPartition, i64)>> {
        if self.lookups.is_some() {
            // Epochs are known from before this reader, at most.
            return Ok(Vec::new());
        }
        let ask = || self.ends_of_epochs(epochs);
        self.shared
            .cluster
            .until_answered("looking for the ends of leader epochs", ask)
            .await
    }

    async fn check(&self) -> Result<Vec<String>> {
        if self.lookups.is_some() {
            return Ok(vec![LIBRDKAFKA_TELLS_LESS.to_owned()]);
        }
        let mut found = Vec::new();
        let ask = || self.knows_topic_ids();
        let told = self.shared.cluster.until_answered("looking for topic ids", ask).await?;
        if !told {
            found.push(NO_TOPIC_IDS.to_owned());
        }
        let Some(group) = self.config().group.as_deref() else {
            return Ok(found);
        };
        let ask = || self.group_allowed(group);
        let allowed = self.shared.cluster.until_answered("looking at the group", ask).await;
        // Positions are published for monitors: without them the pipeline runs all the same.
        found.push(match allowed {
            Ok(allowed) if allowed.lacks(Operation::Read) => format!(
                "warning: positions can't be published to group {group}: {}",
                missing(
                    Operation::Read,
                    &format!("--group {group}"),
                    &self.config().brokers.join(",")
                )
            ),
            Ok(_) => format!("positions are published to group {group}"),
            Err(error) => format!(
                "warning: positions can't be published to group {group}: {}",
                error.chain()
            ),
        });
        Ok(found)
    }

    fn scan(&self, ranges: Vec<RangePlan>, columns: RawColumns) -> Arc<dyn Scan> {
        if let Reader::Librdkafka(properties) = &self.config().reader {
            let cluster = Arc::clone(&self.shared.cluster);
            let lookups = self.lookups.clone();
            return Arc::new(LibrdkafkaScan::new(cluster, lookups, properties, ranges, columns));
        }
        let offsets: u64 = ranges.iter().map(RangePlan::offsets).sum();
        Arc::new(if offsets <= FEW_OFFSETS {
            KafkaScan::new(self.shared.clone(), &ranges, columns)
        } else {
            KafkaScan::new(self.apart.clone(), &ranges, columns).on(reader::handle())
        })
    }

    async fn publish(&self, positions: &[(TopicPartition, i64)]) -> Result<()> {
        let Some(group) = self.config().group.as_deref().filter(|_| !positions.is_empty()) else {
            return Ok(());
        };
        let ask = || self.commit(group, positions);
        self.shared
            .cluster
            .until_answered("publishing group offsets", ask)
            .await
    }

    async fn published(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        let Some(group) = self.config().group.as_deref().filter(|_| !partitions.is_empty()) else {
            return Ok(vec![None; partitions.len()]);
        };
        let ask = || self.stored(group, partitions);
        self.shared.cluster.until_answered("reading group offsets", ask).await
    }
}
