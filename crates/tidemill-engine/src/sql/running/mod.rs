//! Queries whose aggregates range over more than the batch: `scope = "running"` over the whole stream,
//! `scope = { window = …, slide = … }` over the last while.
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
//! With a time to live ([`Ttl`]) a column stands behind the partial aggregates between the steps of the state: when each group
//! got its last record. The merging step takes the latest, and the note takes it off, with the rows of the groups that it forgets.
//!
//! Over a window a group is kept once per pane ([`Window`]), and the last halves are apart:
//!
//! ```text
//! AggregateExec: FinalPartitioned      values of the merged groups
//!   RepartitionExec: Hash              by group
//!     StateExec: AddAll                where a window ends, all that is kept of it; else nothing passes
//!       StateExec: Note                what becomes of each group of the pane
//!         AggregateExec: PartialReduce
//!           StateExec: AddTouched      what is kept in the pane of the groups of this batch
//!             RepartitionExec: Hash
//!               AggregateExec: Partial
//! ```
//!
//! DataFusion merges and evaluates, so that every aggregate that can merge works and one query spills like another. To what
//! is planned above, the query is a table ([`RunningTable`]): no filter, projection or limit of an output reaches into it, so
//! that all outputs bring the state to the same version.

mod kept_groups;
mod last_record;
mod lower;
mod noted;
mod outermost;
mod reach;
mod row_bytes;
mod state_exec;
mod table;
#[cfg(test)]
mod tests;
mod ttl;
mod window;

pub(super) use lower::lower;
pub(super) use noted::Noted;
pub(super) use state_exec::StateExec;
pub(super) use table::{RunningTable, expand};
pub use ttl::Ttl;
pub use window::Window;

/// What the aggregates of a query range over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The batch.
    #[default]
    Batch,
    /// The whole stream, up to the batch.
    Running {
        /// Which rows come of it.
        emit: Emit,
        /// How long groups without records are kept; `None` = for ever.
        ttl: Option<Ttl>,
    },
    /// The batches of the last while.
    Windowed(Window),
}

impl Scope {
    fn window(self) -> Option<Window> {
        match self {
            Self::Windowed(window) => Some(window),
            Self::Batch | Self::Running { .. } => None,
        }
    }

    fn ttl(self) -> Option<Ttl> {
        match self {
            Self::Running { ttl, .. } => ttl,
            Self::Batch | Self::Windowed(_) => None,
        }
    }
}

/// Which rows a running query gives in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// Those of the groups that the batch has records of.
    #[default]
    Changed,
    /// Those of all groups.
    All,
}
