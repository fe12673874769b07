//! Whether a batch may commit: every slice has reported what its plan gave it (X14).

use crate::plan::{BatchId, BatchPlan, RangePlan};
use crate::position::TopicPartition;

/// What one read slice says at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceReport {
    /// The range as it was planned.
    pub range: RangePlan,
    /// The position reached: at or beyond `range.until`.
    pub reached: i64,
    /// Records read.
    pub records_in: u64,
    /// Records left out as bad.
    pub skipped: u64,
    /// Records left to the source's dead letters.
    pub dead_lettered: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl SliceReport {
    /// What a slice reports before it has read anything.
    pub fn of(range: RangePlan) -> Self {
        Self {
            reached: range.from,
            range,
            records_in: 0,
            skipped: 0,
            dead_lettered: 0,
            bytes: 0,
        }
    }
}

/// The proof that every slice of a batch was read to its end. Sinks commit only against it.
#[derive(Debug)]
pub struct CommitPermit {
    batch_id: BatchId,
    records_in: u64,
    skipped: u64,
    dead_lettered: u64,
    bytes: u64,
}

impl CommitPermit {
    /// The batch that may commit.
    pub fn batch_id(&self) -> BatchId {
        self.batch_id
    }
    /// Records read.
    pub fn records_in(&self) -> u64 {
        self.records_in
    }
    /// Bad records left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
    /// Bad records left to the dead letters.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }
    /// Bytes of keys and values read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Why a batch may not commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// A planned range sent no report.
    #[error("batch {batch_id}: no report for {partition} [{from}, {until}) of source {source_name}")]
    Missing {
        /// The batch.
        batch_id: BatchId,
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// First offset.
        from: i64,
        /// The offset after the last.
        until: i64,
    },
    /// A report came twice, or for a range that was not planned.
    #[error("batch {batch_id}: unplanned or repeated report for {partition} [{from}, {until}) of source {source_name}")]
    Unplanned {
        /// The batch.
        batch_id: BatchId,
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// First offset.
        from: i64,
        /// The offset after the last.
        until: i64,
    },
    /// A slice stopped early.
    #[error("batch {batch_id}: {partition} was read to {reached}, planned to {until}")]
    Short {
        /// The batch.
        batch_id: BatchId,
        /// The partition.
        partition: TopicPartition,
        /// Position reached.
        reached: i64,
        /// The offset after the last planned.
        until: i64,
    },
}

/// Decides whether the reports of one job cover the `sources` it reads, each range exactly once and to its end.
///
/// # Errors
/// The first range that is missing, unplanned, repeated or short.
pub fn decide(plan: &BatchPlan, sources: &[String], reports: &[SliceReport]) -> Result<CommitPermit, Unfinished> {
    let mut open: Vec<&RangePlan> = plan
        .ranges
        .iter()
        .filter(|range| range.until > range.from && sources.contains(&range.source))
        .collect();
    let mut permit = CommitPermit {
        batch_id: plan.batch_id,
        records_in: 0,
        skipped: 0,
        dead_lettered: 0,
        bytes: 0,
    };
    for report in reports {
        let Some(at) = open.iter().position(|range| **range == report.range) else {
            return Err(Unfinished::Unplanned {
                batch_id: plan.batch_id,
                source_name: report.range.source.clone(),
                partition: report.range.partition.clone(),
                from: report.range.from,
                until: report.range.until,
            });
        };
        open.swap_remove(at);
        if report.reached < report.range.until {
            return Err(Unfinished::Short {
                batch_id: plan.batch_id,
                partition: report.range.partition.clone(),
                reached: report.reached,
                until: report.range.until,
            });
        }
        permit.records_in += report.records_in;
        permit.skipped += report.skipped;
        permit.dead_lettered += report.dead_lettered;
        permit.bytes += report.bytes;
    }
    match open.first() {
        None => Ok(permit),
        Some(range) => Err(Unfinished::Missing {
            batch_id: plan.batch_id,
            source_name: range.source.clone(),
            partition: range.partition.clone(),
            from: range.from,
            until: range.until,
        }),
    }
}
