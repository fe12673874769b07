//! Batches that can be computed again: their plans, for as long as a stream remembers them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_core::plan::BatchPlan;
use tokio::runtime::Handle;

use crate::graph::Stream;

/// The plans of the last while. In memory only: after a start nothing is remembered.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    // A leaf lock, held to add and to look.
    plans: Mutex<Plans>,
}

#[derive(Debug, Default)]
struct Plans {
    by_time: BTreeMap<i64, Planned>,
    /// The newest batch that an output has ended.
    ended_ms: i64,
}

/// What a batch can be computed from again.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) plan: Arc<BatchPlan>,
    /// Bytes of rows between slices that are held in memory.
    pub(crate) held_bytes_max: usize,
    /// Where it ran.
    pub(crate) runtime: Handle,
}

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is about to run.
    pub(crate) fn begin(&self, planned: Planned) {
        self.lock().by_time.insert(planned.plan.batch_time_ms, planned);
    }

    /// A batch has run: what is `longest_ms` older than it is forgotten.
    pub(crate) fn end(&self, time_ms: i64, longest_ms: i64) {
        let mut plans = self.lock();
        plans.ended_ms = plans.ended_ms.max(time_ms);
        let oldest_ms = plans.ended_ms.saturating_sub(longest_ms);
        plans.by_time.retain(|time_ms, _| *time_ms > oldest_ms);
    }

    /// The batches that a stream remembers, by time.
    pub(crate) fn of(&self, stream: &Stream) -> BTreeMap<i64, Planned> {
        let plans = self.lock();
        let oldest_ms = plans.ended_ms.saturating_sub(stream.remembers_ms());
        let is_kept = |(time_ms, planned): &(&i64, &Planned)| {
            **time_ms > oldest_ms && stream.is_due(**time_ms, planned.plan.zero_ms.unwrap_or(0))
        };
        let kept = plans.by_time.iter().filter(is_kept);
        kept.map(|(time_ms, planned)| (*time_ms, planned.clone())).collect()
    }

    /// Zero time and the newest batch's, once there is one.
    pub(crate) fn bounds(&self) -> Option<(i64, i64)> {
        let plans = self.lock();
        let (newest_ms, planned) = plans.by_time.last_key_value()?;
        Some((planned.plan.zero_ms.unwrap_or(0), *newest_ms))
    }
}
