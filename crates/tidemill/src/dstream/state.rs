//! A state per key, touched only where there are values: what a batch costs does not depend on how many keys there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::Result;
use tidemill_engine::state::Changes;

use super::keyed_state::{Done, KeyPlace, KeyRows, KeyedState, SliceState, Update};
use super::windows::time_bytes;
use super::{Compute, DStream};
use crate::batch::{Batch, Out, Slices};
use crate::codec::{self, Data, Key};
use crate::graph::{Declaration, Graph, Stream};
use crate::scope::Scope;

/// Prefix of the states: then key. The value is the time of the last update, then the state.
const STATE: &[u8] = b"s";
/// Prefix of the keys by the time of their last update: then time, then key. Kept where there is a timeout.
const BY_TIME: &[u8] = b"t";
/// Says of a bucket that it has taken its part of the initial state.
const BEGUN: &[u8] = b"i";
const TIME_BYTES: usize = 8;

/// The state of one key, in the hands of the function that [`DStream::map_with_state`] calls.
#[derive(Debug)]
pub struct State<S> {
    value: Option<S>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Untouched,
    Updated,
    Removed,
    TimingOut,
}

impl<S> State<S> {
    pub(crate) fn new(value: Option<S>) -> Self {
        Self {
            value,
            fate: Fate::Untouched,
        }
    }

    pub(crate) fn timing_out(value: S) -> Self {
        Self {
            value: Some(value),
            fate: Fate::TimingOut,
        }
    }

    /// True where there is a state.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let is_known = state.exists();
    ///         state.update(0);
    ///         (*key, value, is_known)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', Some(1), false)], [('a', Some(2), true)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// The state, `None` where there is none.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn get(&self) -> Option<&S> {
        self.value.as_ref()
    }

    /// True in the last call for a key, which had no values for longer than the timeout: the state is removed after it.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![], vec![]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         if state.is_timing_out() {
    ///             return (*key, None);
    ///         }
    ///         state.update(0);
    ///         (*key, value)
    ///     });
    ///     pairs.map_with_state(spec.timeout(SECOND)).mapped()
    /// })?;
    /// assert_eq!(given, [vec![('a', Some(1))], vec![], vec![('a', None)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn is_timing_out(&self) -> bool {
        self.fate == Fate::TimingOut
    }

    /// Sets the state.
    ///
    /// # Panics
    /// Where it was removed in this call, or is timing out; the batch fails.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn update(&mut self, value: S) {
        assert!(self.fate != Fate::Removed, "a state that was removed can't be updated");
        assert!(
            self.fate != Fate::TimingOut,
            "a state that is timing out can't be updated"
        );
        self.value = Some(value);
        self.fate = Fate::Updated;
    }

    /// Removes the state; where there is none, nothing happens.
    ///
    /// # Panics
    /// Where it was removed in this call already, or is timing out; the batch fails.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         if state.exists() { state.remove() } else { state.update(0) }
    ///         (*key, value, state.exists())
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', Some(1), true)], [('a', Some(2), false)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn remove(&mut self) {
        assert!(self.fate != Fate::Removed, "a state can be removed once");
        assert!(
            self.fate != Fate::TimingOut,
            "a state that is timing out can't be removed"
        );
        self.value = None;
        self.fate = Fate::Removed;
    }
}

/// From time, key, value and state to what is mapped.
type MapState<K, V, S, M> = Box<dyn Fn(i64, &K, Option<V>, &mut State<S>) -> Option<M> + Send + Sync>;

/// What [`DStream::map_with_state`] does: a function, and what it begins with.
pub struct StateSpec<K, V, S, M> {
    function: MapState<K, V, S, M>,
    initial: HashMap<K, S>,
    timeout_ms: Option<i64>,
}

impl<K, V, S, M> std::fmt::Debug for StateSpec<K, V, S, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSpec")
            .field("initial", &self.initial.len())
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

impl<K: Key, V, S, M> StateSpec<K, V, S, M> {
    /// Calls `f` for each value with its key and the key's state; what it gives is the mapped value.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn function(f: impl Fn(&K, Option<V>, &mut State<S>) -> M + Send + Sync + 'static) -> Self {
        Self::function_with_time(move |_time_ms, key, value, state| Some(f(key, value, state)))
    }

    /// The same with batch time, in milliseconds since 1970 UTC, and a mapped value that may be none.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([[('a', 1)], [('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function_with_time(|time_ms, key: &char, value: Option<i32>, _state: &mut State<i32>| {
    ///         (value? > 1).then_some((time_ms, *key))
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [vec![], vec![(2_000, 'a')]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn function_with_time(
        f: impl Fn(i64, &K, Option<V>, &mut State<S>) -> Option<M> + Send + Sync + 'static,
    ) -> Self {
        Self {
            function: Box::new(f),
            initial: HashMap::new(),
            timeout_ms: None,
        }
    }

    /// States to begin with, as if they had been updated in the first batch.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec.initial_state([('a', 10)])).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 11)], [('a', 13)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn initial_state(mut self, states: impl IntoIterator<Item = (K, S)>) -> Self {
        self.initial = states.into_iter().collect();
        self
    }

    /// Removes the state of a key that had no value for longer than this, after one last call without a value. Default = never. The time
    /// may change from start to start; state that was kept without a timeout does not fit a program with one, nor the other way round.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![], vec![]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         if state.is_timing_out() {
    ///             return (*key, None);
    ///         }
    ///         state.update(0);
    ///         (*key, value)
    ///     });
    ///     pairs.map_with_state(spec.timeout(SECOND)).mapped()
    /// })?;
    /// assert_eq!(given, [vec![('a', Some(1))], vec![], vec![('a', None)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn timeout(mut self, idle: Duration) -> Self {
        self.timeout_ms = Some(i64::try_from(idle.as_millis()).unwrap_or(i64::MAX));
        self
    }
}

impl<K: Key, V: Data, S: Data + Clone, M: Send + Sync + 'static> StateSpec<K, V, S, M> {
    /// What is kept: with a timeout the keys by time too, which a program without one does not have.
    fn shape(&self) -> String {
        let by_time = if self.timeout_ms.is_some() { ", by time" } else { "" };
        format!("{}{by_time}", codec::shape::<(K, S)>())
    }

    fn update(&self, time_ms: i64, state: &SliceState, rows: Vec<KeyRows<K, V>>) -> Result<Done<M>> {
        let mut run = Run {
            spec: self,
            time_ms,
            state,
            changes: Changes::default(),
            mapped: Vec::new(),
        };
        run.begin()?;
        for row in rows {
            run.key(row)?;
        }
        run.time_out()?;
        Ok(Done {
            changes: run.changes,
            mapped: run.mapped,
        })
    }
}

/// One batch over one slice.
struct Run<'a, K, V, S, M> {
    spec: &'a StateSpec<K, V, S, M>,
    time_ms: i64,
    state: &'a SliceState,
    changes: Changes,
    mapped: Vec<M>,
}

fn with_time<S: Data>(time_ms: i64, value: &S) -> Result<Vec<u8>> {
    let mut bytes = time_bytes(time_ms).to_vec();
    codec::keep_behind(value, &mut bytes)?;
    Ok(bytes)
}

fn time_of(bytes: &[u8]) -> i64 {
    let time: [u8; TIME_BYTES] = bytes[..TIME_BYTES].try_into().unwrap_or_default();
    i64::try_from(u64::from_be_bytes(time)).unwrap_or(i64::MAX)
}

impl<K: Key, V: Data, S: Data + Clone, M: Send + Sync + 'static> Run<'_, K, V, S, M> {
    /// Takes the initial states of buckets that have not taken theirs.
    fn begin(&mut self) -> Result<()> {
        if self.spec.initial.is_empty() {
            return Ok(());
        }
        for bucket in self.state.buckets() {
            if self.state.before.get(bucket, BEGUN)?.is_none() {
                self.changes.set(bucket, BEGUN.to_vec(), Some(Vec::new()));
            }
        }
        for (key, value) in &self.spec.initial {
            let place = KeyPlace::of(key)?;
            let begins = self.state.holds(place.bucket) && self.changes.get(place.bucket, BEGUN).is_some();
            if begins {
                self.put(&place, None, value)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, place: &KeyPlace, was_ms: Option<i64>, value: &S) -> Result<()> {
        self.changes
            .set(place.bucket, place.under(STATE), Some(with_time(self.time_ms, value)?));
        if self.spec.timeout_ms.is_some() && was_ms != Some(self.time_ms) {
            self.forget_time(place, was_ms);
            self.changes
                .set(place.bucket, self.by_time(place, self.time_ms), Some(Vec::new()));
        }
        Ok(())
    }

    fn remove(&mut self, place: &KeyPlace, was_ms: Option<i64>) {
        self.changes.set(place.bucket, place.under(STATE), None);
        self.forget_time(place, was_ms);
    }

    fn forget_time(&mut self, place: &KeyPlace, was_ms: Option<i64>) {
        if let Some(was_ms) = was_ms.filter(|_| self.spec.timeout_ms.is_some()) {
            self.changes.set(place.bucket, self.by_time(place, was_ms), None);
        }
    }

    fn by_time(&self, place: &KeyPlace, time_ms: i64) -> Vec<u8> {
        place.under(&[BY_TIME, &time_bytes(time_ms)].concat())
    }

    fn key(&mut self, row: KeyRows<K, V>) -> Result<()> {
        let KeyRows { place, key, values } = row;
        let kept = self
            .changes
            .value_on(&self.state.before, place.bucket, &place.under(STATE))?;
        let mut was_ms = kept.as_deref().map(time_of);
        let mut value: Option<S> = kept
            .as_deref()
            .map(|kept| codec::kept(&kept[TIME_BYTES..]))
            .transpose()?;
        let mut changed = false;
        for row in values {
            let mut state = State::new(value.take());
            let mapped = (self.spec.function)(self.time_ms, &key, Some(row), &mut state);
            self.mapped.extend(mapped);
            changed |= state.fate != Fate::Untouched;
            value = state.value;
        }
        match &value {
            // With a timeout every value keeps the state alive.
            Some(value) if changed || self.spec.timeout_ms.is_some() => self.put(&place, was_ms, value)?,
            None if was_ms.is_some() => self.remove(&place, was_ms.take()),
            _ => {}
        }
        Ok(())
    }

    /// Calls for states whose last update is older than the timeout, and removes them.
    fn time_out(&mut self) -> Result<()> {
        let Some(timeout_ms) = self.spec.timeout_ms else {
            return Ok(());
        };
        let end = [BY_TIME, &time_bytes(self.time_ms.saturating_sub(timeout_ms))].concat();
        for bucket in self.state.buckets() {
            for entry in self.state.before.range(bucket, BY_TIME, Some(&end)) {
                let (by_time, _) = entry?;
                if self.changes.get(bucket, &by_time) == Some(None) {
                    continue;
                }
                let bytes = by_time[BY_TIME.len() + TIME_BYTES..].to_vec();
                let was_ms = time_of(&by_time[BY_TIME.len()..]);
                let key: K = codec::take(&mut bytes.as_slice())?;
                let place = KeyPlace { bucket, bytes };
                if let Some(kept) = self.state.before.get(bucket, &place.under(STATE))? {
                    let mut state = State::timing_out(codec::kept(&kept[TIME_BYTES..])?);
                    let mapped = (self.spec.function)(self.time_ms, &key, None, &mut state);
                    self.mapped.extend(mapped);
                }
                self.remove(&place, Some(was_ms));
            }
        }
        Ok(())
    }
}

/// What the calls of a batch gave.
struct Mapped<K, V, M> {
    state: Arc<KeyedState<K, V, M>>,
}

impl<K: Key, V: Data, M: Clone + Send + Sync + 'static> Slices<M> for Mapped<K, V, M> {
    fn count(&self) -> usize {
        self.state.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, M>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.state.done(slice).await?.mapped.iter().cloned().for_each(&mut *out);
            Ok(())
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

/// All states after the batch.
struct Snapshot<K, V, M> {
    state: Arc<KeyedState<K, V, M>>,
}

impl<K: Key, V: Data, S: Data, M: Send + Sync + 'static> Slices<(K, S)> for Snapshot<K, V, M> {
    fn count(&self) -> usize {
        self.state.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, (K, S)>) -> BoxFuture<'a, Result<()>> {
        async move {
            let give = |mut key: &[u8], value: &[u8]| {
                out((codec::take(&mut key)?, codec::kept(&value[TIME_BYTES..])?));
                Ok(())
            };
            self.state.entries(slice, STATE, BY_TIME, give).await
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

type Stateful<K, V, M> = Option<Arc<KeyedState<K, V, M>>>;
type Begin<K, V, M> = Arc<dyn Fn(&Arc<Scope>) -> Result<Stateful<K, V, M>> + Send + Sync>;

/// What [`DStream::map_with_state`] gives: mapped values and states.
pub struct MapWithState<K, V, S, M> {
    graph: Arc<Graph>,
    stream: Arc<Stream>,
    begin: Begin<K, V, M>,
    kept: std::marker::PhantomData<fn() -> S>,
}

impl<K, V, S, M> std::fmt::Debug for MapWithState<K, V, S, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapWithState")
            .field("stream", &self.stream.id)
            .finish_non_exhaustive()
    }
}

impl<K: Key, V: Data, S: Data, M: Clone + Send + Sync + 'static> MapWithState<K, V, S, M> {
    /// Gives the operator a name that stays the same when the program changes; see [`DStream::named`].
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).named("sums").mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.stream.rename(name.into());
        self
    }

    /// The checkpoint interval of Spark; see [`DStream::checkpoint`].
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use std::time::Duration;
    /// # const SECOND: Duration = Duration::from_secs(1);
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).checkpoint(10 * SECOND).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn checkpoint(self, interval: Duration) -> Self {
        self.stream.checkpoint(&self.graph, interval);
        self
    }

    /// Gives the operator so many slices, 1 to 64; see [`DStream::with_slices`].
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).with_slices(8).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn with_slices(self, slices: usize) -> Self {
        self.stream.deal_into(&self.graph, slices);
        self
    }

    /// What each call gave.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn mapped(&self) -> DStream<M> {
        let begin = Arc::clone(&self.begin);
        self.follow(Arc::new(move |scope: &Arc<Scope>| {
            Ok(begin(scope)?.map(|state| Batch::new(Mapped { state }, scope)))
        }))
    }

    /// All keys with their state, after each batch. Costs all keys.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).state_snapshots()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn state_snapshots(&self) -> DStream<(K, S)> {
        let begin = Arc::clone(&self.begin);
        self.follow(Arc::new(move |scope: &Arc<Scope>| {
            Ok(begin(scope)?.map(|state| Batch::new(Snapshot { state }, scope)))
        }))
    }

    fn follow<T: Send + 'static>(&self, compute: Compute<T>) -> DStream<T> {
        let what = Declaration {
            parents: vec![Arc::clone(&self.stream)],
            ..Declaration::default()
        };
        DStream::declared(&self.graph, what, compute)
    }
}

impl<K: Key, V: Data> DStream<(K, V)> {
    /// A state per key: the function of `spec` is called once per value, with the state of its key. Costs the keys that have values,
    /// not all keys. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// # use tidemill::{State, StateSpec};
    /// let given = batches_of([vec![('a', 1)], vec![('a', 2)]], |pairs| {
    ///     let spec = StateSpec::function(|key: &char, value: Option<i32>, state: &mut State<i32>| {
    ///         let sum = state.get().unwrap_or(&0) + value.unwrap_or(0);
    ///         state.update(sum);
    ///         (*key, sum)
    ///     });
    ///     pairs.map_with_state(spec).mapped()
    /// })?;
    /// assert_eq!(given, [[('a', 1)], [('a', 3)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn map_with_state<S: Data + Clone, M: Clone + Send + Sync + 'static>(
        self,
        spec: StateSpec<K, V, S, M>,
    ) -> MapWithState<K, V, S, M> {
        let what = Declaration {
            parents: vec![Arc::clone(&self.stream)],
            stateful: Some(("map-with-state", spec.shape())),
            by_key: true,
            ..Declaration::default()
        };
        let stream = self.graph.declare(what);
        let spec = Arc::new(spec);
        let (parent, this) = (self.compute, Arc::clone(&stream));
        let begin = move |scope: &Arc<Scope>| {
            scope.once(this.id, || {
                let (time_ms, zero_ms) = (scope.time_ms(), scope.zero_ms());
                let batch = parent(scope)?;
                if !this.is_due(time_ms, zero_ms) {
                    return Ok(None);
                }
                let spec = Arc::clone(&spec);
                let update: Update<K, V, M> = Arc::new(move |state, rows| spec.update(time_ms, state, rows));
                KeyedState::begin(scope, &this, batch.as_ref(), update).map(Some)
            })
        };
        MapWithState {
            graph: self.graph,
            stream,
            begin: Arc::new(begin),
            kept: std::marker::PhantomData,
        }
    }
}
