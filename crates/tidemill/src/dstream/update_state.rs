//! A state per key, updated for every key in every batch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::Result;
use tidemill_engine::state::Changes;

use super::DStream;
use super::keyed_state::{Done, KeyPlace, KeyRows, KeyedState, SliceState, Update};
use crate::batch::{Batch, Out, Slices};
use crate::codec::{self, Data, Key};
use crate::graph::Declaration;
use crate::scope::Scope;

/// Prefix of the states: then key.
const STATE: &[u8] = b"s";
/// Says of a bucket that it has taken its part of the initial state.
const BEGUN: &[u8] = b"i";

/// From time, key, new values and old state to the new state; none removes the key.
type UpdateState<K, V, S> = Box<dyn Fn(i64, &K, Vec<V>, Option<S>) -> Option<S> + Send + Sync>;

struct Updating<K, V, S> {
    update: UpdateState<K, V, S>,
    initial: HashMap<K, S>,
}

/// A state before the batch.
struct Old<S> {
    value: S,
    /// Its bytes, where it is kept already.
    kept: Option<Vec<u8>>,
}

impl<K: Key, V: Data, S: Data + Clone> Updating<K, V, S> {
    /// One bucket after the other: of all keys those of a bucket are in memory at once.
    fn update(&self, time_ms: i64, state: &SliceState, rows: Vec<KeyRows<K, V>>) -> Result<Done<()>> {
        let mut changes = Changes::default();
        let mut rows = rows.into_iter().peekable();
        for bucket in state.buckets() {
            let mut known = self.known(state, bucket, &mut changes)?;
            while let Some(row) = rows.next_if(|row| row.place.bucket == bucket) {
                let old = known.remove(&row.place.bytes);
                self.set(time_ms, &row.place, &row.key, row.values, old, &mut changes)?;
            }
            for (bytes, old) in known {
                let key: K = codec::take(&mut bytes.as_slice())?;
                let place = KeyPlace { bucket, bytes };
                self.set(time_ms, &place, &key, Vec::new(), Some(old), &mut changes)?;
            }
        }
        Ok(Done {
            changes,
            mapped: Vec::new(),
        })
    }

    /// The states of a bucket; where it has not taken its part of the initial ones, those too.
    fn known(&self, state: &SliceState, bucket: u16, changes: &mut Changes) -> Result<BTreeMap<Vec<u8>, Old<S>>> {
        let mut known = BTreeMap::new();
        if !self.initial.is_empty() && state.before.get(bucket, BEGUN)?.is_none() {
            changes.set(bucket, BEGUN.to_vec(), Some(Vec::new()));
            for (key, value) in &self.initial {
                let place = KeyPlace::of(key)?;
                if place.bucket == bucket {
                    let value = value.clone();
                    known.insert(place.bytes, Old { value, kept: None });
                }
            }
        }
        for entry in state.before.range(bucket, STATE, Some(b"t")) {
            let (key, kept) = entry?;
            let value = codec::kept(&kept)?;
            let kept = Some(kept);
            known.insert(key[STATE.len()..].to_vec(), Old { value, kept });
        }
        Ok(known)
    }

    fn set(
        &self,
        time_ms: i64,
        place: &KeyPlace,
        key: &K,
        values: Vec<V>,
        old: Option<Old<S>>,
        changes: &mut Changes,
    ) -> Result<()> {
        let (value, was) = old.map_or((None, None), |old| (Some(old.value), old.kept));
        let new = (self.update)(time_ms, key, values, value);
        let kept = new.as_ref().map(codec::keep).transpose()?;
        if kept != was {
            changes.set(place.bucket, place.under(STATE), kept);
        }
        Ok(())
    }
}

/// All states after the batch.
struct States<K, V> {
    state: Arc<KeyedState<K, V, ()>>,
}

impl<K: Key, V: Data, S: Data> Slices<(K, S)> for States<K, V> {
    fn count(&self) -> usize {
        self.state.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, (K, S)>) -> BoxFuture<'a, Result<()>> {
        async move {
            let give = |mut key: &[u8], value: &[u8]| {
                out((codec::take(&mut key)?, codec::kept(value)?));
                Ok(())
            };
            self.state.entries(slice, STATE, b"t", give).await
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

impl<K: Key, V: Data> DStream<(K, V)> {
    /// A state per key: `update` is called for every key in every batch, with the batch's values of the key, of which there may be
    /// none, and the state before; `None` removes the key. Gives all keys with their state. Costs all keys in every batch:
    /// [`map_with_state`](Self::map_with_state) costs those that have values. Needs a checkpoint.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let counts = batches_of([vec![('a', 1), ('b', 5)], vec![('a', 2)]], |pairs| {
    ///     pairs.update_state_by_key(|new: Vec<i32>, old: Option<i32>| Some(new.iter().sum::<i32>() + old.unwrap_or(0)))
    /// })?;
    /// assert_eq!(counts, [[('a', 1), ('b', 5)], [('a', 3), ('b', 5)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn update_state_by_key<S: Data + Clone>(
        self,
        update: impl Fn(Vec<V>, Option<S>) -> Option<S> + Send + Sync + 'static,
    ) -> DStream<(K, S)> {
        let update = move |_time_ms, _key: &K, values, old| update(values, old);
        self.updating(Box::new(update), HashMap::new())
    }

    /// The same with batch time (milliseconds since 1970 UTC) and key, beginning with `initial`, whose keys are called for even
    /// without values. Keys that should end after a while without values need no setting: keep the time of the last ones in
    /// the state, and give `None` when it is too long ago.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let counts = batches_of([[('a', 1)]], |pairs| {
    ///     pairs.update_state_by_key_from([('a', 10), ('b', 20)], |_time_ms, _key, new: Vec<i32>, old| {
    ///         Some(new.iter().sum::<i32>() + old.unwrap_or(0))
    ///     })
    /// })?;
    /// assert_eq!(counts, [[('a', 11), ('b', 20)]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn update_state_by_key_from<S: Data + Clone>(
        self,
        initial: impl IntoIterator<Item = (K, S)>,
        update: impl Fn(i64, &K, Vec<V>, Option<S>) -> Option<S> + Send + Sync + 'static,
    ) -> DStream<(K, S)> {
        self.updating(Box::new(update), initial.into_iter().collect())
    }

    fn updating<S: Data + Clone>(self, update: UpdateState<K, V, S>, initial: HashMap<K, S>) -> DStream<(K, S)> {
        let what = Declaration {
            parents: vec![Arc::clone(&self.stream)],
            stateful: Some(("update-state", codec::shape::<(K, S)>())),
            by_key: true,
            ..Declaration::default()
        };
        let stream = self.graph.declare(what);
        let updating = Arc::new(Updating { update, initial });
        let (parent, this) = (self.compute, Arc::clone(&stream));
        let compute = move |scope: &Arc<Scope>| {
            scope.once(this.id, || {
                let (time_ms, zero_ms) = (scope.time_ms(), scope.zero_ms());
                let batch = parent(scope)?;
                if !this.is_due(time_ms, zero_ms) {
                    return Ok(None);
                }
                let updating = Arc::clone(&updating);
                let update: Update<K, V, ()> = Arc::new(move |state, rows| updating.update(time_ms, state, rows));
                let state = KeyedState::begin(scope, &this, batch.as_ref(), update)?;
                Ok(Some(Batch::new(States { state }, scope)))
            })
        };
        DStream {
            stream,
            graph: self.graph,
            compute: Arc::new(compute),
        }
    }
}
