//! Compares what a sink shows with what was committed in Kafka.
//!
//! A *lane* is a sequence whose order must be kept: the records of one producer in one Kafka partition. Each lane's
//! records carry numbers; the truth is the list of numbers that were committed, in offset order.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use serde_json::Value;

/// One row as an outside reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its lane.
    pub lane: String,
    /// Its number in the lane.
    pub seq: i64,
    /// True where the record came from a transaction that was aborted.
    pub aborted: bool,
}

impl Row {
    /// Reads the fields `part` (and `producer`, where there is one), `seq` and `aborted` (absent: false).
    ///
    /// # Errors
    /// A text that names the missing field and shows the row.
    pub fn from_json(row: &Value) -> Result<Self, String> {
        let number = |name: &str| {
            let field = &row[name];
            let text = field.as_str().and_then(|text| text.parse().ok());
            field
                .as_i64()
                .or(text)
                .ok_or_else(|| format!("no number {name} in {row}"))
        };
        let part = number("part")?;
        let lane = match row["producer"].as_str() {
            Some(producer) => format!("{part}/{producer}"),
            None => part.to_string(),
        };
        Ok(Self {
            lane,
            seq: number("seq")?,
            aborted: row["aborted"].as_bool().unwrap_or(false),
        })
    }
}

/// What was committed: per lane the numbers in offset order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    lanes: BTreeMap<String, Vec<i64>>,
}

impl Truth {
    /// What the program `Load` commits: `records` dealt round robin to `partitions`, each counted from 0.
    pub fn of_load(records: u64, partitions: u64) -> Self {
        let lane = |partition: u64| {
            let count = records / partitions + u64::from(partition < records % partitions);
            (
                partition.to_string(),
                (0..i64::try_from(count).unwrap_or(i64::MAX)).collect(),
            )
        };
        Self {
            lanes: (0..partitions).map(lane).collect(),
        }
    }

    /// The truth of rows in offset order.
    pub fn of_rows(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut truth = Self::default();
        for row in rows {
            truth.lanes.entry(row.lane).or_default().push(row.seq);
        }
        truth
    }

    /// The number of committed records.
    pub fn records(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }
}

/// What is wrong with a sink: all counts are 0 where nothing is. Each list shows the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows seen.
    pub rows: usize,
    /// Records committed.
    pub records: usize,
    /// Committed records that are not shown.
    pub lost: usize,
    /// Rows beyond the first of their record.
    pub duplicated: usize,
    /// Rows that stand behind a later row of their lane, though not doubled.
    pub reordered: usize,
    /// Rows of aborted transactions.
    pub aborted_visible: usize,
    /// Rows of records that nobody committed.
    pub unknown: usize,
    /// The first findings, in words.
    pub examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 12;

impl Verdict {
    /// True where the sink shows every committed record once, in order, and nothing else.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.aborted_visible + self.unknown == 0
    }

    /// Panics unless clean.
    ///
    /// # Panics
    /// With the verdict and `context`.
    pub fn assert_clean(&self, context: &str) {
        assert!(self.is_clean(), "{context}: {self}");
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "records {}, rows {}, lost {}, duplicated {}, reordered {}, aborted visible {}, unknown {}",
            self.records, self.rows, self.lost, self.duplicated, self.reordered, self.aborted_visible, self.unknown
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

/// Judges a sink that should hold everything. `rows` come in the order the sink keeps.
pub fn judge(truth: &Truth, rows: &[Row]) -> Verdict {
    let (mut verdict, seen) = judge_rows(truth, rows);
    for (lane, numbers) in &truth.lanes {
        for seq in numbers.iter().filter(|seq| !was_seen(&seen, lane, **seq)) {
            verdict.lost += 1;
            verdict.note(|| format!("lost: lane {lane} seq {seq}"));
        }
    }
    verdict
}

/// Judges a sink in the middle of its work: what is missing must be the end of each lane, since batches are visible whole
/// and in order. A missing record before a visible one counts as lost.
pub fn judge_prefix(truth: &Truth, rows: &[Row]) -> Verdict {
    let (mut verdict, seen) = judge_rows(truth, rows);
    for (lane, numbers) in &truth.lanes {
        let reached = numbers.iter().rposition(|seq| was_seen(&seen, lane, *seq)).unwrap_or(0);
        for seq in numbers[..reached].iter().filter(|seq| !was_seen(&seen, lane, **seq)) {
            verdict.lost += 1;
            verdict.note(|| format!("passed over: lane {lane} seq {seq}"));
        }
    }
    verdict
}

type Seen<'a> = BTreeMap<&'a str, HashSet<i64>>;

fn was_seen(seen: &Seen<'_>, lane: &str, seq: i64) -> bool {
    seen.get(lane).is_some_and(|numbers| numbers.contains(&seq))
}

fn judge_rows<'a>(truth: &Truth, rows: &'a [Row]) -> (Verdict, Seen<'a>) {
    let committed: BTreeMap<&str, BTreeSet<i64>> = truth
        .lanes
        .iter()
        .map(|(lane, numbers)| (lane.as_str(), numbers.iter().copied().collect()))
        .collect();
    let mut verdict = Verdict {
        rows: rows.len(),
        records: truth.records(),
        ..Verdict::default()
    };
    let mut seen = Seen::new();
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let Row { lane, seq, .. } = row;
        if row.aborted {
            verdict.aborted_visible += 1;
            verdict.note(|| format!("aborted: row {at}, lane {lane} seq {seq}"));
        } else if !committed
            .get(lane.as_str())
            .is_some_and(|numbers| numbers.contains(seq))
        {
            verdict.unknown += 1;
            verdict.note(|| format!("unknown: row {at}, lane {lane} seq {seq}"));
        } else if !seen.entry(lane).or_default().insert(*seq) {
            verdict.duplicated += 1;
            verdict.note(|| format!("duplicated: row {at}, lane {lane} seq {seq}"));
        } else {
            let newest = newest.entry(lane).or_insert(*seq);
            if *seq < *newest {
                verdict.reordered += 1;
                verdict.note(|| format!("reordered: row {at}, lane {lane} seq {seq} after {newest}"));
            }
            *newest = (*newest).max(*seq);
        }
    }
    (verdict, seen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(lane: &str, seq: i64) -> Row {
        Row {
            lane: lane.to_owned(),
            seq,
            aborted: false,
        }
    }

    /// Lanes 0 and 1 with numbers 0 to 4, interleaved.
    fn all() -> Vec<Row> {
        (0..5).flat_map(|seq| [row("0", seq), row("1", seq)]).collect()
    }

    fn counts(verdict: &Verdict) -> [usize; 5] {
        [
            verdict.lost,
            verdict.duplicated,
            verdict.reordered,
            verdict.aborted_visible,
            verdict.unknown,
        ]
    }

    #[test]
    fn the_whole_truth_is_clean_in_any_interleaving_of_lanes() {
        let truth = Truth::of_load(10, 2);
        assert_eq!(truth.records(), 10);
        let mut one_lane_after_the_other = all();
        one_lane_after_the_other.sort_by(|a, b| a.lane.cmp(&b.lane));
        for rows in [all(), one_lane_after_the_other] {
            let verdict = judge(&truth, &rows);
            assert!(verdict.is_clean(), "{verdict}");
            assert!(judge_prefix(&truth, &rows).is_clean());
        }
    }

    #[test]
    fn a_lost_row_is_found_wherever_it_stood() {
        for at in 0..10 {
            let mut rows = all();
            let gone = rows.remove(at);
            let verdict = judge(&Truth::of_load(10, 2), &rows);
            assert_eq!(counts(&verdict), [1, 0, 0, 0, 0], "{verdict}");
            assert!(
                verdict.examples[0].contains(&format!("lane {} seq {}", gone.lane, gone.seq)),
                "{verdict}"
            );
        }
    }

    #[test]
    fn a_doubled_row_is_found_next_to_its_twin_and_far_behind() {
        for at in [1, 4, 10] {
            let mut rows = all();
            rows.insert(at, row("0", 0));
            assert_eq!(counts(&judge(&Truth::of_load(10, 2), &rows)), [0, 1, 0, 0, 0]);
        }
    }

    #[test]
    fn swapped_rows_of_a_lane_are_found_and_those_of_two_lanes_are_not() {
        let mut rows = all();
        rows.swap(2, 4);
        assert_eq!(counts(&judge(&Truth::of_load(10, 2), &rows)), [0, 0, 1, 0, 0]);
        let mut rows = all();
        rows.swap(2, 3);
        assert!(judge(&Truth::of_load(10, 2), &rows).is_clean());
    }

    #[test]
    fn an_aborted_row_is_found_though_its_number_was_committed() {
        let mut rows = all();
        rows.insert(
            3,
            Row {
                aborted: true,
                ..row("0", 1)
            },
        );
        assert_eq!(counts(&judge(&Truth::of_load(10, 2), &rows)), [0, 0, 0, 1, 0]);
        let mut instead = all();
        instead[2].aborted = true;
        assert_eq!(counts(&judge(&Truth::of_load(10, 2), &instead)), [1, 0, 0, 1, 0]);
    }

    #[test]
    fn a_row_that_nobody_wrote_is_found() {
        for strange in [row("2", 0), row("0", 5), row("0", -1)] {
            let mut rows = all();
            rows.push(strange);
            assert_eq!(counts(&judge(&Truth::of_load(10, 2), &rows)), [0, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn an_unfinished_sink_may_lack_the_end_of_a_lane_but_no_middle() {
        let truth = Truth::of_load(10, 2);
        assert!(judge_prefix(&truth, &[]).is_clean());
        assert!(judge_prefix(&truth, &all()[..7]).is_clean());
        let mut rows = all();
        rows.remove(4);
        assert_eq!(counts(&judge_prefix(&truth, &rows)), [1, 0, 0, 0, 0]);
        assert_eq!(counts(&judge_prefix(&truth, &all()[3..])), [3, 0, 0, 0, 0]);
    }

    #[test]
    fn an_uneven_load_and_gaps_in_numbers_are_truths_too() {
        assert_eq!(
            Truth::of_load(7, 3).lanes.values().map(Vec::len).collect::<Vec<_>>(),
            [3, 2, 2]
        );
        let truth = Truth::of_rows([row("0", 3), row("0", 9), row("1", 4)]);
        assert!(judge(&truth, &[row("1", 4), row("0", 3), row("0", 9)]).is_clean());
        assert_eq!(
            counts(&judge(&truth, &[row("1", 4), row("0", 3), row("0", 4)])),
            [1, 0, 0, 0, 1]
        );
    }

    #[test]
    fn rows_are_read_from_the_json_of_all_sinks() {
        let plain = Row::from_json(&json!({"seq": 4, "part": 1, "aborted": false})).expect("a row");
        assert_eq!(plain, row("1", 4));
        let rich = Row::from_json(&json!({"seq": "4", "part": 1, "producer": "p2", "aborted": true})).expect("a row");
        assert_eq!(
            rich,
            Row {
                aborted: true,
                ..row("1/p2", 4)
            }
        );
        let error = Row::from_json(&json!({"part": 1})).expect_err("no number");
        assert!(error.contains("seq"), "{error}");
    }
}
