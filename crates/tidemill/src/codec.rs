//! Values as bytes: between slices, and in state.
//!
//! Rows of an exchange live as long as a batch and are read by the program that wrote them: the compact form, fields by their
//! place. State outlives programs: fields by their names, so that a type with one more optional field still reads it. Both are
//! MessagePack.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_engine::error::{Error, Kind, Result};

/// What can cross from slice to slice and be kept as state.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// # use tidemill::testing::batches_of;
///
/// #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
/// struct Ad(u32);
///
/// let counts = batches_of([[Ad(7), Ad(7)]], |ads| ads.count_by_value())?;
/// assert_eq!(counts, [[(Ad(7), 2)]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

/// What values are grouped by.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// # use tidemill::testing::batches_of;
///
/// #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
/// struct Ad(u32);
///
/// let counts = batches_of([[Ad(7), Ad(7)]], |ads| ads.count_by_value())?;
/// assert_eq!(counts, [[(Ad(7), 2)]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait Key: Data + Eq + std::hash::Hash + Clone {}

impl<T: Data + Eq + std::hash::Hash + Clone> Key for T {}

/// The hash that sends a key to its bucket: of its bytes, the same on every machine and in every version.
pub(crate) fn hash(key: &[u8]) -> u64 {
    // FNV-1a, then the finish of SplitMix64, since buckets are told by the upper bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn refused<T>(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let name = std::any::type_name::<T>();
    Error::with_source(Kind::UserCode, format!("a value of type {name} can't be {what}"), error)
}

/// Appends a value in the compact form.
pub(crate) fn put<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<()> {
    rmp_serde::encode::write(bytes, value).map_err(|error| refused::<T>("encoded", error))
}

/// Takes a value in either form from the front.
pub(crate) fn take<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T> {
    rmp_serde::from_read(bytes).map_err(|error| refused::<T>("decoded", error))
}

/// A key's bytes.
pub(crate) fn key_bytes<K: Serialize>(key: &K) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16);
    put(key, &mut bytes)?;
    Ok(bytes)
}

/// A value in the form that lasts.
pub(crate) fn keep<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| refused::<T>("encoded", error))
}

/// Appends a value in the form that lasts.
pub(crate) fn keep_behind<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<()> {
    rmp_serde::encode::write_named(bytes, value).map_err(|error| refused::<T>("encoded", error))
}

/// A value from the form that lasts.
pub(crate) fn kept<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| refused::<T>("decoded", error))
}

/// What state of these types is called in messages and compared by: their names without paths.
pub(crate) fn shape<T>() -> String {
    let full = std::any::type_name::<T>();
    let mut short = String::with_capacity(full.len());
    let mut word = String::new();
    for letter in full.chars() {
        if letter.is_alphanumeric() || letter == '_' {
            word.push(letter);
            continue;
        }
        if letter == ':' {
            word.clear();
            continue;
        }
        short.push_str(&word);
        word.clear();
        short.push(letter);
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_one_after_another() {
        let mut bytes = Vec::new();
        put(&("a".to_owned(), 7u64), &mut bytes).unwrap();
        put(&vec![1.5f64], &mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        assert_eq!(take::<(String, u64)>(&mut rest).unwrap(), ("a".to_owned(), 7));
        assert_eq!(take::<Vec<f64>>(&mut rest).unwrap(), [1.5]);
        assert!(rest.is_empty());
        assert_eq!(take::<u64>(&mut rest).unwrap_err().kind(), Kind::UserCode);
    }

    #[test]
    fn a_type_with_one_more_optional_field_reads_what_was_kept_before() {
        #[derive(Serialize)]
        struct Before {
            count: u32,
        }
        #[derive(serde::Deserialize)]
        struct After {
            count: u32,
            #[serde(default)]
            last: Option<i64>,
        }
        let after: After = kept(&keep(&Before { count: 3 }).unwrap()).unwrap();
        assert_eq!((after.count, after.last), (3, None));
        assert!(kept::<String>(&keep(&Before { count: 3 }).unwrap()).is_err());
    }

    #[test]
    fn shapes_leave_paths_out() {
        assert_eq!(
            shape::<(String, Option<std::collections::BTreeMap<u8, i64>>)>(),
            "(String, Option<BTreeMap<u8, i64>>)"
        );
    }
}
