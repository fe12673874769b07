//! A stream of typed values: one batch of them after another.

mod keyed_state;
mod outputs;
mod pairs;
mod reduced_windows;
mod saved;
mod sinks;
mod slice;
mod state;
mod table;
mod transform;
mod update_state;
mod windows;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::error::{Error, Kind, Result};

use crate::batch::Batch;
use crate::batch::exchange::Layout;
use crate::codec::{Data, Key};
use crate::graph::{Declaration, Graph, Stream};
use crate::outcome::UserResult;
use crate::scope::Scope;

pub use outputs::Rows;
pub use state::{MapWithState, State, StateSpec};
pub use table::Table;
pub use transform::IntoBatch;

/// Gives the batch of a stream, `None` where it has none at that time.
pub(crate) type Compute<T> = Arc<dyn Fn(&Arc<Scope>) -> Result<Option<Batch<T>>> + Send + Sync>;

/// A stream of values of one type. Operators take it by value; clone it to use it twice.
///
/// ```
/// # use tidemill::testing::batches_of;
/// let counts = batches_of([["to be", "not to be"]], |lines| {
///     let words = lines.flat_map(|line| line.split(' ')).map(|word| (word.to_owned(), 1));
///     words.reduce_by_key(|a, b| a + b).filter(|(_word, count)| *count > 1)
/// })?;
/// assert_eq!(counts, [[("be".to_owned(), 2), ("to".to_owned(), 2)]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct DStream<T> {
    pub(crate) stream: Arc<Stream>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) compute: Compute<T>,
}

impl<T> Clone for DStream<T> {
    fn clone(&self) -> Self {
        Self {
            stream: Arc::clone(&self.stream),
            graph: Arc::clone(&self.graph),
            compute: Arc::clone(&self.compute),
        }
    }
}

impl<T> Debug for DStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DStream")
            .field("stream", &self.stream.id)
            .finish_non_exhaustive()
    }
}

/// A parent without a batch where one is needed.
pub(crate) fn without_batch(stream: &Stream) -> Error {
    Error::new(
        Kind::UserCode,
        format!(
            "stream {} has no batch at this time, and what is made of it needs one",
            stream.id
        ),
    )
}

impl<T: Send + 'static> DStream<T> {
    /// A stream that gives what `compute` does.
    pub(crate) fn declared(graph: &Arc<Graph>, what: Declaration, compute: Compute<T>) -> Self {
        Self {
            stream: graph.declare(what),
            graph: Arc::clone(graph),
            compute,
        }
    }

    /// A stream whose batches are made of this one's.
    pub(crate) fn derived<U: Send + 'static>(
        self,
        each: impl Fn(&Batch<T>) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        self.made(Declaration::default(), move |batch, _this| each(batch))
    }

    /// The same where every value stays in its slice, behind those before it.
    pub(crate) fn in_slices<U: Send + 'static>(
        self,
        each: impl Fn(&Batch<T>) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        let what = Declaration {
            in_slices: true,
            ..Declaration::default()
        };
        self.made(what, move |batch, _this| each(batch))
    }

    /// The same where values of a key are brought together, in the layout that the program gives.
    pub(crate) fn by_key<U: Send + 'static>(
        self,
        each: impl Fn(&Batch<T>, Layout) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        let what = Declaration {
            by_key: true,
            ..Declaration::default()
        };
        self.made(what, move |batch, this| each(batch, this.layout(&batch.scope)))
    }

    fn made<U: Send + 'static>(
        self,
        what: Declaration,
        each: impl Fn(&Batch<T>, &Stream) -> Batch<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        let parents = vec![self.stream];
        let stream = self.graph.declare(Declaration { parents, ..what });
        let (parent, this) = (self.compute, Arc::clone(&stream));
        let compute = move |scope: &Arc<Scope>| Ok(parent(scope)?.map(|batch| each(&batch, &this)));
        DStream {
            stream,
            graph: self.graph,
            compute: Arc::new(compute),
        }
    }

    /// Gives the operator before a name that stays the same when the program changes: its state is found by it. Default = its kind
    /// and its number among those of its kind, in construction order.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let counts = batches_of([vec!["a", "b"], vec!["a"]], |words| {
    ///     let pairs = words.map(|word| (word.to_owned(), 1));
    ///     pairs.update_state_by_key(|new, old| Some(new.len() + old.unwrap_or(0))).named("counts-of-words")
    /// })?;
    /// assert_eq!(counts[1], [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.stream.rename(name.into());
        self
    }

    /// The checkpoint interval of Spark. Here all state is in the checkpoint after every batch, whatever the interval; what is left of
    /// it is that the stream remembers its batches for twice as long. Must be a multiple of the stream's slide.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// let same = batches_of([[1, 2]], |numbers| numbers.checkpoint(Duration::from_secs(10)))?;
    /// assert_eq!(same, [[1, 2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn checkpoint(self, interval: Duration) -> Self {
        self.stream.checkpoint(&self.graph, interval);
        self
    }

    /// What `then` makes of this stream, as one operator: a name given to it is this stream's.
    pub(crate) fn inside<U>(self, then: impl FnOnce(Self) -> DStream<U>) -> DStream<U> {
        let inner = Arc::clone(&self.stream);
        let whole = then(self);
        whole.stream.stands_for(inner);
        whole
    }

    /// One value for each value.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let doubled = batches_of([vec![1, 2], vec![3]], |numbers| numbers.map(|number| number * 2))?;
    /// assert_eq!(doubled, [vec![2, 4], vec![6]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map<U: Send + 'static>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> DStream<U> {
        let f = Arc::new(f);
        self.in_slices(move |batch| {
            let f = Arc::clone(&f);
            batch.map(move |value| f(value))
        })
    }

    /// One value for each value, or an error: the batch is run again, three times at most, then the stream stops naming batch,
    /// range and text.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let numbers = batches_of([["1", "2"]], |texts| texts.try_map(|text| text.parse::<i32>()))?;
    /// assert_eq!(numbers, [[1, 2]]);
    /// let error = batches_of([["one"]], |texts| texts.try_map(|text| text.parse::<i32>())).unwrap_err();
    /// assert!(error.chain().contains("invalid digit"));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn try_map<U: Send + 'static, R: UserResult<U> + 'static>(
        self,
        f: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> DStream<U> {
        let f = Arc::new(f);
        self.in_slices(move |batch| {
            let f = Arc::clone(&f);
            batch.try_map(move |value| f(value))
        })
    }

    /// The values for which `keep` is true.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let even = batches_of([[1, 2, 3, 4]], |numbers| numbers.filter(|number| number % 2 == 0))?;
    /// assert_eq!(even, [[2, 4]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let keep = Arc::new(keep);
        self.in_slices(move |batch| {
            let keep = Arc::clone(&keep);
            batch.filter(move |value| keep(value))
        })
    }

    /// Any number of values for each value; an `Option` or a `Vec` will do.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let words = batches_of([["to be", "or not"]], |lines| lines.flat_map(|line| line.split(' ')))?;
    /// assert_eq!(words, [["be", "not", "or", "to"]]);
    /// let numbers = batches_of([["1", "one"]], |texts| texts.flat_map(|text| text.parse::<i32>().ok()))?;
    /// assert_eq!(numbers, [[1]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map<U: Send + 'static, I: IntoIterator<Item = U> + 'static>(
        self,
        f: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> DStream<U> {
        let f = Arc::new(f);
        self.in_slices(move |batch| {
            let f = Arc::clone(&f);
            batch.flat_map(move |value| f(value))
        })
    }

    /// What `f` makes of all values of each slice.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// // The harness cuts each list into two slices.
    /// let sums = batches_of([[1, 2, 3, 4]], |numbers| numbers.map_partitions(|slice| [slice.sum::<i32>()]))?;
    /// assert_eq!(sums, [[3, 7]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map_partitions<U: Send + 'static, I: IntoIterator<Item = U> + 'static>(
        self,
        f: impl Fn(std::vec::IntoIter<T>) -> I + Send + Sync + 'static,
    ) -> DStream<U> {
        let f = Arc::new(f);
        self.in_slices(move |batch| {
            let f = Arc::clone(&f);
            batch.map_partitions(move |values| f(values))
        })
    }

    /// One list per slice.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// // The harness cuts each list into two slices.
    /// let slices = batches_of([[1, 2, 3, 4]], |numbers| numbers.glom())?;
    /// assert_eq!(slices, [[vec![1, 2], vec![3, 4]]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn glom(self) -> DStream<Vec<T>> {
        self.in_slices(Batch::glom)
    }

    /// The number of values of each batch: 0 for an empty one.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let counts = batches_of([vec!["a", "b"], vec![]], |words| words.count())?;
    /// assert_eq!(counts, [[2], [0]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn count(self) -> DStream<u64> {
        self.derived(Batch::count)
    }

    /// One value per batch, none for an empty one. `f` must be associative and commutative.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let sums = batches_of([vec![1, 2, 3], vec![]], |numbers| numbers.reduce(|a, b| a + b))?;
    /// assert_eq!(sums, [vec![6], vec![]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn reduce(self, f: impl Fn(T, T) -> T + Send + Sync + 'static) -> Self {
        let f = Arc::new(f);
        self.derived(move |batch| {
            let f = Arc::clone(&f);
            batch.reduce(move |a, b| f(a, b))
        })
    }

    /// Each value with the key that `f` gives it.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let by_length = batches_of([["a", "bcd"]], |words| words.key_by(|word| word.len()))?;
    /// assert_eq!(by_length, [[(1, "a"), (3, "bcd")]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn key_by<K: Send + 'static>(self, f: impl Fn(&T) -> K + Send + Sync + 'static) -> DStream<(K, T)> {
        self.map(move |value| (f(&value), value))
    }

    /// The values of this stream, then those of `other`, batch by batch. Both must have the same slide.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let both = batches_of([[1, 2]], |numbers| numbers.clone().union(numbers.map(|number| number * 10)))?;
    /// assert_eq!(both, [[1, 2, 10, 20]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let graph = Arc::clone(&self.graph);
        Self::union_of(&graph, vec![self, other])
    }

    pub(crate) fn union_of(graph: &Arc<Graph>, streams: Vec<Self>) -> Self {
        Self::merged(graph, streams, |batches| Ok(Batch::union_of(batches)))
    }

    /// A stream made of several of one type: at its time all of them must have a batch.
    pub(crate) fn merged<U: Send + 'static>(
        graph: &Arc<Graph>,
        streams: Vec<Self>,
        merge: impl Fn(&[Batch<T>]) -> Result<Batch<U>> + Send + Sync + 'static,
    ) -> DStream<U> {
        let parents: Vec<Arc<Stream>> = streams.iter().map(|stream| Arc::clone(&stream.stream)).collect();
        if streams.is_empty() {
            graph.problem("streams are put together, but there are none: give it one at least");
        }
        same_slide(graph, &parents);
        if streams.iter().any(|stream| !Arc::ptr_eq(&stream.graph, graph)) {
            graph.problem("streams of two contexts can't be put together");
        }
        let what = Declaration {
            parents: parents.clone(),
            ..Declaration::default()
        };
        let compute = move |scope: &Arc<Scope>| {
            let batches: Vec<Option<Batch<T>>> = streams
                .iter()
                .map(|stream| (stream.compute)(scope))
                .collect::<Result<_>>()?;
            let due = parents
                .iter()
                .all(|parent| parent.is_due(scope.time_ms(), scope.zero_ms()));
            if !due {
                return Ok(None);
            }
            let there = |(batch, stream): (Option<Batch<T>>, &Arc<Stream>)| batch.ok_or_else(|| without_batch(stream));
            let batches: Vec<Batch<T>> = batches.into_iter().zip(&parents).map(there).collect::<Result<_>>()?;
            merge(&batches).map(Some)
        };
        DStream::declared(graph, what, Arc::new(compute))
    }
}

/// Streams that are put together have their batches at the same times.
pub(crate) fn same_slide(graph: &Graph, parents: &[Arc<Stream>]) {
    if parents.windows(2).any(|two| two[0].slide_ms != two[1].slide_ms) {
        let slides: Vec<String> = parents.iter().map(|parent| format!("{} ms", parent.slide_ms)).collect();
        graph.problem(format!(
            "streams with different slides can't be put together: {}",
            slides.join(", ")
        ));
    }
}

impl<T: Data> DStream<T> {
    /// The same values in `slices` slices.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let slices = batches_of([[1, 2, 3]], |numbers| numbers.repartition(3).glom().count())?;
    /// assert_eq!(slices, [[3]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn repartition(self, slices: usize) -> Self {
        self.derived(move |batch| batch.repartition(slices))
    }
}

impl<T: Key> DStream<T> {
    /// Each value that there is, with how often.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let counts = batches_of([["a".to_owned(), "b".to_owned(), "a".to_owned()]], |words| words.count_by_value())?;
    /// assert_eq!(counts, [[("a".to_owned(), 2), ("b".to_owned(), 1)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn count_by_value(self) -> DStream<(T, u64)> {
        self.map(|value| (value, 1u64)).reduce_by_key(|a, b| a + b)
    }
}

impl<T: Clone + Send + Sync + 'static> DStream<T> {
    /// The same values, computed once for all who take them within an output and held in memory until the batch ends.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let both = batches_of([[1, 2]], |numbers| {
    ///     let squares = numbers.map(|number| number * number).cache();
    ///     squares.clone().union(squares.map(|square| -square))
    /// })?;
    /// assert_eq!(both, [[-4, -1, 1, 4]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn cache(self) -> Self {
        let what = Declaration {
            parents: vec![Arc::clone(&self.stream)],
            in_slices: true,
            ..Declaration::default()
        };
        let stream = self.graph.declare(what);
        let (parent, id) = (self.compute, stream.id);
        let compute = move |scope: &Arc<Scope>| {
            let kept = || Ok(parent(scope)?.map(|batch| batch.cache()));
            scope.once(id, kept)
        };
        Self {
            stream,
            graph: self.graph,
            compute: Arc::new(compute),
        }
    }

    /// Another name of [`cache`](Self::cache): there is one level, memory.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let both = batches_of([[1, 2]], |numbers| {
    ///     let squares = numbers.map(|number| number * number).persist();
    ///     squares.clone().union(squares.map(|square| -square))
    /// })?;
    /// assert_eq!(both, [[-4, -1, 1, 4]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn persist(self) -> Self {
        self.cache()
    }
}
