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
/// Sizes up to which files are folded, each [`FOLD_FILES`] times the one before: what was folded is of the next size.
const FOLD_BYTES: [u64; 4] = [1 << 10, 8 << 10, 64 << 10, 512 << 10];
/// Changes that no bucket is written whole for.
const CHANGES_BYTES_MIN: u64 = 1 << 20;

/// How many of the last files of `chain` are folded into a version with `bytes` of changes.
pub(super) fn folded(chain: &[Link], mut bytes: u64) -> usize {
    let mut rest = chain;
    let mut smaller = 0;
    for limit in FOLD_BYTES {
        let of_size = |bytes: u64| (smaller..=limit).contains(&bytes);
        let run = rest.iter().rev().take_while(|link| link.bytes <= limit).count();
        let (before, run) = rest.split_at(rest.len() - run);
        // What is smaller waits for more of its own size, unless it lies between these.
        let files = run.iter().filter(|link| of_size(link.bytes)).count() + usize::from(of_size(bytes));
        if bytes <= limit && files >= FOLD_FILES {
            bytes += run.iter().map(|link| link.bytes).sum::<u64>();
            rest = before;
        }
        smaller = limit + 1;
    }
    chain.len() - rest.len()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::version::BucketSnapshot;

    fn links(sizes: &[u64]) -> Vec<Link> {
        let link = |(number, bytes): (usize, &u64)| Link {
            name: format!("{number}"),
            batch_id: number as u64 + 1,
            entries: 1,
            bytes: *bytes,
        };
        sizes.iter().enumerate().map(link).collect()
    }

    fn head(sizes: &[u64], snapshot_bytes: u64) -> Head {
        let snapshot = |bucket| BucketSnapshot {
            bucket,
            batch_id: 0,
            name: Some("0".to_owned()),
            entries: 1,
            bytes: snapshot_bytes,
        };
        Head {
            operator: "o".to_owned(),
            kind: "k".to_owned(),
            shape: "s".to_owned(),
            buckets: BUCKETS,
            batch_id: sizes.len() as u64 + 1,
            parent: None,
            chain: links(sizes),
            snapshots: (0..BUCKETS).map(snapshot).collect(),
            sections: Vec::new(),
        }
    }

    #[test]
    fn eight_files_of_a_size_become_one() {
        assert_eq!(folded(&links(&[100; 6]), 100), 0);
        assert_eq!(folded(&links(&[100; 7]), 100), 7);
        // What was folded waits for seven more of its size.
        assert_eq!(folded(&links(&[4_000, 100, 100, 100, 100, 100, 100, 100]), 100), 7);
        let mut seven_and_seven = [5_000; 14];
        seven_and_seven[7..].fill(600);
        assert_eq!(folded(&links(&seven_and_seven), 600), 14);
        assert_eq!(folded(&links(&seven_and_seven[..13]), 600), 0);
        assert_eq!(folded(&links(&[2 << 20; 20]), 2 << 20), 0);
        assert_eq!(folded(&links(&[100; 7]), 2 << 20), 0);
    }

    #[test]
    fn a_history_has_few_files_and_each_byte_is_folded_few_times() {
        let mut chain = Vec::new();
        let mut written = 0;
        for batch in 0..100_000_u64 {
            let run = folded(&chain, 1_000);
            let folded = chain.split_off(chain.len() - run);
            let bytes = 1_000 + folded.iter().map(|link: &Link| link.bytes).sum::<u64>();
            assert!(bytes <= 4 << 20, "a batch folds {bytes} bytes");
            written += bytes;
            chain.push(Link {
                name: String::new(),
                batch_id: batch,
                entries: 1,
                bytes,
            });
        }
        // 100 MB in files of half a megabyte at least, but for the last of each smaller size.
        assert!(chain.len() < 200 + 4 * FOLD_FILES, "{} files", chain.len());
        assert!(written < 5 * 100_000_000, "{written} bytes written");
    }

    #[test]
    fn buckets_come_due_one_after_another_once_changes_outgrow_the_state() {
        let state = 64 << 20;
        let due_after = |bytes: u64| due(&head(&[bytes], state / 64), 0).len();
        assert_eq!((due_after(1 << 20), due_after(state / 2)), (0, 0));
        assert!(due_after(state / 4 * 3) > 20 && due_after(state / 4 * 3) < 40);
        assert_eq!(due_after(state + (2 << 20)), 64);
        let mut some = head(&[state * 2, state * 2], state / 64);
        some.snapshots[7].batch_id = 1;
        let order = due(&some, 0);
        assert_eq!((order.len(), order.first(), order.last()), (64, Some(&0), Some(&7)));
    }

    #[test]
    fn the_chain_begins_after_the_oldest_snapshot() {
        let mut some = head(&[1, 1, 1, 1], 1);
        prune(&mut some);
        assert_eq!(some.chain.len(), 4);
        for snapshot in &mut some.snapshots {
            snapshot.batch_id = 3;
        }
        some.snapshots[5].batch_id = 2;
        prune(&mut some);
        assert_eq!(some.chain.iter().map(|link| link.batch_id).collect::<Vec<_>>(), [3, 4]);
        some.snapshots.pop();
        some.chain = links(&[1, 1]);
        prune(&mut some);
        assert_eq!(some.chain.len(), 2, "a bucket without a snapshot needs all of it");
    }
}
