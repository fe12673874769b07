//! When a version is more than what its batch changed: which files are folded into it, which buckets it writes whole.
//!
//! Both keep a restoration short and cost a batch a share of what it changed, never the whole state:
//! * Small files are folded, [`FOLD_FILES`] of a size at a time, so that there are few of them. A file is folded at most once
//!   per size in [`FOLD_BYTES`].
//! * A bucket is written whole, a *snapshot*, when the changes since its last one outgrow the state. Each bucket has a bound
//!   of its own between half and all of the state, so that they come due one after another. What lies before the oldest snapshot is
//!   needed no more.

use super::BUCKETS;
use super::version::{Head, Link};

/// Files of a size that are folded into one.
pub(super) const FOLD_FILES: usize = 8;
/// Sizes below which files are folded.
const FOLD_BYTES: [u64; 3] = [16 << 10, 128 << 10, 1 << 20];
/// Changes that no bucket is written whole for.
const CHANGES_BYTES_MIN: u64 = 1 << 20;

/// How many of the last files of `chain` are folded into a version with `bytes` of changes.
pub(super) fn folded(chain: &[Link], bytes: u64) -> usize {
    let fits = |limit: &u64| {
        let run = chain.iter().rev().take_while(|link| link.bytes <= *limit).count();
        (bytes <= *limit && run + 1 >= FOLD_FILES).then_some(run)
    };
    FOLD_BYTES.iter().rev().find_map(fits).unwrap_or(0)
}

/// Buckets that are due, the longest since their snapshot first. `bytes` is what the version itself changes.
pub(super) fn due(head: &Head, bytes: u64) -> Vec<u16> {
    let state: u64 = head.snapshots.iter().map(|snapshot| snapshot.bytes).sum();
    let is_due = |bucket: &u16| {
        let since = head.snapshot_batch(*bucket);
        let changed: u64 = head
            .chain
            .iter()
            .filter(|link| Some(link.batch_id) > since)
            .map(|link| link.bytes)
            .sum();
        let share = state / 2 + state / 2 / u64::from(BUCKETS) * u64::from(*bucket);
        changed + bytes > CHANGES_BYTES_MIN + share
    };
    let mut due: Vec<u16> = (0..BUCKETS).filter(is_due).collect();
    due.sort_by_key(|bucket| head.snapshot_batch(*bucket));
    due
}

/// Bytes of snapshots after which no further one is begun in a version with `bytes` of changes.
pub(super) fn snapshot_bytes(bytes: u64) -> u64 {
    bytes * 2
}

/// Files of the chain that some bucket still needs: those after the oldest snapshot.
pub(super) fn prune(head: &mut Head) {
    let oldest = (0..BUCKETS).map(|bucket| head.snapshot_batch(bucket)).min().flatten();
    head.chain.retain(|link| Some(link.batch_id) > oldest);
}
