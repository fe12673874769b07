//! Ranges of Kafka partitions as Arrow views.

pub(crate) mod aborted;
pub(crate) mod budget;
pub(crate) mod buffer_pool;
pub(crate) mod chunk;
mod columns;
mod damage;
pub(crate) mod decompress;
mod demand;
pub(crate) mod headers;
mod outage;
pub(crate) mod reader;
pub(crate) mod record_batch;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod scan;
pub(crate) mod scratch;
pub(crate) mod session;
mod slice;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing;
pub(crate) mod varint;
