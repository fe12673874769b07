//! Records that were gone before they were read, and what is left of a plan without them (X13).

use serde::{Deserialize, Serialize};

use crate::plan::{BatchPlan, RangePlan};
use crate::position::TopicPartition;

/// What happens where the next offset to read is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOutOfRange {
    /// The stream stops, naming what is gone.
    #[default]
    Stop,
    /// The loss is recorded; reading goes on at the first offset that is left.
    Earliest,
    /// The loss is recorded; reading goes on at the end.
    Latest,
}

/// Offsets of one partition that were planned and never read: `[from, until)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The source's name in the pipeline.
    pub source: String,
    /// The partition.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// First offset lost.
    pub from: i64,
    /// The offset after the last one lost.
    pub until: i64,
}

impl OnOutOfRange {
    /// What of `range` is given up where the partition begins at `earliest`, beyond the range's begin; `None` where the
    /// policy gives up nothing.
    pub fn loss(self, range: &RangePlan, earliest: i64) -> Option<Loss> {
        let until = match self {
            Self::Stop => return None,
            Self::Earliest => earliest.min(range.until),
            Self::Latest => range.until,
        };
        (until > range.from).then(|| Loss {
            source: range.source.clone(),
            partition: range.partition.clone(),
            from: range.from,
            until,
        })
    }
}

impl BatchPlan {
    /// The plan as it can be read: each range begins after what was lost of it, and is left out where nothing remains.
    #[must_use]
    pub fn without(&self, losses: &[Loss]) -> Self {
        let mut rest = self.clone();
        for range in &mut rest.ranges {
            for loss in losses {
                if loss.source == range.source && loss.partition == range.partition && loss.from <= range.from {
                    range.from = range.from.max(loss.until);
                }
            }
        }
        rest.ranges.retain(|range| range.until > range.from);
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::LimitsInForce;
    use crate::position::Positions;

    fn range(number: i32, from: i64, until: i64) -> RangePlan {
        RangePlan {
            source: "events".to_owned(),
            partition: TopicPartition::new("t", number),
            topic_id: None,
            from,
            until,
            leader_epoch: 0,
        }
    }

    fn plan(ranges: Vec<RangePlan>) -> BatchPlan {
        BatchPlan {
            app: "app".to_owned(),
            app_uuid: "uuid".to_owned(),
            epoch: 1,
            incarnation: "i".to_owned(),
            batch_id: 1,
            batch_time_ms: 0,
            seed: 0,
            reduce_slices: 2,
            before: Positions::default(),
            ranges,
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: LimitsInForce::default(),
            pipeline_hash: String::new(),
            query_hashes: BTreeMap::new(),
            states: BTreeMap::new(),
            zero_ms: None,
            turn: None,
        }
    }

    fn lost(policy: OnOutOfRange, earliest: i64) -> Option<(i64, i64)> {
        let loss = policy.loss(&range(0, 10, 20), earliest)?;
        Some((loss.from, loss.until))
    }

    #[test]
    fn x13_each_policy_gives_up_what_it_says() {
        assert_eq!(lost(OnOutOfRange::Stop, 15), None);
        assert_eq!(lost(OnOutOfRange::Earliest, 15), Some((10, 15)));
        assert_eq!(lost(OnOutOfRange::Earliest, 30), Some((10, 20)));
        assert_eq!(lost(OnOutOfRange::Latest, 15), Some((10, 20)));
    }

    #[test]
    fn x13_what_is_left_of_a_plan_begins_after_the_losses() {
        let plan = plan(vec![range(0, 10, 20), range(1, 0, 5), range(2, 0, 5)]);
        let first = OnOutOfRange::Earliest.loss(&plan.ranges[0], 12);
        let second = Loss {
            from: 12,
            until: 17,
            ..first.clone().expect("a loss")
        };
        let whole = OnOutOfRange::Latest.loss(&plan.ranges[2], 1);
        let rest = plan.without(&[first.expect("a loss"), second, whole.expect("a loss")]);
        assert_eq!(rest.ranges, [range(0, 17, 20), range(1, 0, 5)]);
        assert_eq!(plan.ranges.len(), 3);
    }
}
