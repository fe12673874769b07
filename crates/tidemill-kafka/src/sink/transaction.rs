//! The transactional producer and the thread that owns it.
//!
//! librdkafka blocks, so one thread per producer does all its calls, fed through a bounded queue. The thread ends, and
//! the producer with it, at the first error, after a commit during which a connection was lost, and after one that took
//! so long that the client may have asked twice: a late answer must not reach the next transaction (X24).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill_core::ledger::LedgerRecord;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::failpoint::{pass, sabotaged};
use tokio::sync::{mpsc, oneshot};

use super::config::KafkaSinkConfig;
use super::messages::Messages;
use super::observer::{FailedDelivery, Observer};
use super::output::{NotTaken, OutputTopic};
use crate::client_error::{client_error, kind_of};

/// How many encoded buffers wait for the producer at most.
const QUEUED_BUFFERS_MAX: usize = 4;
/// How long `init_transactions` may take; a coordinator that settles an old transaction answers in seconds.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a full or unfinished producer is left alone before it is looked at again.
const PAUSE: Duration = Duration::from_millis(1);
/// How long the cause is waited for when its consequences are known.
const CAUSE_WAIT: Duration = Duration::from_secs(1);
/// How often a wait is named in the log.
const NAME_WAIT_EVERY: Duration = Duration::from_secs(10);

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Send these records within the transaction of the batch with this number.
    Send { batch: u64, messages: Messages },
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
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// True once the producer must not begin another transaction.
    spent: AtomicBool,
    /// Why, where it was an error.
    failure: OnceLock<(Kind, String)>,
}

/// Where the thread writes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) sink: String,
    pub(super) topic: String,
    pub(super) ledger_topic: String,
    pub(super) transactional_id: String,
}

impl Transactions {
    /// Makes a producer, takes the transactional id (fencing whoever had it and settling what was open) and starts the
    /// thread. Blocks.
    ///
    /// # Errors
    /// As librdkafka says.
    pub(super) fn start(config: &KafkaSinkConfig, target: Target, transaction_timeout: Duration) -> Result<Self> {
        let sink = &target.sink;
        let producer: BaseProducer<Observer> = config
            .producer(&target.transactional_id, transaction_timeout)
            .create_with_context(Observer::new(sink))
            .map_err(|error| client_error(format!("sink {sink}: making its producer"), error))?;
        producer.init_transactions(INIT_TIMEOUT).map_err(|error| {
            serve(&producer);
            let complaint = producer
                .context()
                .complaint()
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            client_error(
                format!(
                    "sink {sink}: taking transactional id {} at {}{complaint}",
                    target.transactional_id, config.brokers
                ),
                error,
            )
        })?;
        let (work, queue) = mpsc::channel(QUEUED_BUFFERS_MAX);
        let state = Arc::new(State::default());
        let output = OutputTopic::new(&producer, &target.topic)
            .map_err(|error| client_error(format!("sink {sink}: opening topic {}", target.topic), error))?;
        let thread = Thread {
            output,
            producer,
            state: Arc::clone(&state),
            socket_timeout: config.socket_timeout(),
            transaction_timeout,
            open: None,
            target,
        };
        std::thread::Builder::new()
            .name(format!("kafka-sink-{}", thread.target.sink))
            .spawn(move || thread.run(queue))
            .map_err(|error| Error::with_source(Kind::Unavailable, "starting a kafka sink's thread", error))?;
        Ok(Self {
            work,
            state,
            timeout: transaction_timeout,
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

    /// Gives the producer up: nothing more is sent, what is open is never committed.
    pub(super) fn give_up(&self) {
        self.state.spent.store(true, Ordering::Release);
    }

    /// Hands over some records; waits while the producer is behind.
    pub(super) async fn send(&self, batch: u64, messages: Messages) -> Result<()> {
        if self.work.send(Work::Send { batch, messages }).await.is_err() {
            return Err(self.failure());
        }
        Ok(())
    }

    /// Ends the transaction; returns the number of rows that are visible now.
    pub(super) async fn commit(&self, batch: u64, record: LedgerRecord) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        if self
            .work
            .send(Work::Commit {
                batch,
                record: Box::new(record),
                reply,
            })
            .await
            .is_err()
        {
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

/// The transaction that is open.
#[derive(Debug)]
struct Open {
    batch: u64,
    rows: u64,
    since: Instant,
}

struct Thread {
    // Before the producer: it must be dropped first.
    output: OutputTopic,
    producer: BaseProducer<Observer>,
    state: Arc<State>,
    target: Target,
    socket_timeout: Duration,
    transaction_timeout: Duration,
    open: Option<Open>,
}

impl Thread {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(work) = queue.blocking_recv() {
            let outcome = match work {
                Work::Send { batch, messages } => self.send(batch, messages),
                Work::Commit { batch, record, reply } => {
                    let outcome = self.commit(batch, *record);
                    if outcome.is_err() || !self.is_clean() {
                        self.state.spent.store(true, Ordering::Release);
                    }
                    let failed = outcome
                        .as_ref()
                        .err()
                        .map(|error| Error::new(error.kind(), error.chain()));
                    // Whoever asked may have gone; what happened is in the ledger.
                    let _unheard = reply.send(outcome);
                    failed.map_or(Ok(()), Err)
                }
            };
            if let Err(error) = outcome {
                // The first failure stands; later calls are told the same.
                let _later = self.state.failure.set((error.kind(), error.chain()));
                self.state.spent.store(true, Ordering::Release);
            }
            if self.state.spent.load(Ordering::Acquire) {
                break;
            }
        }
        // Whatever is open is settled by the next producer under this id, or by its timeout. It is not aborted here:
        // the end of a transaction is never asked for twice.
    }

    /// True where nothing happened that could leave an answer on its way.
    fn is_clean(&self) -> bool {
        serve(&self.producer);
        without_doubts() || !self.producer.context().is_disrupted()
    }

    fn begin(&mut self, batch: u64) -> Result<&mut Open> {
        if self.open.as_ref().is_some_and(|open| open.batch != batch) {
            return Err(self.bug("rows of another batch came while a transaction was open"));
        }
        if self.open.is_none() {
            self.producer
                .begin_transaction()
                .map_err(|error| self.error("beginning a transaction", error))?;
            self.open = Some(Open {
                batch,
                rows: 0,
                since: Instant::now(),
            });
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    fn send(&mut self, batch: u64, mut messages: Messages) -> Result<()> {
        self.begin(batch)?;
        let headers = messages.take_headers();
        if headers.is_empty() {
            self.send_all(&messages)?;
        } else {
            for (message, headers) in messages.iter().zip(headers) {
                let topic = &self.target.topic;
                self.send_one(topic, message.partition, message.key, message.value, Some(headers))?;
            }
        }
        self.begin(batch)?.rows += messages.len() as u64;
        self.producer.poll(Duration::ZERO);
        self.check_deliveries()
    }

    fn send_all(&self, messages: &Messages) -> Result<()> {
        let mut handing_over = self.output.hand_over(messages);
        loop {
            match handing_over.go_on() {
                Ok(true) => return Ok(()),
                Ok(false) => self.wait_for_room()?,
                Err(not_taken) => return Err(self.not_taken(&self.target.topic, &not_taken)),
            }
        }
    }

    /// Serves a producer whose queue is full for a moment.
    fn wait_for_room(&self) -> Result<()> {
        self.pause();
        self.check_deliveries()?;
        self.check_time("writing")?;
        if self.state.spent.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Unavailable, "the batch was given up"));
        }
        Ok(())
    }

    fn not_taken(&self, topic: &str, not_taken: &NotTaken) -> Error {
        let NotTaken {
            partition,
            bytes,
            error,
        } = not_taken;
        self.error(
            &format!("writing a record of {bytes} bytes to {topic}/{partition}"),
            error.clone(),
        )
    }

    fn send_one(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.key = key;
        record.payload = value;
        record.headers = headers;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    self.wait_for_room()?;
                }
                Err((error, _)) => {
                    let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
                    let not_taken = NotTaken {
                        partition,
                        bytes,
                        error,
                    };
                    return Err(self.not_taken(topic, &not_taken));
                }
            }
        }
    }

    fn commit(&mut self, batch: u64, mut record: LedgerRecord) -> Result<u64> {
        let rows = self.begin(batch)?.rows;
        record.rows = rows;
        let value = serde_json::to_vec(&record)
            .map_err(|error| Error::with_source(Kind::Bug, "a ledger record does not serialise", error))?;
        let key = self.target.sink.as_bytes();
        pass("kafka.before-ledger");
        self.send_one(&self.target.ledger_topic, 0, Some(key), Some(&value), None)?;
        self.flush()?;
        pass("kafka.after-ledger");
        let started = Instant::now();
        // Asked once. What takes longer than a request may is unknown until the ledger is read under a new producer.
        pass("kafka.before-end");
        let mut ended = self.producer.commit_transaction(self.socket_timeout);
        while without_doubts() && may_be_asked_again(&ended) {
            ended = self.producer.commit_transaction(self.socket_timeout);
        }
        pass("kafka.after-end");
        ended.map_err(|error| self.error(&format!("committing batch {}", record.batch_id), error))?;
        self.open = None;
        if started.elapsed() >= self.socket_timeout && !without_doubts() {
            self.state.spent.store(true, Ordering::Release);
        }
        Ok(rows)
    }

    /// Waits until the broker has taken everything.
    fn flush(&self) -> Result<()> {
        let mut named = Instant::now();
        // The crate's own flush sleeps a tenth of a second at a time where, as here, successes give no event.
        while self.producer.in_flight_count() > 0 {
            match self.producer.flush(Duration::ZERO) {
                Ok(()) | Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
                Err(error) => return Err(self.error("waiting for the broker to take all rows", error)),
            }
            self.pause();
            self.check_deliveries()?;
            self.check_time("waiting for the broker to take all rows")?;
            if named.elapsed() >= NAME_WAIT_EVERY {
                named = Instant::now();
                tracing::warn!(
                    sink = self.target.sink,
                    topic = self.target.topic,
                    records = self.producer.in_flight_count(),
                    complaint = self.producer.context().complaint(),
                    "waiting for the broker to take rows"
                );
            }
        }
        self.check_deliveries()
    }

    fn check_deliveries(&self) -> Result<()> {
        match self.producer.context().first_failure() {
            None => Ok(()),
            Some(failed) => Err(self.error("writing", failed.error)),
        }
    }

    fn timed_out(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.since.elapsed() >= self.transaction_timeout)
    }

    fn check_time(&self, what: &str) -> Result<()> {
        if self.timed_out() {
            Err(self.too_slow(what))
        } else {
            Ok(())
        }
    }

    fn too_slow(&self, what: &str) -> Error {
        Error::new(
            Kind::TimeLimit,
            format!(
                "sink {}: {what} took longer than transaction.timeout.ms = {} (the smaller of 15 minutes and the broker's \
                 transaction.max.timeout.ms): raise the broker's, or lower max_batch_bytes or max_rate_per_partition",
                self.target.sink,
                self.transaction_timeout.as_millis()
            ),
        )
    }

    /// The error of `what`: the failed delivery or fatal error behind it, where there is one.
    fn error(&self, what: &str, error: KafkaError) -> Error {
        // The coordinator ends a transaction that is too old by raising the epoch: to the producer that looks like a fence.
        if self.timed_out() {
            return self.too_slow(what);
        }
        let what = format!("sink {}: {what}", self.target.sink);
        let failed = self.failed_delivery();
        if let Some(failed) = failed.as_ref().filter(|failed| !failed.is_consequence()) {
            let what = format!(
                "{what}: a record of {} bytes for {}/{}",
                failed.bytes, failed.topic, failed.partition
            );
            return client_error(what, failed.error.clone());
        }
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            return Error::new(kind_of(code), format!("{what}: {reason}"));
        }
        client_error(what, error)
    }

    /// The first record that failed, by its own fault where the report of that one comes soon: those of records that
    /// were thrown away because of it may come before.
    fn failed_delivery(&self) -> Option<FailedDelivery> {
        let deadline = Instant::now() + CAUSE_WAIT;
        loop {
            serve(&self.producer);
            let failed = self.producer.context().first_failure()?;
            if !failed.is_consequence() || self.producer.client().fatal_error().is_some() || Instant::now() >= deadline
            {
                return Some(failed);
            }
            self.pause();
        }
    }

    /// Leaves the processor to the client's own threads for a moment, then hears what they say. A poll that waits would spin
    /// through the last part of a millisecond.
    fn pause(&self) {
        std::thread::park_timeout(PAUSE);
        serve(&self.producer);
    }

    fn bug(&self, what: &str) -> Error {
        Error::new(Kind::Bug, format!("sink {}: {what}", self.target.sink))
    }
}

/// The deliberate fault that X24 forbids: an end of unknown outcome is asked for again, and the producer goes on with the
/// next transaction while the first end may still be under way.
fn without_doubts() -> bool {
    sabotaged("retry-end-of-transaction")
}

fn may_be_asked_again(ended: &Result<(), KafkaError>) -> bool {
    matches!(ended, Err(KafkaError::Transaction(error)) if error.is_retriable())
}

/// Hands the client's queued events to its observer.
fn serve(producer: &BaseProducer<Observer>) {
    // One call without a wait serves at most one event; more than these few only come from a client in trouble.
    for _ in 0..64 {
        producer.poll(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tidemill_core::plan::{BatchPlan, LimitsInForce};
    use tidemill_core::position::Positions;

    use super::*;

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
            limits: LimitsInForce::default(),
            pipeline_hash: String::new(),
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
            rows: 0,
        }
    }

    fn start() -> (MockCluster<'static, DefaultProducerContext>, Transactions) {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["t", "tidemill-ledger-app"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let config = KafkaSinkConfig::new(cluster.bootstrap_servers(), "t");
        let target = Target {
            sink: "out".to_owned(),
            topic: "t".to_owned(),
            ledger_topic: "tidemill-ledger-app".to_owned(),
            transactional_id: "tidemill-app-out".to_owned(),
        };
        let producer = Transactions::start(&config, target, Duration::from_secs(60)).unwrap();
        (cluster, producer)
    }

    #[tokio::test]
    async fn x24_a_success_during_which_a_connection_was_lost_spends_the_producer() {
        let (cluster, producer) = start();
        assert_eq!(producer.commit(1, record(1)).await.unwrap(), 0);
        assert!(!producer.is_spent(), "a plain success leaves it fit");
        // The broker closes the connection instead of answering; the client asks again by itself and succeeds.
        cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
        producer.commit(2, record(2)).await.unwrap();
        assert!(producer.is_spent());
        let error = producer.commit(3, record(3)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
    }

    #[tokio::test]
    async fn x22_a_fence_at_the_end_of_a_transaction_is_told_as_one() {
        let (cluster, producer) = start();
        cluster.request_errors(
            RDKafkaApiKey::EndTxn,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED],
        );
        let error = producer.commit(1, record(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
        assert!(producer.is_spent());
        let again = producer.commit(2, record(2)).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Fenced, "the first failure stands");
    }

    #[tokio::test]
    async fn rows_without_the_right_to_write_are_refused() {
        let (cluster, producer) = start();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 5],
        );
        let error = producer.commit(1, record(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
        assert!(error.chain().contains("tidemill-ledger-app/0"), "{}", error.chain());
    }
}
