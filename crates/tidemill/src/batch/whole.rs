//! All slices together: what needs every value of a batch.

use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tidemill_engine::error::{Error, Kind, Result};
use tokio::sync::OnceCell;

use super::{Batch, Out, Slices};
use crate::outcome::guarded;

/// Slices that run beside each other at most, where they need not all run at once.
const SLICES_AT_ONCE: usize = 4;

/// Runs all slices, each into a fold of its own, and gives the folds in the order of the slices.
pub(crate) async fn fold_slices<T, A, F>(batch: &Batch<T>, begin: impl Fn() -> A, fold: F) -> Result<Vec<A>>
where
    T: Send + 'static,
    A: Send + 'static,
    F: Fn(&mut A, T) + Send + Sync + Clone + 'static,
{
    let slices = &batch.slices;
    let one = |slice: usize| {
        let (slices, fold, mut folded) = (Arc::clone(slices), fold.clone(), begin());
        async move {
            guarded(slices.run(slice, &mut |value| fold(&mut folded, value))).await?;
            Ok(folded)
        }
    };
    if batch.scope.is_small() {
        // Waking threads for a few records would cost more than it saves.
        return try_join_all((0..slices.count()).map(one)).await;
    }
    let at_once = if slices.exchanges() {
        slices.count()
    } else {
        SLICES_AT_ONCE
    };
    let spawned = |slice| {
        let task = OnDrop(tokio::spawn(one(slice)));
        async move {
            let mut task = task;
            (&mut task.0)
                .await
                .map_err(|error| Error::with_source(Kind::Bug, "a slice was lost", error))?
        }
    };
    // `buffered` begins them in order: the parts of a split range wait for each other.
    futures::stream::iter((0..slices.count()).map(spawned))
        .buffered(at_once.max(1))
        .try_collect()
        .await
}

/// A task that ends where nobody waits for it any more.
struct OnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for OnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all slices come to, in one slice.
struct Gathered<T, A, F, M> {
    batch: Batch<T>,
    begin: fn() -> A,
    fold: F,
    /// What the folds of the slices, in their order, come to.
    merge: M,
}

impl<T, A, U, F, M> Slices<U> for Gathered<T, A, F, M>
where
    T: Send + 'static,
    A: Send + 'static,
    U: Send + 'static,
    F: Fn(&mut A, T) + Send + Sync + Clone + 'static,
    M: Fn(Vec<A>) -> Option<U> + Send + Sync + 'static,
{
    fn count(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, _slice: usize, out: Out<'a, U>) -> BoxFuture<'a, Result<()>> {
        async move {
            let folded = fold_slices(&self.batch, self.begin, self.fold.clone()).await?;
            if let Some(value) = (self.merge)(folded) {
                out(value);
            }
            Ok(())
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

/// Values that are computed once and kept while the batch lasts.
struct Kept<T> {
    batch: Batch<T>,
    values: OnceCell<Vec<Vec<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Slices<T> for Kept<T> {
    fn count(&self) -> usize {
        self.batch.slices.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, T>) -> BoxFuture<'a, Result<()>> {
        async move {
            let values = self
                .values
                .get_or_try_init(|| fold_slices(&self.batch, Vec::new, |values, value| values.push(value)))
                .await?;
            values[slice].iter().cloned().for_each(&mut *out);
            Ok(())
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<crate::task::OffsetRange> {
        self.batch.slices.range(slice)
    }

    fn exchanges(&self) -> bool {
        true
    }
}

impl<T: Send + 'static> Batch<T> {
    /// The number of values: one value, also where there are none.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([['a', 'b']], |stream| stream.transform(|batch| batch.count()))?;
    /// assert_eq!(given, [[2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn count(&self) -> Batch<u64> {
        let gathered = Gathered {
            batch: self.clone(),
            begin: || 0u64,
            fold: |count: &mut u64, _value| *count += 1,
            merge: |counts: Vec<u64>| Some(counts.into_iter().sum()),
        };
        Batch::new(gathered, &self.scope)
    }

    /// One value of all, or none where there are none. `f` must be associative and commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2, 3]], |stream| stream.transform(|batch| batch.reduce(|a, b| a + b)))?;
    /// assert_eq!(given, [[6]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce(&self, f: impl Fn(T, T) -> T + Send + Sync + 'static) -> Self {
        let f = Arc::new(f);
        let each = Arc::clone(&f);
        let gathered = Gathered {
            batch: self.clone(),
            begin: || None,
            fold: move |reduced: &mut Option<T>, value| {
                *reduced = Some(match reduced.take() {
                    None => value,
                    Some(before) => each(before, value),
                });
            },
            merge: move |parts: Vec<Option<T>>| parts.into_iter().flatten().reduce(|a, b| f(a, b)),
        };
        Self::new(gathered, &self.scope)
    }
}

impl<T: Clone + Send + Sync + 'static> Batch<T> {
    /// The same values, computed once for all who take them within an output and held in memory until the batch ends.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| {
    ///     stream.transform(|batch| {
    ///         let squares = batch.map(|number| number * number).cache();
    ///         squares.union(&squares)
    ///     })
    /// })?;
    /// assert_eq!(given, [[1, 1, 4, 4]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn cache(&self) -> Self {
        let kept = Kept {
            batch: self.clone(),
            values: OnceCell::new(),
        };
        Self::new(kept, &self.scope)
    }
}
