//! Brokers in process that can be told to fail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::fetch::testing::TestBatch;
use crate::wire::response::Fields;
use crate::wire::testing::Writer;

/// What the next fetch meets.
#[derive(Debug, Clone)]
pub(crate) enum Mishap {
    /// An error code for one partition.
    Code(i32, i16),
    /// The broker hangs up.
    Hangup,
    /// The topic was made anew, with the same records.
    Recreated,
    /// These bytes come instead of a frame.
    Bytes(Vec<u8>),
    /// These bytes come instead of a response's fields.
    Body(Vec<u8>),
}

/// One partition's log.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakePartition {
    pub(crate) leader: usize,
    pub(crate) batches: Vec<TestBatch>,
    pub(crate) aborted: Vec<(i64, i64)>,
    pub(crate) end: i64,
}

/// All there is to know of the one topic, `t`.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) id: Option<Uuid>,
    pub(crate) is_missing: bool,
    pub(crate) partitions: Vec<FakePartition>,
    pub(crate) mishaps: VecDeque<Mishap>,
    pub(crate) fetch_version_max: i16,
    /// It speaks as Kafka 2.1 does: no compact encoding, no topic ids.
    pub(crate) is_old: bool,
    /// A response has no more than this, whatever is asked for; 0 for no such limit.
    pub(crate) response_bytes_max: usize,
    /// Batches are cut off even where one comes first.
    pub(crate) cuts_first_batch: bool,
    /// Each fetch so far: its version and (partition, offset) in order.
    pub(crate) fetches: Vec<(i16, Vec<(i32, i64)>)>,
    addresses: Vec<String>,
}

/// Brokers that share one state.
#[derive(Debug, Clone)]
pub(crate) struct FakeCluster {
    pub(crate) state: Arc<Mutex<State>>,
}

impl FakeCluster {
    /// Starts `brokers` brokers for these partitions; they end with the runtime.
    pub(crate) async fn start(brokers: usize, partitions: Vec<FakePartition>) -> Self {
        let id = Some(Uuid::from_u128(5));
        let state = State {
            id,
            partitions,
            fetch_version_max: 16,
            ..State::default()
        };
        let cluster = Self {
            state: Arc::new(Mutex::new(state)),
        };
        for node in 0..brokers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster
                .state
                .lock()
                .unwrap()
                .addresses
                .push(listener.local_addr().unwrap().to_string());
            let state = Arc::clone(&cluster.state);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, node, Arc::clone(&state)));
                }
            });
        }
        cluster
    }

    /// Where to start from.
    pub(crate) fn address(&self) -> String {
        self.state.lock().unwrap().addresses[0].clone()
    }
}

async fn serve(mut stream: TcpStream, node: usize, state: Arc<Mutex<State>>) {
    loop {
        let Ok(length) = stream.read_i32().await else { return };
        let mut frame = vec![0; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let Some(answer) = answer(&frame, node, &mut state.lock().unwrap()) else {
            return;
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn answer(frame: &[u8], node: usize, state: &mut State) -> Option<Vec<u8>> {
    let mut header = Fields::new(frame, false);
    let (key, version) = (header.int16().unwrap(), header.int16().unwrap());
    let correlation_id = header.int32().unwrap();
    header.text().unwrap();
    let mut body = Fields::new(&frame[frame.len() - header.left()..], !state.is_old);
    if key != 18 {
        body.tags().unwrap();
    }
    let head = Writer::old(state.is_old).int32(correlation_id);
    let answer = match key {
        18 => versions(head, version, state),
        3 => metadata(head.tags(), state),
        2 => list_offsets(head.tags(), &mut body, state),
        1 => match fetch(head.tags(), version, &mut body, node, state) {
            Ok(answer) => answer,
            Err(Mishap::Bytes(bytes)) => return Some(bytes),
            Err(Mishap::Body(bytes)) => {
                let mut answer = Writer::default().int32(correlation_id).tags();
                answer.bytes.extend(bytes);
                answer
            }
            Err(_) => return None,
        },
        key => panic!("request {key} is not known here"),
    };
    let mut frame = (answer.bytes.len() as i32).to_be_bytes().to_vec();
    frame.extend(answer.bytes);
    Some(frame)
}

fn versions(head: Writer, version: i16, state: &State) -> Writer {
    let known = if state.is_old {
        [(18, 2), (3, 7), (2, 4), (1, 10)]
    } else {
        [(18, 2), (3, 12), (2, 7), (1, state.fetch_version_max)]
    };
    if version > 2 {
        // As brokers do for versions they do not know: the code, and the list in the oldest encoding.
        return head.int16(35).int32(0);
    }
    known
        .iter()
        .fold(head.int16(0).int32(known.len() as i32), |writer, (key, highest)| {
            writer.int16(*key).int16(0).int16(*highest)
        })
}

fn metadata(head: Writer, state: &State) -> Writer {
    let brokers = state.addresses.iter().enumerate();
    let code = if state.is_missing { 3 } else { 0 };
    let none = Vec::new();
    let partitions = if state.is_missing { &none } else { &state.partitions };
    head.int32(0)
        .list(brokers, |writer, (node, address)| {
            let (host, port) = address.split_once(':').unwrap();
            writer
                .int32(node as i32)
                .text(Some(host))
                .int32(port.parse().unwrap())
                .text(None)
                .tags()
        })
        .text(None)
        .int32(0)
        .list([()], |writer, ()| {
            let named = writer.int16(code).text(Some("t"));
            let topic = if state.is_old { named } else { named.uuid(state.id) };
            let topic = topic
                .int8(0)
                .list(partitions.iter().enumerate(), |writer, (number, partition)| {
                    let writer = writer
                        .int16(0)
                        .int32(number as i32)
                        .int32(partition.leader as i32)
                        .int32(0);
                    writer
                        .list([], Writer::int32)
                        .list([], Writer::int32)
                        .list([], Writer::int32)
                        .tags()
                });
            // It does not say what is allowed.
            let topic = if state.is_old { topic } else { topic.int32(i32::MIN) };
            topic.tags()
        })
        .tags()
}

fn list_offsets(head: Writer, body: &mut Fields<'_>, state: &State) -> Writer {
    body.int32().unwrap();
    body.take(1).unwrap();
    let topics = body.list(1, |topic| {
        topic.text()?;
        let partitions = topic.list(1, |fields| {
            let partition = (fields.int32()?, fields.int32()?, fields.int64()?);
            fields.tags()?;
            Ok(partition)
        });
        topic.tags()?;
        partitions
    });
    head.int32(0)
        .list(topics.unwrap(), |writer, partitions| {
            writer
                .text(Some("t"))
                .list(partitions, |writer, (number, _, timestamp)| {
                    let partition = &state.partitions[number as usize];
                    let first = partition
                        .batches
                        .first()
                        .map_or(partition.end, |batch| batch.base_offset);
                    let offset = if timestamp == -2 { first } else { partition.end };
                    writer.int32(number).int16(0).int64(-1).int64(offset).int32(0).tags()
                })
                .tags()
        })
        .tags()
}

struct Asked {
    partition: i32,
    offset: i64,
    bytes_max: usize,
}

fn fetch(head: Writer, version: i16, body: &mut Fields<'_>, node: usize, state: &mut State) -> Result<Writer, Mishap> {
    body.take(12).unwrap();
    let mut bytes_left = body.int32().unwrap() as usize;
    body.take(9).unwrap();
    let topics = body.list(1, |topic| {
        let id = if version >= 13 {
            topic.uuid()?
        } else {
            topic.text()?.map(|_| Uuid::nil())
        };
        let partitions = topic.list(1, |fields| {
            let partition = fields.int32()?;
            fields.int32()?;
            let offset = fields.int64()?;
            fields.take(if version >= 12 { 12 } else { 8 })?;
            let bytes_max = fields.int32()? as usize;
            fields.tags()?;
            Ok(Asked {
                partition,
                offset,
                bytes_max,
            })
        });
        topic.tags()?;
        Ok((id, partitions?))
    });
    let topics = topics.unwrap();
    let asked = topics
        .iter()
        .flat_map(|(_, asks)| asks.iter().map(|ask| (ask.partition, ask.offset)))
        .collect();
    state.fetches.push((version, asked));
    let failing = match state.mishaps.pop_front() {
        Some(Mishap::Code(partition, code)) => Some((partition, code)),
        Some(Mishap::Recreated) => {
            state.id = Some(Uuid::from_u128(6));
            None
        }
        Some(other) => return Err(other),
        None => None,
    };
    if state.response_bytes_max > 0 {
        bytes_left = bytes_left.min(state.response_bytes_max);
    }
    let mut is_first = !state.cuts_first_batch;
    let mut answers = Vec::new();
    for (id, asks) in &topics {
        for ask in asks {
            let partition = &state.partitions[ask.partition as usize];
            let wrong_id = version >= 13 && *id != state.id;
            let code = match failing {
                Some((failing, code)) if failing == ask.partition => code,
                _ if wrong_id || state.is_missing => 100,
                _ if partition.leader != node => 6,
                _ => 0,
            };
            let room = ask.bytes_max.min(bytes_left);
            let records = if code == 0 {
                records(partition, ask.offset, room, is_first)
            } else {
                Vec::new()
            };
            is_first &= records.is_empty();
            bytes_left = bytes_left.saturating_sub(records.len());
            answers.push((
                *id,
                ask.partition,
                code,
                partition.end,
                partition.aborted.clone(),
                records,
            ));
        }
    }
    let topics = answers
        .into_iter()
        .fold(Vec::new(), |mut topics: Vec<(Option<Uuid>, Vec<_>)>, answer| {
            match topics.last_mut() {
                Some((id, answers)) if *id == answer.0 => answers.push(answer),
                _ => topics.push((answer.0, vec![answer])),
            }
            topics
        });
    let write = |writer: Writer, (_, partition, code, end, aborted, records): (_, i32, i16, i64, Vec<_>, Vec<u8>)| {
        let fixed = writer.int32(partition).int16(code).int64(end).int64(end).int64(0);
        let aborted = fixed.list(aborted, |writer, (producer, first)| {
            writer.int64(producer).int64(first).tags()
        });
        let aborted = if version >= 11 { aborted.int32(-1) } else { aborted };
        aborted.bytes(Some(&records)).tags()
    };
    Ok(head
        .int32(0)
        .int16(0)
        .int32(0)
        .list(topics, |writer, (id, answers)| {
            let writer = if version >= 13 {
                writer.uuid(id)
            } else {
                writer.text(Some("t"))
            };
            writer.list(answers, write).tags()
        })
        .tags())
}

/// Batches from `offset` on, cut off at `room` bytes, but not the first where `is_first`.
fn records(partition: &FakePartition, offset: i64, room: usize, is_first: bool) -> Vec<u8> {
    let mut records = Vec::new();
    for batch in partition.batches.iter().filter(|batch| batch.last_offset >= offset) {
        let bytes = batch.bytes();
        if records.len() + bytes.len() > room && !(is_first && records.is_empty()) {
            records.extend(&bytes[..room - records.len()]);
            break;
        }
        records.extend(bytes);
    }
    records
}
