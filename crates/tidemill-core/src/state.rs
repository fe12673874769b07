//! Names of what stateful operators hold (X30).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::BatchId;

/// A version of one operator's state, as plans, ledgers and commit records name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateVersion {
    /// The batch that made it.
    pub batch_id: BatchId,
    /// Its file below the operator's folder; every attempt at a batch has a name of its own.
    pub name: String,
}

/// Versions by operator id.
pub type StateVersions = BTreeMap<String, StateVersion>;

/// What operators hold after a batch: what they held `before`, but for what its commits say.
pub fn after<'a>(before: &StateVersions, commits: impl IntoIterator<Item = &'a StateVersions>) -> StateVersions {
    let mut after = before.clone();
    for (operator, version) in commits.into_iter().flatten() {
        let newer = after
            .get(operator)
            .is_none_or(|known| known.batch_id < version.batch_id);
        if newer {
            after.insert(operator.clone(), version.clone());
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(of: &[(&str, BatchId)]) -> StateVersions {
        let version = |batch_id: &BatchId| StateVersion {
            batch_id: *batch_id,
            name: format!("{batch_id}"),
        };
        of.iter()
            .map(|(operator, batch)| ((*operator).to_owned(), version(batch)))
            .collect()
    }

    #[test]
    fn x30_a_commit_that_did_not_run_an_operator_says_nothing_of_it() {
        let before = versions(&[("a", 6), ("b", 6)]);
        let first = versions(&[("a", 7), ("b", 6)]);
        let second = versions(&[("a", 7), ("b", 7), ("c", 7)]);
        assert_eq!(after(&before, [&first]), versions(&[("a", 7), ("b", 6)]));
        assert_eq!(
            after(&before, [&second, &first]),
            versions(&[("a", 7), ("b", 7), ("c", 7)])
        );
        assert_eq!(after(&before, []), before);
    }
}
