//! Which batches belong to aborted transactions.

use std::collections::HashSet;

/// A transaction that a response names as aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTransaction {
    /// Who wrote it.
    pub(crate) producer_id: i64,
    /// Its first offset in the partition.
    pub(crate) first_offset: i64,
}

/// Walks the batches of one response in order and tells which to pass over.
#[derive(Debug)]
pub(crate) struct AbortedFilter {
    /// Not yet begun, the next one last.
    ahead: Vec<AbortedTransaction>,
    /// Producers whose data is aborted here and now.
    open: HashSet<i64>,
}

impl AbortedFilter {
    /// A filter for the list of a response, in whatever order the broker sent it.
    pub(crate) fn new(list: &[AbortedTransaction]) -> Self {
        let mut ahead = list.to_vec();
        ahead.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self {
            ahead,
            open: HashSet::new(),
        }
    }

    /// Opens the transactions that begin up to the batch that ends with `last_offset`.
    pub(crate) fn advance(&mut self, last_offset: i64) {
        while let Some(transaction) = self.ahead.pop_if(|transaction| transaction.first_offset <= last_offset) {
            self.open.insert(transaction.producer_id);
        }
    }

    /// True where transactional data of this producer is aborted.
    pub(crate) fn covers(&self, producer_id: i64) -> bool {
        self.open.contains(&producer_id)
    }

    /// An abort marker ends the producer's transaction.
    pub(crate) fn end(&mut self, producer_id: i64) {
        self.open.remove(&producer_id);
    }
}
