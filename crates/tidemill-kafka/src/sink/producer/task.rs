//! The task that owns a producer and its connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::failpoint::{pass, sabotaged};
use tidemill_engine::time::{Clock, SystemClock};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{State, Target, Work};
use crate::Compression;
use crate::sink::messages::Messages;
use crate::sink::pack::{Packed, Packer};
use crate::wire::backoff::Backoff;
use crate::wire::cluster::Cluster;
use crate::wire::fault::{Answer, Fault, check_write, name};
use crate::wire::group::{Coordinates, find_coordinator};
use crate::wire::produce::{Written, produce};
use crate::wire::transaction::{self, ProducerId};

/// Bytes of batches that one round of requests takes.
const ROUND_BYTES_MAX: usize = 8 << 20;
/// How long the id may take to be had; a coordinator that settles an old transaction answers in seconds.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the coordinator is left alone while it still ends the transaction before.
const CONCURRENT_PAUSE: Duration = Duration::from_millis(2);
/// What producers use by default; tried where the broker takes no longer transactions.
const TRANSACTION_TIMEOUT_COMMON: Duration = Duration::from_secs(60);
/// Codes of a broker that does not lead the partition, or not with replicas enough: it wrote nothing.
const NOT_WRITTEN: [i16; 5] = [3, 5, 6, 19, 74];

/// The transaction that is open.
#[derive(Debug)]
struct Open {
    batch: u64,
    rows: u64,
    since: Instant,
}

/// What is known of a partition that was written to.
#[derive(Debug, Default)]
struct Partition {
    /// The number of the next record, counted from the producer's first.
    sequence: i32,
    /// True while it is part of the open transaction.
    is_added: bool,
}

/// A batch under way.
#[derive(Debug)]
struct Sealed {
    partition: TopicPartition,
    records: i32,
    largest: usize,
    bytes: Bytes,
}

/// A producer that has taken its transactional id.
pub(super) struct Producer {
    cluster: Cluster,
    coordinator: String,
    producer: ProducerId,
    target: Target,
    timeout: Duration,
    partitions: BTreeMap<TopicPartition, Partition>,
    waiting: BTreeMap<TopicPartition, VecDeque<Packed>>,
    waiting_bytes: usize,
    open: Option<Open>,
}

impl Producer {
    /// Takes the transactional id, fencing whoever had it and settling what was open.
    ///
    /// # Errors
    /// `Refused` or `Unavailable`, in the broker's words.
    pub(super) async fn take(cluster: Cluster, target: Target, timeout: Duration) -> Result<Self> {
        let id = target.transactional_id.as_str();
        for timeout in [timeout, TRANSACTION_TIMEOUT_COMMON.min(timeout)] {
            let ask = || async {
                let coordinator = find_coordinator(&cluster, Coordinates::Transactions, id).await?;
                let producer = transaction::init(&cluster, &coordinator, id, timeout).await?;
                Ok(producer.map(|producer| (coordinator, producer)))
            };
            let taken = cluster.until_answered_within(INIT_TIMEOUT, "it", ask).await?;
            if let Some((coordinator, producer)) = taken {
                return Ok(Self {
                    cluster,
                    coordinator,
                    producer,
                    target,
                    timeout,
                    partitions: BTreeMap::new(),
                    waiting: BTreeMap::new(),
                    waiting_bytes: 0,
                    open: None,
                });
            }
            let (sink, seconds) = (&target.sink, timeout.as_secs());
            tracing::info!(sink, seconds, "the broker takes no transactions of this length");
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "the broker takes no transactions of {} ms: lower transaction.timeout.ms",
                timeout.as_millis()
            ),
        ))
    }

    /// After how long the coordinator aborts a transaction.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Works until nobody holds the queue's other end, or until the first error.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Work>, state: Arc<State>) {
        loop {
            let outcome = match self.next(&mut queue).await {
                Ok(None) => return,
                Ok(Some(Work::Send { batch, packed })) => self.add(batch, packed),
                Ok(Some(Work::Commit { batch, record, reply })) => {
                    let outcome = self.commit(batch, *record).await;
                    let failed = outcome.as_ref().err();
                    let failed = failed.map(|error| Error::new(error.kind(), error.chain()));
                    if failed.is_some() {
                        state.spent.store(true, Ordering::Release);
                    }
                    // Whoever asked may have gone; what happened is in the ledger.
                    let _unheard = reply.send(outcome);
                    failed.map_or(Ok(()), Err)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                // Later calls are told the same.
                let _first = state.failure.set((error.kind(), error.chain()));
                state.spent.store(true, Ordering::Release);
                return;
            }
        }
    }

    /// What to do next; meanwhile what waits is sent. Records that are there already go along in one round.
    async fn next(&mut self, queue: &mut mpsc::Receiver<Work>) -> Result<Option<Work>> {
        loop {
            if self.waiting.is_empty() {
                return Ok(queue.recv().await);
            }
            if self.waiting_bytes < ROUND_BYTES_MAX
                && let Ok(work) = queue.try_recv()
            {
                return Ok(Some(work));
            }
            self.round().await?;
        }
    }

    fn begin(&mut self, batch: u64) -> Result<&mut Open> {
        if self.open.as_ref().is_some_and(|open| open.batch != batch) {
            let text = "rows of another batch came while a transaction was open";
            return Err(Error::new(Kind::Bug, format!("sink {}: {text}", self.target.sink)));
        }
        Ok(self.open.get_or_insert_with(|| Open {
            batch,
            rows: 0,
            since: Instant::now(),
        }))
    }

    fn add(&mut self, batch: u64, packed: Vec<Packed>) -> Result<()> {
        self.begin(batch)?.rows += packed
            .iter()
            .map(|packed| u64::from(packed.records.unsigned_abs()))
            .sum::<u64>();
        for packed in packed {
            self.waiting_bytes += packed.size();
            self.waiting
                .entry(packed.partition.clone())
                .or_default()
                .push_back(packed);
        }
        Ok(())
    }

    /// Sends the first batch that waits for each partition: a request takes no more than one.
    async fn round(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut first = Vec::with_capacity(waiting.len());
        for (partition, mut batches) in waiting {
            if let Some(packed) = batches.pop_front() {
                self.waiting_bytes -= packed.size();
                first.push(packed);
            }
            if !batches.is_empty() {
                self.waiting.insert(partition, batches);
            }
        }
        self.write(first).await
    }

    async fn write(&mut self, batches: Vec<Packed>) -> Result<()> {
        self.join(&batches)
            .await
            .map_err(|fault| self.error("writing", fault))?;
        let mut sealed: Vec<Sealed> = batches.into_iter().map(|packed| self.seal(packed)).collect();
        let deadline = Instant::now() + self.cluster.config().request_timeout;
        let mut backoff = Backoff::default();
        while !sealed.is_empty() {
            let (rest, reason) = self
                .deliver(sealed)
                .await
                .map_err(|fault| self.error("writing", fault))?;
            if !rest.is_empty() {
                let pause = backoff.pause();
                if Instant::now() + pause >= deadline {
                    return Err(self.error("writing", Fault::Passing(reason)));
                }
                self.cluster.forget_metadata();
                sleep(pause).await;
            }
            sealed = rest;
        }
        self.check_time("writing")
    }

    /// Makes the partitions of these batches part of the transaction, and at its beginning that of the ledger.
    async fn join(&mut self, batches: &[Packed]) -> Answer<()> {
        let ledger = TopicPartition::new(&self.target.ledger_topic, 0);
        let mut new: Vec<TopicPartition> = Vec::new();
        for partition in batches.iter().map(|batch| &batch.partition).chain([&ledger]) {
            let is_added = self.partitions.get(partition).is_some_and(|known| known.is_added);
            if !is_added && !new.contains(partition) {
                new.push(partition.clone());
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let id = &self.target.transactional_id;
        let deadline = Instant::now() + self.cluster.config().request_timeout;
        while !transaction::add_partitions(&self.cluster, &self.coordinator, id, self.producer, &new).await? {
            if Instant::now() >= deadline {
                let text = "the coordinator has not ended the transaction before";
                return Err(Fault::Passing(text.to_owned()));
            }
            sleep(CONCURRENT_PAUSE).await;
        }
        for partition in new {
            self.partitions.entry(partition).or_default().is_added = true;
        }
        Ok(())
    }

    fn seal(&mut self, packed: Packed) -> Sealed {
        let known = self.partitions.entry(packed.partition.clone()).or_default();
        let sequence = known.sequence;
        // Numbers go from the largest back to 0.
        known.sequence = sequence.wrapping_add(packed.records) & i32::MAX;
        Sealed {
            partition: packed.partition.clone(),
            records: packed.records,
            largest: packed.largest,
            bytes: packed.seal(self.producer, sequence),
        }
    }

    /// Sends each batch to the leader of its partition; gives those that were not written, and why.
    async fn deliver(&self, batches: Vec<Sealed>) -> Answer<(Vec<Sealed>, String)> {
        let config = self.cluster.config();
        let metadata = self.cluster.metadata(config.metadata_age_max).await?;
        let mut by_leader: BTreeMap<&str, Vec<Sealed>> = BTreeMap::new();
        let mut rest = Vec::new();
        let mut reason = String::new();
        for batch in batches {
            let TopicPartition { topic, partition } = &batch.partition;
            let leader = metadata
                .topics
                .get(topic)
                .and_then(|topic| topic.partitions.get(partition));
            match leader.and_then(|leader| metadata.brokers.get(&leader.node)) {
                Some(address) => by_leader.entry(address).or_default().push(batch),
                None => {
                    reason = format!("{} has no leader", batch.partition);
                    rest.push(batch);
                }
            }
        }
        let id = self.target.transactional_id.as_str();
        let asked = by_leader.into_iter().map(|(address, batches)| async move {
            let of = |batch: &Sealed| (batch.partition.clone(), batch.bytes.clone());
            let written = produce(
                &self.cluster,
                address,
                id,
                batches.iter().map(of).collect(),
                config.request_timeout,
            );
            Ok::<_, Fault>((batches, written.await?))
        });
        for (batches, written) in try_join_all(asked).await? {
            let mut codes: BTreeMap<TopicPartition, Written> = BTreeMap::new();
            codes.extend(written.into_iter().map(|written| (written.partition.clone(), written)));
            for batch in batches {
                let Some(written) = codes.get(&batch.partition) else {
                    return Err(Fault::Passing(format!("no answer for {}", batch.partition)));
                };
                if NOT_WRITTEN.contains(&written.code) {
                    reason = format!("{}: {}", batch.partition, name(written.code));
                    rest.push(batch);
                    continue;
                }
                check_write(written.code, || {
                    let Sealed {
                        partition,
                        records,
                        largest,
                        bytes,
                    } = &batch;
                    let words = written
                        .words
                        .as_deref()
                        .map_or_else(String::new, |words| format!(" ({words})"));
                    let bytes = bytes.len();
                    format!("{partition}: {records} records in {bytes} bytes, the largest of {largest}{words}")
                })?;
            }
        }
        Ok((rest, reason))
    }

    async fn commit(&mut self, batch: u64, mut record: LedgerRecord) -> Result<u64> {
        while !self.waiting.is_empty() {
            self.round().await?;
        }
        let rows = self.begin(batch)?.rows;
        record.rows = rows;
        let value = serde_json::to_vec(&record)
            .map_err(|error| Error::with_source(Kind::Bug, "a ledger record does not serialise", error))?;
        let mut ledger = Messages::default();
        ledger.push(0, Some(self.target.sink.as_bytes()), Some(&value));
        pass("kafka.before-ledger");
        let mut packer = Packer::new(&self.target.ledger_topic, Compression::None, usize::MAX);
        self.write(packer.pack(&ledger, SystemClock::default().now_ms())?)
            .await?;
        pass("kafka.after-ledger");
        // Asked once. What gets no answer is unknown until the ledger is read under a new producer.
        pass("kafka.before-end");
        let mut ended = self.end().await;
        while sabotaged("retry-end-of-transaction") && matches!(ended, Err(Fault::Passing(_))) {
            sleep(CONCURRENT_PAUSE).await;
            ended = self.end().await;
        }
        pass("kafka.after-end");
        ended.map_err(|fault| self.error(&format!("committing batch {}", record.batch_id), fault))?;
        self.open = None;
        for partition in self.partitions.values_mut() {
            partition.is_added = false;
        }
        Ok(rows)
    }

    async fn end(&self) -> Answer<()> {
        let id = &self.target.transactional_id;
        transaction::commit(&self.cluster, &self.coordinator, id, self.producer).await
    }

    fn check_time(&self, what: &str) -> Result<()> {
        if self.timed_out() {
            Err(self.too_slow(what))
        } else {
            Ok(())
        }
    }

    fn timed_out(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.since.elapsed() >= self.timeout)
    }

    fn too_slow(&self, what: &str) -> Error {
        Error::new(
            Kind::TimeLimit,
            format!(
                "sink {}: {what} took longer than transaction.timeout.ms = {} (the smaller of 15 minutes and the broker's \
                 transaction.max.timeout.ms): raise the broker's, or lower max_batch_bytes or max_rate_per_partition",
                self.target.sink,
                self.timeout.as_millis()
            ),
        )
    }

    fn error(&self, what: &str, fault: Fault) -> Error {
        // The coordinator ends a transaction that is too old by raising the epoch: to the producer that looks like a fence.
        if self.timed_out() {
            return self.too_slow(what);
        }
        let what = format!("sink {}: {what}", self.target.sink);
        match fault {
            Fault::Passing(reason) => Error::new(Kind::Unavailable, format!("{what}: {reason}")),
            Fault::Final(error) => Error::with_source(error.kind(), what, error),
        }
    }
}
