//! Windows that are brought forward: what left is taken out of the window before, what came is put in.
//!
//! A batch costs what left and what came, however long the window is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::state::Changes;

use super::DStream;
use super::keyed_state::{Done, KeyPlace, KeyRows, KeyedState, SliceState, Update};
use super::windows::{lengths, time_bytes};
use crate::batch::{Batch, Out, Slices};
use crate::codec::{self, Data, Key};
use crate::graph::Declaration;
use crate::scope::Scope;

/// Prefix of the reduced batches: then time, then key.
const PANE: &[u8] = b"p";
/// Prefix of the window: then key.
const WINDOW: &[u8] = b"w";

/// Whether a key stays in a window with a value.
type Keep<K, V> = Box<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// How values of a window are put in, taken out, and kept.
struct Reduce<K, V> {
    put: Box<dyn Fn(V, V) -> V + Send + Sync>,
    take: Box<dyn Fn(V, V) -> V + Send + Sync>,
    keep: Option<Keep<K, V>>,
}

/// The times of a window.
#[derive(Debug, Clone, Copy)]
struct Times {
    time_ms: i64,
    window_ms: i64,
    slide_ms: i64,
    is_due: bool,
}

impl Times {
    /// Panes that left since the window before: after the first, up to the second.
    fn left(self) -> (i64, i64) {
        let before = self.time_ms - self.slide_ms;
        (before - self.window_ms, (self.time_ms - self.window_ms).min(before))
    }

    /// Panes that came: after this.
    fn came_after(self) -> i64 {
        (self.time_ms - self.slide_ms).max(self.time_ms - self.window_ms)
    }
}

/// What left and came of one key.
struct Moved<V> {
    left: Option<V>,
    came: Option<V>,
}

/// By bucket and key.
type AllMoved<V> = BTreeMap<(u16, Vec<u8>), Moved<V>>;

impl<K: Key, V: Data + Clone> Reduce<K, V> {
    fn merge(&self, into: Option<V>, value: V) -> Option<V> {
        Some(match into {
            Some(before) => (self.put)(before, value),
            None => value,
        })
    }

    fn update(&self, times: Times, state: &SliceState, rows: Vec<KeyRows<K, V>>) -> Result<Done<()>> {
        let mut changes = Changes::default();
        let mut newest = Vec::with_capacity(rows.len());
        for KeyRows { place, values, .. } in rows {
            if let Some(value) = values.into_iter().reduce(|a, b| (self.put)(a, b)) {
                let pane = [PANE, &time_bytes(times.time_ms)].concat();
                changes.set(place.bucket, place.under(&pane), Some(codec::keep(&value)?));
                newest.push((place, value));
            }
        }
        if times.is_due {
            let moved = self.moved(times, state, newest)?;
            for ((bucket, key), moved) in moved {
                self.bring_forward(state, bucket, &key, moved, &mut changes)?;
            }
            self.forget(times, state, &mut changes)?;
        }
        Ok(Done {
            changes,
            mapped: Vec::new(),
        })
    }

    fn moved(&self, times: Times, state: &SliceState, newest: Vec<(KeyPlace, V)>) -> Result<AllMoved<V>> {
        let mut all: AllMoved<V> = BTreeMap::new();
        let mut gather = |bucket: u16, key: Vec<u8>, value: V, came: bool| {
            let moved = all.entry((bucket, key)).or_insert(Moved { left: None, came: None });
            let side = if came { &mut moved.came } else { &mut moved.left };
            *side = self.merge(side.take(), value);
        };
        let panes = |after: i64, until: i64| {
            let key = |time: i64| [PANE, &time_bytes(time + 1)].concat();
            (key(after), key(until))
        };
        let (left_after, left_until) = times.left();
        for (after, until, came) in [
            (left_after, left_until, false),
            (times.came_after(), times.time_ms - 1, true),
        ] {
            if until <= after {
                continue;
            }
            let (from, end) = panes(after, until);
            for bucket in state.buckets() {
                for entry in state.before.range(bucket, &from, Some(&end)) {
                    let (key, value) = entry?;
                    gather(bucket, key[PANE.len() + 8..].to_vec(), codec::kept(&value)?, came);
                }
            }
        }
        for (place, value) in newest {
            gather(place.bucket, place.bytes, value, true);
        }
        Ok(all)
    }

    fn bring_forward(
        &self,
        state: &SliceState,
        bucket: u16,
        key: &[u8],
        moved: Moved<V>,
        changes: &mut Changes,
    ) -> Result<()> {
        let window_key = [WINDOW, key].concat();
        let before = state.before.get(bucket, &window_key)?;
        let before: Option<V> = before.as_deref().map(codec::kept).transpose()?;
        let after = match (before, moved.left, moved.came) {
            (Some(before), Some(left), came) => {
                let rest = (self.take)(before, left);
                came.map_or(Some(rest.clone()), |came| self.merge(Some(rest), came))
            }
            (before, None, Some(came)) => self.merge(before, came),
            (None, Some(_), Some(came)) => Some(came),
            (None, Some(_), None) => {
                return Err(Error::new(
                    Kind::UserCode,
                    "a key leaves a window that does not hold it: its filter dropped the key while values of it were in the window, or \
                     the key does not always come out the same",
                ));
            }
            (before, None, None) => before,
        };
        let mut bytes = key;
        let typed: K = codec::take(&mut bytes)?;
        let after = after.filter(|value| self.keep.as_ref().is_none_or(|keep| keep(&typed, value)));
        changes.set(bucket, window_key, after.as_ref().map(codec::keep).transpose()?);
        Ok(())
    }

    /// Removes panes that no later window takes out.
    fn forget(&self, times: Times, state: &SliceState, changes: &mut Changes) -> Result<()> {
        let end = [PANE, &time_bytes(times.time_ms - times.window_ms + 1)].concat();
        for bucket in state.buckets() {
            for entry in state.before.range(bucket, PANE, Some(&end)) {
                changes.set(bucket, entry?.0, None);
            }
        }
        Ok(())
    }
}

/// The window as it stands after the batch.
struct Reduced<K, V> {
    state: Arc<KeyedState<K, V, ()>>,
}

impl<K: Key, V: Data> Slices<(K, V)> for Reduced<K, V> {
    fn count(&self) -> usize {
        self.state.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, (K, V)>) -> BoxFuture<'a, Result<()>> {
        async move {
            let give = |mut key: &[u8], value: &[u8]| {
                out((codec::take(&mut key)?, codec::kept(value)?));
                Ok(())
            };
            self.state.entries(slice, WINDOW, b"x", give).await
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

impl<K: Key, V: Data + Clone> DStream<(K, V)> {
    /// As [`reduce_by_key_and_window`](Self::reduce_by_key_and_window), but what a batch costs does not depend on the length of
    /// the window: `inverse` takes out what left. Keys stay with what is left of them, for example 0, unless a filter drops them:
    /// see [`reduce_by_key_and_window_with_filter`](Self::reduce_by_key_and_window_with_filter). Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let sums = batches_of([[('a', 1)], [('a', 2)], [('b', 3)], [('b', 4)]], |pairs| {
    ///     pairs.reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, 2 * SECOND, SECOND)
    /// })?;
    /// assert_eq!(sums[2..], [[('a', 2), ('b', 3)], [('a', 0), ('b', 7)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key_and_window_with_inverse(
        self,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
        inverse: impl Fn(V, V) -> V + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
    ) -> Self {
        self.reduced(f, inverse, length, slide, None)
    }

    /// The same without the keys and values for which `keep` is false. It must be true while values of a key are in the window.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let sums = batches_of([[('a', 1)], [('b', 2)], [('b', 3)]], |pairs| {
    ///     let (add, take) = (|a, b| a + b, |a, b| a - b);
    ///     pairs.reduce_by_key_and_window_with_filter(add, take, 2 * SECOND, SECOND, |_key, sum| *sum > 0)
    /// })?;
    /// assert_eq!(sums, [vec![('a', 1)], vec![('a', 1), ('b', 2)], vec![('b', 5)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key_and_window_with_filter(
        self,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
        inverse: impl Fn(V, V) -> V + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
        keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.reduced(f, inverse, length, slide, Some(Box::new(keep)))
    }

    fn reduced(
        self,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
        inverse: impl Fn(V, V) -> V + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
        keep: Option<Keep<K, V>>,
    ) -> Self {
        let parent_ms = self.stream.slide_ms;
        let (window_ms, slide_ms) = lengths(&self.graph, parent_ms, length, slide);
        let f = Arc::new(f);
        let (each, put) = (Arc::clone(&f), f);
        let parent = self.reduce_by_key(move |a, b| each(a, b));
        let what = Declaration {
            parents: vec![Arc::clone(&parent.stream)],
            slide_ms: Some(slide_ms),
            looks_back_ms: window_ms,
            in_slices: false,
            stateful: Some((
                "reduced-window",
                format!(
                    "{} of {window_ms} ms every {slide_ms} ms over {parent_ms} ms",
                    codec::shape::<(K, V)>()
                ),
            )),
            by_key: true,
            ..Declaration::default()
        };
        let stream = parent.graph.declare(what);
        let reduce = Arc::new(Reduce {
            put: Box::new(move |a, b| put(a, b)),
            take: Box::new(inverse),
            keep,
        });
        let (graph, compute_parent, parent_stream, this) =
            (parent.graph, parent.compute, parent.stream, Arc::clone(&stream));
        let compute = move |scope: &Arc<Scope>| {
            scope.once(this.id, || {
                let (time_ms, zero_ms) = (scope.time_ms(), scope.zero_ms());
                let newest = compute_parent(scope)?;
                if !parent_stream.is_due(time_ms, zero_ms) {
                    return Ok(None);
                }
                let times = Times {
                    time_ms,
                    window_ms,
                    slide_ms,
                    is_due: this.is_due(time_ms, zero_ms),
                };
                let reduce = Arc::clone(&reduce);
                let update: Update<K, V, ()> = Arc::new(move |state, rows| reduce.update(times, state, rows));
                let state = KeyedState::begin(scope, &this, newest.as_ref(), update)?;
                Ok(times.is_due.then(|| Batch::new(Reduced { state }, scope)))
            })
        };
        Self {
            stream,
            graph,
            compute: Arc::new(compute),
        }
    }
}

impl<T: Data + Clone> DStream<T> {
    /// As [`reduce_by_window`](Self::reduce_by_window), but what a batch costs does not depend on the length of the window. Before
    /// the first value there is none; later an empty window gives what is left, for example 0. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let sums = batches_of([[1], [2], [3]], |numbers| {
    ///     numbers.reduce_by_window_with_inverse(|a, b| a + b, |a, b| a - b, 2 * SECOND, SECOND)
    /// })?;
    /// assert_eq!(sums, [[1], [3], [5]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_window_with_inverse(
        self,
        f: impl Fn(T, T) -> T + Send + Sync + 'static,
        inverse: impl Fn(T, T) -> T + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
    ) -> Self {
        self.map(|value| ((), value))
            .reduce_by_key_and_window_with_inverse(f, inverse, length, slide)
            .inside(|window| window.map(|((), value)| value))
    }
}

impl<T: Send + 'static> DStream<T> {
    /// The number of values in each window: none before the first value ever, 0 for a later window without any. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let counts = batches_of([vec!['a', 'b'], vec!['c'], vec![]], |letters| letters.count_by_window(2 * SECOND, SECOND))?;
    /// assert_eq!(counts, [[2], [3], [1]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn count_by_window(self, length: Duration, slide: Duration) -> DStream<u64> {
        self.map(|_value| 1u64)
            .reduce_by_window_with_inverse(|a, b| a + b, |a, b| a - b, length, slide)
    }
}

impl<T: Key> DStream<T> {
    /// Each value in a window, with how often it is there. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let counts = batches_of([['a', 'b'], ['a', 'a'], ['c', 'c']], |letters| letters.count_by_value_and_window(2 * SECOND, SECOND))?;
    /// assert_eq!(counts[2], [('a', 2), ('c', 2)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn count_by_value_and_window(self, length: Duration, slide: Duration) -> DStream<(T, u64)> {
        self.map(|value| (value, 1u64)).reduce_by_key_and_window_with_filter(
            |a, b| a + b,
            |a, b| a - b,
            length,
            slide,
            |_value, count| *count > 0,
        )
    }
}
