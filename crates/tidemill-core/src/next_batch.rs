//! What the next batch reads: from positions, ends and limits alone.

use std::collections::HashMap;

use crate::loss::OnOutOfRange;
use crate::plan::{LimitsInForce, RangePlan};
use crate::position::{PartitionPosition, Positions, TopicPartition};
use crate::rate::{self, PartitionBound};

/// Bytes a record is taken to have before any was seen.
pub const RECORD_BYTES_GUESS: u64 = 1024;

/// Where a partition of a source ends now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionEnd {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id, where the broker gives one.
    pub topic_id: Option<String>,
    /// The partition's leader epoch, -1 where unknown.
    pub leader_epoch: i32,
    /// The first offset that can still be read, where that was asked for.
    pub earliest: Option<i64>,
    /// The offset after the last readable record.
    pub end: i64,
}

/// Bounds on what one batch takes of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceLimits {
    /// Bounds on each partition.
    pub partition: PartitionBound,
    /// Records per second of the whole source that its last batches have shown to be possible; `None` = not known, or not
    /// asked for.
    pub rate: Option<u64>,
    /// Time between batches.
    pub interval_seconds: f64,
    /// Bytes of all partitions together, turned into records by `record_bytes`.
    pub batch_bytes_max: u64,
    /// Bytes that the slowest sink with a time limit takes in a safe part of it, `None` = no such sink, or none seen at work.
    pub sink_bytes_max: Option<u64>,
    /// Moving average of bytes per record, at least 1.
    pub record_bytes: u64,
}

/// What makes planning stop for good (exit 4): going on would lose or double data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The log ends before our position.
    #[error(
        "source {source_name}: {partition} ends at {end}, but was already read to {position}: the log was truncated or \
         the topic was made anew. Nothing was read. Look for an unclean leader election; to go on from another \
         position start under a new name with explicit offsets"
    )]
    WentBack {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// Its end now.
        end: i64,
        /// Our position.
        position: i64,
    },
    /// The topic's id is another one.
    #[error(
        "source {source_name}: topic {topic} was deleted and created again (id {was} is now {now}); offsets of the old \
         topic mean nothing in the new one. Start under a new name to read the new topic"
    )]
    Recreated {
        /// The source.
        source_name: String,
        /// The topic.
        topic: String,
        /// Id in our positions.
        was: String,
        /// Id now.
        now: String,
    },
    /// The leader epoch went back, which it never does in the same topic.
    #[error(
        "source {source_name}: {partition} was read to {position} under leader epoch {was}, and its leader epoch is now {now}: \
         the topic was deleted and created again; offsets of the old topic mean nothing in the new one. Start under a new name \
         to read the new topic"
    )]
    Restarted {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// Our position.
        position: i64,
        /// The leader epoch at our last planning.
        was: i32,
        /// The leader epoch now.
        now: i32,
    },
    /// Retention passed our position.
    #[error(
        "source {source_name}: {partition}: offsets {position} to {earliest} were removed by retention before they were \
         read. To go on without them set on_out_of_range = \"earliest\" or \"latest\": the loss is then recorded"
    )]
    Overtaken {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// Our position.
        position: i64,
        /// The first offset that is left.
        earliest: i64,
    },
    /// The log was cut below our position and went on from there under another leader.
    #[error(
        "source {source_name}: {partition} was read to {position} under leader epoch {epoch}, whose records now end at \
         {end}: the log was truncated there, as an unclean leader election does, and other records may stand at the offsets \
         after it. Nothing more was read. Compare the sinks from offset {end} on; to go on, start under a new name with \
         explicit offsets"
    )]
    Truncated {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// Our position.
        position: i64,
        /// The leader epoch at our last planning.
        epoch: i32,
        /// Where the records of that epoch end.
        end: i64,
    },
    /// A partition we read is no longer there.
    #[error("source {source_name}: {partition} is gone; it was read to {position}")]
    Gone {
        /// The source.
        source_name: String,
        /// The partition.
        partition: TopicPartition,
        /// Our position.
        position: i64,
    },
}

/// Cuts the ranges of one source: one per partition that has anything to read, within the limits.
///
/// Partitions without a position are left alone: the caller resolves them first. Where retention has passed a position and
/// the policy goes on, the range begins at the position all the same: what of it is lost is for the caller to record.
/// Where the byte budget binds, it is shared in proportion to what each partition has to give, at least one record each.
///
/// # Errors
/// [`Stop`] where the log no longer fits our positions.
pub fn cut(
    source: &str,
    positions: &Positions,
    ends: &[PartitionEnd],
    limits: &SourceLimits,
    on_out_of_range: OnOutOfRange,
) -> Result<(Vec<RangePlan>, LimitsInForce), Stop> {
    let mut wanted = Vec::new();
    let mut reason = "end";
    let ends = by_partition(ends);
    for position in positions.of_source(source) {
        let end = *ends.get(&position.partition).ok_or_else(|| Stop::Gone {
            source_name: source.to_owned(),
            partition: position.partition.clone(),
            position: position.offset,
        })?;
        check(source, position, end)?;
        let begin = first_left(source, position, end, on_out_of_range)?;
        let lag = u64::try_from(end.end - begin).unwrap_or(0);
        wanted.push((position, end, begin, lag));
    }
    let lags: Vec<(u64, PartitionBound)> = wanted.iter().map(|(.., lag)| (*lag, limits.partition)).collect();
    let most = rate::partition_records(&lags, limits.rate, limits.interval_seconds);
    for ((.., take), most) in wanted.iter_mut().zip(most.iter().flatten()) {
        if *take > *most {
            reason = if limits.rate.is_some() { "back-pressure" } else { "rate" };
            *take = *most;
        }
    }
    wanted.retain(|(position, _, begin, take)| *take > 0 || *begin > position.offset);
    let bytes_max = limits
        .sink_bytes_max
        .map_or(limits.batch_bytes_max, |sink| sink.min(limits.batch_bytes_max));
    let budget = (bytes_max / limits.record_bytes.max(1)).max(1);
    let total: u64 = wanted.iter().map(|(.., take)| take).sum();
    if total > budget {
        reason = if bytes_max < limits.batch_bytes_max {
            "sink time limit"
        } else {
            "bytes"
        };
        for (.., take) in wanted.iter_mut().filter(|(.., take)| *take > 0) {
            let share = u128::from(*take) * u128::from(budget) / u128::from(total);
            *take = u64::try_from(share).unwrap_or(u64::MAX).max(1);
        }
    }
    let ranges = wanted
        .into_iter()
        .map(|(position, end, begin, take)| RangePlan {
            source: source.to_owned(),
            partition: position.partition.clone(),
            topic_id: end.topic_id.clone(),
            from: position.offset,
            until: begin + i64::try_from(take).unwrap_or(i64::MAX - begin),
            leader_epoch: end.leader_epoch,
        })
        .collect();
    let in_force = LimitsInForce {
        partition_records_max: most.iter().flatten().max().copied().unwrap_or(0),
        batch_bytes_max: bytes_max,
        reason: reason.to_owned(),
    };
    Ok((ranges, in_force))
}

/// A source may have thousands of partitions, and each tick looks at all of them.
fn by_partition(ends: &[PartitionEnd]) -> HashMap<&TopicPartition, &PartitionEnd> {
    ends.iter().map(|end| (&end.partition, end)).collect()
}

/// Where reading goes on: at the position, or beyond what retention took of it.
fn first_left(
    source: &str,
    position: &PartitionPosition,
    end: &PartitionEnd,
    on_out_of_range: OnOutOfRange,
) -> Result<i64, Stop> {
    let Some(earliest) = end.earliest.filter(|earliest| *earliest > position.offset) else {
        return Ok(position.offset);
    };
    match on_out_of_range {
        OnOutOfRange::Stop => Err(Stop::Overtaken {
            source_name: source.to_owned(),
            partition: position.partition.clone(),
            position: position.offset,
            earliest,
        }),
        OnOutOfRange::Earliest => Ok(earliest),
        OnOutOfRange::Latest => Ok(end.end),
    }
}

/// Partitions whose leader changed since they were planned last, with the epoch of that time: whether their logs were cut
/// then is to be asked.
pub fn changed_leaders(source: &str, positions: &Positions, ends: &[PartitionEnd]) -> Vec<(TopicPartition, i32)> {
    let ends = by_partition(ends);
    let changed = |position: &&PartitionPosition| {
        let end = ends.get(&position.partition);
        position.leader_epoch >= 0 && end.is_some_and(|end| end.leader_epoch > position.leader_epoch)
    };
    let changed = positions.of_source(source).filter(changed);
    changed
        .map(|position| (position.partition.clone(), position.leader_epoch))
        .collect()
}

/// Compares positions with the ends of the leader epochs that they were planned under.
///
/// # Errors
/// [`Stop::Truncated`] where a log was cut below a position. A broker that no longer knows the epoch (-1) tells nothing.
pub fn refuse_truncated(source: &str, positions: &Positions, epoch_ends: &[(TopicPartition, i64)]) -> Result<(), Stop> {
    for (partition, end) in epoch_ends {
        if let Some(position) = positions.get(source, partition)
            && (0..position.offset).contains(end)
        {
            return Err(Stop::Truncated {
                source_name: source.to_owned(),
                partition: partition.clone(),
                position: position.offset,
                epoch: position.leader_epoch,
                end: *end,
            });
        }
    }
    Ok(())
}

fn check(source: &str, position: &PartitionPosition, end: &PartitionEnd) -> Result<(), Stop> {
    if let (Some(was), Some(now)) = (&position.topic_id, &end.topic_id)
        && was != now
    {
        return Err(Stop::Recreated {
            source_name: source.to_owned(),
            topic: position.partition.topic.clone(),
            was: was.clone(),
            now: now.clone(),
        });
    }
    // Brokers that know topic ids are asked by them. Of the others, the leader itself has confirmed its epoch.
    let has_ids = position.topic_id.is_some() || end.topic_id.is_some();
    if !has_ids && (0..position.leader_epoch).contains(&end.leader_epoch) {
        return Err(Stop::Restarted {
            source_name: source.to_owned(),
            partition: position.partition.clone(),
            position: position.offset,
            was: position.leader_epoch,
            now: end.leader_epoch,
        });
    }
    if end.end < position.offset {
        return Err(Stop::WentBack {
            source_name: source.to_owned(),
            partition: position.partition.clone(),
            end: end.end,
            position: position.offset,
        });
    }
    Ok(())
}

/// The next batch time: now, but never at or before the last one, whatever the clock does (X11).
pub fn batch_time(now_ms: i64, last_ms: Option<i64>) -> i64 {
    match last_ms {
        Some(last) if now_ms <= last => last + 1,
        _ => now_ms,
    }
}

/// When the first window that is not over at `time_ms` ends: at a multiple of `slide_ms`, counted from 1970 UTC, after it.
pub fn window_end_after(time_ms: i64, slide_ms: i64) -> i64 {
    (time_ms - time_ms.rem_euclid(slide_ms)).saturating_add(slide_ms)
}

/// The new moving average of bytes per record: an eighth of the weight to the last batch, more to the first.
pub fn record_bytes(average: Option<u64>, bytes: u64, records: u64) -> Option<u64> {
    if records == 0 {
        return average;
    }
    let last = (bytes / records).max(1);
    Some(match average {
        None => last,
        Some(before) => (before * 7 + last).div_ceil(8),
    })
}

/// Bytes that a sink which took `bytes` in `millis` takes in a quarter of its time limit (X19): a batch may then be four
/// times slower than the last one before the limit ends it.
pub fn bytes_within(limit_millis: u64, bytes: u64, millis: u64) -> u64 {
    let within = u128::from(bytes) * u128::from(limit_millis) / 4 / u128::from(millis.max(1));
    u64::try_from(within).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(offsets: &[i64]) -> Positions {
        (0..)
            .zip(offsets)
            .map(|(number, offset)| position(number, *offset))
            .collect()
    }

    fn position(number: i32, offset: i64) -> PartitionPosition {
        PartitionPosition {
            source: "events".into(),
            partition: TopicPartition::new("t", number),
            topic_id: Some("id-1".into()),
            offset,
            leader_epoch: 0,
        }
    }

    fn ends(ends: &[i64]) -> Vec<PartitionEnd> {
        (0..)
            .zip(ends)
            .map(|(number, end)| PartitionEnd {
                partition: TopicPartition::new("t", number),
                topic_id: Some("id-1".into()),
                leader_epoch: 3,
                earliest: None,
                end: *end,
            })
            .collect()
    }

    fn limits(records: Option<u64>, bytes: u64) -> SourceLimits {
        SourceLimits {
            partition: PartitionBound {
                max_rate: records.unwrap_or(0),
                min_records: 1,
            },
            rate: None,
            interval_seconds: 1.0,
            batch_bytes_max: bytes,
            sink_bytes_max: None,
            record_bytes: 100,
        }
    }

    fn cut_to(
        source: &str,
        positions: &Positions,
        ends: &[PartitionEnd],
        limits: &SourceLimits,
    ) -> Result<(Vec<RangePlan>, LimitsInForce), Stop> {
        cut(source, positions, ends, limits, OnOutOfRange::Stop)
    }

    fn spans(ranges: &[RangePlan]) -> Vec<(i64, i64)> {
        ranges.iter().map(|range| (range.from, range.until)).collect()
    }

    #[test]
    fn reads_to_the_end_and_leaves_idle_partitions_out() {
        let (ranges, in_force) =
            cut_to("events", &positions(&[5, 7]), &ends(&[9, 7]), &limits(None, 1 << 30)).expect("fits");
        assert_eq!(spans(&ranges), [(5, 9)]);
        assert_eq!(in_force.reason, "end");
        assert_eq!(ranges[0].leader_epoch, 3);
    }

    #[test]
    fn the_rate_bounds_each_partition_from_the_first_batch() {
        let (ranges, in_force) = cut_to(
            "events",
            &positions(&[0, 0]),
            &ends(&[50, 5]),
            &limits(Some(10), 1 << 30),
        )
        .expect("fits");
        assert_eq!(spans(&ranges), [(0, 10), (0, 5)]);
        assert_eq!(in_force.reason, "rate");
    }

    #[test]
    fn the_byte_budget_is_shared_by_lag_and_starves_nobody() {
        let (ranges, in_force) =
            cut_to("events", &positions(&[0, 0]), &ends(&[9_000, 1]), &limits(None, 10_000)).expect("fits");
        assert_eq!(spans(&ranges), [(0, 99), (0, 1)]);
        assert_eq!(in_force.reason, "bytes");
    }

    #[test]
    fn x19_a_batch_stays_below_a_quarter_of_the_sinks_time_limit() {
        // 1,000 bytes in 500 ms, limit 8 s: 2 s take 4,000 bytes, 40 records.
        let slow = SourceLimits {
            sink_bytes_max: Some(bytes_within(8_000, 1_000, 500)),
            ..limits(None, 10_000)
        };
        let (ranges, in_force) = cut_to("events", &positions(&[0]), &ends(&[9_000]), &slow).expect("fits");
        assert_eq!(spans(&ranges), [(0, 40)]);
        assert_eq!(
            (in_force.reason.as_str(), in_force.batch_bytes_max),
            ("sink time limit", 4_000)
        );
        let fast = SourceLimits {
            sink_bytes_max: Some(bytes_within(8_000, 1_000_000, 0)),
            ..limits(None, 10_000)
        };
        let (ranges, in_force) = cut_to("events", &positions(&[0]), &ends(&[9_000]), &fast).expect("fits");
        assert_eq!((spans(&ranges), in_force.reason.as_str()), (vec![(0, 100)], "bytes"));
    }

    #[test]
    fn a_log_that_ends_before_our_position_stops() {
        let stop = cut_to("events", &positions(&[5]), &ends(&[4]), &limits(None, 1 << 30)).expect_err("stops");
        assert!(
            matches!(
                stop,
                Stop::WentBack {
                    end: 4,
                    position: 5,
                    ..
                }
            ),
            "{stop}"
        );
    }

    #[test]
    fn x13_a_topic_made_anew_stops() {
        let mut now = ends(&[9]);
        now[0].topic_id = Some("id-2".into());
        let stop = cut_to("events", &positions(&[5]), &now, &limits(None, 1 << 30)).expect_err("stops");
        assert!(matches!(stop, Stop::Recreated { .. }), "{stop}");
    }

    #[test]
    fn x13_without_ids_a_topic_made_anew_stops_where_its_leader_epoch_went_back() {
        let mut without_ids = positions(&[5]);
        let mut position = without_ids.of_source("events").next().expect("one").clone();
        position.topic_id = None;
        position.leader_epoch = 3;
        without_ids.set(position);
        let cut_at = |epoch, topic_id: Option<&str>| {
            let mut now = ends(&[9]);
            now[0].topic_id = topic_id.map(str::to_owned);
            now[0].leader_epoch = epoch;
            cut_to("events", &without_ids, &now, &limits(None, 1 << 30))
        };
        let stop = cut_at(2, None).expect_err("stops");
        assert!(matches!(stop, Stop::Restarted { was: 3, now: 2, .. }), "{stop}");
        for (epoch, topic_id) in [(3, None), (-1, None), (2, Some("id-1"))] {
            assert!(cut_at(epoch, topic_id).is_ok(), "{epoch}, {topic_id:?}");
        }
    }

    #[test]
    fn a_partition_that_is_gone_stops() {
        let stop = cut_to("events", &positions(&[5, 5]), &ends(&[9]), &limits(None, 1 << 30)).expect_err("stops");
        assert!(matches!(stop, Stop::Gone { position: 5, .. }), "{stop}");
    }

    #[test]
    fn x11_batch_time_increases_when_the_clock_goes_back() {
        assert_eq!(batch_time(100, None), 100);
        assert_eq!(batch_time(100, Some(100)), 101);
        assert_eq!(batch_time(50, Some(100)), 101);
        assert_eq!(batch_time(200, Some(100)), 200);
    }

    #[test]
    fn a_window_that_ends_with_a_batch_is_over() {
        let ends = [-1, 0, 59, 60, 61].map(|time| window_end_after(time, 60));
        assert_eq!(ends, [0, 60, 60, 120, 120]);
    }

    #[test]
    fn the_average_follows_and_ignores_empty_batches() {
        assert_eq!(record_bytes(None, 2_150, 10), Some(215));
        assert_eq!(record_bytes(Some(215), 0, 0), Some(215));
        assert_eq!(record_bytes(Some(100), 900, 1), Some(200));
    }

    #[test]
    fn x13_what_retention_passed_is_planned_as_the_policy_says() {
        let mut ends = ends(&[90, 90]);
        ends[0].earliest = Some(30);
        ends[1].earliest = Some(5);
        let positions = positions(&[10, 10]);
        let planned = |policy| cut("events", &positions, &ends, &limits(Some(20), 1 << 30), policy);
        let stop = planned(OnOutOfRange::Stop).expect_err("stops").to_string();
        assert!(stop.contains("t/0: offsets 10 to 30 were removed"), "{stop}");
        let (earliest, _) = planned(OnOutOfRange::Earliest).expect("goes on");
        assert_eq!(spans(&earliest), [(10, 50), (10, 30)]);
        let (latest, _) = planned(OnOutOfRange::Latest).expect("goes on");
        assert_eq!(spans(&latest), [(10, 90), (10, 30)]);
    }

    #[test]
    fn a_log_that_was_cut_below_a_position_is_noticed_by_its_leader_epoch() {
        let positions = positions(&[40, 40]);
        // The leaders of both are at epoch 3 now, and were at 0.
        let asked = changed_leaders("events", &positions, &ends(&[90, 90]));
        assert_eq!(
            asked,
            [(TopicPartition::new("t", 0), 0), (TopicPartition::new("t", 1), 0)]
        );
        let answer = |first, second| [(asked[0].0.clone(), first), (asked[1].0.clone(), second)];
        assert_eq!(refuse_truncated("events", &positions, &answer(40, 95)), Ok(()));
        assert_eq!(refuse_truncated("events", &positions, &answer(-1, 40)), Ok(()));
        let stop = refuse_truncated("events", &positions, &answer(40, 39)).expect_err("cut");
        assert!(
            stop.to_string().contains("t/1 was read to 40 under leader epoch 0"),
            "{stop}"
        );
    }

    #[test]
    fn back_pressure_is_split_by_lag_and_bounded_by_each_partition() {
        let slowed = SourceLimits {
            rate: Some(100),
            interval_seconds: 0.5,
            ..limits(Some(60), 1 << 30)
        };
        let (ranges, in_force) = cut(
            "events",
            &positions(&[0, 0]),
            &ends(&[300, 100]),
            &slowed,
            OnOutOfRange::Stop,
        )
        .expect("fits");
        // 75 and 25 records/s, the first held to 60, for half a second.
        assert_eq!(spans(&ranges), [(0, 30), (0, 12)]);
        assert_eq!(
            (in_force.reason.as_str(), in_force.partition_records_max),
            ("back-pressure", 30)
        );
    }
}
