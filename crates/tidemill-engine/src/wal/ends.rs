//! What an epoch wrote down of all older ones before it wrote anything else: which segments are the log's, and where each ends.
//!
//! An older driver that still appends does so behind these ends: nobody reads it.

use serde::{Deserialize, Serialize};
use tidemill_core::plan::Epoch;

use super::Sequence;
use super::segment::SegmentName;
use super::storage::Storage;
use crate::checkpoint::record;
use crate::error::Result;

const KIND: &str = "log-ends";

/// Records that were left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first sequence.
    pub first: Sequence,
    /// The sequence behind the last.
    pub next: Sequence,
}

/// A segment of an older epoch, and the sequence behind its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) segment: SegmentName,
    pub(super) until: Sequence,
}

/// `ends-<epoch>.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    /// The segments of older epochs, in their order.
    pub(super) spans: Vec<Span>,
    /// What can't be read and was let go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<Gap>,
    /// The sequence of this epoch's first record.
    pub(super) next: Sequence,
}

/// The epoch that wrote the ends of this name.
pub(super) fn epoch_of(name: &str) -> Option<Epoch> {
    let number = name.strip_prefix("ends-")?.strip_suffix(".json")?;
    number.parse().ok().filter(|epoch| ends_name(*epoch) == name)
}

pub(super) fn ends_name(epoch: Epoch) -> String {
    format!("ends-{epoch:020}.json")
}

impl Ends {
    /// Writes them down, durable. On a full disk nothing is left of it: it may be tried again.
    pub(super) fn put(&self, storage: &dyn Storage, epoch: Epoch) -> Result<()> {
        let (bytes, _) = record::encode(KIND, "", self)?;
        let name = ends_name(epoch);
        let mut file = storage.create(&name)?;
        if let Err(error) = file.append(&bytes) {
            storage.remove(&name)?;
            return Err(error);
        }
        file.sync()?;
        storage.sync_names()
    }

    /// Reads those of an epoch.
    pub(super) fn get(storage: &dyn Storage, epoch: Epoch) -> Result<Option<Self>> {
        let name = ends_name(epoch);
        let Some(file) = storage.open(&name)? else {
            return Ok(None);
        };
        let length = usize::try_from(file.length()?.min(BYTES_MAX)).unwrap_or(0);
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes)?;
        record::decode(KIND, &name, &bytes).map(|record| Some(record.body))
    }
}

/// A segment takes about a hundred bytes here.
const BYTES_MAX: u64 = 64 << 20;
