//! Fetch responses, read as they arrive.
//!
//! The records of each partition go into a buffer of their own. So a slice that is slow keeps no more than its own chunk
//! alive, and the first partition can be handed on before the last has arrived.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::aborted::AbortedTransaction;
use super::buffer_pool::BufferPool;
use super::request::{BY_ID, COMPACT};
use crate::wire::connection::Incoming;
use crate::wire::fault::{Answer, Fault};
use crate::wire::response::{Fields, Malformed};

/// Bytes read at once where fields, not records, are expected.
const FIELD_BYTES: usize = 512;
/// Longest run of fields between two partitions' records; a partition's aborted transactions are in it.
const FIELD_BYTES_MAX: usize = 16 << 20;

const WITH_PREFERRED_REPLICA: i16 = 11;

/// Which topic a part of the response belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicKey {
    /// Its name, up to version 12.
    Name(String),
    /// Its id.
    Id(Uuid),
}

/// One partition's part of a response.
#[derive(Debug, Clone)]
pub(crate) struct PartitionAnswer {
    pub(crate) topic: TopicKey,
    pub(crate) partition: i32,
    /// Error code.
    pub(crate) code: i16,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable_offset: i64,
    pub(crate) aborted: Vec<AbortedTransaction>,
    pub(crate) records: Bytes,
}

/// A partition's fields, without its records.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PartitionFields {
    partition: i32,
    code: i16,
    high_watermark: i64,
    last_stable_offset: i64,
    aborted: Vec<AbortedTransaction>,
    record_bytes: usize,
}

/// Reads the partitions of a response one by one.
#[derive(Debug)]
pub(crate) struct FetchResponse<'a> {
    incoming: Incoming<'a>,
    version: i16,
    /// Bytes read from the connection and not yet used.
    ahead: BytesMut,
    topics_left: usize,
    partitions_left: usize,
    topic: TopicKey,
}

/// Why fields could not be read from the bytes at hand.
type Parsed<T> = Result<T, Malformed>;

impl<'a> FetchResponse<'a> {
    /// Reads the part before the first partition.
    ///
    /// # Errors
    /// A lost connection, a malformed response, or an error code for the whole of it.
    pub(crate) async fn begin(incoming: Incoming<'a>, version: i16) -> Answer<FetchResponse<'a>> {
        let topic = TopicKey::Name(String::new());
        let ahead = BytesMut::with_capacity(FIELD_BYTES);
        let mut response = Self {
            incoming,
            version,
            ahead,
            topics_left: 0,
            partitions_left: 0,
            topic,
        };
        let (code, topics) = response
            .fields(|fields| {
                fields.int32()?;
                let code = fields.int16()?;
                fields.int32()?;
                Ok((code, fields.declared()?.unwrap_or(0)))
            })
            .await?;
        crate::wire::fault::check(code, || format!("broker {}: fetch", response.incoming.broker()))?;
        response.topics_left = response.plausible(topics, 3)?;
        Ok(response)
    }

    /// The next partition, `None` behind the last.
    ///
    /// # Errors
    /// A lost connection or a malformed response.
    pub(crate) async fn next(&mut self, pool: &BufferPool) -> Answer<Option<PartitionAnswer>> {
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                self.finish().await?;
                return Ok(None);
            }
            self.topics_left -= 1;
            let by_id = self.version >= BY_ID;
            let (topic, partitions) = self
                .fields(|fields| {
                    let topic = if by_id {
                        TopicKey::Id(fields.uuid()?.unwrap_or_default())
                    } else {
                        TopicKey::Name(fields.required_text()?.to_owned())
                    };
                    Ok((topic, fields.declared()?.unwrap_or(0)))
                })
                .await?;
            self.topic = topic;
            self.partitions_left = self.plausible(partitions, 36)?;
            if self.partitions_left == 0 {
                self.tags().await?;
            }
        }
        let version = self.version;
        let fields = self.fields(|fields| partition_fields(fields, version)).await?;
        let records = self.records(fields.record_bytes, pool).await?;
        self.tags().await?;
        self.partitions_left -= 1;
        if self.partitions_left == 0 {
            self.tags().await?;
        }
        Ok(Some(PartitionAnswer {
            topic: self.topic.clone(),
            partition: fields.partition,
            code: fields.code,
            high_watermark: fields.high_watermark,
            last_stable_offset: fields.last_stable_offset,
            aborted: fields.aborted,
            records,
        }))
    }

    async fn finish(&mut self) -> Answer<()> {
        self.tags().await?;
        if self.ahead.is_empty() && self.incoming.left() == 0 {
            return Ok(());
        }
        Err(self.malformed("bytes follow its end"))
    }

    fn malformed(&self, what: &str) -> Fault {
        Fault::malformed(self.incoming.broker(), what)
    }

    fn plausible(&self, count: u32, element_bytes_min: usize) -> Answer<usize> {
        let count = count as usize;
        if count > (self.ahead.len() + self.incoming.left()) / element_bytes_min {
            return Err(self.malformed("it declares more elements than it has bytes for"));
        }
        Ok(count)
    }

    async fn tags(&mut self) -> Answer<()> {
        self.fields(|fields| fields.tags()).await
    }

    /// Reads fields from the bytes at hand, and again with more bytes where they were too few.
    async fn fields<T>(&mut self, parse: impl Fn(&mut Fields<'_>) -> Parsed<T>) -> Answer<T> {
        loop {
            let mut fields = Fields::new(&self.ahead, self.version >= COMPACT);
            match parse(&mut fields) {
                Ok(value) => {
                    let used = self.ahead.len() - fields.left();
                    drop(self.ahead.split_to(used));
                    return Ok(value);
                }
                Err(error) if self.incoming.left() == 0 || self.ahead.len() > FIELD_BYTES_MAX => {
                    return Err(self.malformed(error.0));
                }
                Err(_) => {}
            }
            // Twice as much each time, so that a long list is not parsed for every few bytes of it.
            let more = FIELD_BYTES.max(self.ahead.len()).min(self.incoming.left());
            let before = self.ahead.len();
            self.ahead.resize(before + more, 0);
            self.incoming.read(&mut self.ahead[before..]).await?;
        }
    }

    async fn records(&mut self, count: usize, pool: &BufferPool) -> Answer<Bytes> {
        if count > self.ahead.len() + self.incoming.left() {
            return Err(self.malformed("it ends too early"));
        }
        if count == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = pool.take(count);
        let at_hand = count.min(self.ahead.len());
        buffer.bytes_mut()[..at_hand].copy_from_slice(&self.ahead.split_to(at_hand));
        self.incoming.read(&mut buffer.bytes_mut()[at_hand..count]).await?;
        Ok(buffer.freeze(count))
    }
}

fn partition_fields(fields: &mut Fields<'_>, version: i16) -> Parsed<PartitionFields> {
    let partition = fields.int32()?;
    let code = fields.int16()?;
    let high_watermark = fields.int64()?;
    let last_stable_offset = fields.int64()?;
    // The log's start; it is -1 just where it would help, beside an offset out of range.
    fields.int64()?;
    let aborted = fields.list(16, |fields| {
        let producer_id = fields.int64()?;
        let first_offset = fields.int64()?;
        fields.tags()?;
        Ok(AbortedTransaction {
            producer_id,
            first_offset,
        })
    })?;
    if version >= WITH_PREFERRED_REPLICA {
        fields.int32()?;
    }
    let record_bytes = fields.declared()?.unwrap_or(0) as usize;
    Ok(PartitionFields {
        partition,
        code,
        high_watermark,
        last_stable_offset,
        aborted,
        record_bytes,
    })
}
