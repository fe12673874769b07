//! CKP-19 and CKP-20: a program of thirty lists, each of its processes killed at a drawn place inside a batch.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use tidemill_engine::failpoint::POINTS;

use super::{SECOND, Text, contents_of, millis, seconds};
use crate::codec;
use crate::testing::process::{self, given};
use crate::testing::{Harness, Input, Run};

const SIGKILL: i32 = 9;
const SEED: &str = "TIDEMILL_TEST_SEED";
const FOLDER: &str = "TIDEMILL_TEST_FOLDER";
const PROGRAM: &str = "TIDEMILL_TEST_PROGRAM";
const DOWN_MS: &str = "TIDEMILL_TEST_DOWN_MS";
const BATCHES: &str = "TIDEMILL_TEST_BATCHES";

const LISTS: i64 = 30;
/// What a batch passes, beginning with these.
const IN_A_BATCH: [&str; 9] = [
    "plan.",
    "read.",
    "state.",
    "store.",
    "commit-log.",
    "sink.before-begin",
    "sink.after-begin",
    "sink.before-commit",
    "sink.after-commit",
];

/// Numbers from a seed.
struct Draws {
    seed: u64,
    drawn: u64,
}

impl Draws {
    /// From the variable, else from chance.
    fn new() -> Self {
        let given = std::env::var(SEED).map(|seed| seed.parse().unwrap());
        Self {
            seed: given.unwrap_or_else(|_| RandomState::new().hash_one(SEED)),
            drawn: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        codec::hash(&[self.seed.to_be_bytes(), self.drawn.to_be_bytes()].concat()) % bound
    }
}

/// The lists as they are, each batch a line of a file.
fn start_map(harness: &Harness) -> Run<'_> {
    let input = Input::of((1..=LISTS).map(|value| [value]));
    let run = harness.start(|context| {
        let folder = harness.folder().to_owned();
        input
            .stream(context)
            .foreach_batch(move |values, _batch| write(&folder, &values));
        Ok(())
    });
    run.unwrap()
}

/// How many words there were until now: list i has i of them.
fn start_count(harness: &Harness) -> Run<'_> {
    let input = Input::of((1..=30).map(|words| vec!["a"; words]));
    let run = harness.start(|context| {
        let folder = harness.folder().to_owned();
        let words = input.stream(context).map(|word| (Text::from(word), 1i64));
        words
            .update_state_by_key(|ones, count: Option<i64>| Some(ones.iter().sum::<i64>() + count.unwrap_or(0)))
            .checkpoint(seconds(5))
            .foreach_batch(move |counts, _batch| {
                write(&folder, &counts.iter().map(|(_, count)| *count).collect::<Vec<_>>())
            });
        Ok(())
    });
    run.unwrap()
}

fn write(folder: &Path, values: &[i64]) -> std::io::Result<()> {
    let line: String = values.iter().map(|value| format!("{value} ")).collect();
    let mut file = OpenOptions::new().append(true).create(true).open(folder.join("out"))?;
    file.write_all((line + "\n").as_bytes())
}

#[test]
#[ignore = "a program for the tests beside it, which start it in a process of its own"]
fn program() {
    crate::arm_failpoints().unwrap();
    let number = |name| given(name).parse::<u64>().unwrap();
    let harness = Harness::in_folder(SECOND, given(FOLDER).into());
    let reached = contents_of(&harness)
        .last_plan
        .map_or(0, |last| last.plan.batch_time_ms);
    harness.pass(millis(u64::try_from(reached).unwrap() + number(DOWN_MS)));
    let run = match given(PROGRAM).as_str() {
        "map" => start_map(&harness),
        _ => start_count(&harness),
    };
    for _ in 0..number(BATCHES) {
        run.batches(1).unwrap();
    }
    run.stop().unwrap();
    if harness.now_ms() >= LISTS * 1000 {
        fs::write(harness.folder().join("done"), "").unwrap();
    }
}

/// What each batch gave, repeated ones too, and how to have it so again.
fn killed_until_done(program: &str) -> (Vec<Vec<i64>>, String) {
    let folder = tempfile::tempdir().unwrap();
    let points: Vec<&str> = POINTS.iter().map(|(point, _)| *point).collect();
    let is_inside = |point: &&&str| IN_A_BATCH.iter().any(|prefix| point.starts_with(prefix));
    let points: Vec<&&str> = points.iter().filter(is_inside).collect();
    let mut draws = Draws::new();
    let (mut kills, mut runs) = (Vec::new(), 0);
    let repeat = |seed, kills: &[String]| format!("{SEED}={seed}, killed at {}", kills.join(", "));
    while !folder.path().join("done").exists() {
        let point = points[usize::try_from(draws.below(points.len() as u64)).unwrap()];
        let failpoint = format!("{point}=kill@{}", 1 + draws.below(3));
        let variables = [
            (FOLDER, folder.path().display().to_string()),
            (PROGRAM, program.to_owned()),
            (DOWN_MS, draws.below(3_000).to_string()),
            (BATCHES, (1 + draws.below(4)).to_string()),
        ];
        let ended = process::run("conformance::killed::program", &variables, &failpoint);
        let was_killed = ended.signal() == Some(SIGKILL);
        assert!(
            was_killed || ended.success(),
            "{ended} with {failpoint}; {}",
            repeat(draws.seed, &kills)
        );
        kills.extend(was_killed.then_some(failpoint));
        runs += 1;
        assert!(runs < 300, "no end; {}", repeat(draws.seed, &kills));
    }
    let how = repeat(draws.seed, &kills);
    assert!(!kills.is_empty(), "no kill; {how}");
    let out = fs::read_to_string(folder.path().join("out")).unwrap();
    let values = |line: &str| line.split_whitespace().map(|value| value.parse().unwrap()).collect();
    (out.lines().map(values).collect(), how)
}

#[test]
fn ckp_19_everything_comes_out_however_often_it_is_killed() {
    let (batches, how) = killed_until_done("map");
    let all: BTreeSet<i64> = batches.into_iter().flatten().collect();
    assert_eq!(all, (1..=LISTS).collect(), "{how}");
}

#[test]
fn ckp_20_a_running_count_is_right_however_often_it_is_killed() {
    let (batches, how) = killed_until_done("count");
    let counted: Vec<i64> = batches.concat();
    let sums: BTreeSet<i64> = (1..=LISTS).map(|words| words * (words + 1) / 2).collect();
    assert!(counted.iter().all(|count| sums.contains(count)), "{counted:?}; {how}");
    assert!(counted.is_sorted(), "{counted:?}; {how}");
    assert_eq!(counted.last(), Some(&465), "{how}");
}
