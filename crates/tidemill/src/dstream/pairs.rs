//! Streams of keys and values.

use std::sync::Arc;

use super::DStream;
use crate::batch::Batch;
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
        self.derived(move |batch| {
            let f = Arc::clone(&f);
            batch.reduce_by_key(move |a, b| f(a, b))
        })
    }

    /// All values of each key of a batch.
    #[must_use]
    pub fn group_by_key(self) -> DStream<(K, Vec<V>)> {
        self.derived(Batch::group_by_key)
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
        self.derived(move |batch| {
            let (create, add, merge) = (Arc::clone(&create), Arc::clone(&add), Arc::clone(&merge));
            batch.combine_by_key(
                move |value| create(value),
                move |combined, value| add(combined, value),
                move |a, b| merge(a, b),
                true,
            )
        })
    }

    /// A stream made of this one and another with the same keys.
    fn beside<W: Data, U: Send + 'static>(
        self,
        other: DStream<(K, W)>,
        both: impl Fn(&Batch<(K, V)>, &Batch<(K, W)>) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        self.transform_with(other, move |left, right| both(&left, &right))
    }

    /// All values of each key of a batch here and in `other`.
    #[must_use]
    pub fn cogroup<W: Data>(self, other: DStream<(K, W)>) -> DStream<(K, BothSides<V, W>)> {
        self.beside(other, Batch::cogroup)
    }
}

impl<K: Key, V: Data + Clone> DStream<(K, V)> {
    /// Each pair of values with the same key in a batch.
    #[must_use]
    pub fn join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, W))> {
        self.beside(other, Batch::join)
    }

    /// Each value with those of the same key in the batch of `other`, or alone.
    #[must_use]
    pub fn left_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (V, Option<W>))> {
        self.beside(other, Batch::left_outer_join)
    }

    /// Each value of `other` with those of the same key in the batch here, or alone.
    #[must_use]
    pub fn right_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, (Option<V>, W))> {
        self.beside(other, Batch::right_outer_join)
    }

    /// Each value of either side with those of the same key on the other, or alone.
    #[must_use]
    pub fn full_outer_join<W: Data + Clone>(self, other: DStream<(K, W)>) -> DStream<(K, EitherSide<V, W>)> {
        self.beside(other, Batch::full_outer_join)
    }
}
