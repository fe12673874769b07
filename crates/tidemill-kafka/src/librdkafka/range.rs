//! The rows of one range.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tidemill_core::plan::RangePlan;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{RawColumns, RawRows};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::feed::Feed;
use super::rows::Gathered;
use super::scan::Identities;

/// How long nothing may come before the topic is looked at again.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How long a partition's end may stay before the range's before that counts as loss.
const SHORT_END_WAIT: Duration = Duration::from_secs(60);

/// A range on its way.
pub(super) struct RangeReader {
    pub(super) range: RangePlan,
    pub(super) columns: RawColumns,
    pub(super) identities: Arc<Identities>,
    pub(super) position: i64,
    pub(super) feed: Source,
    /// Since when the partition ends before the range.
    pub(super) short_since: Option<Instant>,
}

/// Where the records come from.
pub(super) enum Source {
    /// From here, once the consumer is there.
    Coming(oneshot::Receiver<Result<Feed>>),
    /// From here.
    Here(Feed),
}

impl RangeReader {
    /// The next rows; with those at the end of the range, its topic was found to be the planned one.
    ///
    /// # Errors
    /// What is lost or can't be read.
    pub(super) async fn next(&mut self) -> Result<RawRows> {
        if let Source::Coming(coming) = &mut self.feed {
            let feed = coming.await;
            let feed = feed.map_err(|error| Error::with_source(Kind::Bug, "librdkafka's thread ended", error))?;
            self.feed = Source::Here(feed?);
        }
        let mut quiet_since = Instant::now();
        loop {
            let rows = self.take()?;
            if self.position >= self.range.until {
                self.identities.verify().await?;
            }
            if let Some(rows) = rows {
                self.short_since = None;
                return Ok(rows);
            }
            if quiet_since.elapsed() >= QUIET_MAX {
                self.identities.verify().await?;
                self.look_for_a_short_end()?;
                quiet_since = Instant::now();
            }
            if let Source::Here(feed) = &mut self.feed {
                let arrived = Arc::clone(&feed.arrived);
                tokio::select! {
                    () = arrived.notified() => {}
                    _ = feed.progress.changed() => {}
                    () = sleep(QUIET_MAX) => {}
                }
            }
        }
    }

    /// Takes what is in the queue; `None` where nothing is and the range goes on.
    fn take(&mut self) -> Result<Option<RawRows>> {
        let Source::Here(feed) = &mut self.feed else {
            return Ok(None);
        };
        // Before the queue: see `progress.rs`.
        let progress = feed.progress.borrow_and_update().get(&self.range.partition).copied();
        let mut gathered = Gathered::new(self.columns);
        while self.position < self.range.until && !gathered.is_full() {
            let message = match feed.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) => continue,
                Some(Err(error)) => return Err(self.failed(error)),
                None => {
                    if progress.is_some_and(|progress| progress.next_offset >= self.range.until) {
                        self.position = self.range.until;
                    }
                    break;
                }
            };
            let offset = message.offset();
            if offset < self.position {
                let text = format!(
                    "{}: librdkafka gave offset {offset} when {} was next",
                    self.range.partition, self.position
                );
                return Err(Error::new(Kind::Bug, text));
            }
            self.position = (offset + 1).min(self.range.until);
            if offset < self.range.until {
                let damaged = |why| {
                    let text = format!(
                        "{}: the record at offset {offset} can't be read: {why}",
                        self.range.partition
                    );
                    Error::new(Kind::Data, text)
                };
                gathered.push(&message).map_err(damaged)?;
            }
        }
        if gathered.is_empty() && self.position < self.range.until {
            return Ok(None);
        }
        let rows = gathered.finish(self.position);
        rows.map(Some)
            .map_err(|why| Error::new(Kind::Bug, format!("{}: {why}", self.range.partition)))
    }

    fn failed(&self, error: KafkaError) -> Error {
        let (partition, position) = (&self.range.partition, self.position);
        let until = self.range.until;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Error::with_source(
                Kind::Loss,
                format!(
                    "{partition}: offset {position} is no longer there; retention or a truncation removed it before the range \
                     up to {until} was read"
                ),
                error,
            ),
            Some(Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition) => Error::with_source(
                Kind::Loss,
                format!(
                    "{partition}: topic {} was deleted before it was read up to {until}",
                    partition.topic
                ),
                error,
            ),
            Some(Code::TopicAuthorizationFailed) => {
                Error::with_source(Kind::Refused, format!("{partition}: the right READ is missing"), error)
            }
            Some(Code::BadMessage | Code::BadCompression | Code::InvalidMessage | Code::InvalidMessageSize) => {
                Error::with_source(
                    Kind::Data,
                    format!("{partition}: the record batch at or after offset {position} can't be read"),
                    error,
                )
            }
            _ => Error::with_source(
                Kind::Unavailable,
                format!("{partition}: reading at offset {position}"),
                error,
            ),
        }
    }

    /// A partition that ends before the range, and stays so, was cut.
    fn look_for_a_short_end(&mut self) -> Result<()> {
        let Source::Here(feed) = &self.feed else {
            return Ok(());
        };
        let progress = feed.progress.borrow().get(&self.range.partition).copied();
        let end = progress.map(|progress| progress.stable_end).filter(|end| *end >= 0);
        let Some(end) = end.filter(|end| *end < self.range.until) else {
            self.short_since = None;
            return Ok(());
        };
        if self.short_since.get_or_insert_with(Instant::now).elapsed() < SHORT_END_WAIT {
            return Ok(());
        }
        let text = format!(
            "{} ends at offset {end}, before the planned {}: its log was truncated",
            self.range.partition, self.range.until
        );
        Err(Error::new(Kind::Loss, text))
    }
}
