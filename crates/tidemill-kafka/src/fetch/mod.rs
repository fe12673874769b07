//! Ranges of Kafka partitions as Arrow views.

mod aborted;
pub(crate) mod budget;
pub(crate) mod buffer_pool;
mod chunk;
mod columns;
mod damage;
mod decompress;
mod demand;
pub(crate) mod headers;
mod outage;
pub(crate) mod reader;
pub(crate) mod record_batch;
mod request;
mod response;
pub(crate) mod scan;
mod scratch;
pub(crate) mod session;
mod slice;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod varint;
