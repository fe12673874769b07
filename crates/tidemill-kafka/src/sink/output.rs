//! Hands rows to librdkafka by the buffer.
//!
//! A call per record looks at the clock, the topic and the partition each time, which costs more than the rest of the
//! call. librdkafka has a call for many records of one partition; the crate over it does not pass it on, hence the few
//! unsafe lines here.
#![expect(unsafe_code, reason = "librdkafka's call for many records has no safe wrapper")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use rdkafka::bindings::{
    RD_KAFKA_MSG_F_COPY, rd_kafka_message_t, rd_kafka_produce_batch, rd_kafka_topic_destroy, rd_kafka_topic_new,
    rd_kafka_topic_t,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaRespErr;

use super::messages::{Message, Messages};
use super::observer::Observer;

/// The output topic of one producer. It must be dropped before its producer.
#[derive(Debug)]
pub(super) struct OutputTopic {
    handle: NonNull<rd_kafka_topic_t>,
}

// SAFETY: librdkafka's handles may be used and freed on any thread.
unsafe impl Send for OutputTopic {}

impl OutputTopic {
    /// The topic `name` of `producer`.
    ///
    /// # Errors
    /// Where librdkafka takes no such name.
    pub(super) fn new(producer: &BaseProducer<Observer>, name: &str) -> Result<Self, KafkaError> {
        let text = CString::new(name)?;
        // SAFETY: the producer lives, the name ends with NUL and is copied; without settings the producer's are taken.
        let handle = unsafe { rd_kafka_topic_new(producer.client().native_ptr(), text.as_ptr(), ptr::null_mut()) };
        NonNull::new(handle)
            .map(|handle| Self { handle })
            .ok_or(KafkaError::MessageProduction(RDKafkaErrorCode::InvalidTopic))
    }

    /// Sorts `messages` by partition, their order kept, to be handed over.
    pub(super) fn hand_over<'a>(&'a self, messages: &'a Messages) -> HandOver<'a> {
        let mut lists: BTreeMap<i32, Vec<rd_kafka_message_t>> = BTreeMap::new();
        for message in messages.iter() {
            lists.entry(message.partition).or_default().push(native(&message));
        }
        HandOver {
            topic: self.handle,
            lists: lists
                .into_iter()
                .map(|(partition, list)| (partition, list, 0))
                .collect(),
            messages: PhantomData,
        }
    }
}

impl Drop for OutputTopic {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        unsafe { rd_kafka_topic_destroy(self.handle.as_ptr()) }
    }
}

/// A record that librdkafka did not take, and will not.
#[derive(Debug)]
pub(super) struct NotTaken {
    pub(super) partition: i32,
    pub(super) bytes: usize,
    pub(super) error: KafkaError,
}

/// Records on their way into librdkafka's queue.
#[derive(Debug)]
pub(super) struct HandOver<'a> {
    topic: NonNull<rd_kafka_topic_t>,
    /// Per partition its records, and how many of them were taken.
    lists: Vec<(i32, Vec<rd_kafka_message_t>, usize)>,
    /// The records point into these.
    messages: PhantomData<&'a Messages>,
}

impl HandOver<'_> {
    /// Hands over what fits, in order; true once all was taken, false where the queue is full.
    ///
    /// # Errors
    /// The first record that is refused for another reason. Later ones may have been taken: the transaction is lost.
    pub(super) fn go_on(&mut self) -> Result<bool, NotTaken> {
        for (partition, list, taken) in &mut self.lists {
            let rest = &mut list[*taken..];
            if rest.is_empty() {
                continue;
            }
            let count = i32::try_from(rest.len()).unwrap_or(i32::MAX);
            // SAFETY: the topic and what the records point to live; keys and values are copied before the call returns.
            let good = unsafe {
                rd_kafka_produce_batch(
                    self.topic.as_ptr(),
                    *partition,
                    RD_KAFKA_MSG_F_COPY,
                    rest.as_mut_ptr(),
                    count,
                )
            };
            if good == count && count as usize == rest.len() {
                *taken = list.len();
                continue;
            }
            let refused = rest
                .iter()
                .find(|message| message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            let refused = refused.filter(|message| message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL);
            if let Some(message) = refused {
                return Err(NotTaken {
                    partition: *partition,
                    bytes: message.key_len + message.len,
                    error: KafkaError::MessageProduction(message.err.into()),
                });
            }
            // A full queue refuses all that follow, so that those taken are the first.
            *taken += usize::try_from(good).unwrap_or(0);
            return Ok(false);
        }
        Ok(true)
    }
}

fn native(message: &Message<'_>) -> rd_kafka_message_t {
    let (payload, len) = place(message.value);
    let (key, key_len) = place(message.key);
    rd_kafka_message_t {
        err: RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition: message.partition,
        payload,
        len,
        key,
        key_len,
        offset: 0,
        _private: ptr::null_mut(),
    }
}

/// Null for an absent key or value; an empty one has an address.
fn place(bytes: Option<&[u8]>) -> (*mut std::ffi::c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| {
        (bytes.as_ptr().cast_mut().cast(), bytes.len())
    })
}
