//! The values of a stream in one batch: slices that are computed when somebody takes their values, as often as they are taken.
//!
//! Operators on single values are fused: each wraps the closure that takes the values of the one before, and no collection
//! lies between them. Only an exchange of rows between slices encodes them ([`exchange`]).

pub(crate) mod exchange;
pub(crate) mod keyed;
mod leaf;
mod narrow;
mod union;
pub(crate) mod whole;

use std::fmt::{self, Debug};
use std::sync::Arc;

use futures::future::BoxFuture;
use tidemill_engine::error::Result;

use crate::scope::Scope;
use crate::task::OffsetRange;

pub(crate) use leaf::Leaf;

/// Takes the values of a slice, one after another.
pub(crate) type Out<'a, T> = &'a mut (dyn FnMut(T) + Send);

/// Values in slices. The same slice gives the same values in the same order, however often it is run.
pub(crate) trait Slices<T>: Send + Sync {
    /// The number of slices.
    fn count(&self) -> usize;

    /// Gives the values of one slice to `out`.
    fn run<'a>(&'a self, slice: usize, out: Out<'a, T>) -> BoxFuture<'a, Result<()>>;

    /// The offsets that a slice is made of, where it is made of one range and no exchange lies between.
    fn range(&self, _slice: usize) -> Option<OffsetRange> {
        None
    }

    /// True where rows cross from slice to slice, so that all slices must run at once.
    fn exchanges(&self) -> bool;
}

/// The values of a stream in one batch. Lazy: nothing is computed before an output or a state takes it.
///
/// ```
/// # use tidemill::testing::batches_of;
/// let given = batches_of([[1, 2, 3]], |numbers| {
///     numbers.transform(|batch: tidemill::Batch<i32>| batch.filter(|number| number % 2 == 1).map(|number| number * 10))
/// })?;
/// assert_eq!(given, [[10, 30]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct Batch<T> {
    pub(crate) slices: Arc<dyn Slices<T>>,
    pub(crate) scope: Arc<Scope>,
}

impl<T> Clone for Batch<T> {
    fn clone(&self) -> Self {
        Self {
            slices: Arc::clone(&self.slices),
            scope: Arc::clone(&self.scope),
        }
    }
}

impl<T> Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("time_ms", &self.scope.time_ms())
            .field("slices", &self.slices.count())
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Batch<T> {
    pub(crate) fn new(slices: impl Slices<T> + 'static, scope: &Arc<Scope>) -> Self {
        Self {
            slices: Arc::new(slices),
            scope: Arc::clone(scope),
        }
    }

    /// Batch time in milliseconds since 1970 UTC.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([['a']], |stream| stream.transform(|batch| {
    ///     let time_ms = batch.time_ms();
    ///     batch.map(move |letter| (time_ms, letter))
    /// }))?;
    /// assert_eq!(given, [[(1_000, 'a')]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn time_ms(&self) -> i64 {
        self.scope.time_ms()
    }

    /// The number of slices.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([['a', 'b']], |stream| stream.transform(|batch| {
    ///     let slices = batch.slice_count();
    ///     batch.map(move |letter| (slices, letter))
    /// }))?;
    /// assert_eq!(given, [[(2, 'a'), (2, 'b')]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn slice_count(&self) -> usize {
        self.slices.count()
    }
}
