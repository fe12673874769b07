//! What is to be known before and beside reading, asked through librdkafka where our own wire is not let in. librdkafka tells
//! neither topic ids nor leader epochs nor rights.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind};

use super::isolation_level;
use crate::config::{Isolation, KafkaConfig, Topics};
use crate::embedded::client_error::client_error;
use crate::wire::fault::{Answer, Fault};
use crate::wire::list_offsets::Which;
use crate::wire::metadata::{Leader, Metadata, Topic};

/// The cluster's own topics. librdkafka does not say which they are.
const INTERNAL: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// How long metadata is believed at most: an error here does not say that it is old.
const METADATA_AGE_MAX: Duration = Duration::from_secs(2);

/// Asks about the topics of one source.
pub(crate) struct Lookups {
    /// As the source reads.
    reading: Arc<Client>,
    /// Sees records of open transactions, and speaks to the group: a slow coordinator must not delay the next ends.
    beside: Arc<Client>,
    topics: Topics,
    wait: Duration,
    /// The last metadata and when it was asked for. A leaf lock, held for a look or an exchange.
    known: Mutex<Option<(Instant, Arc<Metadata>)>>,
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

/// A consumer that consumes nothing, made with the first question.
struct Client {
    config: ClientConfig,
    /// Held while a question is asked: the reasons that come up meanwhile are its own.
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    consumer: Option<BaseConsumer<Said>>,
    /// True once a broker answered.
    was_let_in: bool,
}

/// What librdkafka says beside its answers.
#[derive(Debug, Default)]
struct Said {
    first: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Said {
    /// The first reason counts: later ones follow from it.
    fn keep(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*first, None | Some((RDKafkaErrorCode::AllBrokersDown, _))) {
            *first = Some((code, reason.to_owned()));
        }
    }
}

impl ClientContext for Said {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.keep(code, reason);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // That no ticket was to be had is said in the log alone.
        if facility == "SASLREFRESH" && matches!(level, RDKafkaLogLevel::Error) {
            self.keep(RDKafkaErrorCode::Authentication, text);
        }
        tracing::debug!(facility, "librdkafka: {text}");
    }
}

impl ConsumerContext for Said {}

impl Client {
    fn new(config: &ClientConfig, isolation: Isolation) -> Arc<Self> {
        let mut config = config.clone();
        config.set("isolation.level", isolation_level(isolation));
        Arc::new(Self {
            config,
            asked: Mutex::default(),
        })
    }

    /// Asks and waits for the answer.
    fn ask<T>(&self, what: &str, question: impl FnOnce(&BaseConsumer<Said>) -> KafkaResult<T>) -> Answer<T> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Asked { consumer, was_let_in } = &mut *asked;
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => {
                let made = self.config.create_with_context(Said::default());
                consumer.insert(made.map_err(|error| client_error(what, error))?)
            }
        };
        match question(consumer) {
            Ok(answer) => {
                *was_let_in = true;
                drop(heard(consumer));
                Ok(answer)
            }
            Err(error) => Err(fault(what, error, heard(consumer), *was_let_in)),
        }
    }
}

/// What librdkafka had to say since the last question.
fn heard(consumer: &BaseConsumer<Said>) -> Option<(RDKafkaErrorCode, String)> {
    while consumer.poll(Duration::ZERO).is_some() {}
    let mut first = consumer.context().first.lock().unwrap_or_else(PoisonError::into_inner);
    first.take()
}

/// The fault of an error, which often only says that time ran out, and of the reason given beside it. Who was let in once may be
/// again: tickets and keys are changed at different times on the two sides.
fn fault(what: &str, error: KafkaError, heard: Option<(RDKafkaErrorCode, String)>, was_let_in: bool) -> Fault {
    if let Some((code, reason)) = heard {
        let text = format!("{what}: {reason}");
        let is_refusal = matches!(
            code,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
        );
        return if is_refusal && !was_let_in {
            Fault::Final(Error::new(Kind::Refused, text))
        } else {
            Fault::Passing(text)
        };
    }
    let error = client_error(what, error);
    match error.kind() {
        Kind::Unavailable => Fault::Passing(error.chain()),
        _ => Fault::Final(error),
    }
}

impl Lookups {
    /// Asks as `client` says.
    pub(super) fn new(config: &KafkaConfig, mut client: ClientConfig) -> Self {
        client.remove("statistics.interval.ms");
        if let Some(group) = &config.group {
            client.set("group.id", group);
        }
        Self {
            reading: Client::new(&client, config.isolation),
            beside: Client::new(&client, Isolation::ReadUncommitted),
            topics: config.topics.clone(),
            wait: config.connect_timeout,
            known: Mutex::default(),
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        client: &Arc<Client>,
        what: &'static str,
        question: impl FnOnce(&BaseConsumer<Said>) -> KafkaResult<T> + Send + 'static,
    ) -> Answer<T> {
        let client = Arc::clone(client);
        let asked = tokio::task::spawn_blocking(move || client.ask(what, question)).await;
        asked.unwrap_or_else(|error| {
            let error = Error::with_source(Kind::Bug, format!("{what} through librdkafka"), error);
            Err(Fault::Final(error))
        })
    }

    /// Topics and leaders, asked anew where what is known is older than `age_max`.
    ///
    /// # Errors
    /// Where no broker answers.
    pub(crate) async fn metadata(&self, age_max: Duration) -> Answer<Arc<Metadata>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let age_max = age_max.min(METADATA_AGE_MAX);
        if let Some((_, metadata)) = known().as_ref().filter(|(since, _)| since.elapsed() < age_max) {
            return Ok(Arc::clone(metadata));
        }
        let asked_at = Instant::now();
        let (topics, wait) = (self.topics.clone(), self.wait);
        let read = move |consumer: &BaseConsumer<Said>| {
            let mut metadata = Metadata::default();
            match &topics {
                Topics::Named(names) => {
                    for name in names {
                        add(&mut metadata, &consumer.fetch_metadata(Some(name), wait)?);
                    }
                }
                Topics::Matching(_) => add(&mut metadata, &consumer.fetch_metadata(None, wait)?),
            }
            Ok(Arc::new(metadata))
        };
        let metadata = self.ask(&self.reading, "reading metadata", read).await?;
        *known() = Some((asked_at, Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// An offset of each of these partitions.
    ///
    /// # Errors
    /// Where one can't be had.
    pub(crate) async fn list(&self, partitions: &[TopicPartition], which: Which) -> Answer<Vec<(TopicPartition, i64)>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let client = match which {
            Which::HighWatermark => &self.beside,
            Which::Earliest | Which::End | Which::Since(_) => &self.reading,
        };
        // librdkafka hands the number on to the broker.
        let asked = offsets(partitions.iter().map(|partition| (partition, which.timestamp())))?;
        let wait = self.wait;
        let answer = self
            .ask(client, "reading offsets", move |consumer| {
                consumer.offsets_for_times(asked, wait)
            })
            .await?;
        read(&answer)?
            .into_iter()
            .map(|(partition, offset)| match (offset, which) {
                (Some(offset), _) => Ok((partition, offset)),
                (None, Which::Since(_)) => Ok((partition, -1)),
                (None, _) => Err(Fault::Passing(format!("{partition}: no broker gave its offset"))),
            })
            .collect()
    }

    /// Publishes group offsets.
    ///
    /// # Errors
    /// Where the group's coordinator does not take them.
    pub(crate) async fn commit(&self, positions: &[(TopicPartition, i64)]) -> Answer<()> {
        let positions = offsets(positions.iter().map(|(partition, offset)| (partition, *offset)))?;
        let commit = move |consumer: &BaseConsumer<Said>| consumer.commit(&positions, CommitMode::Sync);
        self.ask(&self.beside, "publishing group offsets", commit).await
    }

    /// Group offsets, of partitions that have one.
    ///
    /// # Errors
    /// Where the group's coordinator does not say.
    pub(crate) async fn committed(&self, partitions: &[TopicPartition]) -> Answer<Vec<(TopicPartition, Option<i64>)>> {
        let asked = offsets(partitions.iter().map(|partition| (partition, -1)))?;
        let wait = self.wait;
        let answer = self
            .ask(&self.beside, "reading group offsets", move |consumer| {
                consumer.committed_offsets(asked, wait)
            })
            .await?;
        read(&answer)
    }
}

/// Adds what an answer says of brokers and topics.
fn add(metadata: &mut Metadata, answer: &rdkafka::metadata::Metadata) {
    let brokers = answer.brokers().iter();
    metadata
        .brokers
        .extend(brokers.map(|broker| (broker.id(), format!("{}:{}", broker.host(), broker.port()))));
    for topic in answer.topics() {
        let partitions = topic.partitions().iter().map(|partition| {
            let leader = Leader {
                node: partition.leader(),
                epoch: -1,
            };
            (partition.id(), leader)
        });
        let known = Topic {
            code: topic.error().map_or(0, |error| error as i32 as i16),
            is_internal: INTERNAL.contains(&topic.name()),
            partitions: partitions.collect(),
            ..Topic::default()
        };
        metadata.topics.insert(topic.name().to_owned(), known);
    }
}

/// Partitions with a number each, as librdkafka takes them; below 0 it stands for a place.
fn offsets<'a>(of: impl Iterator<Item = (&'a TopicPartition, i64)>) -> Answer<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (TopicPartition { topic, partition }, number) in of {
        let offset = match number {
            -2 => Offset::Beginning,
            -1 => Offset::End,
            number => Offset::Offset(number),
        };
        list.add_partition_offset(topic, *partition, offset)
            .map_err(|error| client_error("naming partitions to librdkafka", error))?;
    }
    Ok(list)
}

fn read(list: &TopicPartitionList) -> Answer<Vec<(TopicPartition, Option<i64>)>> {
    list.elements()
        .into_iter()
        .map(|element| {
            let partition = TopicPartition::new(element.topic(), element.partition());
            element
                .error()
                .map_err(|error| fault(&partition.to_string(), error, None, true))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok((partition, offset))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;
    use crate::librdkafka::client_config;

    fn lookups(brokers: &str) -> Lookups {
        let mut config = KafkaConfig::new(brokers, ["t"]);
        config.group = Some("g".to_owned());
        config.connect_timeout = Duration::from_secs(20);
        Lookups::new(&config, client_config(&config, &BTreeMap::new(), 1))
    }

    #[tokio::test]
    async fn partitions_offsets_and_group_offsets_are_told() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 2, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        for _ in 0..3 {
            producer
                .send(BaseRecord::<(), str>::to("t").partition(1).payload("x"))
                .unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();

        let lookups = lookups(&brokers);
        let metadata = lookups.metadata(Duration::ZERO).await.unwrap();
        let topic = &metadata.topics["t"];
        assert_eq!((topic.code, topic.id, topic.partitions.len()), (0, None, 2));
        assert!(metadata.brokers.contains_key(&topic.partitions[&1].node));
        let partitions = [0, 1].map(|number| TopicPartition::new("t", number));
        for (which, expected) in [(Which::Earliest, 0), (Which::End, 3), (Which::HighWatermark, 3)] {
            let offsets = lookups.list(&partitions, which).await.unwrap();
            assert!(
                offsets.contains(&(partitions[1].clone(), expected)),
                "{which:?}: {offsets:?}"
            );
            assert_eq!(offsets.len(), 2);
        }
        assert_eq!(lookups.list(&[], Which::End).await.unwrap(), []);
        lookups.commit(&[(partitions[1].clone(), 2)]).await.unwrap();
        let stored = lookups.committed(&partitions).await.unwrap();
        assert!(stored.contains(&(partitions[1].clone(), Some(2))), "{stored:?}");
        assert!(stored.contains(&(partitions[0].clone(), None)), "{stored:?}");
    }

    #[test]
    fn who_is_not_let_in_is_refused_unless_that_went_before() {
        let timed_out = || KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        let heard = || Some((RDKafkaErrorCode::Authentication, "no ticket".to_owned()));
        let refused = fault("reading metadata", timed_out(), heard(), false);
        assert!(matches!(&refused, Fault::Final(error) if error.kind() == Kind::Refused));
        assert_eq!(refused.to_string(), "reading metadata: no ticket");
        assert!(matches!(fault("x", timed_out(), heard(), true), Fault::Passing(_)));
        assert!(matches!(fault("x", timed_out(), None, false), Fault::Passing(_)));
        let said = Said::default();
        said.keep(RDKafkaErrorCode::AllBrokersDown, "down");
        said.keep(RDKafkaErrorCode::Authentication, "no ticket");
        said.keep(RDKafkaErrorCode::BrokerTransportFailure, "closed");
        assert_eq!(said.first.into_inner().unwrap(), heard());
    }
}
