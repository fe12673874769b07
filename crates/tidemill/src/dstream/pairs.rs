//! Streams of keys and values.

use std::sync::Arc;

use super::DStream;
use crate::batch::Batch;
use crate::batch::exchange::Partitioner;
use crate::batch::keyed::{BothSides, EitherSide};
use crate::codec::{Data, Key};

impl<K: Send + 'static, V: Send + 'static> DStream<(K, V)> {
    /// The same keys with what `f` makes of their values.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let doubled = batches_of([[("a", 1), ("b", 2)]], |pairs| pairs.map_values(|value| value * 2))?;
    /// assert_eq!(doubled, [[("a", 2), ("b", 4)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map_values<U: Send + 'static>(self, f: impl Fn(V) -> U + Send + Sync + 'static) -> DStream<(K, U)> {
        self.map(move |(key, value)| (key, f(value)))
    }
}

impl<K: Clone + Send + 'static, V: Send + 'static> DStream<(K, V)> {
    /// The same keys with any number of values for each of their values.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let single = batches_of([[("a", vec![1, 2]), ("b", vec![])]], |pairs| pairs.flat_map_values(|values| values))?;
    /// assert_eq!(single, [[("a", 1), ("a", 2)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map_values<U: Send + 'static, I: IntoIterator<Item = U> + 'static>(
        self,
        f: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> DStream<(K, U)> {
        self.flat_map(move |(key, value)| {
            let keyed: Vec<(K, U)> = f(value).into_iter().map(|value| (key.clone(), value)).collect();
            keyed
        })
    }
}

impl<K: Key, V: Data> DStream<(K, V)> {
    /// One value per key and batch. `f` must be associative and commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let sums = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |pairs| pairs.reduce_by_key(|a, b| a + b))?;
    /// assert_eq!(sums, [[('a', 3), ('b', 5)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key(self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Self {
        let f = Arc::new(f);
        self.by_key(move |batch, layout| {
            let f = Arc::clone(&f);
            batch.reduced(layout, move |a, b| f(a, b))
        })
    }

    /// All values of each key of a batch.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let groups = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |pairs| pairs.group_by_key())?;
    /// assert_eq!(groups, [[('a', vec![1, 2]), ('b', vec![5])]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn group_by_key(self) -> DStream<(K, Vec<V>)> {
        self.by_key(Batch::grouped)
    }

    /// One combined value per key and batch: `create` begins with a value, `add` adds one, `merge` puts two combined ones together.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let count_and_sum = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |pairs| {
    ///     pairs.combine_by_key(
    ///         |value| (1, value),
    ///         |(count, sum), value| (count + 1, sum + value),
    ///         |(count, sum), (more, other)| (count + more, sum + other),
    ///     )
    /// })?;
    /// assert_eq!(count_and_sum, [[('a', (2, 3)), ('b', (1, 5))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn combine_by_key<C: Data>(
        self,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
    ) -> DStream<(K, C)> {
        let (create, add, merge) = (Arc::new(create), Arc::new(add), Arc::new(merge));
        self.by_key(move |batch, layout| {
            let (create, add, merge) = (Arc::clone(&create), Arc::clone(&add), Arc::clone(&merge));
            batch.combined(
                layout,
                move |value| create(value),
                move |combined, value| add(combined, value),
                move |a, b| merge(a, b),
                true,
            )
        })
    }

    /// A stream made of all values of each key here and in another.
    fn beside<W: Data, U: Send + 'static>(
        self,
        other: DStream<(K, W)>,
        made: impl Fn(&Batch<(K, BothSides<V, W>)>) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        self.paired(other, true, move |left, right, this| {
            Ok(made(&left.cogrouped(this.layout(&left.scope), &right)))
        })
    }

    /// All values of each key of a batch here and in `other`.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let joined = batches_of([[('a', 1), ('b', 2)]], |pairs| {
    ///     let other = pairs.clone().flat_map(|(key, value)| [(key, value * 10), ('c', 30)]).filter(|(key, _)| *key != 'b');
    ///     pairs.cogroup(other.reduce_by_key(|a, _b| a))
    /// })?;
    /// assert_eq!(joined, [[('a', (vec![1], vec![10])), ('b', (vec![2], vec![])), ('c', (vec![], vec![30]))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn cogroup<W: Data>(self, other: DStream<(K, W)>) -> DStream<(K, BothSides<V, W>)> {
        self.beside(other, Batch::clone)
    }
}

impl<K: Key, V: Data + Clone> DStream<(K, V)> {
    /// Each pair of values with the same key in a batch.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let joined = batches_of([[('a', 1), ('b', 2)]], |pairs| {
    ///     let other = pairs.clone().flat_map(|(key, value)| [(key, value * 10), ('c', 30)]).filter(|(key, _)| *key != 'b');
    ///     pairs.join(other.reduce_by_key(|a, _b| a))
    /// })?;
    /// assert_eq!(joined, [[('a', (1, 10))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, W))> {
        self.beside(other, Batch::inner)
    }

    /// Each value with those of the same key in the batch of `other`, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let joined = batches_of([[('a', 1), ('b', 2)]], |pairs| {
    ///     let other = pairs.clone().flat_map(|(key, value)| [(key, value * 10), ('c', 30)]).filter(|(key, _)| *key != 'b');
    ///     pairs.left_outer_join(other.reduce_by_key(|a, _b| a))
    /// })?;
    /// assert_eq!(joined, [[('a', (1, Some(10))), ('b', (2, None))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn left_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, Option<W>))> {
        self.beside(other, Batch::left_outer)
    }

    /// Each value of `other` with those of the same key in the batch here, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let joined = batches_of([[('a', 1), ('b', 2)]], |pairs| {
    ///     let other = pairs.clone().flat_map(|(key, value)| [(key, value * 10), ('c', 30)]).filter(|(key, _)| *key != 'b');
    ///     pairs.right_outer_join(other.reduce_by_key(|a, _b| a))
    /// })?;
    /// assert_eq!(joined, [[('a', (Some(1), 10)), ('c', (None, 30))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn right_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (Option<V>, W))> {
        self.beside(other, Batch::right_outer)
    }

    /// Each value of either side with those of the same key on the other, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let joined = batches_of([[('a', 1), ('b', 2)]], |pairs| {
    ///     let other = pairs.clone().flat_map(|(key, value)| [(key, value * 10), ('c', 30)]).filter(|(key, _)| *key != 'b');
    ///     pairs.full_outer_join(other.reduce_by_key(|a, _b| a))
    /// })?;
    /// assert_eq!(joined, [[('a', (Some(1), Some(10))), ('b', (Some(2), None)), ('c', (None, Some(30)))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn full_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, EitherSide<V, W>)> {
        self.beside(other, Batch::full_outer)
    }
}

impl<K: Key, V> DStream<(K, V)> {
    /// Gives the operator by key before it so many slices, 1 to 64: on each of them its keys are worked on by one core at a time.
    /// Default = the number of cores. Right behind another operator it is refused. The slices of a state may be changed from start to
    /// start: its keys lie in 64 buckets by their hash, and a slice takes every so-manyth.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let slices = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |pairs| pairs.reduce_by_key(|a, b| a + b).with_slices(8).glom().count())?;
    /// assert_eq!(slices, [[8]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn with_slices(self, slices: usize) -> Self {
        self.stream.deal_into(&self.graph, slices);
        self
    }

    /// Lets the operator by key before it have each key in the slice, counted from 0, that `slice_of` gives of key and number of
    /// slices, for example to keep a range of keys in one slice. Default = by the hash of the key. It must give the same slice for the
    /// same key, always; one that is not there fails the batch. Operators that keep a state refuse it: their keys lie in buckets by
    /// their hash, so that any number of slices finds them again.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let slices = batches_of([[(1, 'a'), (90, 'b'), (3, 'c')]], |pairs| {
    ///     let groups = pairs.group_by_key().with_slices(2).with_partitioner(|age, _slices| usize::from(*age >= 18));
    ///     groups.map(|(age, _names)| age).map_partitions(|ages| [ages.max()])
    /// })?;
    /// assert_eq!(slices, [[Some(3), Some(90)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn with_partitioner(self, slice_of: impl Fn(&K, usize) -> usize + Send + Sync + 'static) -> Self {
        self.stream.deal_by(&self.graph, Partitioner::of(slice_of));
        self
    }
}

#[cfg(test)]
mod tests;
