//! The byte buffers that the views of one chunk point into.

use arrow::buffer::Buffer;
use bytes::Bytes;

use super::buffer_pool::{BufferPool, PooledBuffer};
use super::decompress::{BATCH_BYTES_MAX, Output};

/// Size of a decompression buffer that many batches share.
const SHARED_BYTES: usize = 4 << 20;

/// Collects buffers: the fetched bytes themselves where a batch is uncompressed, and decompressed batches one behind the
/// other.
#[derive(Debug)]
pub(crate) struct Scratch<'a> {
    pool: &'a BufferPool,
    /// `None` stands for the open buffer, which has its index from the start.
    buffers: Vec<Option<Buffer>>,
    /// Index of the fetched bytes, once a batch needed them.
    fetched: Option<u32>,
    open: Option<Open>,
    /// Size of the next buffer.
    next_bytes: usize,
}

#[derive(Debug)]
struct Open {
    buffer: PooledBuffer,
    index: u32,
    /// Where the batch that is being written begins.
    batch_from: usize,
    used: usize,
}

impl<'a> Scratch<'a> {
    /// For a chunk of `fetched_bytes`.
    pub(crate) fn new(pool: &'a BufferPool, fetched_bytes: usize) -> Self {
        let next_bytes = fetched_bytes.saturating_mul(4).clamp(64 << 10, SHARED_BYTES);
        Self {
            pool,
            buffers: Vec::new(),
            fetched: None,
            open: None,
            next_bytes,
        }
    }

    /// The index of the fetched bytes.
    pub(crate) fn fetched(&mut self, bytes: &Bytes) -> u32 {
        *self.fetched.get_or_insert_with(|| {
            self.buffers.push(Some(Buffer::from(bytes.clone())));
            (self.buffers.len() - 1) as u32
        })
    }

    /// Begins a decompressed batch.
    pub(crate) fn begin(&mut self) {
        if let Some(open) = &mut self.open {
            open.batch_from = open.used;
        }
    }

    /// The batch written since [`begin`](Self::begin): its buffer's index, where it starts there, and its bytes.
    pub(crate) fn batch(&self) -> (u32, usize, &[u8]) {
        self.open.as_ref().map_or((0, 0, &[]), |open| {
            (
                open.index,
                open.batch_from,
                &open.buffer.as_ref()[open.batch_from..open.used],
            )
        })
    }

    /// All buffers by index.
    pub(crate) fn finish(mut self) -> Vec<Buffer> {
        self.close();
        self.buffers
            .into_iter()
            .map(|buffer| buffer.expect("only the open buffer is missing, and it was closed"))
            .collect()
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.buffers[open.index as usize] = Some(Buffer::from(open.buffer.freeze(open.used)));
        }
    }
}

impl Output for Scratch<'_> {
    fn free(&mut self) -> &mut [u8] {
        self.open
            .as_mut()
            .map_or(&mut [], |open| &mut open.buffer.bytes_mut()[open.used..])
    }

    fn advance(&mut self, count: usize) {
        if let Some(open) = &mut self.open {
            open.used += count;
        }
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), String> {
        let batch = self.open.as_ref().map_or(0, |open| open.used - open.batch_from);
        if batch + bytes > BATCH_BYTES_MAX + (4 << 20) || batch > BATCH_BYTES_MAX {
            return Err(format!("it decompresses to more than {} MiB", BATCH_BYTES_MAX >> 20));
        }
        if self.free().len() >= bytes {
            return Ok(());
        }
        // A batch is read as one piece, so what is there of it moves along.
        let size = if batch == 0 {
            bytes
        } else {
            (2 * batch).min(BATCH_BYTES_MAX).max(batch + bytes)
        };
        let mut buffer = self.pool.take(size.max(self.next_bytes));
        self.next_bytes = SHARED_BYTES;
        if let Some(open) = &mut self.open {
            buffer.bytes_mut()[..batch].copy_from_slice(&open.buffer.as_ref()[open.batch_from..open.used]);
            open.used = open.batch_from;
        }
        self.close();
        self.buffers.push(None);
        self.open = Some(Open {
            buffer,
            index: (self.buffers.len() - 1) as u32,
            batch_from: 0,
            used: batch,
        });
        Ok(())
    }
}
