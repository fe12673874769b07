//! Kafka's protocol over a connection of our own: requests are written by `kafka-protocol`, responses are read by hand,
//! because that crate makes room for as many elements as a response claims to have.

pub(crate) mod admin;
pub(crate) mod allowed;
#[cfg(feature = "fuzzing")]
pub(crate) mod answers;
pub(crate) mod backoff;
pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod epoch_end;
pub(crate) mod fault;
pub(crate) mod group;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod produce;
mod request;
pub(crate) mod response;
mod sasl;
mod socket;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing;
mod tls;
pub(crate) mod topic_id;
pub(crate) mod transaction;
mod versions;
