//! What operators with a state per key share: rows of a batch and state meet in the slice that holds the key's bucket.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use tidemill_engine::error::Result;
use tidemill_engine::state::{BUCKETS, Changes, StateReader, bucket_of};
use tokio::sync::OnceCell;

use crate::batch::Batch;
use crate::batch::keyed::{ByKey, Exchanged};
use crate::codec::{self, Data, Key};
use crate::graph::Stream;
use crate::outcome::guarded;
use crate::scope::{Scope, StateStep};

/// The state of one slice before the batch.
pub(super) struct SliceState {
    pub(super) before: StateReader,
    slice: usize,
    slices: usize,
}

impl SliceState {
    /// The buckets that the slice holds.
    pub(super) fn buckets(&self) -> impl Iterator<Item = u16> + use<> {
        let (slice, slices) = (self.slice, self.slices);
        (0..BUCKETS).filter(move |bucket| usize::from(*bucket) % slices == slice)
    }

    /// True where the slice holds the bucket.
    pub(super) fn holds(&self, bucket: u16) -> bool {
        usize::from(bucket) % self.slices == self.slice
    }
}

/// A key as state names it. Places are in the order in which state is quickest read.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPlace {
    pub(super) bucket: u16,
    pub(super) bytes: Vec<u8>,
}

impl KeyPlace {
    pub(super) fn of<K: Key>(key: &K) -> Result<Self> {
        let bytes = codec::key_bytes(key)?;
        Ok(Self {
            bucket: bucket_of(codec::hash(&bytes)),
            bytes,
        })
    }

    /// The key below a prefix.
    pub(super) fn under(&self, prefix: &[u8]) -> Vec<u8> {
        [prefix, &self.bytes].concat()
    }
}

/// What a batch does to a slice.
pub(super) struct Done<M> {
    pub(super) changes: Changes,
    /// What it gives beside the state.
    pub(super) mapped: Vec<M>,
}

/// The values of a key in a batch.
pub(super) struct KeyRows<K, V> {
    pub(super) place: KeyPlace,
    pub(super) key: K,
    pub(super) values: Vec<V>,
}

/// What a batch does to a slice: from the state before and the rows, in the order of their places, what changes.
pub(super) type Update<K, V, M> = Arc<dyn Fn(&SliceState, Vec<KeyRows<K, V>>) -> Result<Done<M>> + Send + Sync>;

/// An operator with a state per key, in one batch. Each slice is updated once.
pub(super) struct KeyedState<K, V, M> {
    before: StateReader,
    rows: Option<Exchanged<(K, V)>>,
    update: Update<K, V, M>,
    slices: Vec<OnceCell<Done<M>>>,
}

impl<K: Key, V: Data, M: Send + Sync + 'static> KeyedState<K, V, M> {
    /// The operator of `stream` over `batch`, to be brought forward before the run ends.
    pub(super) fn begin(
        scope: &Arc<Scope>,
        stream: &Stream,
        batch: Option<&Batch<(K, V)>>,
        update: Update<K, V, M>,
    ) -> Result<Arc<Self>> {
        let (operator, layout) = (stream.operator(), stream.layout(scope));
        let this = Arc::new(Self {
            before: scope.state(&operator)?,
            update,
            slices: (0..layout.slices()).map(|_| OnceCell::new()).collect(),
            rows: batch.map(|batch| Exchanged::new(batch, layout)),
        });
        scope.step(operator, Arc::clone(&this) as Arc<dyn StateStep>);
        Ok(this)
    }

    /// The entries of a slice after the batch whose key begins with `prefix`, without it; `end` is the first key behind them.
    pub(super) async fn entries(
        &self,
        slice: usize,
        prefix: &[u8],
        end: &[u8],
        mut entry: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let done = self.done(slice).await?;
        for bucket in self.state(slice).buckets() {
            for found in done.changes.range_on(&self.before, bucket, prefix, Some(end)) {
                let (key, value) = found?;
                entry(&key[prefix.len()..], &value)?;
            }
        }
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.slices.len()
    }

    pub(super) fn state(&self, slice: usize) -> SliceState {
        SliceState {
            before: self.before.clone(),
            slice,
            slices: self.slices.len(),
        }
    }

    /// What the batch does to a slice.
    pub(super) async fn done(&self, slice: usize) -> Result<&Done<M>> {
        let done = self.slices[slice].get_or_try_init(|| async {
            let mut rows: ByKey<K, Vec<V>> = ByKey::default();
            if let Some(exchanged) = &self.rows {
                exchanged
                    .rows(slice, |key, value| rows.entry(key).or_default().push(value))
                    .await?;
            }
            (self.update)(&self.state(slice), in_places(rows)?)
        });
        done.await
    }
}

fn in_places<K: Key, V>(rows: ByKey<K, Vec<V>>) -> Result<Vec<KeyRows<K, V>>> {
    let placed = |(key, values)| {
        let place = KeyPlace::of(&key)?;
        Ok(KeyRows { place, key, values })
    };
    let mut rows: Vec<_> = rows.into_iter().map(placed).collect::<Result<_>>()?;
    rows.sort_unstable_by(|a, b| a.place.cmp(&b.place));
    Ok(rows)
}

#[async_trait]
impl<K: Key, V: Data, M: Send + Sync + 'static> StateStep for KeyedState<K, V, M> {
    async fn changes(&self) -> Result<Changes> {
        let done = try_join_all((0..self.count()).map(|slice| guarded(self.done(slice)))).await?;
        let mut changes = Changes::default();
        for done in done {
            changes.merge(done.changes.clone());
        }
        Ok(changes)
    }
}
