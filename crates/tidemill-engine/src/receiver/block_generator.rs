//! Cuts what is received into blocks.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::aligned_timer::AlignedTimer;
use super::block::{Block, BlockListener, Item};
use super::block_queue::BlockQueue;
use super::buffer::Buffer;
use super::rate_limiter::RateLimiter;
use crate::error::{Error, Kind, Result};
use crate::time::Clock;

/// Settings of one block generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSettings {
    /// The receiver's stream, which is part of the blocks' numbers.
    pub stream: u32,
    /// A block per interval, cut at its multiples. Default 200 ms; below 50 ms blocks become small and many.
    pub interval: Duration,
    /// A block that would grow beyond this is cut before its tick. Default 4 MiB.
    pub block_bytes_max: usize,
    /// Blocks that wait to be pushed. Default 10.
    pub queue_blocks_max: usize,
    /// Between attempts to push a block that could not be stored for now. Default 1 s.
    pub retry_wait: Duration,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self {
            stream: 0,
            interval: Duration::from_millis(200),
            block_bytes_max: 4 << 20,
            queue_blocks_max: 10,
            retry_wait: Duration::from_secs(1),
        }
    }
}

impl BlockSettings {
    fn check(&self) -> Result<()> {
        if self.interval.as_millis() == 0 || self.queue_blocks_max == 0 {
            let text = "a block interval of at least 1 ms and a queue of at least one block are needed";
            return Err(Error::new(Kind::Config, text));
        }
        Ok(())
    }
}

/// A buffer that is cut at every tick, and a queue from which blocks are pushed in their order. An empty buffer gives no block.
///
/// Departs from Spark's where that loses, hangs or grows without bound:
/// * A push that fails for now is tried again with the same block. Any other failure ends the generator: whoever adds or stops is
///   told why. (There it ends the thread that pushes, and production hangs when ten more blocks have filled the queue.)
/// * While the queue is full and the buffer, too, adding waits. (There the buffer grows.)
/// * [`BlockGenerator::stop`] returns when the last block is stored, so what stores them is closed after it. (There the log is
///   closed before, and the last items are lost.)
pub struct BlockGenerator<T, M> {
    shared: Arc<Shared<T, M>>,
    ticking: JoinHandle<()>,
    pushing: JoinHandle<()>,
    pushed_all: watch::Receiver<bool>,
}

struct Shared<T, M> {
    // A leaf lock, held to add, to cut, and for the listener's callbacks, which do not wait.
    buffer: Mutex<Buffer<T>>,
    /// Gone when nothing more is to come. A leaf lock, held to look.
    queue: Mutex<Option<mpsc::Sender<Block<T>>>>,
    limiter: Arc<RateLimiter>,
    listener: Arc<dyn BlockListener<T, M>>,
    clock: Arc<dyn Clock>,
}

impl<T, M> fmt::Debug for BlockGenerator<T, M> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("BlockGenerator").finish_non_exhaustive()
    }
}

impl<T: Item, M: Send + Sync + 'static> BlockGenerator<T, M> {
    /// Starts cutting and pushing, on the runtime that this is called in.
    ///
    /// # Errors
    /// `Config` where the settings can't be.
    pub fn start(
        settings: BlockSettings,
        limiter: Arc<RateLimiter>,
        listener: Arc<dyn BlockListener<T, M>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        settings.check()?;
        let (sender, blocks) = mpsc::channel(settings.queue_blocks_max);
        let timer = AlignedTimer::starting(settings.interval, clock.now_ms());
        let buffer = Buffer::new(settings.stream, settings.block_bytes_max, timer);
        let mut queue = BlockQueue {
            blocks,
            listener: Arc::clone(&listener),
            clock: Arc::clone(&clock),
            retry_wait: settings.retry_wait,
        };
        let shared = Arc::new(Shared {
            buffer: Mutex::new(buffer),
            queue: Mutex::new(Some(sender)),
            limiter,
            listener,
            clock,
        });
        let (all, pushed_all) = watch::channel(false);
        let pusher = Arc::clone(&shared);
        let pushing = tokio::spawn(async move {
            // The reason is there before the queue is gone: whoever finds it gone looks for one.
            if let Err(error) = queue.run().await {
                pusher.buffer().end(Arc::new(error));
            }
            drop(queue);
            all.send_replace(true);
        });
        let ticking = tokio::spawn(Arc::clone(&shared).tick());
        Ok(Self {
            shared,
            ticking,
            pushing,
            pushed_all,
        })
    }

    /// Adds an item, within the rate; waits while it can't be taken. That it returns says nothing of its storage.
    ///
    /// # Errors
    /// Where the generator is stopped or has ended; then the item was not added.
    pub async fn add(&self, item: T) -> Result<()> {
        self.shared.add(vec![item], None).await
    }

    /// Adds an item, and tells the listener so.
    ///
    /// # Errors
    /// As [`BlockGenerator::add`].
    pub async fn add_with(&self, item: T, metadata: &M) -> Result<()> {
        self.shared.add(vec![item], Some(metadata)).await
    }

    /// Adds items all to one block, and tells the listener once.
    ///
    /// # Errors
    /// As [`BlockGenerator::add`]; then none of them was added.
    pub async fn add_all_with(&self, items: Vec<T>, metadata: &M) -> Result<()> {
        self.shared.add(items, Some(metadata)).await
    }

    /// Takes no more items, cuts the last block, and returns when all blocks are pushed. May be called again.
    ///
    /// # Errors
    /// Why a block could not be stored.
    pub async fn stop(&self) -> Result<()> {
        self.shared.buffer().stop();
        self.ticking.abort();
        let cut = self.shared.cut(|_| true).await;
        self.shared.queue().take();
        let mut pushed_all = self.pushed_all.clone();
        let pushed = pushed_all.wait_for(|all| *all).await.is_ok();
        self.shared.buffer().outcome()?;
        if pushed { cut } else { Err(pushing_panicked()) }
    }
}

impl<T, M> Drop for BlockGenerator<T, M> {
    fn drop(&mut self) {
        self.ticking.abort();
        self.pushing.abort();
    }
}

impl<T: Item, M: Send + Sync + 'static> Shared<T, M> {
    fn buffer(&self) -> MutexGuard<'_, Buffer<T>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Option<mpsc::Sender<Block<T>>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn add(&self, items: Vec<T>, metadata: Option<&M>) -> Result<()> {
        self.buffer().check()?;
        let bytes = items.iter().map(Item::bytes).sum();
        self.limiter.take(items.len() as u64, bytes as u64).await;
        let mut items = Some(items);
        while !self.add_now(&mut items, bytes, metadata)? {
            self.cut(|buffer| buffer.is_full_for(bytes)).await?;
        }
        Ok(())
    }

    /// Adds the items where the buffer has room for them; false where it has not.
    fn add_now(&self, items: &mut Option<Vec<T>>, bytes: usize, metadata: Option<&M>) -> Result<bool> {
        let mut buffer = self.buffer();
        buffer.check()?;
        if buffer.is_full_for(bytes) {
            return Ok(false);
        }
        let added = buffer.add(items.take().into_iter().flatten(), bytes);
        if let Some(metadata) = metadata {
            self.listener.added(added, metadata);
        }
        Ok(true)
    }

    /// Cuts the buffer once there is room in the queue, if that is still to be done then. The block goes to the queue under the lock,
    /// so blocks stand there in their order.
    async fn cut(&self, still: impl FnOnce(&Buffer<T>) -> bool) -> Result<()> {
        let sender = self.queue().clone();
        let Some(sender) = sender else { return Ok(()) };
        let Ok(room) = sender.reserve().await else {
            return Err(self.buffer().outcome().err().unwrap_or_else(pushing_panicked));
        };
        let mut buffer = self.buffer();
        if still(&buffer)
            && let Some(block) = buffer.cut()
        {
            self.listener.generated(block.id);
            room.send(block);
        }
        Ok(())
    }

    async fn tick(self: Arc<Self>) {
        loop {
            let timer = self.buffer().timer;
            timer.wait(self.clock.as_ref()).await;
            if self.cut(|_| true).await.is_err() {
                // Whoever adds or stops is told.
                return;
            }
            self.buffer().tick(self.clock.now_ms());
        }
    }
}

fn pushing_panicked() -> Error {
    Error::new(Kind::Bug, "pushing blocks panicked")
}
