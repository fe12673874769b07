//! The first positions of a source: used once, on the first start, and logged as plan 0.

use std::collections::BTreeMap;

use crate::position::{PartitionPosition, Positions, TopicPartition};

/// Where a source begins on the first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPolicy {
    /// The first offset that can still be read.
    Earliest,
    /// The end as it is at the first start.
    Latest,
    /// Given offsets: topic → partition → offset. Every partition must be named.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// One partition at the first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionBounds {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id, where the broker gives one.
    pub topic_id: Option<String>,
    /// Leader epoch, -1 where unknown.
    pub leader_epoch: i32,
    /// First offset that can be read.
    pub earliest: i64,
    /// The offset after the last readable record.
    pub end: i64,
}

/// Explicit offsets that do not fit the topics, all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source {source_name}: start offsets do not fit: {}", problems.join("; "))]
pub struct StartMismatch {
    /// The source.
    pub source_name: String,
    /// One sentence each.
    pub problems: Vec<String>,
}

/// Resolves the start policy of `source` into positions.
///
/// # Errors
/// With explicit offsets: partitions that are not named, do not exist, or lie outside `[earliest, end]`.
pub fn resolve(source: &str, policy: &StartPolicy, bounds: &[PartitionBounds]) -> Result<Positions, StartMismatch> {
    let mut problems = Vec::new();
    let mut positions = Positions::default();
    for bound in bounds {
        let offset = match policy {
            StartPolicy::Earliest => bound.earliest,
            StartPolicy::Latest => bound.end,
            StartPolicy::Offsets(offsets) => {
                match offsets
                    .get(&bound.partition.topic)
                    .and_then(|of| of.get(&bound.partition.partition))
                {
                    None => {
                        problems.push(format!(
                            "{} has no offset (it holds {} to {})",
                            bound.partition, bound.earliest, bound.end
                        ));
                        continue;
                    }
                    Some(offset) if *offset < bound.earliest || *offset > bound.end => {
                        problems.push(format!(
                            "{}: {offset} is outside of {} to {}",
                            bound.partition, bound.earliest, bound.end
                        ));
                        continue;
                    }
                    Some(offset) => *offset,
                }
            }
        };
        positions.set(PartitionPosition {
            source: source.to_owned(),
            partition: bound.partition.clone(),
            topic_id: bound.topic_id.clone(),
            offset,
            leader_epoch: bound.leader_epoch,
        });
    }
    if let StartPolicy::Offsets(offsets) = policy {
        for (topic, of) in offsets {
            for partition in of.keys() {
                let named = TopicPartition::new(topic.clone(), *partition);
                if !bounds.iter().any(|bound| bound.partition == named) {
                    problems.push(format!("{named} does not exist"));
                }
            }
        }
    }
    if problems.is_empty() {
        Ok(positions)
    } else {
        Err(StartMismatch {
            source_name: source.to_owned(),
            problems,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Vec<PartitionBounds> {
        (0..2)
            .map(|number| PartitionBounds {
                partition: TopicPartition::new("t", number),
                topic_id: None,
                leader_epoch: -1,
                earliest: 10,
                end: 20,
            })
            .collect()
    }

    fn offsets(given: &[(i32, i64)]) -> StartPolicy {
        StartPolicy::Offsets([("t".to_owned(), given.iter().copied().collect())].into())
    }

    fn resolved(policy: &StartPolicy) -> Vec<i64> {
        resolve("events", policy, &bounds())
            .expect("resolves")
            .iter()
            .map(|position| position.offset)
            .collect()
    }

    #[test]
    fn each_policy_resolves() {
        assert_eq!(resolved(&StartPolicy::Earliest), [10, 10]);
        assert_eq!(resolved(&StartPolicy::Latest), [20, 20]);
        assert_eq!(resolved(&offsets(&[(0, 10), (1, 20)])), [10, 20]);
    }

    #[test]
    fn all_misfits_are_named_at_once() {
        let mismatch = resolve("events", &offsets(&[(0, 9), (7, 1)]), &bounds()).expect_err("misfits");
        assert_eq!(
            mismatch.to_string(),
            "source events: start offsets do not fit: t/0: 9 is outside of 10 to 20; t/1 has no offset (it holds 10 to 20); \
             t/7 does not exist"
        );
    }
}
