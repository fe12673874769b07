//! Fetches from one broker for the slices of a scan whose partitions it leads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use tidemill_engine::error::{Error, Kind};
use tokio::sync::watch;

use super::budget::{Budget, BudgetPermit};
use super::buffer_pool::BufferPool;
use super::chunk::Chunk;
use super::demand::Want;
use super::outage::Outage;
use super::record_batch::{declared_bytes, position_after};
use super::request::{Ask, BY_ID, BY_NAME, COMPACT, LOWEST, request};
use super::response::{FetchResponse, PartitionAnswer, TopicKey};
use super::scan::planned_topic;
use super::slice::Slice;
use crate::config::Isolation;
use crate::wire::cluster::Cluster;
use crate::wire::connection::Connection;
use crate::wire::fault::{Answer, Fault, check};
use crate::wire::metadata::Metadata;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
/// How long a partition's end may stay before the range's before that counts as loss.
const SHORT_END_WAIT: Duration = Duration::from_secs(60);

/// What sessions of one source share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) budget: Budget,
    pub(crate) pool: BufferPool,
}

/// A session at work.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Shared,
    pub(crate) address: String,
    pub(crate) slices: Vec<Slice>,
    pub(crate) changes: watch::Receiver<()>,
    pub(crate) outage: Outage,
}

/// What is left when a session ends: slices that are not over, and why.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) slices: Vec<Slice>,
    pub(crate) fault: Option<Fault>,
    /// True where anything was delivered.
    pub(crate) progressed: bool,
}

/// A slice in the request under way.
#[derive(Debug)]
struct Picked {
    index: usize,
    permit: Option<BudgetPermit>,
    /// What the answer said about the slice's end, where it had no records.
    empty_end: Option<i64>,
}

/// Where the session stands between two requests.
#[derive(Debug, Default)]
struct Turn {
    /// The slice that the next request begins with: brokers fill in the order of the request.
    first: usize,
    spare: Option<BudgetPermit>,
    progressed: bool,
}

impl Session {
    /// Fetches until no slice is left, or something happens that asks for a new look at the leaders.
    pub(crate) async fn run(mut self) -> Ended {
        let mut turn = Turn::default();
        let fault = self.serve(&mut turn).await.err();
        self.slices.retain(|slice| !slice.is_over());
        if let Some(fault) = &fault {
            let reason = fault.to_string();
            self.slices
                .iter_mut()
                .for_each(|slice| slice.interrupt(&self.outage, &reason));
        }
        Ended {
            slices: self.slices,
            fault,
            progressed: turn.progressed,
        }
    }

    async fn serve(&mut self, turn: &mut Turn) -> Answer<()> {
        let mut connection = self.shared.cluster.connection(&self.address).await?;
        loop {
            self.changes.borrow_and_update();
            self.slices.retain(|slice| !slice.is_over());
            if self.slices.is_empty() {
                self.shared.cluster.put_back(connection);
                return Ok(());
            }
            let mut picked = self.pick(turn);
            if picked.is_empty() {
                self.wait(turn).await;
                continue;
            }
            let moved = self.exchange(&mut connection, &mut picked, turn).await?;
            if let Some(fault) = moved {
                self.shared.cluster.put_back(connection);
                return Err(fault);
            }
        }
    }

    /// Slices that want a chunk and have the budget for it, those that wait first, one of each partition.
    fn pick(&self, turn: &mut Turn) -> Vec<Picked> {
        let mut picked: Vec<Picked> = Vec::new();
        let mut bytes = 0u32;
        let bytes_max = self.shared.cluster.config().response_bytes_max;
        let count = self.slices.len();
        for want in [Want::Waiting, Want::Ahead] {
            for index in (0..count).map(|step| (turn.first + step) % count) {
                let slice = &self.slices[index];
                let is_asked = |other: &Picked| self.slices[other.index].partition == slice.partition;
                if slice.want() != Some(want) || picked.iter().any(is_asked) {
                    continue;
                }
                if !picked.is_empty() && bytes.saturating_add(slice.bytes_max) > bytes_max {
                    continue;
                }
                let Some(permit) = turn
                    .spare
                    .take()
                    .or_else(|| self.shared.budget.try_take(slice.bytes_max, want))
                else {
                    break;
                };
                bytes = bytes.saturating_add(slice.bytes_max);
                picked.push(Picked {
                    index,
                    permit: Some(permit),
                    empty_end: None,
                });
            }
        }
        turn.first = (turn.first + 1) % count;
        turn.spare = None;
        picked
    }

    /// Waits for a slice to want something, or for budget where one does.
    async fn wait(&mut self, turn: &mut Turn) {
        let waiting = self.slices.iter().find(|slice| slice.want() == Some(Want::Waiting));
        let Some(bytes) = waiting.map(|slice| slice.bytes_max) else {
            // The sender lives in every slice's stream; without any, all slices are over.
            drop(self.changes.changed().await);
            return;
        };
        tokio::select! {
            _ = self.changes.changed() => {}
            permit = self.shared.budget.take(bytes) => turn.spare = Some(permit),
        }
    }

    /// One request and its response. Gives the fault of a partition that asks for new leaders.
    async fn exchange(
        &mut self,
        connection: &mut Connection,
        picked: &mut [Picked],
        turn: &mut Turn,
    ) -> Answer<Option<Fault>> {
        let asks: Vec<Ask> = picked.iter().map(|picked| self.slices[picked.index].ask()).collect();
        let highest = if asks.iter().all(|ask| ask.topic_id.is_some()) {
            BY_ID
        } else {
            BY_NAME
        };
        let version = connection.version(ApiKey::Fetch, LOWEST, highest)?;
        let config = Arc::clone(self.shared.cluster.config());
        // A single batch may be larger than a response should be.
        let asked = asks.iter().fold(0, |sum: u32, ask| sum.saturating_add(ask.bytes_max));
        let bytes_max = config.response_bytes_max.max(asked);
        connection
            .send(&request(&asks, config.isolation, bytes_max), version)
            .await?;
        let mut response = FetchResponse::begin(connection.receive(version >= COMPACT).await?, version).await?;
        let mut any_records = false;
        let mut moved = None;
        let mut identities = Identities::of(version);
        while let Some(answer) = response.next(&self.shared.pool).await? {
            any_records |= !answer.records.is_empty();
            let Some(place) = asks.iter().position(|ask| answer.is_for(ask)) else {
                return Err(Fault::malformed(
                    &self.address,
                    "it holds a partition that was not asked for",
                ));
            };
            let picked = &mut picked[place];
            let slice = &mut self.slices[picked.index];
            let identity = identities.verify(&self.shared.cluster, slice, &answer).await;
            let taken = identity.and_then(|()| self.take(answer, picked, config.isolation, config.frame_bytes_max));
            match taken {
                Ok(progressed) => turn.progressed |= progressed,
                Err(Fault::Final(error)) => self.slices[picked.index].fail(error),
                Err(passing) => moved = Some(passing),
            }
        }
        for picked in picked {
            if let (Some(end), false) = (picked.empty_end, any_records)
                && let Err(fault) = self.slices[picked.index].conclude(end, picked.permit.take())
            {
                moved = Some(fault);
            }
        }
        Ok(moved)
    }

    /// Uses one partition's answer; true where it brought the slice forward.
    fn take(
        &mut self,
        answer: PartitionAnswer,
        picked: &mut Picked,
        isolation: Isolation,
        frame_bytes_max: u32,
    ) -> Answer<bool> {
        let slice = &mut self.slices[picked.index];
        check_code(&answer, slice, &self.address)?;
        let position = position_after(&answer.records).map_err(|damage| damage.of(&slice.partition))?;
        let Some(position) = position else {
            if answer.records.is_empty() {
                picked.empty_end = Some(match isolation {
                    Isolation::ReadCommitted => answer.last_stable_offset,
                    Isolation::ReadUncommitted => answer.high_watermark,
                });
            } else {
                slice.grow(declared_bytes(&answer.records), frame_bytes_max)?;
            }
            return Ok(false);
        };
        if position <= slice.position {
            let text = format!(
                "{}: broker {} sent records up to offset {position} when asked for {}",
                slice.partition, self.address, slice.position
            );
            return Err(Fault::Final(Error::new(Kind::Data, text)));
        }
        let Some(mut permit) = picked.permit.take() else {
            return Err(Fault::malformed(&self.address, "it holds a partition twice"));
        };
        permit.shrink(answer.records.len());
        let chunk = Chunk {
            from: slice.position,
            until: slice.until,
            position: position.min(slice.until),
            records: answer.records,
            aborted: answer.aborted,
        };
        slice.deliver(chunk, permit);
        Ok(true)
    }
}

/// Looks again whether topics are the planned ones, where records were fetched by name: no range ends before that was seen
/// after its last records had been sent.
#[derive(Debug)]
struct Identities {
    by_name: bool,
    /// Asked for after the response had begun.
    seen: Option<Arc<Metadata>>,
}

impl Identities {
    /// For one response in this version.
    fn of(version: i16) -> Self {
        Self {
            by_name: version < BY_ID,
            seen: None,
        }
    }

    async fn verify(&mut self, cluster: &Cluster, slice: &mut Slice, answer: &PartitionAnswer) -> Answer<()> {
        if !self.by_name || slice.planned_id.is_none() || !slice.may_end_with(answer) {
            return Ok(());
        }
        let metadata = match self.seen.take() {
            Some(seen) => seen,
            None => Self::look(cluster).await?,
        };
        let (partition, planned_id) = (&slice.partition, slice.planned_id.as_deref());
        planned_topic(partition, planned_id, slice.until, &mut slice.absent_since, &metadata)?;
        self.seen = Some(metadata);
        Ok(())
    }

    async fn look(cluster: &Cluster) -> Answer<Arc<Metadata>> {
        match cluster.metadata(Duration::ZERO).await {
            // The range is fetched again once brokers answer.
            Err(Fault::Final(error)) if error.kind() == Kind::Unavailable => Err(Fault::Passing(error.chain())),
            seen => seen,
        }
    }
}

impl Slice {
    /// True where the answer may be the last that the slice needs.
    fn may_end_with(&self, answer: &PartitionAnswer) -> bool {
        let position = position_after(&answer.records);
        answer.records.is_empty() || position.is_ok_and(|position| position.is_some_and(|at| at >= self.until))
    }

    fn ask(&self) -> Ask {
        Ask {
            partition: self.partition.clone(),
            topic_id: self.topic_id,
            offset: self.position,
            leader_epoch: self.leader_epoch,
            bytes_max: self.bytes_max,
        }
    }

    /// Asks for more from now on, where the first batch is larger than what was asked for.
    fn grow(&mut self, batch_bytes: Option<usize>, bytes_max: u32) -> Answer<()> {
        let wanted = batch_bytes.unwrap_or(0).max(2 * self.bytes_max as usize);
        match u32::try_from(wanted) {
            Ok(wanted) if wanted <= bytes_max => {
                // The cut-off batch may only have come last in a full response; then this does no harm.
                self.bytes_max = self.bytes_max.max(batch_bytes.map_or(wanted, |bytes| bytes as u32));
                Ok(())
            }
            _ => {
                let text = format!(
                    "{}: the record batch at offset {} has {wanted} bytes, more than the largest response of {bytes_max}",
                    self.partition, self.position
                );
                Err(Fault::Final(Error::new(Kind::Data, text)))
            }
        }
    }

    /// Ends the slice where a response without any records shows that nothing readable is left of it: the partition
    /// ends at `end`.
    fn conclude(&mut self, end: i64, permit: Option<BudgetPermit>) -> Answer<()> {
        if let (true, Some(permit)) = (end >= self.until, permit) {
            self.deliver(Chunk::nothing(self.until), permit);
            return Ok(());
        }
        // A new leader learns of the end a little later than of its leadership.
        let text = format!(
            "{} ends at offset {end}, before the planned {}",
            self.partition, self.until
        );
        if self.absent_since.get_or_insert_with(Instant::now).elapsed() < SHORT_END_WAIT {
            return Err(Fault::Passing(text));
        }
        self.fail(Error::new(Kind::Loss, format!("{text}: its log was truncated")));
        Ok(())
    }
}

impl PartitionAnswer {
    fn is_for(&self, ask: &Ask) -> bool {
        self.partition == ask.partition.partition
            && match &self.topic {
                TopicKey::Id(id) => Some(*id) == ask.topic_id,
                TopicKey::Name(name) => *name == ask.partition.topic,
            }
    }
}

fn check_code(answer: &PartitionAnswer, slice: &Slice, broker: &str) -> Answer<()> {
    let (partition, offset) = (&slice.partition, slice.position);
    match answer.code {
        OFFSET_OUT_OF_RANGE => {
            let text = format!(
                "{partition}: offset {offset} is no longer there; retention or a truncation removed it before the range up to {} \
                 was read",
                slice.until
            );
            Err(Fault::Final(Error::new(Kind::Loss, text)))
        }
        CORRUPT_MESSAGE => {
            let text = format!("{partition}: broker {broker} can't read its log at offset {offset}");
            Err(Fault::Final(Error::new(Kind::Data, text)))
        }
        code => check(code, || {
            format!("{partition}: no records from offset {offset} of broker {broker}")
        }),
    }
}
