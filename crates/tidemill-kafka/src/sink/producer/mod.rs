//! The transactional producer.
//!
//! One task owns a producer and its connections. Nothing is asked for twice whose outcome is unknown: the task ends, and the
//! producer with it, at the first error, lost connection or silence. The next producer under the same id fences whatever is
//! left under way, so that a late request or answer can't reach a later transaction (X24).

mod task;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidemill_core::ledger::LedgerRecord;
use tidemill_engine::error::{Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::clients::Clients;
use super::pack::Packed;
use task::Producer;

/// How many buffers of records wait for the producer at most.
const QUEUED_MAX: usize = 8;

/// What the task is asked to do.
#[derive(Debug)]
enum Work {
    /// Write these records within the transaction of the batch with this number.
    Send { batch: u64, packed: Vec<Packed> },
    /// End the transaction of the batch with this ledger record.
    Commit {
        batch: u64,
        record: Box<LedgerRecord>,
        reply: oneshot::Sender<Result<u64>>,
    },
}

/// The handle of a producer that has taken its transactional id.
#[derive(Debug, Clone)]
pub(super) struct Transactions {
    work: mpsc::Sender<Work>,
    state: Arc<State>,
    task: AbortHandle,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// True once the producer must not begin another transaction.
    spent: AtomicBool,
    /// Why, where it was an error.
    failure: OnceLock<(Kind, String)>,
}

/// Where the producer writes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) sink: String,
    pub(super) topic: String,
    pub(super) ledger_topic: String,
    pub(super) transactional_id: String,
}

impl Transactions {
    /// Takes the transactional id, fencing whoever had it and settling what was open, and starts the task.
    ///
    /// # Errors
    /// `Refused` or `Unavailable`, in the broker's words.
    pub(super) async fn start(clients: &Clients, target: Target, timeout: Duration) -> Result<Self> {
        let cluster = clients.cluster([target.topic.as_str(), &target.ledger_topic]);
        let what = format!(
            "sink {}: taking transactional id {} at {}",
            target.sink, target.transactional_id, clients.config.brokers
        );
        let producer = Producer::take(cluster, target, timeout)
            .await
            .map_err(|error| Error::with_source(error.kind(), what, error))?;
        let timeout = producer.timeout();
        let (work, queue) = mpsc::channel(QUEUED_MAX);
        let state = Arc::new(State::default());
        let task = tokio::spawn(producer.run(queue, Arc::clone(&state)));
        Ok(Self {
            work,
            state,
            task: task.abort_handle(),
            timeout,
        })
    }

    /// After how long the coordinator aborts a transaction.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// True once a new producer is needed.
    pub(super) fn is_spent(&self) -> bool {
        self.state.spent.load(Ordering::Acquire)
    }

    /// Gives the producer up: nothing more is sent. What is open is settled by the next producer under the id, or by its
    /// timeout; it is not aborted here, so that no end of a transaction is ever asked for twice.
    pub(super) fn give_up(&self) {
        self.state.spent.store(true, Ordering::Release);
        self.task.abort();
    }

    /// Hands over some records; waits while the producer is behind.
    pub(super) async fn send(&self, batch: u64, packed: Vec<Packed>) -> Result<()> {
        if self.work.send(Work::Send { batch, packed }).await.is_err() {
            return Err(self.failure());
        }
        Ok(())
    }

    /// Ends the transaction; returns the number of rows that are visible now.
    pub(super) async fn commit(&self, batch: u64, record: LedgerRecord) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        let record = Box::new(record);
        if self.work.send(Work::Commit { batch, record, reply }).await.is_err() {
            return Err(self.failure());
        }
        answer.await.unwrap_or_else(|_ended| Err(self.failure()))
    }

    fn failure(&self) -> Error {
        match self.state.failure.get() {
            Some((kind, message)) => Error::new(*kind, message.clone()),
            None => Error::new(Kind::Unavailable, "the kafka sink's producer was given up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tidemill_core::plan::{BatchPlan, LimitsInForce};
    use tidemill_core::position::Positions;
    use tidemill_core::state::StateVersions;

    use super::*;
    use crate::sink::KafkaSinkConfig;

    fn record(batch_id: u64) -> LedgerRecord {
        let plan = BatchPlan {
            app: "app".to_owned(),
            app_uuid: "uuid".to_owned(),
            epoch: 1,
            incarnation: "one".to_owned(),
            batch_id,
            batch_time_ms: 0,
            seed: 0,
            reduce_slices: 1,
            before: Positions::default(),
            ranges: Vec::new(),
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: LimitsInForce::default(),
            pipeline_hash: String::new(),
            query_hashes: std::collections::BTreeMap::new(),
            states: StateVersions::new(),
            zero_ms: None,
            turn: None,
        };
        LedgerRecord {
            app: "app".to_owned(),
            app_uuid: "uuid".to_owned(),
            sink: "out".to_owned(),
            batch_id,
            birth: false,
            epoch: 1,
            incarnation: "one".to_owned(),
            plan_hash: String::new(),
            plan,
            positions: Positions::default(),
            losses: Vec::new(),
            states: StateVersions::new(),
            rows: 0,
        }
    }

    async fn start() -> (MockCluster<'static, DefaultProducerContext>, Transactions) {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["t", "tidemill-ledger-app"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let clients = Clients::new(KafkaSinkConfig::new(cluster.bootstrap_servers(), "t"));
        let target = Target {
            sink: "out".to_owned(),
            topic: "t".to_owned(),
            ledger_topic: "tidemill-ledger-app".to_owned(),
            transactional_id: "tidemill-app-out".to_owned(),
        };
        let producer = Transactions::start(&clients, target, Duration::from_secs(60))
            .await
            .unwrap();
        (cluster, producer)
    }

    #[tokio::test]
    async fn x24_a_lost_answer_to_an_end_is_an_unknown_outcome_and_spends_the_producer() {
        let (cluster, producer) = start().await;
        assert_eq!(producer.commit(1, record(1)).await.unwrap(), 0);
        assert!(!producer.is_spent(), "a plain success leaves it fit");
        // The broker closes the connection instead of answering.
        cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
        let error = producer.commit(2, record(2)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
        assert!(producer.is_spent());
        let again = producer.commit(3, record(3)).await.unwrap_err();
        assert_eq!(again.chain(), error.chain(), "the first failure stands");
    }

    #[tokio::test]
    async fn x22_a_fence_at_the_end_of_a_transaction_is_told_as_one() {
        let (cluster, producer) = start().await;
        cluster.request_errors(
            RDKafkaApiKey::EndTxn,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED],
        );
        let error = producer.commit(1, record(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
        assert!(producer.is_spent());
    }

    #[tokio::test]
    async fn rows_without_the_right_to_write_are_refused() {
        let (cluster, producer) = start().await;
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 5],
        );
        let error = producer.commit(1, record(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
        assert!(error.chain().contains("tidemill-ledger-app/0"), "{}", error.chain());
    }

    #[tokio::test]
    async fn a_leader_that_moved_is_asked_again() {
        let (cluster, producer) = start().await;
        let moved = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(RDKafkaApiKey::Produce, &[moved; 2]);
        assert_eq!(producer.commit(1, record(1)).await.unwrap(), 0);
    }
}
