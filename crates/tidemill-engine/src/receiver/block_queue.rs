//! Blocks between the buffer and their storage, pushed one after another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::block::{Block, BlockListener, Item};
use crate::error::Result;
use crate::time::Clock;

/// The end that pushes.
pub(super) struct BlockQueue<T, M> {
    pub(super) blocks: mpsc::Receiver<Block<T>>,
    pub(super) listener: Arc<dyn BlockListener<T, M>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Between attempts at one block.
    pub(super) retry_wait: Duration,
}

impl<T: Item, M: Send + Sync + 'static> BlockQueue<T, M> {
    /// Pushes blocks until there are no more to come.
    ///
    /// # Errors
    /// The first that does not pass by itself. Blocks behind it are dropped: their sources were told of none.
    pub(super) async fn run(&mut self) -> Result<()> {
        while let Some(block) = self.blocks.recv().await {
            self.push(&block).await?;
        }
        Ok(())
    }

    async fn push(&self, block: &Block<T>) -> Result<()> {
        loop {
            let Err(error) = self.listener.push(block).await else {
                return Ok(());
            };
            self.listener.failed(block.id, &error);
            if !error.is_transient() {
                return Err(error);
            }
            self.clock.sleep(self.retry_wait).await;
        }
    }
}
