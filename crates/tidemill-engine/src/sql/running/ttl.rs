//! How long a group of a running query is kept after its last record.
//!
//! The value of a group is led by the time of the last batch that had records of it, and by that time the group stands a second
//! time: what expires is found without a look at the rest. A query whose time to live was taken away leaves both as they are
//! where nothing changes, so that every query reads values with and without a time.
//!
//! What was kept without a time to live has no time, or one that later records did not move. So the state says since when there
//! is one: whatever is older counts from then, and is looked for once, when it expires. It also says how far by time groups are
//! forgotten: what was removed there is not passed again and again.

use crate::error::{Error, Kind, Result};
use crate::state::{BUCKETS, Changes, StateReader};

use super::reach::{TIME_BYTES, time_bytes};

/// Leads a value with a time. One without begins as a row does, with 0 or 1, or is empty.
const TIMED: u8 = 2;
/// Comes after the keys of all groups, which begin as a row does.
pub(super) const GROUPS_END: &[u8] = &[2];
/// Leads the keys of groups by time: then time, then group.
const BY_TIME: &[u8] = b"t";
/// The bucket and the key of the [`Bounds`].
const BOUNDS: (u16, &[u8]) = (0, b"b");

/// How long a running query keeps a group that gets no record, by batch time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    /// Milliseconds after its last record. The first batch beyond them forgets the group, where it has no record of it.
    pub idle_ms: i64,
    /// Milliseconds from batch to batch. A batch without input may not be run: a record that comes more than this behind
    /// `idle_ms` begins its group anew all the same.
    pub interval_ms: i64,
}

/// What a time to live comes to in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    now_ms: i64,
    /// Groups whose last record came before this are forgotten, but for those that the batch has records of.
    forgotten_before_ms: i64,
    /// Groups whose last record came before this were to be forgotten by an earlier batch, whether it was run or not.
    gone_before_ms: i64,
    bounds: Bounds,
}

/// What the state says of the times in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    /// Since when there is a time to live.
    since_ms: i64,
    /// No group stands by a time from `since_ms` up to this.
    none_before_ms: i64,
    /// True while groups may be kept that came before `since_ms`.
    has_older: bool,
}

impl Expiry {
    /// Of the batch of this time.
    ///
    /// # Errors
    /// Where the state can't be read.
    pub(super) fn of(ttl: Ttl, now_ms: i64, before: Option<&StateReader>) -> Result<Self> {
        let bounds = match Bounds::read(before)? {
            Some(bounds) => bounds,
            None => Bounds {
                since_ms: now_ms,
                none_before_ms: now_ms,
                has_older: before.map_or(Ok(false), |before| before.is_empty().map(|empty| !empty))?,
            },
        };
        let forgotten_before_ms = now_ms.saturating_sub(ttl.idle_ms);
        Ok(Self {
            now_ms,
            forgotten_before_ms,
            gone_before_ms: forgotten_before_ms.saturating_sub(ttl.interval_ms),
            bounds,
        })
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// True where records of the batch go on from a group that is kept with this time.
    pub(super) fn goes_on(&self, last_ms: i64) -> bool {
        last_ms.max(self.bounds.since_ms) >= self.gone_before_ms
    }

    /// True where a group with this time outlives the batch.
    pub(super) fn keeps(&self, last_ms: i64) -> bool {
        last_ms.max(self.bounds.since_ms) >= self.forgotten_before_ms
    }

    /// Removes the groups that the batch forgets. `changes` has all that it has records of.
    ///
    /// # Errors
    /// Where the state can't be read.
    pub(super) fn forget(&self, before: Option<&StateReader>, changes: &mut Changes) -> Result<()> {
        let mut bounds = self.bounds;
        if let Some(before) = before {
            self.forget_by_time(before, changes)?;
            if bounds.has_older && !self.keeps(0) {
                self.forget_older(before, changes)?;
                bounds.has_older = false;
            }
        }
        // A batch that changes nothing else need not change this.
        if !changes.is_empty() {
            bounds.none_before_ms = bounds.none_before_ms.max(self.forgotten_before_ms);
        }
        if Bounds::read(before)? != Some(bounds) {
            changes.set(BOUNDS.0, BOUNDS.1.to_vec(), Some(bounds.bytes()));
        }
        Ok(())
    }

    fn forget_by_time(&self, before: &StateReader, changes: &mut Changes) -> Result<()> {
        let (from, until) = (
            by_time(self.bounds.none_before_ms, &[]),
            by_time(self.forgotten_before_ms, &[]),
        );
        for bucket in 0..BUCKETS {
            for entry in before.range(bucket, &from, Some(&until)) {
                let key = entry?.0;
                // One with records in the batch has a new time.
                if changes.get(bucket, &key).is_none() {
                    changes.set(bucket, key[from.len()..].to_vec(), None);
                    changes.set(bucket, key, None);
                }
            }
        }
        Ok(())
    }

    /// Removes what is older than the time to live: once, so that all groups may be looked at.
    fn forget_older(&self, before: &StateReader, changes: &mut Changes) -> Result<()> {
        for bucket in 0..BUCKETS {
            for entry in before.range(bucket, &[], Some(GROUPS_END)) {
                let (group, value) = entry?;
                let (last_ms, _) = split(&value);
                if last_ms < self.bounds.since_ms && changes.get(bucket, &group).is_none() {
                    forget_time(bucket, &group, last_ms, changes);
                    changes.set(bucket, group, None);
                }
            }
        }
        Ok(())
    }
}

impl Bounds {
    fn read(before: Option<&StateReader>) -> Result<Option<Self>> {
        let Some(bytes) = before.map_or(Ok(None), |before| before.get(BOUNDS.0, BOUNDS.1))? else {
            return Ok(None);
        };
        let (times, rest) = bytes.as_chunks::<TIME_BYTES>();
        match (times, rest) {
            ([since, none_before], [has_older]) => Ok(Some(Self {
                since_ms: time_of(*since),
                none_before_ms: time_of(*none_before),
                has_older: *has_older != 0,
            })),
            _ => Err(Error::new(Kind::Bug, "the bounds of times in the state are damaged")),
        }
    }

    fn bytes(self) -> Vec<u8> {
        let times = [time_bytes(self.since_ms), time_bytes(self.none_before_ms)];
        [times.as_flattened(), &[u8::from(self.has_older)]].concat()
    }
}

/// Notes that there is no time to live: times that are kept are no longer moved.
///
/// # Errors
/// Where the state can't be read.
pub(super) fn without_ttl(before: Option<&StateReader>, changes: &mut Changes) -> Result<()> {
    if Bounds::read(before)?.is_some() {
        changes.set(BOUNDS.0, BOUNDS.1.to_vec(), None);
    }
    Ok(())
}

/// The value with its time.
pub(super) fn timed(time_ms: i64, value: &[u8]) -> Vec<u8> {
    [&[TIMED], time_bytes(time_ms).as_slice(), value].concat()
}

/// The time of a kept value, 0 where it has none, and the value without it.
pub(super) fn split(kept: &[u8]) -> (i64, &[u8]) {
    let timed = kept.split_first().filter(|(first, _)| **first == TIMED);
    match timed.and_then(|(_, rest)| rest.split_first_chunk::<TIME_BYTES>()) {
        Some((time, value)) => (time_of(*time), value),
        None => (0, kept),
    }
}

/// Lets a group stand by the time of its last record.
pub(super) fn note_time(bucket: u16, group: &[u8], time_ms: i64, changes: &mut Changes) {
    changes.set(bucket, by_time(time_ms, group), Some(Vec::new()));
}

/// Lets a group no longer stand by this time; 0 is none.
pub(super) fn forget_time(bucket: u16, group: &[u8], time_ms: i64, changes: &mut Changes) {
    if time_ms != 0 {
        changes.set(bucket, by_time(time_ms, group), None);
    }
}

fn by_time(time_ms: i64, group: &[u8]) -> Vec<u8> {
    [BY_TIME, &time_bytes(time_ms), group].concat()
}

fn time_of(bytes: [u8; TIME_BYTES]) -> i64 {
    i64::try_from(u64::from_be_bytes(bytes)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept by one version is read by every later one.
    #[test]
    fn the_bytes_stay_the_same() {
        let kept = timed(0x0102, b"\x01v");
        assert_eq!(kept, b"\x02\0\0\0\0\0\0\x01\x02\x01v");
        assert_eq!(split(&kept), (0x0102, b"\x01v".as_slice()));
        let mut changes = Changes::default();
        note_time(3, b"\x01g", 0x0102, &mut changes);
        assert_eq!(
            changes.get(3, b"t\0\0\0\0\0\0\x01\x02\x01g"),
            Some(Some(b"".as_slice()))
        );
        let bounds = Bounds {
            since_ms: 1,
            none_before_ms: 2,
            has_older: true,
        };
        assert_eq!(bounds.bytes(), b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01");
    }

    #[test]
    fn a_value_without_a_time_is_read_as_it_is() {
        for value in [b"".as_slice(), b"\0\x01\0\0\0\0\0\0\0", b"\x01\x02\0\0\0\0\0\0\0"] {
            assert_eq!(split(value), (0, value));
            assert_eq!(split(&timed(7, value)), (7, value));
        }
    }
}
