//! Streams of keys and values.

use std::sync::Arc;

use super::DStream;
use crate::batch::Batch;
use crate::batch::exchange::Partitioner;
use crate::batch::keyed::{BothSides, EitherSide};
use crate::codec::{Data, Key};

impl<K: Send + 'static, V: Send + 'static> DStream<(K, V)> {
    /// The same keys with what `f` makes of their values.
    #[must_use]
    pub fn map_values<U: Send + 'static>(self, f: impl Fn(V) -> U + Send + Sync + 'static) -> DStream<(K, U)> {
        self.map(move |(key, value)| (key, f(value)))
    }
}

impl<K: Clone + Send + 'static, V: Send + 'static> DStream<(K, V)> {
    /// The same keys with any number of values for each of their values.
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
    #[must_use]
    pub fn reduce_by_key(self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Self {
        let f = Arc::new(f);
        self.by_key(move |batch, layout| {
            let f = Arc::clone(&f);
            batch.reduced(layout, move |a, b| f(a, b))
        })
    }

    /// All values of each key of a batch.
    #[must_use]
    pub fn group_by_key(self) -> DStream<(K, Vec<V>)> {
        self.by_key(Batch::grouped)
    }

    /// One combined value per key and batch: `create` begins with a value, `add` adds one, `merge` puts two combined ones together.
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
    #[must_use]
    pub fn cogroup<W: Data>(self, other: DStream<(K, W)>) -> DStream<(K, BothSides<V, W>)> {
        self.beside(other, Batch::clone)
    }
}

impl<K: Key, V: Data + Clone> DStream<(K, V)> {
    /// Each pair of values with the same key in a batch.
    #[must_use]
    pub fn join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, W))> {
        self.beside(other, Batch::inner)
    }

    /// Each value with those of the same key in the batch of `other`, or alone.
    #[must_use]
    pub fn left_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, Option<W>))> {
        self.beside(other, Batch::left_outer)
    }

    /// Each value of `other` with those of the same key in the batch here, or alone.
    #[must_use]
    pub fn right_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (Option<V>, W))> {
        self.beside(other, Batch::right_outer)
    }

    /// Each value of either side with those of the same key on the other, or alone.
    #[must_use]
    pub fn full_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, EitherSide<V, W>)> {
        self.beside(other, Batch::full_outer)
    }
}

impl<K: Key, V> DStream<(K, V)> {
    /// Gives the operator by key before it so many slices, 1 to 64: on each of them its keys are worked on by one core at a time.
    /// Default = the number of cores. Right behind another operator it is refused. The slices of a state may be changed from start to
    /// start: its keys lie in 64 buckets by their hash, and a slice takes every so-manyth.
    #[must_use]
    pub fn with_slices(self, slices: usize) -> Self {
        self.stream.deal_into(&self.graph, slices);
        self
    }

    /// Lets the operator by key before it have each key in the slice, counted from 0, that `slice_of` gives of key and number of
    /// slices, for example to keep a range of keys in one slice. Default = by the hash of the key. It must give the same slice for the
    /// same key, always; one that is not there fails the batch. Operators that keep a state refuse it: their keys lie in buckets by
    /// their hash, so that any number of slices finds them again.
    #[must_use]
    pub fn with_partitioner(self, slice_of: impl Fn(&K, usize) -> usize + Send + Sync + 'static) -> Self {
        self.stream.deal_by(&self.graph, Partitioner::of(slice_of));
        self
    }
}

#[cfg(test)]
mod tests;
