//! A state per key, updated for every key in every batch.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill_engine::error::Result;
use tidemill_engine::state::Changes;

use super::DStream;
use super::keyed_state::{Done, KeyPlace, KeyedState, SliceState, Update};
use crate::batch::keyed::ByKey;
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

impl<K: Key, V: Data, S: Data + Clone> Updating<K, V, S> {
    fn update(&self, time_ms: i64, state: &SliceState, mut rows: ByKey<K, Vec<V>>) -> Result<Done<()>> {
        let mut changes = Changes::default();
        let mut known = self.initial(state, &mut changes)?;
        for bucket in state.buckets() {
            for entry in state.before.range(bucket, STATE, Some(b"t")) {
                let (key, old) = entry?;
                let typed: K = codec::take(&mut &key[STATE.len()..])?;
                known.insert(typed, codec::kept(&old)?);
            }
        }
        for (key, old) in known {
            let values = rows.swap_remove(&key).unwrap_or_default();
            self.set(time_ms, &key, values, Some(old), &mut changes)?;
        }
        for (key, values) in rows {
            self.set(time_ms, &key, values, None, &mut changes)?;
        }
        Ok(Done {
            changes,
            mapped: Vec::new(),
        })
    }

    /// The initial states of buckets that have not taken theirs.
    fn initial(&self, state: &SliceState, changes: &mut Changes) -> Result<ByKey<K, S>> {
        let mut initial = ByKey::default();
        if self.initial.is_empty() {
            return Ok(initial);
        }
        let mut begun = HashMap::new();
        for bucket in state.buckets() {
            let before = state.before.get(bucket, BEGUN)?.is_some();
            if !before {
                changes.set(bucket, BEGUN.to_vec(), Some(Vec::new()));
            }
            begun.insert(bucket, before);
        }
        for (key, value) in &self.initial {
            let place = KeyPlace::of(key)?;
            if begun.get(&place.bucket) == Some(&false) {
                initial.insert(key.clone(), value.clone());
            }
        }
        initial.sort_by_cached_key(|key, _| codec::key_bytes(key).unwrap_or_default());
        Ok(initial)
    }

    fn set(&self, time_ms: i64, key: &K, values: Vec<V>, old: Option<S>, changes: &mut Changes) -> Result<()> {
        let place = KeyPlace::of(key)?;
        let new = (self.update)(time_ms, key, values, old);
        let kept = new.as_ref().map(codec::keep).transpose()?;
        changes.set(place.bucket, place.under(STATE), kept);
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
    #[must_use]
    pub fn update_state_by_key<S: Data + Clone>(
        self,
        update: impl Fn(Vec<V>, Option<S>) -> Option<S> + Send + Sync + 'static,
    ) -> DStream<(K, S)> {
        let update = move |_time_ms, _key: &K, values, old| update(values, old);
        self.updating(Box::new(update), HashMap::new())
    }

    /// The same with batch time (milliseconds since 1970 UTC) and key, beginning with `initial`, whose keys are called for even
    /// without values.
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
                let state = KeyedState::begin(scope, this.operator(), batch.as_ref(), update)?;
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
