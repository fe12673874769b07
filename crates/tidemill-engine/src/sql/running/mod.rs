//! Queries whose aggregates range over the whole stream: `scope = "running"`.
//!
//! The query is planned by itself, and its outermost aggregate is taken apart:
//!
//! ```text
//! AggregateExec: FinalPartitioned      values of the merged groups
//!   StateExec: Note                    what becomes of each group, for the state
//!     AggregateExec: PartialReduce     each group once, still partial aggregates
//!       StateExec: AddTouched          what is kept of the groups of this batch (`emit = "changed"`)
//!         RepartitionExec: Hash        by group
//!           StateExec: AddAll          all that is kept (`emit = "all"`)
//!             AggregateExec: Partial   of the batch
//! ```
//!
//! DataFusion merges and evaluates, so that every aggregate that can merge works and one query spills like another. To what
//! is planned above, the query is a table ([`RunningTable`]): no filter, projection or limit of an output reaches into it, so
//! that all outputs bring the state to the same version.

mod kept_groups;
mod lower;
mod noted;
mod outermost;
mod row_bytes;
mod state_exec;
mod table;
#[cfg(test)]
mod tests;

pub(super) use lower::lower;
pub(super) use noted::Noted;
pub(super) use state_exec::StateExec;
pub(super) use table::{RunningTable, expand};

/// What the aggregates of a query range over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The batch.
    #[default]
    Batch,
    /// The whole stream, up to the batch.
    Running(Emit),
}

/// Which rows a running query gives in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// Those of the groups that the batch has records of.
    #[default]
    Changed,
    /// Those of all groups, where the batch has any record.
    All,
}
