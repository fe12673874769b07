//! Operators that bring values of one key together.

use std::sync::Arc;

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::BoxFuture;
use indexmap::IndexMap;
use tidemill_engine::error::Result;
use tokio::sync::OnceCell;

use super::exchange::{Layout, Sorted, Sorter};
use super::whole::fold_slices;
use super::{Batch, Out, Slices};
use crate::codec::{self, Data, Key};

/// Values by key, in the order in which the keys came: the same in every run.
pub(crate) type ByKey<K, V> = IndexMap<K, V, RandomState>;

/// All values of a key on both sides.
pub type BothSides<V, W> = (Vec<V>, Vec<W>);

/// A value of a key on either side, or on both.
pub type EitherSide<V, W> = (Option<V>, Option<W>);

/// How values become one, in the slice they come from and in the one they go to.
struct Combine<V, C> {
    create: Box<dyn Fn(V) -> C + Send + Sync>,
    add: Box<dyn Fn(C, V) -> C + Send + Sync>,
    merge: Box<dyn Fn(C, C) -> C + Send + Sync>,
}

/// The rows of a batch, sorted by the slices they go to; computed once.
pub(crate) struct Exchanged<T> {
    batch: Batch<T>,
    layout: Layout,
    rows: OnceCell<Vec<Sorted>>,
}

impl<K: Key, V: Data> Exchanged<(K, V)> {
    pub(crate) fn new(batch: &Batch<(K, V)>, layout: Layout) -> Self {
        Self {
            batch: batch.clone(),
            layout,
            rows: OnceCell::new(),
        }
    }

    /// The rows as they come.
    pub(crate) async fn plain(&self) -> Result<&[Sorted]> {
        let rows = self.rows.get_or_try_init(|| async {
            let scope = &self.batch.scope;
            let sort = |sorter: &mut Sorter, (key, value): (K, V)| sorter.add(&key, &value);
            fold_slices(&self.batch, || Sorter::new(scope, &self.layout), sort)
                .await?
                .into_iter()
                .map(Sorter::done)
                .collect()
        });
        rows.await.map(Vec::as_slice)
    }

    /// Each row of `slice` in the order of the slices it comes from.
    pub(crate) async fn rows(&self, slice: usize, mut row: impl FnMut(K, V)) -> Result<()> {
        for sorted in self.plain().await? {
            sorted.rows(slice, |bytes| {
                let key = codec::take(bytes)?;
                row(key, codec::take(bytes)?);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// One value per key, combined before the exchange and after it.
struct Combined<K, V, C> {
    exchanged: Exchanged<(K, V)>,
    combine: Arc<Combine<V, C>>,
    before_exchange: bool,
    rows: OnceCell<Vec<Sorted>>,
}

impl<K: Key, V: Data, C: Data> Combined<K, V, C> {
    async fn combined(&self) -> Result<&[Sorted]> {
        let rows = self.rows.get_or_try_init(|| async {
            let combine = Arc::clone(&self.combine);
            let add = move |all: &mut ByKey<K, Option<C>>, (key, value): (K, V)| match all.get_mut(&key) {
                Some(combined) => {
                    *combined = Some(match combined.take() {
                        Some(before) => (combine.add)(before, value),
                        None => (combine.create)(value),
                    });
                }
                None => {
                    let _new = all.insert(key, Some((combine.create)(value)));
                }
            };
            let batch = &self.exchanged.batch;
            let folded = fold_slices(batch, ByKey::default, add).await?;
            let sorted = folded.into_iter().map(|by_key| {
                let mut sorter = Sorter::new(&batch.scope, &self.exchanged.layout);
                for (key, combined) in by_key {
                    if let Some(combined) = combined {
                        sorter.add(&key, &combined);
                    }
                }
                sorter.done()
            });
            sorted.collect()
        });
        rows.await.map(Vec::as_slice)
    }
}

impl<K: Key, V: Data, C: Data> Slices<(K, C)> for Combined<K, V, C> {
    fn count(&self) -> usize {
        self.exchanged.layout.slices()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, (K, C)>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut all: ByKey<K, Option<C>> = ByKey::default();
            if self.before_exchange {
                for sorted in self.combined().await? {
                    sorted.rows(slice, |bytes| {
                        let key: K = codec::take(bytes)?;
                        let part: C = codec::take(bytes)?;
                        let combined = all.entry(key).or_default();
                        *combined = Some(match combined.take() {
                            Some(before) => (self.combine.merge)(before, part),
                            None => part,
                        });
                        Ok(())
                    })?;
                }
            } else {
                self.exchanged
                    .rows(slice, |key, value| {
                        let combined = all.entry(key).or_default();
                        *combined = Some(match combined.take() {
                            Some(before) => (self.combine.add)(before, value),
                            None => (self.combine.create)(value),
                        });
                    })
                    .await?;
            }
            for (key, combined) in all {
                if let Some(combined) = combined {
                    out((key, combined));
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

/// All values of each key on both sides.
struct Cogrouped<K, V, W> {
    left: Exchanged<(K, V)>,
    right: Exchanged<(K, W)>,
}

impl<K: Key, V: Data, W: Data> Slices<(K, (Vec<V>, Vec<W>))> for Cogrouped<K, V, W> {
    fn count(&self) -> usize {
        self.left.layout.slices()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, (K, (Vec<V>, Vec<W>))>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut all: ByKey<K, (Vec<V>, Vec<W>)> = ByKey::default();
            self.left
                .rows(slice, |key, value| all.entry(key).or_default().0.push(value))
                .await?;
            self.right
                .rows(slice, |key, value| all.entry(key).or_default().1.push(value))
                .await?;
            all.into_iter().for_each(&mut *out);
            Ok(())
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

/// Values dealt out over a given number of slices.
struct Dealt<T> {
    batch: Batch<T>,
    slices: usize,
    rows: OnceCell<Vec<Vec<Vec<u8>>>>,
}

impl<T: Data> Slices<T> for Dealt<T> {
    fn count(&self) -> usize {
        self.slices
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, T>) -> BoxFuture<'a, Result<()>> {
        async move {
            let slices = self.slices;
            let rows = self.rows.get_or_try_init(|| async {
                let begin = || (0usize, vec![Vec::new(); slices], None);
                let deal = move |dealt: &mut (usize, Vec<Vec<u8>>, Option<_>), value: T| {
                    let (next, rows, failed) = dealt;
                    if failed.is_none() {
                        *failed = codec::put(&value, &mut rows[*next % slices]).err();
                    }
                    *next += 1;
                };
                let dealt = fold_slices(&self.batch, begin, deal).await?;
                dealt
                    .into_iter()
                    .map(|(_, rows, failed)| failed.map_or(Ok(rows), Err))
                    .collect()
            });
            for dealt in rows.await? {
                let mut bytes = dealt[slice].as_slice();
                while !bytes.is_empty() {
                    out(codec::take(&mut bytes)?);
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

impl<T: Data> Batch<T> {
    /// The same values in `slices` slices, dealt out one by one.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[1, 2]], |stream| stream.transform(|batch| batch.repartition(3).glom().count()))?;
    /// assert_eq!(given, [[3]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn repartition(&self, slices: usize) -> Self {
        let dealt = Dealt {
            batch: self.clone(),
            slices: slices.max(1),
            rows: OnceCell::new(),
        };
        Self::new(dealt, &self.scope)
    }
}

impl<K: Key, V: Data> Batch<(K, V)> {
    /// One combined value per key. `create` begins with a value, `add` adds one, `merge` puts two combined ones together; with
    /// `before_exchange` values are combined in the slices they come from first, so that fewer cross.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |stream| stream.transform(|batch| {
    ///     batch.combine_by_key(|value| value, |most, value| value.max(most), |a, b| a.max(b), true)
    /// }))?;
    /// assert_eq!(given, [[('a', 2), ('b', 5)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn combine_by_key<C: Data>(
        &self,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
        before_exchange: bool,
    ) -> Batch<(K, C)> {
        self.combined(self.scope.layout(), create, add, merge, before_exchange)
    }

    pub(crate) fn combined<C: Data>(
        &self,
        layout: Layout,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
        before_exchange: bool,
    ) -> Batch<(K, C)> {
        let combined = Combined {
            exchanged: Exchanged::new(self, layout),
            combine: Arc::new(Combine {
                create: Box::new(create),
                add: Box::new(add),
                merge: Box::new(merge),
            }),
            before_exchange,
            rows: OnceCell::new(),
        };
        Batch::new(combined, &self.scope)
    }

    /// One value per key. `f` must be associative and commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |stream| stream.transform(|batch| batch.reduce_by_key(|a, b| a + b)))?;
    /// assert_eq!(given, [[('a', 3), ('b', 5)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key(&self, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Self {
        self.reduced(self.scope.layout(), f)
    }

    pub(crate) fn reduced(&self, layout: Layout, f: impl Fn(V, V) -> V + Send + Sync + 'static) -> Self {
        let f = Arc::new(f);
        let (add, merge) = (Arc::clone(&f), f);
        self.combined(
            layout,
            |value| value,
            move |a, b| add(a, b),
            move |a, b| merge(a, b),
            true,
        )
    }

    /// All values of each key.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 5), ('a', 2)]], |stream| stream.transform(|batch| batch.group_by_key()))?;
    /// assert_eq!(given, [[('a', vec![1, 2]), ('b', vec![5])]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn group_by_key(&self) -> Batch<(K, Vec<V>)> {
        self.grouped(self.scope.layout())
    }

    pub(crate) fn grouped(&self, layout: Layout) -> Batch<(K, Vec<V>)> {
        let add = |mut values: Vec<V>, value| {
            values.push(value);
            values
        };
        let merge = |mut values: Vec<V>, more: Vec<V>| {
            values.extend(more);
            values
        };
        self.combined(layout, |value| vec![value], add, merge, false)
    }

    /// All values of each key here and in `other`.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 2)]], |stream| stream.transform(|batch| batch.cogroup(&batch.filter(|(key, _)| *key == 'a'))))?;
    /// assert_eq!(given, [[('a', (vec![1], vec![1])), ('b', (vec![2], vec![]))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn cogroup<W: Data>(&self, other: &Batch<(K, W)>) -> Batch<(K, BothSides<V, W>)> {
        self.cogrouped(self.scope.layout(), other)
    }

    pub(crate) fn cogrouped<W: Data>(&self, layout: Layout, other: &Batch<(K, W)>) -> Batch<(K, BothSides<V, W>)> {
        let cogrouped = Cogrouped {
            left: Exchanged::new(self, layout.clone()),
            right: Exchanged::new(other, layout),
        };
        Batch::new(cogrouped, &self.scope)
    }
}

impl<K: Key, V: Data + Clone> Batch<(K, V)> {
    /// Each pair of values with the same key.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 2)]], |stream| stream.transform(|batch| batch.join(&batch.filter(|(key, _)| *key == 'a'))))?;
    /// assert_eq!(given, [[('a', (1, 1))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn join<W: Data + Clone>(&self, other: &Batch<(K, W)>) -> Batch<(K, (V, W))> {
        self.cogroup(other).inner()
    }

    /// Each value with those of the same key in `other`, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 2)]], |stream| stream.transform(|batch| batch.left_outer_join(&batch.filter(|(key, _)| *key == 'a'))))?;
    /// assert_eq!(given, [[('a', (1, Some(1))), ('b', (2, None))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn left_outer_join<W: Data + Clone>(&self, other: &Batch<(K, W)>) -> Batch<(K, (V, Option<W>))> {
        self.cogroup(other).left_outer()
    }

    /// Each value of `other` with those of the same key here, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 2)]], |stream| stream.transform(|batch| batch.filter(|(key, _)| *key == 'a').right_outer_join(&batch)))?;
    /// assert_eq!(given, [[('a', (Some(1), 1)), ('b', (None, 2))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn right_outer_join<W: Data + Clone>(&self, other: &Batch<(K, W)>) -> Batch<(K, (Option<V>, W))> {
        self.cogroup(other).right_outer()
    }

    /// Each value of either side with those of the same key on the other, or alone.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let given = batches_of([[('a', 1), ('b', 2)]], |stream| stream.transform(|batch| batch.full_outer_join(&batch.filter(|(key, _)| *key == 'a'))))?;
    /// assert_eq!(given, [[('a', (Some(1), Some(1))), ('b', (Some(2), None))]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn full_outer_join<W: Data + Clone>(&self, other: &Batch<(K, W)>) -> Batch<(K, EitherSide<V, W>)> {
        self.cogroup(other).full_outer()
    }
}

/// What joins make of the values of a key on both sides.
impl<K: Key, V: Data + Clone, W: Data + Clone> Batch<(K, BothSides<V, W>)> {
    pub(crate) fn inner(&self) -> Batch<(K, (V, W))> {
        self.flat_map(|(key, (left, right))| pairs(&key, &left, &right))
    }

    pub(crate) fn left_outer(&self) -> Batch<(K, (V, Option<W>))> {
        self.flat_map(|(key, (left, right))| pairs(&key, &left, &some_or_none(right)))
    }

    pub(crate) fn right_outer(&self) -> Batch<(K, (Option<V>, W))> {
        self.flat_map(|(key, (left, right))| pairs(&key, &some_or_none(left), &right))
    }

    pub(crate) fn full_outer(&self) -> Batch<(K, EitherSide<V, W>)> {
        self.flat_map(|(key, (left, right))| pairs(&key, &some_or_none(left), &some_or_none(right)))
    }
}

/// Each value of one side with each of the other.
fn pairs<K: Clone, A: Clone, B: Clone>(key: &K, left: &[A], right: &[B]) -> Vec<(K, (A, B))> {
    let with_all = |value: &A| {
        right
            .iter()
            .map(|other| (key.clone(), (value.clone(), other.clone())))
            .collect::<Vec<_>>()
    };
    left.iter().flat_map(with_all).collect()
}

/// The values, or one that is none.
fn some_or_none<T>(values: Vec<T>) -> Vec<Option<T>> {
    if values.is_empty() {
        return vec![None];
    }
    values.into_iter().map(Some).collect()
}
