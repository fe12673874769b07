//! A queue in memory: what a program puts in becomes a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_engine::error::Result;
use tidemill_engine::source::Source;

use super::Opens;
use super::memory::{MemorySource, Reach};

/// Lists of values for [`StreamingContext::queue_stream`](crate::StreamingContext::queue_stream). Clone it to fill it from elsewhere.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let queue = tidemill::Queue::default();
/// # let kept = Output::default();
/// # let run = harness.start(|context| {
/// context.queue_stream(&queue).foreach_batch(kept.keep());
/// // from any thread, while the program runs
/// queue.push([1, 2]);
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// assert_eq!(kept.at(1_000), [1, 2]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug)]
pub struct Queue<T>(Arc<Mutex<Lists<T>>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lists {
            taken: Vec::new(),
            offset: 0,
            waiting: VecDeque::new(),
            one_at_a_time: true,
        })))
    }
}

/// A leaf lock guards it, held for a push or a look.
#[derive(Debug)]
struct Lists<T> {
    /// Values of the batch in hand, by offset from `offset` on.
    taken: Vec<T>,
    offset: i64,
    waiting: VecDeque<Vec<T>>,
    one_at_a_time: bool,
}

impl<T> Queue<T> {
    /// A queue that gives all lists that wait to the next batch, not one to each.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let queue = tidemill::Queue::all_at_once();
    /// # let kept = Output::default();
    /// queue.push([1, 2]);
    /// queue.push([3]);
    /// # let run = harness.start(|context| {
    /// context.queue_stream(&queue).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [1, 2, 3]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn all_at_once() -> Self {
        let queue = Self::default();
        queue.lock().one_at_a_time = false;
        queue
    }

    /// Puts a list in.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let queue = tidemill::Queue::default();
    /// # let kept = Output::default();
    /// queue.push([1, 2]);
    /// # let run = harness.start(|context| {
    /// context.queue_stream(&queue).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [1, 2]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn push(&self, values: impl IntoIterator<Item = T>) {
        self.lock().waiting.push_back(values.into_iter().collect());
    }

    fn lock(&self) -> MutexGuard<'_, Lists<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Queue<T> {
    /// The value at an offset of the batch in hand.
    pub(crate) fn value(&self, offset: i64) -> Option<T> {
        let lists = self.lock();
        let at = usize::try_from(offset - lists.offset).ok()?;
        lists.taken.get(at).cloned()
    }

    /// Takes what the next batch gets, behind what batches before have got up to `until`.
    fn take(&self, until: i64) -> i64 {
        let mut lists = self.lock();
        let end = |lists: &Lists<T>| lists.offset + i64::try_from(lists.taken.len()).unwrap_or(i64::MAX);
        if until < end(&lists) {
            // The lists that were taken are not planned yet.
            return end(&lists);
        }
        lists.offset = end(&lists);
        lists.taken.clear();
        while let Some(list) = lists.waiting.pop_front() {
            lists.taken.extend(list);
            if lists.one_at_a_time {
                break;
            }
        }
        end(&lists)
    }
}

/// A queue as a source of one partition.
pub(crate) struct QueueReach<T> {
    queue: Queue<T>,
    /// The end of the ranges that were opened. A leaf lock.
    opened: Mutex<i64>,
}

impl<T: Clone + Send> Reach for QueueReach<T> {
    fn ends(&self) -> Vec<i64> {
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        vec![self.queue.take(opened)]
    }

    fn opened(&self, until: i64) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *opened = (*opened).max(until);
    }
}

/// Opens a queue.
pub(crate) struct QueueOpens<T>(pub(crate) Queue<T>);

impl<T> std::fmt::Debug for QueueOpens<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueueOpens")
    }
}

impl<T: Clone + Send + 'static> Opens for QueueOpens<T> {
    fn open(&self, _app: &str) -> Result<Arc<dyn Source>> {
        let reach = QueueReach {
            queue: self.0.clone(),
            opened: Mutex::new(0),
        };
        Ok(Arc::new(MemorySource::new("queue", Arc::new(reach))))
    }
}
