//! Byte buffers that are used again: fetched records and decompressed batches.
//!
//! A fresh buffer of this size costs a system call and a page fault for every 4 KiB; one that comes back costs neither.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The sizes that are kept. Anything else is allocated and freed as usual.
const CLASS_BYTES: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// A store of idle buffers, shared by clones. Keeps at most the given number of bytes idle; what is in use is not
/// counted here, since the fetch budget bounds it.
#[derive(Clone)]
pub(crate) struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// A leaf lock: held only to push or pop, never across an await, taken once per chunk.
    idle: Mutex<Idle>,
    idle_bytes_max: usize,
}

#[derive(Default)]
struct Idle {
    classes: [Vec<Vec<u8>>; CLASS_BYTES.len()],
    bytes: usize,
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("idle_bytes_max", &self.shared.idle_bytes_max)
            .finish_non_exhaustive()
    }
}

impl BufferPool {
    /// A pool that keeps at most `idle_bytes_max` bytes of unused buffers.
    pub(crate) fn new(idle_bytes_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                idle: Mutex::default(),
                idle_bytes_max,
            }),
        }
    }

    /// A buffer of at least `bytes` initialised bytes, whose contents are arbitrary.
    pub(crate) fn take(&self, bytes: usize) -> PooledBuffer {
        // Small requests are exact: rounding a few bytes up to a class would waste most of it.
        let class = if bytes < CLASS_BYTES[0] / 4 {
            None
        } else {
            CLASS_BYTES.iter().position(|class| *class >= bytes)
        };
        let data = class.and_then(|class| {
            let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let data = idle.classes[class].pop();
            idle.bytes -= data.as_ref().map_or(0, Vec::len);
            data
        });
        let data = data.unwrap_or_else(|| vec![0; class.map_or(bytes, |class| CLASS_BYTES[class])]);
        PooledBuffer {
            data,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A buffer that returns to its pool when the last view of it is dropped.
pub(crate) struct PooledBuffer {
    data: Vec<u8>,
    shared: Arc<Shared>,
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

impl PooledBuffer {
    /// All of the buffer, for writing.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The first `length` bytes, shared and immutable from now on.
    pub(crate) fn freeze(self, length: usize) -> Bytes {
        let mut bytes = Bytes::from_owner(self);
        bytes.truncate(length);
        bytes
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(class) = CLASS_BYTES.iter().position(|class| *class == self.data.len()) else {
            return;
        };
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.bytes + self.data.len() <= self.shared.idle_bytes_max {
            idle.bytes += self.data.len();
            idle.classes[class].push(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_bytes(pool: &BufferPool) -> usize {
        pool.shared.idle.lock().unwrap().bytes
    }

    #[test]
    fn a_buffer_comes_back_when_its_last_view_goes() {
        let pool = BufferPool::new(8 << 20);
        let mut buffer = pool.take(100_000);
        assert_eq!(buffer.bytes_mut().len(), 256 << 10);
        buffer.bytes_mut()[3] = 7;
        let whole = buffer.freeze(5);
        let part = whole.slice(3..);
        drop(whole);
        assert_eq!((idle_bytes(&pool), &part[..]), (0, &[7, 0][..]));
        drop(part);
        assert_eq!(idle_bytes(&pool), 256 << 10);
        assert_eq!(pool.take(200_000).bytes_mut()[3], 7);
    }

    #[test]
    fn idle_bytes_are_bounded_and_odd_sizes_are_not_kept() {
        let pool = BufferPool::new(1 << 20);
        drop((
            pool.take(1 << 20),
            pool.take(1 << 20),
            pool.take(10),
            pool.take(5 << 20),
        ));
        assert_eq!(idle_bytes(&pool), 1 << 20);
    }
}
