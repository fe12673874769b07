//! Ranges of Kafka partitions as Arrow views.

mod aborted;
mod buffer_pool;
mod chunk;
mod columns;
mod damage;
mod lz4_frame;
mod record_batch;
mod scratch;
#[cfg(test)]
mod testing;
mod varint;
