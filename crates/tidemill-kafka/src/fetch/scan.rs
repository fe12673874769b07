//! All ranges of one scan: finds their leaders, keeps a session with each, and starts again where one breaks off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind};
use tidemill_engine::source::{RangeStream, RawColumns, Scan};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::outage::Outage;
use super::session::{Ended, Session, Shared};
use super::slice::{Slice, SliceReader, pair};
use crate::wire::backoff::Backoff;
use crate::wire::fault::{Answer, Fault, check};
use crate::wire::metadata::{Metadata, Topic};
use crate::wire::topic_id;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// How long a topic must be missing before that counts: brokers that start don't know their topics at once.
const MISSING_TOPIC_WAIT: Duration = Duration::from_secs(10);
/// Sessions of a long scan with one broker: while it prepares the answer to one, the other's is on its way.
const SESSIONS_OF_LONG_SCAN: usize = 2;

/// The ranges of one source in one scan.
#[derive(Debug)]
pub(crate) struct KafkaScan {
    /// Leaf locks: each is taken once per range, at its beginning.
    readers: Mutex<Vec<Option<SliceReader>>>,
    task: Arc<Mutex<Option<ScanTask>>>,
    /// Where its sessions run; `None`: on the runtime of whoever takes the first range.
    runtime: Option<Handle>,
}

impl KafkaScan {
    /// A scan of `ranges` that has not begun.
    pub(crate) fn new(shared: Shared, ranges: &[RangePlan], columns: RawColumns) -> Self {
        let changes = Arc::new(watch::Sender::new(()));
        let bytes_max = shared.cluster.config().partition_fetch_bytes;
        let halves = ranges
            .iter()
            .map(|range| pair(range, bytes_max, columns, &shared.pool, &changes));
        let (slices, readers): (Vec<Slice>, Vec<SliceReader>) = halves.unzip();
        let task = ScanTask {
            shared,
            slices,
            sessions_per_leader: 1,
            changes: changes.subscribe(),
            outage: Outage::default(),
        };
        Self {
            readers: Mutex::new(readers.into_iter().map(Some).collect()),
            task: Arc::new(Mutex::new(Some(task))),
            runtime: None,
        }
    }

    /// A long scan, whose sessions run there. The connections of its cluster must be used nowhere else: they belong to the
    /// runtime that made them.
    pub(crate) fn on(mut self, runtime: Handle) -> Self {
        if let Some(task) = &mut *self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.sessions_per_leader = SESSIONS_OF_LONG_SCAN;
        }
        self.runtime = Some(runtime);
        self
    }
}

impl Scan for KafkaScan {
    fn stream(&self, range: usize) -> RangeStream {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = readers.get_mut(range).and_then(Option::take) else {
            let text = format!("range {range} of the scan does not exist or was taken before");
            return stream::once(async { Err(Error::new(Kind::Bug, text)) }).boxed();
        };
        let task = Arc::clone(&self.task);
        let runtime = self.runtime.clone();
        reader.into_stream(move || {
            if let Some(task) = task.lock().unwrap_or_else(PoisonError::into_inner).take() {
                runtime.unwrap_or_else(Handle::current).spawn(task.run());
            }
        })
    }
}

/// Owns the slices that have no session; ends with the last slice.
#[derive(Debug)]
struct ScanTask {
    shared: Shared,
    slices: Vec<Slice>,
    sessions_per_leader: usize,
    changes: watch::Receiver<()>,
    outage: Outage,
}

impl ScanTask {
    async fn run(mut self) {
        let mut sessions: JoinSet<Ended> = JoinSet::new();
        let mut backoff = Backoff::default();
        let mut retry_at = Instant::now();
        loop {
            self.changes.borrow_and_update();
            self.slices.retain(|slice| !slice.is_over());
            if self.slices.is_empty() && sessions.is_empty() {
                return;
            }
            let wait = retry_at.saturating_duration_since(Instant::now());
            if !self.slices.is_empty() && wait.is_zero() {
                if let Err(fault) = self.assign(&mut sessions).await {
                    self.interrupt(&fault);
                    retry_at = Instant::now() + backoff.pause();
                }
                continue;
            }
            tokio::select! {
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                    if let Some(pause) = self.take_back(ended, &mut backoff) {
                        retry_at = Instant::now() + pause;
                    }
                }
                () = sleep(wait), if !self.slices.is_empty() => {}
                _ = self.changes.changed(), if !self.slices.is_empty() => {}
            }
        }
    }

    /// Takes the slices of a session that ended, and says how long to wait before they get another.
    fn take_back(&mut self, ended: Result<Ended, tokio::task::JoinError>, backoff: &mut Backoff) -> Option<Duration> {
        // A session that panicked took its slices along; their streams end with an error.
        let ended = ended.ok()?;
        if ended.progressed {
            backoff.reset();
        }
        let fault = ended.fault?;
        self.shared.cluster.forget_metadata();
        self.slices.extend(ended.slices);
        if let Fault::Final(error) = &fault {
            self.fail_all(error);
        }
        Some(backoff.pause())
    }

    /// Marks all slices without a session as interrupted, or failed where the fault is final.
    fn interrupt(&mut self, fault: &Fault) {
        self.shared.cluster.forget_metadata();
        match fault {
            Fault::Final(error) if error.kind() != Kind::Unavailable => self.fail_all(error),
            fault => {
                let reason = fault.to_string();
                self.slices
                    .iter_mut()
                    .for_each(|slice| slice.interrupt(&self.outage, &reason));
            }
        }
    }

    fn fail_all(&mut self, error: &Error) {
        for slice in &mut self.slices {
            slice.fail(Error::new(
                error.kind(),
                format!("{}: {}", slice.partition, error.chain()),
            ));
        }
        self.slices.clear();
    }

    /// Gives the slices whose leaders are known to new sessions.
    async fn assign(&mut self, sessions: &mut JoinSet<Ended>) -> Answer<()> {
        let cluster = &self.shared.cluster;
        let metadata = cluster.metadata(cluster.config().metadata_age_max).await?;
        let mut by_leader: HashMap<String, Vec<Slice>> = HashMap::new();
        let mut passing = None;
        for mut slice in std::mem::take(&mut self.slices) {
            match leader(&mut slice, &metadata) {
                Ok(address) => by_leader.entry(address).or_default().push(slice),
                Err(Fault::Final(error)) => slice.fail(error),
                Err(fault) => {
                    passing = Some(fault);
                    self.slices.push(slice);
                }
            }
        }
        for (address, slices) in by_leader {
            for slices in dealt(slices, self.sessions_per_leader) {
                let session = Session {
                    shared: self.shared.clone(),
                    address: address.clone(),
                    slices,
                    changes: self.changes.clone(),
                    outage: self.outage.clone(),
                };
                sessions.spawn(session.run());
            }
        }
        passing.map_or(Ok(()), Err)
    }
}

/// Deals slices out into at most `count` hands, none of them empty. Those of one partition follow each other and come into
/// different hands, where they need not take turns.
fn dealt(slices: Vec<Slice>, count: usize) -> Vec<Vec<Slice>> {
    let mut hands: Vec<Vec<Slice>> = (0..count.min(slices.len())).map(|_| Vec::new()).collect();
    for (index, slice) in slices.into_iter().enumerate() {
        let hand = index % hands.len();
        hands[hand].push(slice);
    }
    hands
}

/// The address of the slice's leader, after its topic was found to be the planned one.
fn leader(slice: &mut Slice, metadata: &Metadata) -> Answer<String> {
    let partition = &slice.partition;
    let number = partition.partition;
    let planned_id = slice.planned_id.as_deref();
    let topic = planned_topic(partition, planned_id, slice.until, &mut slice.absent_since, metadata)?;
    let Some(leader) = topic.partitions.get(&number) else {
        return Err(Fault::Passing(format!("{partition} is unknown to the brokers")));
    };
    let Some(address) = metadata.brokers.get(&leader.node) else {
        return Err(Fault::Passing(format!("{partition} has no leader")));
    };
    slice.topic_id = topic.id;
    slice.leader_epoch = leader.epoch;
    Ok(address.clone())
}

/// The topic of a range that ends at `until`, found to be the planned one.
///
/// # Errors
/// Passing where it may be there later, `Loss` where it was deleted, as is seen since `absent_since`, or made anew.
pub(crate) fn planned_topic<'a>(
    partition: &TopicPartition,
    planned_id: Option<&str>,
    until: i64,
    absent_since: &mut Option<Instant>,
    metadata: &'a Metadata,
) -> Answer<&'a Topic> {
    let topic = metadata.topics.get(&partition.topic);
    let Some(topic) = topic.filter(|topic| topic.code != UNKNOWN_TOPIC_OR_PARTITION) else {
        if absent_since.get_or_insert_with(Instant::now).elapsed() < MISSING_TOPIC_WAIT {
            return Err(Fault::Passing(format!("{partition}: its topic is unknown")));
        }
        let text = format!(
            "{partition}: topic {} was deleted before it was read up to {until}",
            partition.topic
        );
        return Err(Fault::Final(Error::new(Kind::Loss, text)));
    };
    check(topic.code, || {
        format!("topic {}: its metadata can't be read", partition.topic)
    })?;
    if let (Some(planned), Some(now)) = (planned_id, topic.id.map(topic_id::to_text))
        && *planned != now
    {
        let text = format!(
            "{partition}: topic {} was deleted and created again (id {planned} at planning, {now} now); its planned \
             records are gone",
            partition.topic
        );
        return Err(Fault::Final(Error::new(Kind::Loss, text)));
    }
    Ok(topic)
}

#[cfg(test)]
mod tests;
