//! What the log promises, as a whole.

mod conformance;
mod damage;
mod events;
mod failures;
#[cfg(feature = "fault-injection")]
mod killed;
mod model;
mod newer_epoch;
