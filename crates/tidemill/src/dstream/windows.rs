//! Windows: the batches of the last while, put together.
//!
//! A pane is a parent's batch, kept as state until no window holds it any more. Its values are encoded once, when the batch comes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::{Error, Result};
use tidemill_engine::state::{BUCKETS, Changes, StateRange, StateReader};
use tokio::sync::OnceCell;

use super::DStream;
use crate::batch::whole::fold_slices;
use crate::batch::{Batch, Out, Slices};
use crate::codec::{self, Data, Key};
use crate::graph::{Declaration, Graph};
use crate::scope::{Scope, StateStep};
use crate::time::is_multiple;

/// Encoded values of a pane are kept in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// Window and slide in milliseconds. Both must be multiples of the parent's slide; what is wrong is noted.
pub(super) fn lengths(graph: &Graph, parent_ms: i64, window: Duration, slide: Duration) -> (i64, i64) {
    let millis = |what: &str, length: Duration| {
        let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        if millis == 0 || !is_multiple(millis, parent_ms) {
            graph.problem(format!(
                "{what} of {millis} ms: must be a multiple of the {parent_ms} ms between the batches of the stream it is over"
            ));
            return parent_ms;
        }
        millis
    };
    (millis("a window", window), millis("a slide", slide))
}

/// Times as bytes that sort as they do.
pub(super) fn time_bytes(time_ms: i64) -> [u8; 8] {
    u64::try_from(time_ms).unwrap_or(0).to_be_bytes()
}

/// The panes of a window at one time.
struct Panes<T> {
    scope: Arc<Scope>,
    before: StateReader,
    /// The newest, where the parent has a batch.
    newest: Option<Batch<T>>,
    /// Panes after this time are in the window.
    after_ms: i64,
    /// Panes after this time are in a later window.
    kept_after_ms: i64,
    encoded: OnceCell<Vec<Encoded>>,
}

/// The values of one slice of a pane.
#[derive(Default)]
struct Encoded {
    pieces: Vec<Vec<u8>>,
    failed: Option<Error>,
}

impl Encoded {
    fn add<T: Data>(&mut self, value: &T) {
        if self.failed.is_some() {
            return;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() >= PIECE_BYTES) {
            self.pieces.push(Vec::new());
        }
        if let Some(piece) = self.pieces.last_mut() {
            self.failed = codec::keep_behind(value, piece).err();
        }
    }
}

fn pane_key(time_ms: i64, slice: usize, piece: usize) -> Vec<u8> {
    let number = |of: usize| u32::try_from(of).unwrap_or(u32::MAX).to_be_bytes();
    [&time_bytes(time_ms)[..], &number(slice), &number(piece)].concat()
}

fn bucket_of_slice(slice: usize) -> u16 {
    u16::try_from(slice % usize::from(BUCKETS)).unwrap_or(0)
}

impl<T: Data> Panes<T> {
    async fn encoded(&self) -> Result<&[Encoded]> {
        let encoded = self.encoded.get_or_try_init(|| async {
            let Some(newest) = &self.newest else {
                return Ok(Vec::new());
            };
            let slices = fold_slices(newest, Encoded::default, |encoded, value: T| encoded.add(&value)).await?;
            let sound = |mut slice: Encoded| slice.failed.take().map_or(Ok(slice), Err);
            slices.into_iter().map(sound).collect()
        });
        encoded.await.map(Vec::as_slice)
    }
}

#[async_trait]
impl<T: Data> StateStep for Panes<T> {
    async fn changes(&self) -> Result<Changes> {
        let mut changes = Changes::default();
        for (slice, encoded) in self.encoded().await?.iter().enumerate() {
            for (piece, bytes) in encoded.pieces.iter().enumerate() {
                let key = pane_key(self.scope.time_ms(), slice, piece);
                changes.set(bucket_of_slice(slice), key, Some(bytes.clone()));
            }
        }
        let end = time_bytes(self.kept_after_ms + 1);
        for bucket in 0..BUCKETS {
            for entry in self.before.range(bucket, &[], Some(&end)) {
                changes.set(bucket, entry?.0, None);
            }
        }
        Ok(changes)
    }
}

/// All values of the panes in a window, the oldest first.
struct Windowed<T> {
    panes: Arc<Panes<T>>,
}

impl<T: Data> Slices<T> for Windowed<T> {
    fn count(&self) -> usize {
        self.panes.scope.reduce_slices()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, T>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mine = |bucket: u16| usize::from(bucket) % self.count() == slice;
            let mut all = |mut bytes: &[u8]| {
                while !bytes.is_empty() {
                    out(codec::take(&mut bytes)?);
                }
                Ok(())
            };
            let (from, until) = (
                time_bytes(self.panes.after_ms + 1),
                time_bytes(self.panes.scope.time_ms()),
            );
            let buckets = (0..BUCKETS).filter(|bucket| mine(*bucket));
            let older = buckets.map(|bucket| self.panes.before.range(bucket, &from, Some(&until)));
            for entry in InOrder::of(older)? {
                all(&entry?)?;
            }
            for (number, encoded) in self.panes.encoded().await?.iter().enumerate() {
                if mine(bucket_of_slice(number)) {
                    encoded.pieces.iter().try_for_each(|piece| all(piece))?;
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

/// The values of several ranges in the order of their keys.
struct InOrder {
    heads: Vec<(Vec<u8>, Vec<u8>, StateRange)>,
}

impl InOrder {
    fn of(ranges: impl Iterator<Item = StateRange>) -> Result<Self> {
        let mut heads = Vec::new();
        for mut range in ranges {
            if let Some(entry) = range.next() {
                let (key, value) = entry?;
                heads.push((key, value, range));
            }
        }
        Ok(Self { heads })
    }
}

impl Iterator for InOrder {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = (0..self.heads.len()).min_by(|a, b| self.heads[*a].0.cmp(&self.heads[*b].0))?;
        let (key, value, range) = &mut self.heads[first];
        match range.next() {
            Some(Ok((next_key, next_value))) => {
                *key = next_key;
                Some(Ok(std::mem::replace(value, next_value)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Ok(self.heads.swap_remove(first).1)),
        }
    }
}

impl<T: Data> DStream<T> {
    /// All values of the batches in `(time − length, time]`, every `slide`. Both must be multiples of this stream's slide; the first
    /// windows are partial, and with `slide` above `length` values are left out. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let windows = batches_of([[1], [2], [3]], |numbers| numbers.window(2 * SECOND, SECOND))?;
    /// assert_eq!(windows, [vec![1], vec![1, 2], vec![2, 3]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn window(self, length: Duration, slide: Duration) -> Self {
        let parent_ms = self.stream.slide_ms;
        let (window_ms, slide_ms) = lengths(&self.graph, parent_ms, length, slide);
        let what = Declaration {
            parents: vec![Arc::clone(&self.stream)],
            slide_ms: Some(slide_ms),
            looks_back_ms: window_ms,
            in_slices: false,
            stateful: Some((
                "window",
                format!("{} of {window_ms} ms every {parent_ms} ms", codec::shape::<T>()),
            )),
            ..Declaration::default()
        };
        let stream = self.graph.declare(what);
        let (parent, parent_stream, this) = (self.compute, self.stream, Arc::clone(&stream));
        let compute = move |scope: &Arc<Scope>| {
            scope.once(this.id, || {
                let (time_ms, zero_ms) = (scope.time_ms(), scope.zero_ms());
                let newest = parent(scope)?;
                if !parent_stream.is_due(time_ms, zero_ms) {
                    return Ok(None);
                }
                let operator = this.operator();
                let panes = Arc::new(Panes {
                    before: scope.state(&operator)?,
                    scope: Arc::clone(scope),
                    newest,
                    after_ms: time_ms - window_ms,
                    kept_after_ms: time_ms + parent_ms - window_ms,
                    encoded: OnceCell::new(),
                });
                scope.step(operator, Arc::clone(&panes) as Arc<dyn StateStep>);
                Ok(this
                    .is_due(time_ms, zero_ms)
                    .then(|| Batch::new(Windowed { panes }, scope)))
            })
        };
        Self {
            stream,
            graph: self.graph,
            compute: Arc::new(compute),
        }
    }

    /// One value of each window, none for an empty one. `f` must be associative and commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let sums = batches_of([[1], [2], [3]], |numbers| numbers.reduce_by_window(|a, b| a + b, 2 * SECOND, SECOND))?;
    /// assert_eq!(sums, [[1], [3], [5]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_window(
        self,
        f: impl Fn(T, T) -> T + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
    ) -> Self {
        let f = Arc::new(f);
        let each = Arc::clone(&f);
        self.reduce(move |a, b| each(a, b))
            .window(length, slide)
            .inside(|window| window.reduce(move |a, b| f(a, b)))
    }
}

impl<K: Key, V: Data> DStream<(K, V)> {
    /// One value per key and window. Each batch is reduced first, then the batches of a window. `f` must be associative and
    /// commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let sums = batches_of([[('a', 1)], [('a', 2)], [('b', 3)]], |pairs| {
    ///     pairs.reduce_by_key_and_window(|a, b| a + b, 2 * SECOND, SECOND)
    /// })?;
    /// assert_eq!(sums, [vec![('a', 1)], vec![('a', 3)], vec![('a', 2), ('b', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce_by_key_and_window(
        self,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
        length: Duration,
        slide: Duration,
    ) -> Self {
        let f = Arc::new(f);
        let each = Arc::clone(&f);
        self.reduce_by_key(move |a, b| each(a, b))
            .window(length, slide)
            .inside(|window| window.reduce_by_key(move |a, b| f(a, b)))
    }

    /// All values of each key in a window.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let groups = batches_of([[('a', 1)], [('a', 2)]], |pairs| pairs.group_by_key_and_window(2 * SECOND, SECOND))?;
    /// assert_eq!(groups, [[('a', vec![1])], [('a', vec![1, 2])]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn group_by_key_and_window(self, length: Duration, slide: Duration) -> DStream<(K, Vec<V>)> {
        let together = |mut values: Vec<V>, more: Vec<V>| {
            values.extend(more);
            values
        };
        self.group_by_key()
            .window(length, slide)
            .inside(|window| window.reduce_by_key(together))
    }
}
