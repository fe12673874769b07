//! Long ranges cut into parts, so that few partitions still keep every core busy (X14).

use crate::plan::RangePlan;

/// Offsets that a part has at least: below that, reading one log in two places costs more than another core gives.
const PART_OFFSETS_MIN: u64 = 100_000;

/// Splits the longest ranges, where there are fewer than `slices`, into parts of about the same length. The parts of a range
/// follow each other in its place.
pub fn split(ranges: Vec<RangePlan>, slices: usize) -> Vec<RangePlan> {
    let mut parts = vec![1; ranges.len()];
    for _ in ranges.len()..slices {
        let longest = ranges
            .iter()
            .zip(&mut parts)
            .max_by_key(|(range, parts)| range.offsets() / **parts);
        match longest {
            Some((range, parts)) if range.offsets() / (*parts + 1) >= PART_OFFSETS_MIN => *parts += 1,
            _ => break,
        }
    }
    ranges
        .into_iter()
        .zip(parts)
        .flat_map(|(range, parts)| cut(&range, parts))
        .collect()
}

fn cut(range: &RangePlan, parts: u64) -> Vec<RangePlan> {
    let length = i64::try_from(range.offsets() / parts).unwrap_or(i64::MAX);
    let mut rest = range.clone();
    let mut cut = Vec::new();
    for _ in 1..parts {
        let until = rest.from + length;
        cut.push(RangePlan { until, ..rest.clone() });
        rest.from = until;
    }
    // The last part takes what does not divide.
    cut.push(rest);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::TopicPartition;

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

    fn spans(ranges: Vec<RangePlan>, slices: usize) -> Vec<(i32, i64, i64)> {
        let span = |range: RangePlan| (range.partition.partition, range.from, range.until);
        split(ranges, slices).into_iter().map(span).collect()
    }

    #[test]
    fn x14_the_longest_ranges_are_split_until_every_core_has_one() {
        let ranges = vec![range(0, 50, 1_000_051), range(1, 0, 300_000)];
        assert_eq!(
            spans(ranges, 4),
            [
                (0, 50, 333_383),
                (0, 333_383, 666_716),
                (0, 666_716, 1_000_051),
                (1, 0, 300_000)
            ]
        );
    }

    #[test]
    fn x14_enough_ranges_and_short_ones_are_left_whole() {
        assert_eq!(spans(vec![range(0, 0, 1_000_000), range(1, 0, 5)], 2).len(), 2);
        assert_eq!(spans(vec![range(0, 0, 199_999)], 8), [(0, 0, 199_999)]);
        assert_eq!(spans(vec![range(0, 0, 200_000)], 8).len(), 2);
        assert_eq!(spans(Vec::new(), 8), []);
    }
}
