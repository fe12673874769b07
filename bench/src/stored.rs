//! Record batches as a broker stores them, fetched without being opened.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

/// The last version that names topics.
const VERSION: i16 = 12;
const PARTITION_BYTES: i32 = 8 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Where a record batch's fields lie (format v2).
const LENGTH_AT: usize = 8;
const LENGTH_END: usize = 12;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const RECORDS_AT: usize = 57;
const HEADER_BYTES: usize = 61;

/// One record batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredBatch {
    /// The protocol's number of the codec.
    pub(crate) codec: u8,
    /// Number of records.
    pub(crate) records: u64,
    /// The records as they are stored.
    pub(crate) payload: Bytes,
    next_offset: i64,
}

#[cfg(test)]
impl StoredBatch {
    /// A batch at offset 0.
    pub(crate) fn of(codec: u8, records: u64, payload: Bytes) -> Self {
        Self {
            codec,
            records,
            payload,
            next_offset: records as i64,
        }
    }
}

/// A connection to the broker that leads all partitions.
#[derive(Debug)]
pub(crate) struct StoredBatches {
    stream: TcpStream,
}

impl StoredBatches {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(crate) fn connect(broker: &str) -> Result<Self> {
        let stream = TcpStream::connect(broker).with_context(|| format!("connect to {broker}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Calls `take` with the batches of each response until the partition's end.
    ///
    /// # Errors
    /// The broker's, and those of `take`.
    pub(crate) fn each(
        &mut self,
        topic: &str,
        partition: i32,
        mut take: impl FnMut(&[StoredBatch]) -> Result<()>,
    ) -> Result<()> {
        let what = || format!("fetch {topic}/{partition}");
        let mut offset = 0;
        loop {
            let (end, data) = self.fetch(topic, partition, offset).with_context(what)?;
            if offset >= end {
                return Ok(());
            }
            let batches = batches(&data).with_context(what)?;
            let Some(last) = batches.last() else {
                bail!("{}: nothing comes from offset {offset} of {end}", what());
            };
            offset = last.next_offset;
            take(&batches)?;
        }
    }

    /// The partition's end and what it holds from `offset` on.
    fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<(i64, Bytes)> {
        let wanted = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(PARTITION_BYTES);
        let request = FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_bytes(PARTITION_BYTES)
            .with_topics(vec![
                FetchTopic::default()
                    .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
                    .with_partitions(vec![wanted]),
            ]);
        let header = RequestHeader::default()
            .with_request_api_key(ApiKey::Fetch as i16)
            .with_request_api_version(VERSION)
            .with_client_id(Some(StrBytes::from_static_str("tidemill-bench")));
        let mut frame = BytesMut::new();
        header.encode(&mut frame, ApiKey::Fetch.request_header_version(VERSION))?;
        request.encode(&mut frame, VERSION)?;
        self.stream.write_all(&u32::try_from(frame.len())?.to_be_bytes())?;
        self.stream.write_all(&frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, ApiKey::Fetch.response_header_version(VERSION))?;
        let response = FetchResponse::decode(&mut frame, VERSION)?;
        let mut answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
        match (response.error_code, answers.next()) {
            (0, Some(answer)) if answer.error_code == 0 => {
                Ok((answer.high_watermark, answer.records.unwrap_or_default()))
            }
            (0, Some(answer)) => bail!("the broker answers with error {}", answer.error_code),
            (code, _) => bail!("the broker answers with error {code} and no partition"),
        }
    }
}

/// The whole batches that `data` begins with.
fn batches(data: &Bytes) -> Result<Vec<StoredBatch>> {
    let mut batches = Vec::new();
    let mut at = 0;
    while let Some(header) = data.get(at..at + HEADER_BYTES) {
        let base_offset = i64::from_be_bytes(array(header, 0));
        let length = usize::try_from(i32::from_be_bytes(array(header, LENGTH_AT)))?;
        let end = at + LENGTH_END + length;
        if length < HEADER_BYTES - LENGTH_END {
            bail!("the batch at offset {base_offset} has {length} bytes");
        }
        if end > data.len() {
            break;
        }
        let records = i32::from_be_bytes(array(header, RECORDS_AT));
        batches.push(StoredBatch {
            codec: header[ATTRIBUTES_AT + 1] & 7,
            records: u64::try_from(records)?,
            payload: data.slice(at + HEADER_BYTES..end),
            next_offset: base_offset + i64::from(i32::from_be_bytes(array(header, LAST_OFFSET_DELTA_AT))) + 1,
        });
        at = end;
    }
    Ok(batches)
}

fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, records: i32, codec: u8, payload: &[u8]) -> Vec<u8> {
        let mut batch = vec![0; HEADER_BYTES];
        batch[..8].copy_from_slice(&base_offset.to_be_bytes());
        let length = (HEADER_BYTES - LENGTH_END + payload.len()) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[22] = codec;
        batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&records.to_be_bytes());
        batch.extend(payload);
        batch
    }

    #[test]
    fn whole_batches_are_found_and_a_cut_off_one_is_left() {
        let whole = [batch(5, 3, 4, b"abc"), batch(8, 1, 1, b""), batch(9, 2, 4, b"cut")].concat();
        let data = Bytes::from(whole).slice(..2 * HEADER_BYTES + 3 + HEADER_BYTES + 2);
        let found = batches(&data).unwrap();
        let facts: Vec<_> = found
            .iter()
            .map(|batch| (batch.codec, batch.records, &batch.payload[..], batch.next_offset))
            .collect();
        assert_eq!(facts, [(4, 3, &b"abc"[..], 8), (1, 1, &b""[..], 9)]);
        assert!(batches(&Bytes::from(vec![0; 100])).is_err());
    }
}
