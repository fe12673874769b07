//! The write-ahead log: what can't be read a second time is durable here before anybody is told that it was received.
//!
//! Records go in as bytes and get increasing sequences. Many are written together and synced once (a *group*); then the log
//! looks for a newer epoch; only then are they acknowledged (X31). A driver that was frozen anywhere on the way thaws,
//! looks, and acknowledges nothing.
//!
//! Two uses: blocks of received data ([`Log::append`], read back by [`LogRange`]), and the driver's own events ([`EventLog`]).
//!
//! ```text
//! <epoch>-<first sequence>-<attempt>.log      a segment: records in order, appended, never changed
//! ends-<epoch>.json                           what this epoch found of all older ones: where each segment ends
//! .room-<epoch>                               written and removed while a full disk is waited out
//! ```
//!
//! Invariants:
//! * Nothing is overwritten, cut off or renamed: an older driver that goes on writing, cutting or abandoning can't take away
//!   what a newer one has read. Where a segment ends stands outside of it: its records are those below the first sequence of
//!   the next segment, or below what `ends-…` says. What lies beyond was never acknowledged.
//! * A group is written when the one before is durable, and each record names the first sequence of its group. So a record
//!   proves that all below its group were durable: where one of those can't be read it is damage, not a torn tail.
//! * A failed fsync ends the log, and must end the process. A full disk does not: what was handed in stays in memory, the bytes
//!   that may wait are bounded, so intake stands still, and goes on by itself when there is room.
//! * Segments are removed oldest first and never the newest.
//!
//! Maxima: a record [`RECORD_BYTES_MAX`]; waiting bytes [`LogSettings::waiting_bytes_max`]; a segment
//! [`LogSettings::segment_bytes_max`] and one group, which is what a recovery holds in memory at a time.

mod ends;
mod event_log;
mod gate;
mod group;
mod kept;
mod local;
mod log;
mod open_segment;
mod range;
mod record;
mod scan;
mod segment;
mod settings;
mod staging;
mod storage;
mod takeover;
mod ticket;
mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use ends::Gap;
pub use event_log::EventLog;
pub use gate::{EpochGate, Gate};
pub use local::LocalStorage;
pub use log::{Log, State};
pub use range::{LogRange, RangeReader};
pub use record::RECORD_BYTES_MAX;
pub use scan::{Bad, Piece, Pieces};
pub use segment::SegmentName;
pub use settings::LogSettings;
pub use storage::{Appending, Reading, Storage};
pub use takeover::{Cut, Found, OnDamage, Report, Taken, Takeover};
pub use ticket::Ticket;

/// The number of a record in its log, from 0. A newer epoch goes on where it found the end.
pub type Sequence = u64;
