//! What the next batch reads: facts asked of the brokers, decided in `tidemill-core`.

use std::collections::BTreeMap;

use tidemill_core::loss::{Loss, OnOutOfRange};
use tidemill_core::next_batch::{self, PartitionEnd, SourceLimits, Stop};
use tidemill_core::plan::{BatchPlan, LimitsInForce, RangePlan};
use tidemill_core::position::{PartitionPosition, Positions};
use tidemill_core::split::split;
use tidemill_core::start::{OnNewPartition, PartitionBounds};

use super::{Driver, DriverSource, Running};
use crate::error::{Error, Kind, Result};
use crate::source::PartitionEnds;

/// The ends of all sources, by name.
pub(super) type Ends = BTreeMap<String, Vec<PartitionEnds>>;

/// What the next batch reads.
#[derive(Debug)]
pub(super) struct NextRanges {
    pub(super) ranges: Vec<RangePlan>,
    /// What of the ranges is gone already.
    pub(super) losses: Vec<Loss>,
    pub(super) limits: LimitsInForce,
}

impl Driver {
    pub(super) async fn all_ends(&self, with_earliest: bool) -> Result<Ends> {
        let asked = self
            .sources
            .iter()
            .map(|source| async move { (source.name.clone(), source.source.ends(with_earliest).await) });
        let mut all = BTreeMap::new();
        for (name, ends) in futures::future::join_all(asked).await {
            all.insert(name, ends?);
        }
        Ok(all)
    }

    /// The ranges of the next batch; `None` where the brokers could not be asked and the loop should go round.
    pub(super) async fn next_ranges(
        &self,
        running: &mut Running,
        targets: Option<&Ends>,
    ) -> Result<Option<NextRanges>> {
        match self.ranges(running, targets).await {
            Ok(next) => Ok(Some(next)),
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    error = error.chain(),
                    "end offsets can't be read; trying again at the next tick"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn ranges(&self, running: &mut Running, targets: Option<&Ends>) -> Result<NextRanges> {
        let ends = match targets {
            Some(targets) => targets.clone(),
            // Positions may lie before the first offset at the start and after a loss; then only a fetch can tell.
            None => {
                let ends = self.all_ends(running.may_be_overtaken).await?;
                let now = self.clock.elapsed();
                running.held_back.look(&self.sources, &ends, now).await;
                ends
            }
        };
        let mut next = NextRanges {
            ranges: Vec::new(),
            losses: Vec::new(),
            limits: LimitsInForce {
                reason: "end".to_owned(),
                ..LimitsInForce::default()
            },
        };
        for source in &self.sources {
            let found = ends.get(&source.name).map_or(&[][..], Vec::as_slice);
            let met = self.meet_new_partitions(source, found, &mut running.positions).await?;
            running.must_be_logged |= met && source.on_new_partition == OnNewPartition::Latest;
            let limits = SourceLimits {
                partition: source.bound,
                rate: running.pace.rate(source),
                interval_seconds: self.settings.interval.as_secs_f64(),
                batch_bytes_max: source.batch_bytes_max,
                sink_bytes_max: running.sink_bytes_max.map(|all| all / self.sources.len() as u64),
                record_bytes: running
                    .record_bytes
                    .get(&source.name)
                    .copied()
                    .unwrap_or(next_batch::RECORD_BYTES_GUESS),
            };
            let found: Vec<PartitionEnd> = found.iter().map(partition_end).collect();
            self.refuse_truncated(source, &running.positions, &found).await?;
            let (cut, limits) = next_batch::cut(
                &source.name,
                &running.positions,
                &found,
                &limits,
                source.on_out_of_range,
            )
            .map_err(stop)?;
            next.losses.extend(lost(source.on_out_of_range, &cut, &found));
            next.ranges.extend(cut);
            if limits.reason != "end" {
                next.limits = limits;
            }
        }
        next.ranges = split(next.ranges, self.settings.reduce_slices);
        running.may_be_overtaken = false;
        running.lag.saw(self.clock.now_ms(), &ends);
        Ok(next)
    }

    /// Partitions whose leader changed may have lost records that were read.
    async fn refuse_truncated(
        &self,
        source: &DriverSource,
        positions: &Positions,
        ends: &[PartitionEnd],
    ) -> Result<()> {
        let changed = next_batch::changed_leaders(&source.name, positions, ends);
        if changed.is_empty() {
            return Ok(());
        }
        let epoch_ends = source.source.epoch_ends(&changed).await?;
        next_batch::refuse_truncated(&source.name, positions, &epoch_ends).map_err(stop)
    }

    /// Takes positions in partitions that were added while we ran, or stood still; true where there are any.
    async fn meet_new_partitions(
        &self,
        source: &DriverSource,
        ends: &[PartitionEnds],
        positions: &mut Positions,
    ) -> Result<bool> {
        let is_new = |end: &&PartitionEnds| positions.get(&source.name, &end.partition).is_none();
        if !ends.iter().any(|end| is_new(&end)) {
            return Ok(false);
        }
        let new: Vec<PartitionEnds> = source.source.ends(true).await?;
        let new: Vec<&PartitionEnds> = new.iter().filter(is_new).collect();
        for end in new {
            let offset = match source.on_new_partition {
                OnNewPartition::Earliest => end.earliest,
                OnNewPartition::Latest => end.end,
            };
            tracing::info!(source = source.name, partition = %end.partition, from = offset, "new partition");
            positions.set(PartitionPosition {
                source: source.name.clone(),
                partition: end.partition.clone(),
                topic_id: end.topic_id.clone(),
                offset,
                leader_epoch: end.leader_epoch,
            });
        }
        Ok(true)
    }
}

/// What of a plan is gone by now, where the sources' policies go on without it.
///
/// # Errors
/// Where the brokers do not answer.
pub(super) async fn losses(sources: &[DriverSource], plan: &BatchPlan) -> Result<Vec<Loss>> {
    let mut all = Vec::new();
    for source in sources {
        let ranges: Vec<RangePlan> = plan
            .ranges
            .iter()
            .filter(|range| range.source == source.name)
            .cloned()
            .collect();
        if source.on_out_of_range != OnOutOfRange::Stop && !ranges.is_empty() {
            let ends: Vec<PartitionEnd> = source.source.ends(true).await?.iter().map(partition_end).collect();
            all.extend(lost(source.on_out_of_range, &ranges, &ends));
        }
    }
    Ok(all)
}

fn lost(policy: OnOutOfRange, ranges: &[RangePlan], ends: &[PartitionEnd]) -> Vec<Loss> {
    let of = |range: &RangePlan| {
        let end = ends.iter().find(|end| end.partition == range.partition)?;
        policy.loss(range, end.earliest.filter(|earliest| *earliest > range.from)?)
    };
    ranges.iter().filter_map(of).collect()
}

fn stop(stop: Stop) -> Error {
    Error::new(Kind::Loss, stop.to_string())
}

fn partition_end(end: &PartitionEnds) -> PartitionEnd {
    PartitionEnd {
        partition: end.partition.clone(),
        topic_id: end.topic_id.clone(),
        leader_epoch: end.leader_epoch,
        earliest: (end.earliest >= 0).then_some(end.earliest),
        end: end.end,
    }
}

/// A partition's ends as the decisions take them.
pub(super) fn partition_bounds(end: PartitionEnds) -> PartitionBounds {
    PartitionBounds {
        partition: end.partition,
        topic_id: end.topic_id,
        leader_epoch: end.leader_epoch,
        earliest: end.earliest,
        end: end.end,
        answer: None,
    }
}
