//! Slices after slices.

use std::sync::Arc;

use futures::future::BoxFuture;
use tidemill_engine::error::Result;

use super::{Batch, Out, Slices};
use crate::task::OffsetRange;

struct Union<T> {
    parents: Vec<Arc<dyn Slices<T>>>,
}

impl<T> Union<T> {
    /// The parent that a slice belongs to, and its number there. `slice` is below the count.
    fn parent(&self, mut slice: usize) -> (&Arc<dyn Slices<T>>, usize) {
        let last = self.parents.len() - 1;
        for parent in &self.parents[..last] {
            if slice < parent.count() {
                return (parent, slice);
            }
            slice -= parent.count();
        }
        (&self.parents[last], slice)
    }
}

impl<T: Send + 'static> Slices<T> for Union<T> {
    fn count(&self) -> usize {
        self.parents.iter().map(|parent| parent.count()).sum()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, T>) -> BoxFuture<'a, Result<()>> {
        let (parent, slice) = self.parent(slice);
        parent.run(slice, out)
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        let (parent, slice) = self.parent(slice);
        parent.range(slice)
    }

    fn exchanges(&self) -> bool {
        self.parents.iter().any(|parent| parent.exchanges())
    }
}

impl<T: Send + 'static> Batch<T> {
    /// The values of this batch, then those of `other`.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| stream.transform(|batch| batch.union(&batch.map(|number| -number))))?;
    /// assert_eq!(given, [[-2, -1, 1, 2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::union_of(&[self.clone(), other.clone()])
    }

    /// The values of all of them, of which there is at least one.
    pub(crate) fn union_of(batches: &[Self]) -> Self {
        let parents = batches.iter().map(|batch| Arc::clone(&batch.slices)).collect();
        Self::new(Union { parents }, &batches[0].scope)
    }
}
