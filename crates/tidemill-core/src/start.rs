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
    /// The offsets of the group that positions are published to. Every partition must have one.
    Committed,
    /// The first offset of this time or later, in milliseconds since 1970 UTC; the end where no record is that young.
    Since(i64),
    /// Given offsets: topic → partition → offset. Every partition must be named.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// Where a source begins in a partition that it meets later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNewPartition {
    /// The first offset that can be read.
    #[default]
    Earliest,
    /// The end as it is when the partition is met.
    Latest,
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
    /// What the brokers answered to the policy: the group's offset, or the first of the time; `None` where there is none, or
    /// the policy asks for nothing.
    pub answer: Option<i64>,
}

/// Start offsets that do not fit the topics, all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source {source_name}: start offsets do not fit: {}", problems.join("; "))]
pub struct StartMismatch {
    /// The source.
    pub source_name: String,
    /// One sentence each.
    pub problems: Vec<String>,
}

impl StartPolicy {
    fn offset(&self, bound: &PartitionBounds) -> Result<i64, String> {
        let PartitionBounds {
            partition,
            earliest,
            end,
            answer,
            ..
        } = bound;
        match self {
            Self::Earliest => Ok(*earliest),
            Self::Latest => Ok(*end),
            Self::Since(_) => Ok(answer.unwrap_or(*end).min(*end)),
            // One that retention has passed is met by the policy for that.
            Self::Committed => match answer {
                Some(offset) if offset <= end => Ok(*offset),
                Some(offset) => Err(format!(
                    "{partition}: the group's offset {offset} is beyond its end {end}"
                )),
                None => Err(format!(
                    "{partition} has no offset of the group (it holds {earliest} to {end})"
                )),
            },
            Self::Offsets(offsets) => {
                let given = offsets
                    .get(&partition.topic)
                    .and_then(|of| of.get(&partition.partition));
                match given {
                    Some(offset) if (earliest..=end).contains(&offset) => Ok(*offset),
                    Some(offset) => Err(format!("{partition}: {offset} is outside of {earliest} to {end}")),
                    None => Err(format!("{partition} has no offset (it holds {earliest} to {end})")),
                }
            }
        }
    }
}

/// Resolves the start policy of `source` into positions.
///
/// # Errors
/// Given offsets or those of the group: partitions that have none, do not exist, or lie outside of what can be read.
pub fn resolve(source: &str, policy: &StartPolicy, bounds: &[PartitionBounds]) -> Result<Positions, StartMismatch> {
    let mut problems = Vec::new();
    let mut positions = Positions::default();
    for bound in bounds {
        match policy.offset(bound) {
            Ok(offset) => positions.set(PartitionPosition {
                source: source.to_owned(),
                partition: bound.partition.clone(),
                topic_id: bound.topic_id.clone(),
                offset,
                leader_epoch: bound.leader_epoch,
            }),
            Err(problem) => problems.push(problem),
        }
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
                answer: None,
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

    #[test]
    fn answers_of_the_brokers_are_taken() {
        let mut bounds = bounds();
        let of = |policy, bounds: &[PartitionBounds]| -> Result<Vec<i64>, StartMismatch> {
            let positions = resolve("events", &policy, bounds)?;
            Ok(positions.iter().map(|position| position.offset).collect())
        };
        assert_eq!(of(StartPolicy::Since(5), &bounds), Ok(vec![20, 20]));
        bounds[0].answer = Some(12);
        assert_eq!(of(StartPolicy::Since(5), &bounds), Ok(vec![12, 20]));
        let missing = of(StartPolicy::Committed, &bounds)
            .expect_err("one has none")
            .to_string();
        assert!(missing.contains("t/1 has no offset of the group"), "{missing}");
        bounds[1].answer = Some(3);
        assert_eq!(of(StartPolicy::Committed, &bounds), Ok(vec![12, 3]));
        bounds[1].answer = Some(21);
        let beyond = of(StartPolicy::Committed, &bounds).expect_err("beyond").to_string();
        assert!(beyond.contains("offset 21 is beyond its end 20"), "{beyond}");
    }
}
