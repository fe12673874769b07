//! A block, and what is done with it.

use async_trait::async_trait;

use crate::error::{Error, Result};

/// What is received.
pub trait Item: Send + Sync + 'static {
    /// Bytes that it takes, near enough for limits.
    fn bytes(&self) -> usize;
}

impl Item for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Item for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// The number of a block. Increases within a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// The receiver's stream.
    pub stream: u32,
    /// Begin of the interval in which it was filled, in milliseconds since 1970 UTC.
    pub begun_ms: i64,
    /// 0 for the first of an interval; another one follows where a block was full before its tick.
    pub part: u32,
}

/// What was received together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<T> {
    /// Its number.
    pub id: BlockId,
    /// In the order in which they were added; never none.
    pub items: Vec<T>,
}

/// What a receiver does as its items become blocks. `M` is what it says of items as it adds them: an offset, a delivery tag.
#[async_trait]
pub trait BlockListener<T, M>: Send + Sync + 'static {
    /// These items were added together, and will be in one block. Called in the order of adding; nothing is added or cut
    /// meanwhile, so it must not wait.
    fn added(&self, items: &[T], metadata: &M);

    /// All that was added since the last call is this block. Nothing is added or cut meanwhile, so it must not wait.
    fn generated(&self, id: BlockId);

    /// Stores a block; when it returns, the block is durable and its source may be told. Called with one block after another.
    ///
    /// # Errors
    /// `Unavailable`: the same block is pushed again. Any other ends the generator.
    async fn push(&self, block: &Block<T>) -> Result<()>;

    /// A push failed. It is tried again where the error is transient.
    fn failed(&self, id: BlockId, error: &Error);
}
