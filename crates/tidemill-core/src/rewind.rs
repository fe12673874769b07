//! Whether the stream can go back to an earlier batch, and to which positions (X32).

use std::collections::BTreeMap;

use crate::plan::{BatchId, BatchPlan};
use crate::position::{Positions, TopicPartition};
use crate::start::PartitionBounds;

/// Why the stream can't go back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The batch is ahead.
    #[error("batch {to} was never planned; the last one is {last}")]
    Ahead {
        /// The batch asked for.
        to: BatchId,
        /// The last one.
        last: BatchId,
    },
    /// Its plan is gone, or its id was left out.
    #[error("the plan of batch {to} is not kept; the oldest one that is kept is batch {oldest}")]
    NotKept {
        /// The batch asked for.
        to: BatchId,
        /// The oldest plan.
        oldest: BatchId,
    },
    /// The topic is another one now.
    #[error(
        "topic {topic} was made anew since (its id was {was}, now it is {now}): the records of that batch are gone"
    )]
    AnotherTopic {
        /// The topic.
        topic: String,
        /// Its id then.
        was: String,
        /// Its id now.
        now: String,
    },
    /// The partition is no longer read.
    #[error("source {source_name} does not read {partition} any more, which that batch knew")]
    NotRead {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
    },
    /// Retention.
    #[error(
        "{partition} begins at offset {earliest} now: retention removed the offsets from {offset} on, to which going back would \
         lead. Choose a later batch"
    )]
    Retention {
        /// The partition.
        partition: TopicPartition,
        /// Where it would go on.
        offset: i64,
        /// Its first offset.
        earliest: i64,
    },
}

impl Refusal {
    /// True where records are gone (exit 4).
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Retention { .. } | Self::AnotherTopic { .. })
    }
}

/// Looks whether the plan of `to` is there.
///
/// # Errors
/// [`Refusal`].
pub fn kept(to: BatchId, last: BatchId, kept: &[BatchId]) -> Result<(), Refusal> {
    if to > last {
        return Err(Refusal::Ahead { to, last });
    }
    if kept.contains(&to) {
        return Ok(());
    }
    let oldest = kept.iter().min().copied().unwrap_or(last);
    Err(Refusal::NotKept { to, oldest })
}

/// The positions before the first of `plans`. A partition that was met later begins where it was met, so that going back
/// doesn't depend on where new partitions begin by now.
pub fn positions(plans: &[BatchPlan], now: &Positions) -> Positions {
    let mut positions = plans.first().map(|first| first.before.clone()).unwrap_or_default();
    let later = plans.iter().skip(1).map(|plan| &plan.before).chain([now]);
    for position in later.flat_map(Positions::iter) {
        if positions.get(&position.source, &position.partition).is_none() {
            positions.set(position.clone());
        }
    }
    positions
}

/// Looks whether every position can still be read from.
///
/// # Errors
/// [`Refusal`], for the first that can't.
pub fn readable(positions: &Positions, bounds: &BTreeMap<String, Vec<PartitionBounds>>) -> Result<(), Refusal> {
    for position in positions.iter() {
        let of_source = bounds.get(&position.source).into_iter().flatten();
        let Some(bound) = of_source
            .into_iter()
            .find(|bound| bound.partition == position.partition)
        else {
            return Err(Refusal::NotRead {
                source_name: position.source.clone(),
                partition: position.partition.clone(),
            });
        };
        if let (Some(was), Some(now)) = (&position.topic_id, &bound.topic_id)
            && was != now
        {
            return Err(Refusal::AnotherTopic {
                topic: position.partition.topic.clone(),
                was: was.clone(),
                now: now.clone(),
            });
        }
        if position.offset < bound.earliest {
            return Err(Refusal::Retention {
                partition: position.partition.clone(),
                offset: position.offset,
                earliest: bound.earliest,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::PartitionPosition;

    fn at(partition: i32, offset: i64) -> PartitionPosition {
        PartitionPosition {
            source: "events".to_owned(),
            partition: TopicPartition::new("t", partition),
            topic_id: Some("id".to_owned()),
            offset,
            leader_epoch: 0,
        }
    }

    fn bounds(id: &str, earliest: i64) -> BTreeMap<String, Vec<PartitionBounds>> {
        let bound = PartitionBounds {
            partition: TopicPartition::new("t", 0),
            topic_id: Some(id.to_owned()),
            leader_epoch: 0,
            earliest,
            end: 100,
            answer: None,
        };
        BTreeMap::from([("events".to_owned(), vec![bound])])
    }

    #[test]
    fn x32_only_a_batch_whose_plan_is_kept_can_be_gone_back_to() {
        kept(5, 9, &[4, 5, 9]).expect("it is kept");
        assert_eq!(kept(10, 9, &[9]), Err(Refusal::Ahead { to: 10, last: 9 }));
        assert_eq!(kept(3, 9, &[4, 9]), Err(Refusal::NotKept { to: 3, oldest: 4 }));
    }

    #[test]
    fn x32_what_can_no_longer_be_read_is_named() {
        let positions: Positions = [at(0, 10)].into_iter().collect();
        readable(&positions, &bounds("id", 10)).expect("all is there");
        let gone = readable(&positions, &bounds("id", 11)).expect_err("refused");
        assert!(
            gone.is_loss() && gone.to_string().contains("t/0 begins at offset 11"),
            "{gone}"
        );
        let another = readable(&positions, &bounds("other", 0)).expect_err("refused");
        assert!(another.to_string().contains("made anew"), "{another}");
        let unread = readable(&[at(1, 0)].into_iter().collect(), &bounds("id", 0)).expect_err("refused");
        assert!(
            matches!(unread, Refusal::NotRead { .. }) && !unread.is_loss(),
            "{unread}"
        );
    }

    #[test]
    fn x32_a_partition_met_later_begins_where_it_was_met() {
        let now: Positions = [at(0, 90), at(1, 50)].into_iter().collect();
        assert_eq!(positions(&[], &now), now);
    }
}
