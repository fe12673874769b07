//! The bytes that may be requested or fetched and not yet handed on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::demand::Want;

/// Permits count KiB, since a semaphore's numbers are 32-bit.
const UNIT_BYTES: u32 = 1024;

/// Two halves: chunks fetched ahead can't take the half that is kept for slices that wait. Without that, slices that
/// are blocked further down could hold everything with chunks they fetched ahead, and starve the slice they wait for.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    ahead: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    half_units: u32,
}

/// Bytes taken from the budget; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct BudgetPermit {
    permit: OwnedSemaphorePermit,
}

impl BudgetPermit {
    /// Gives back what goes beyond `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(UNIT_BYTES as usize).max(1);
        drop(self.permit.split(self.permit.num_permits().saturating_sub(needed)));
    }
}

impl Budget {
    /// A budget of `bytes`.
    pub(crate) fn new(bytes: u32) -> Self {
        let half_units = (bytes / 2 / UNIT_BYTES).max(1);
        let half = || Arc::new(Semaphore::new(half_units as usize));
        Self {
            ahead: half(),
            waiting: half(),
            half_units,
        }
    }

    /// What is left for chunks fetched ahead, in KiB.
    #[cfg(test)]
    pub(crate) fn ahead_left(&self) -> usize {
        self.ahead.available_permits()
    }

    fn units(&self, bytes: u32) -> u32 {
        // A single batch beyond the whole half still has to pass; it does so alone.
        bytes.div_ceil(UNIT_BYTES).clamp(1, self.half_units)
    }

    /// Takes `bytes`, if they are there now.
    pub(crate) fn try_take(&self, bytes: u32, want: Want) -> Option<BudgetPermit> {
        let units = self.units(bytes);
        let ahead = || Arc::clone(&self.ahead).try_acquire_many_owned(units).ok();
        let permit = match want {
            Want::Ahead => ahead(),
            Want::Waiting => Arc::clone(&self.waiting)
                .try_acquire_many_owned(units)
                .ok()
                .or_else(ahead),
        };
        permit.map(|permit| BudgetPermit { permit })
    }

    /// Waits until `bytes` can be taken for a slice that waits.
    pub(crate) async fn take(&self, bytes: u32) -> BudgetPermit {
        let permit = Arc::clone(&self.waiting).acquire_many_owned(self.units(bytes)).await;
        BudgetPermit {
            permit: permit.expect("the semaphore is never closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_ahead_leaves_half_to_those_who_wait() {
        let budget = Budget::new(4 << 20);
        let ahead: Vec<_> = (0..4).map_while(|_| budget.try_take(1 << 20, Want::Ahead)).collect();
        assert_eq!(ahead.len(), 2);
        let waiting: Vec<_> = (0..4).map_while(|_| budget.try_take(1 << 20, Want::Waiting)).collect();
        assert_eq!(waiting.len(), 2);
        drop(ahead);
        assert!(budget.try_take(1 << 20, Want::Waiting).is_some());
        drop(waiting);
        assert!(
            budget.try_take(100 << 20, Want::Waiting).is_some(),
            "a batch beyond the budget passes alone"
        );
    }
}
