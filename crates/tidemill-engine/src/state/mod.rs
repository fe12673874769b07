//! Keyed state of operators, version by version in the checkpoint (X30).
//!
//! An operator's state is a set of keys with a value each, spread over [`BUCKETS`] buckets by the hash of the key. After every
//! batch that changes something it has a new *version*: a file in the checkpoint's folder `state/<operator>/` with what the
//! batch changed and the names of the files it builds on. The *base* is the version that the next batch reads.
//!
//! Invariants:
//! * A version is durable before it has a name that a ledger could hold, and is never changed ([`StateStore::stage`]).
//! * Nothing is visible before [`StateStore::advance`]: until then every reader sees the base, in this process and after its end.
//! * A version's name is one attempt's own: two drivers, or two attempts of one, never write the same file.
//! * The checkpoint alone is enough. What stands on local disk is a cache and may vanish at any time; it knows itself which
//!   version it holds.
//! * A file that is missing or damaged is an error that names operator and batch; it is never taken for empty state.
//!
//! Maxima: [`BUCKETS`] buckets; a key has at most [`KEY_BYTES_MAX`] bytes, a value at most [`VALUE_BYTES_MAX`]. In memory are the
//! changes of a batch, twice while they are staged; at most 4 MiB of folded changes; the buckets that a version writes whole: one,
//! or twice what the batch changed; one file while it is read; and the cache's `memory_bytes_max`, with the index of what lies on disk beside it: a three hundredth
//! of the state. A restoration reads about twice the state at most. `policy.rs` says why a batch pays for what it changed.

mod cache;
mod changes;
mod name;
mod policy;
mod reader;
mod store;
#[cfg(test)]
mod tests;
mod version;

pub use changes::{Changed, Changes};
pub use name::StageName;
pub use reader::{StateRange, StateReader};
pub use store::{OperatorSummary, StateSettings, StateStore};
pub use version::VersionSummary;

use crate::error::{Error, Kind, Result};

/// Buckets that the hashes of an operator's keys fall into. The same for ever: any number of slices shares them out.
pub const BUCKETS: u16 = 64;
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 32 << 10;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 256 << 20;

/// The bucket of a key with this hash.
pub fn bucket_of(key_hash: u64) -> u16 {
    // By the upper bits: the lower ones place keys in hash tables.
    let bucket = (u128::from(key_hash) * u128::from(BUCKETS)) >> 64;
    u16::try_from(bucket).expect("below BUCKETS")
}

/// What an operator says of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Its name in the checkpoint: `a`–`z`, `0`–`9` and `-`.
    pub id: String,
    /// What it does with state, for example `map_with_state`.
    pub kind: String,
    /// What the bytes of keys and values hold; state of another shape is refused.
    pub shape: String,
}

impl OperatorSpec {
    /// Fails where the id can't be the name of a folder.
    fn check(&self) -> Result<()> {
        let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !self.id.is_empty() && self.id.bytes().all(sound) {
            return Ok(());
        }
        let text = format!(
            "operator {:?} of keyed state: a name is made of a-z, 0-9 and -",
            self.id
        );
        Err(Error::new(Kind::Config, text))
    }
}

#[cfg(test)]
mod bucket_tests {
    use super::*;

    #[test]
    fn hashes_spread_over_all_buckets() {
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS - 1));
        let mut seen = [0_u32; BUCKETS as usize];
        for bucket in 0..u64::from(BUCKETS) {
            seen[usize::from(bucket_of(bucket << 58 | 12345))] += 1;
        }
        assert!(seen.iter().all(|count| *count == 1), "{seen:?}");
    }
}
