//! Whole batches as values.

use std::sync::Arc;

use tidemill_engine::error::{Error, Kind, Result};

use super::{DStream, same_slide, without_batch};
use crate::batch::Batch;
use crate::graph::{Declaration, Stream};
use crate::outcome::guarded_call;
use crate::scope::Scope;

/// What a closure over batches gives back.
///
/// ```
/// # use tidemill::testing::batches_of;
/// let given = batches_of([[1, 2]], |numbers| {
///     numbers.transform(|batch| match batch.time_ms() {
///         0 => Err("no time"),
///         _ => Ok(batch.map(|number| number * 2)),
///     })
/// })?;
/// assert_eq!(given, [[2, 4]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait IntoBatch<T> {
    /// The batch.
    ///
    /// # Errors
    /// The closure's own error, as `UserCode`.
    fn into_batch(self) -> Result<Batch<T>>;
}

impl<T> IntoBatch<T> for Batch<T> {
    fn into_batch(self) -> Result<Batch<T>> {
        Ok(self)
    }
}

impl<T, E: std::fmt::Display> IntoBatch<T> for std::result::Result<Batch<T>, E> {
    fn into_batch(self) -> Result<Batch<T>> {
        self.map_err(|error| Error::new(Kind::UserCode, format!("{error:#}")))
    }
}

impl<T: Send + 'static> DStream<T> {
    /// What `f` makes of each batch. It runs once per batch and output, before any value is there, and may use
    /// [`Batch::time_ms`].
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let stamped = batches_of([['a'], ['b']], |letters| {
    ///     letters.transform(|batch| {
    ///         let time_ms = batch.time_ms();
    ///         batch.map(move |letter| (time_ms, letter))
    ///     })
    /// })?;
    /// assert_eq!(stamped, [[(1_000, 'a')], [(2_000, 'b')]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn transform<U: Send + 'static, B: IntoBatch<U>>(
        self,
        f: impl Fn(Batch<T>) -> B + Send + Sync + 'static,
    ) -> DStream<U> {
        let stream = Arc::clone(&self.stream);
        let what = Declaration {
            parents: vec![self.stream],
            ..Declaration::default()
        };
        let parent = self.compute;
        let compute = move |scope: &Arc<Scope>| {
            let batch = parent(scope)?;
            if !stream.is_due(scope.time_ms(), scope.zero_ms()) {
                return Ok(None);
            }
            let batch = batch.ok_or_else(|| without_batch(&stream))?;
            guarded_call(|| f(batch).into_batch()).map(Some)
        };
        DStream::declared(&self.graph, what, Arc::new(compute))
    }

    /// What `f` makes of each batch here and of that of `other` at the same time.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let both = batches_of([[1, 2]], |numbers| {
    ///     let tens = numbers.clone().map(|number| number * 10);
    ///     numbers.transform_with(tens, |numbers, tens| numbers.union(&tens))
    /// })?;
    /// assert_eq!(both, [[1, 2, 10, 20]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn transform_with<W: Send + 'static, U: Send + 'static, B: IntoBatch<U>>(
        self,
        other: DStream<W>,
        f: impl Fn(Batch<T>, Batch<W>) -> B + Send + Sync + 'static,
    ) -> DStream<U> {
        self.paired(other, false, move |left, right, _this| f(left, right).into_batch())
    }

    /// The same for an operator of the crate, which knows its own stream; with `by_key` it brings the values of a key together.
    pub(super) fn paired<W: Send + 'static, U: Send + 'static>(
        self,
        other: DStream<W>,
        by_key: bool,
        f: impl Fn(Batch<T>, Batch<W>, &Stream) -> Result<Batch<U>> + Send + Sync + 'static,
    ) -> DStream<U> {
        let parents = vec![Arc::clone(&self.stream), Arc::clone(&other.stream)];
        same_slide(&self.graph, &parents);
        let stream = self.graph.declare(Declaration {
            parents: parents.clone(),
            by_key,
            ..Declaration::default()
        });
        let this = Arc::clone(&stream);
        let (left, right) = (self.compute, other.compute);
        let compute = move |scope: &Arc<Scope>| {
            let (left, right) = (left(scope)?, right(scope)?);
            if !parents[0].is_due(scope.time_ms(), scope.zero_ms()) {
                return Ok(None);
            }
            let left = left.ok_or_else(|| without_batch(&parents[0]))?;
            let right = right.ok_or_else(|| without_batch(&parents[1]))?;
            guarded_call(|| f(left, right, &this)).map(Some)
        };
        DStream {
            stream,
            graph: self.graph,
            compute: Arc::new(compute),
        }
    }
}
