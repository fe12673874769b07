//! What went wrong with a request, by what to do next.

use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use tidemill_engine::error::{Error, Kind};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It may pass by itself: a connection lost, a leader that moved, a broker that starts.
    #[error("{0}")]
    Passing(String),
    /// It will not.
    #[error(transparent)]
    Final(#[from] Error),
}

/// Result of a request.
pub(crate) type Answer<T> = Result<T, Fault>;

impl Fault {
    /// An answer that breaks the protocol.
    pub(crate) fn malformed(broker: &str, what: &str) -> Self {
        Self::Final(Error::new(
            Kind::Data,
            format!("broker {broker} sent a malformed answer: {what}"),
        ))
    }
}

/// Turns a response's error code into a fault; `what` names what was asked for.
///
/// # Errors
/// For every code but 0.
pub(crate) fn check(code: i16, what: impl FnOnce() -> String) -> Answer<()> {
    refuse(code, what, "; grant DESCRIBE and READ on the topic")
}

/// [`check`] for what writes.
///
/// # Errors
/// For every code but 0; `Fenced` where another producer has taken the transactional id.
pub(crate) fn check_write(code: i16, what: impl FnOnce() -> String) -> Answer<()> {
    match code.err() {
        Some(ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced) => Err(Fault::Final(Error::new(
            Kind::Fenced,
            format!("{}: {}", what(), name(code)),
        ))),
        _ => refuse(code, what, "; grant DESCRIBE and WRITE on the topic"),
    }
}

fn refuse(code: i16, what: impl FnOnce() -> String, of_topic: &str) -> Answer<()> {
    let Some(error) = code.err() else { return Ok(()) };
    if is_passing(&error) {
        return Err(Fault::Passing(format!("{}: {}", what(), name(code))));
    }
    let advice = match error {
        ResponseError::TopicAuthorizationFailed => of_topic,
        ResponseError::GroupAuthorizationFailed => "; grant READ on the group, or leave `group` out",
        ResponseError::TransactionalIdAuthorizationFailed => "; grant Write on the transactional id",
        ResponseError::ClusterAuthorizationFailed => "; grant access to the cluster",
        _ => "",
    };
    Err(Fault::Final(Error::new(
        Kind::Refused,
        format!("{}: {}{advice}", what(), name(code)),
    )))
}

/// An error code as it stands in Kafka's tables, without its number.
pub(crate) fn name(code: i16) -> String {
    code.err().map_or_else(
        || "no error".to_owned(),
        |error| format!("the broker answered {error:?}"),
    )
}

fn is_passing(error: &ResponseError) -> bool {
    // Unknown topics are looked into where they matter; after a restart brokers report them for a moment.
    error.is_retriable()
        || matches!(
            error,
            ResponseError::UnknownServerError
                | ResponseError::UnknownTopicId
                | ResponseError::InconsistentTopicId
                | ResponseError::FencedLeaderEpoch
                | ResponseError::UnknownLeaderEpoch
                | ResponseError::OffsetNotAvailable
                // The transaction before is still being ended.
                | ResponseError::ConcurrentTransactions
                // A producer that the broker has lost track of: the next one is known again.
                | ResponseError::InvalidTxnState
                | ResponseError::InvalidProducerIdMapping
                | ResponseError::OutOfOrderSequenceNumber
                | ResponseError::DuplicateSequenceNumber
                | ResponseError::UnknownProducerId
        )
}
