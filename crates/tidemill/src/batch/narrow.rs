//! Operators that keep every value in its slice.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::Result;

use super::{Batch, Out, Slices};
use crate::outcome::UserResult;
use crate::task::OffsetRange;

/// One value in, any number of values out.
struct Each<T, F> {
    parent: Arc<dyn Slices<T>>,
    each: F,
}

impl<T, U, F> Slices<U> for Each<T, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: Fn(T, &mut dyn FnMut(U)) + Send + Sync + 'static,
{
    fn count(&self) -> usize {
        self.parent.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, U>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut each = |value| (self.each)(value, &mut *out);
            self.parent.run(slice, &mut each).await
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        self.parent.range(slice)
    }

    fn exchanges(&self) -> bool {
        self.parent.exchanges()
    }
}

/// One value in, one value out or an error that ends the run.
struct Tried<T, F> {
    parent: Arc<dyn Slices<T>>,
    each: F,
}

impl<T, U, R, F> Slices<U> for Tried<T, F>
where
    T: Send + 'static,
    U: Send + 'static,
    R: UserResult<U>,
    F: Fn(T) -> R + Send + Sync + 'static,
{
    fn count(&self) -> usize {
        self.parent.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, U>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut failed = None;
            let mut each = |value| {
                if failed.is_none() {
                    match (self.each)(value).into_result() {
                        Ok(value) => out(value),
                        Err(error) => failed = Some(error),
                    }
                }
            };
            self.parent.run(slice, &mut each).await?;
            failed.map_or(Ok(()), Err)
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        self.parent.range(slice)
    }

    fn exchanges(&self) -> bool {
        self.parent.exchanges()
    }
}

/// All values of a slice at once.
struct PerSlice<T, F> {
    parent: Arc<dyn Slices<T>>,
    per_slice: F,
}

impl<T, U, I, F> Slices<U> for PerSlice<T, F>
where
    T: Send + 'static,
    U: Send + 'static,
    I: IntoIterator<Item = U>,
    F: Fn(std::vec::IntoIter<T>) -> I + Send + Sync + 'static,
{
    fn count(&self) -> usize {
        self.parent.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, U>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut values = Vec::new();
            self.parent.run(slice, &mut |value| values.push(value)).await?;
            (self.per_slice)(values.into_iter()).into_iter().for_each(&mut *out);
            Ok(())
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        self.parent.range(slice)
    }

    fn exchanges(&self) -> bool {
        self.parent.exchanges()
    }
}

impl<T: Send + 'static> Batch<T> {
    fn each<U: Send + 'static>(&self, each: impl Fn(T, &mut dyn FnMut(U)) + Send + Sync + 'static) -> Batch<U> {
        let parent = Arc::clone(&self.slices);
        Batch::new(Each { parent, each }, &self.scope)
    }

    /// One value for each value.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| stream.transform(|batch| batch.map(|number| number * 2)))?;
    /// assert_eq!(given, [[2, 4]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map<U: Send + 'static>(&self, f: impl Fn(T) -> U + Send + Sync + 'static) -> Batch<U> {
        self.each(move |value, out| out(f(value)))
    }

    /// One value for each value, or an error that fails the batch.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([["1", "2"]], |stream| stream.transform(|batch| batch.try_map(|text| text.parse::<i32>())))?;
    /// assert_eq!(given, [[1, 2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn try_map<U: Send + 'static, R: UserResult<U>>(&self, f: impl Fn(T) -> R + Send + Sync + 'static) -> Batch<U> {
        let parent = Arc::clone(&self.slices);
        Batch::new(Tried { parent, each: f }, &self.scope)
    }

    /// The values for which `keep` is true.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| stream.transform(|batch| batch.filter(|number| number % 2 == 0)))?;
    /// assert_eq!(given, [[2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.each(move |value, out| {
            if keep(&value) {
                out(value);
            }
        })
    }

    /// Any number of values for each value.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([["to be"]], |stream| stream.transform(|batch| batch.flat_map(|line| line.split(' '))))?;
    /// assert_eq!(given, [["be", "to"]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map<U: Send + 'static, I: IntoIterator<Item = U>>(
        &self,
        f: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> Batch<U> {
        self.each(move |value, out| f(value).into_iter().for_each(out))
    }

    /// What `f` makes of all values of each slice.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2, 3, 4]], |stream| stream.transform(|batch| batch.map_partitions(|slice| [slice.sum::<i32>()])))?;
    /// assert_eq!(given, [[3, 7]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map_partitions<U: Send + 'static, I: IntoIterator<Item = U>>(
        &self,
        f: impl Fn(std::vec::IntoIter<T>) -> I + Send + Sync + 'static,
    ) -> Batch<U> {
        let parent = Arc::clone(&self.slices);
        Batch::new(PerSlice { parent, per_slice: f }, &self.scope)
    }

    /// One list per slice.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| stream.transform(|batch| batch.glom()))?;
    /// assert_eq!(given, [[vec![1], vec![2]]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn glom(&self) -> Batch<Vec<T>> {
        self.map_partitions(|values| std::iter::once(values.collect()))
    }
}

impl<K: Send + 'static, V: Send + 'static> Batch<(K, V)> {
    /// The same keys with what `f` makes of their values.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1)]], |stream| stream.transform(|batch| batch.map_values(|value| value * 2)))?;
    /// assert_eq!(given, [[('a', 2)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map_values<U: Send + 'static>(&self, f: impl Fn(V) -> U + Send + Sync + 'static) -> Batch<(K, U)> {
        self.map(move |(key, value)| (key, f(value)))
    }
}
