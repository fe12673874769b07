//! Input that can't be read again is cut into blocks, as Spark Streaming's receivers do it.
//!
//! ```text
//! receiver ─► RateLimiter ─► buffer ─(tick, or full)─► queue of blocks ─► BlockListener::push ─► write-ahead log
//! ```
//!
//! A receiver whose source takes acknowledgements gives it one only after `push` has returned for the block that holds the record:
//! push returns when the block's record in the log is acknowledged ([`crate::wal`]).
//!
//! Maxima: a block [`BlockSettings::block_bytes_max`] (a group that is added as one goes whole, whatever its size); blocks that wait
//! [`BlockSettings::queue_blocks_max`]; beside these one in the buffer and one that is pushed.

mod aligned_timer;
mod block;
mod block_generator;
mod block_queue;
mod buffer;
mod rate_limiter;
#[cfg(test)]
mod tests;
mod token_bucket;

pub use block::{Block, BlockId, BlockListener, Item};
pub use block_generator::{BlockGenerator, BlockSettings};
pub use rate_limiter::{RateLimiter, RateLimits};
