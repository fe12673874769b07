//! Values and decisions of Tidemill.
//!
//! What a batch is, where a source stands, what to do next and what to do after a crash: pure functions over values.
//! This crate does no I/O and reads no clock; the engine reads the facts, asks here, and executes the answer.
//! Rules are cited as `X1`…`X32`; `docs/architecture.md` lists them.

pub mod commit;
pub mod fixed_cost;
pub mod ledger;
pub mod loss;
pub mod next_batch;
pub mod plan;
pub mod position;
pub mod rate;
pub mod recover;
pub mod rewind;
pub mod split;
pub mod start;
pub mod state;
pub mod ways_out;

pub use ledger::LedgerRecord;
pub use plan::{BatchId, BatchPlan, Epoch, RangePlan};
pub use position::{PartitionPosition, Positions, TopicPartition};
pub use state::{StateVersion, StateVersions};
