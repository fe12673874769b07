//! One range on its way: the half that the fetch session owns, and the half that is a stream of rows.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream;
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{RangeStream, RawColumns, RawRows};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::budget::BudgetPermit;
use super::buffer_pool::BufferPool;
use super::chunk::Chunk;
use super::demand::{AHEAD_CHUNKS_MAX, Demand, DemandHandle, Want};
use super::outage::{Interruption, Outage};

/// A chunk on its way to its slice. The permit ends when the chunk's rows are handed on.
#[derive(Debug)]
struct Delivery {
    chunk: Chunk,
    permit: BudgetPermit,
}

/// The session's half.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) partition: TopicPartition,
    /// The id that the plan names, in its text form.
    pub(crate) planned_id: Option<String>,
    /// The id to fetch by, from the newest metadata.
    pub(crate) topic_id: Option<Uuid>,
    /// From the newest metadata.
    pub(crate) leader_epoch: i32,
    /// The next offset to fetch.
    pub(crate) position: i64,
    /// The offset after the last to fetch.
    pub(crate) until: i64,
    /// How much to ask for; grows where a single batch is larger.
    pub(crate) bytes_max: u32,
    /// Since when brokers say that the partition, or its end, is not there.
    pub(crate) absent_since: Option<Instant>,
    demand: Arc<Demand>,
    delivered: u64,
    chunks: mpsc::Sender<Result<Delivery>>,
    interruption: Option<Interruption>,
}

/// The stream's half. The channel stands before the handle: the session is woken by the end of the handle and must find
/// the channel closed then.
#[derive(Debug)]
pub(crate) struct SliceReader {
    chunks: mpsc::Receiver<Result<Delivery>>,
    demand: DemandHandle,
    partition: TopicPartition,
    position: i64,
    until: i64,
    columns: RawColumns,
    pool: BufferPool,
}

/// The two halves of `range`.
pub(crate) fn pair(
    range: &RangePlan,
    bytes_max: u32,
    columns: RawColumns,
    pool: &BufferPool,
    changes: &Arc<watch::Sender<()>>,
) -> (Slice, SliceReader) {
    // The session delivers only where there is room; one more place, so that an error always has it.
    let (sender, receiver) = mpsc::channel(AHEAD_CHUNKS_MAX as usize + 1);
    let handle = DemandHandle::new(changes);
    let slice = Slice {
        partition: range.partition.clone(),
        planned_id: range.topic_id.clone(),
        topic_id: None,
        leader_epoch: -1,
        position: range.from,
        until: range.until,
        bytes_max,
        absent_since: None,
        demand: handle.demand(),
        delivered: 0,
        chunks: sender,
        interruption: None,
    };
    let reader = SliceReader {
        chunks: receiver,
        demand: handle,
        partition: range.partition.clone(),
        position: range.from,
        until: range.until,
        columns,
        pool: pool.clone(),
    };
    (slice, reader)
}

impl Slice {
    /// What the stream wants of it now.
    pub(crate) fn want(&self) -> Option<Want> {
        self.demand.want(self.delivered)
    }

    /// True where nothing more is to be fetched: all was delivered, or nobody reads it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.position >= self.until || self.chunks.is_closed()
    }

    /// Hands a chunk to the stream; reading goes on at its position.
    pub(crate) fn deliver(&mut self, chunk: Chunk, permit: BudgetPermit) {
        self.position = chunk.position;
        self.absent_since = None;
        if let Some(interruption) = self.interruption.take() {
            interruption.end();
        }
        self.send(Ok(Delivery { chunk, permit }));
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&mut self, error: Error) {
        self.position = self.until;
        self.send(Err(error));
    }

    fn send(&mut self, delivery: Result<Delivery>) {
        self.delivered += 1;
        // A closed channel belongs to a stream that was dropped; a full one is not met.
        drop(self.chunks.try_send(delivery));
    }

    /// Notes that the slice is interrupted.
    pub(crate) fn interrupt(&mut self, outage: &Outage, reason: &str) {
        if self.interruption.is_none() {
            self.interruption = Some(outage.interrupt(reason));
        }
    }
}

impl SliceReader {
    /// The rows. `start` is called at the first poll.
    pub(crate) fn into_stream(self, start: impl FnOnce() + Send + 'static) -> RangeStream {
        let state = (self, Some(start), false);
        stream::unfold(state, |(mut reader, mut start, done)| async move {
            if done {
                return None;
            }
            if let Some(start) = start.take() {
                start();
            }
            let item = reader.next().await;
            let done = item.is_err() || reader.position >= reader.until;
            Some((item, (reader, start, done)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<RawRows> {
        if self.position >= self.until {
            let nothing = Chunk::nothing(self.until);
            return nothing
                .decode(self.columns, &self.pool)
                .map_err(|damage| damage.of(&self.partition));
        }
        let delivery = match self.chunks.try_recv() {
            Ok(delivery) => Some(delivery),
            Err(_) => {
                self.demand.wait();
                self.chunks.recv().await
            }
        };
        let Some(delivery) = delivery else {
            let text = format!("{}: the fetch task ended at offset {}", self.partition, self.position);
            return Err(Error::new(Kind::Bug, text));
        };
        self.demand.took();
        let Delivery { chunk, permit } = delivery?;
        let rows = chunk
            .decode(self.columns, &self.pool)
            .map_err(|damage| damage.of(&self.partition))?;
        drop(permit);
        self.position = rows.position;
        Ok(rows)
    }
}
