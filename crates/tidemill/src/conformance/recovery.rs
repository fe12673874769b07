//! Section 17: checkpoint and recovery, with batches of 500 ms unless stated.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::plan::BatchPlan;

use super::update_state::summed;
use super::{SECOND, Text, all_words, batches_of, checkpoint_of, contents_of, seconds, wait_for};
use crate::testing::{Harness, Input, Output, Run};
use crate::{DStream, Kind, Queue, Result};

const HALF: Duration = Duration::from_millis(500);

/// Files of the checkpoint whose name holds a batch. Epochs have numbers of their own.
fn files_of(harness: &Harness, batch: u64) -> Vec<PathBuf> {
    let name = format!("{batch:020}.json");
    let folders = fs::read_dir(harness.checkpoint()).unwrap();
    let mut files: Vec<PathBuf> = folders.map(|folder| folder.unwrap().path().join(&name)).collect();
    files.retain(|file| file.exists() && !file.parent().unwrap().ends_with("epochs"));
    files.sort();
    files
}

/// A program that keeps its input as it is.
fn start_plain<'a>(harness: &'a Harness, input: &Input<i32>, output: &Output<i32>) -> Result<Run<'a>> {
    harness.start(|context| {
        input.stream(context).foreach_batch(output.keep());
        Ok(())
    })
}

/// Departs: the two files are the batch's plan, written before it, and its commit record, written after it.
#[test]
fn ckp_02_two_files_per_batch() {
    let harness = Harness::new(HALF);
    let run = start_plain(&harness, &Input::of([[1], [2], [3]]), &Output::default()).unwrap();
    for batch in 1..=3 {
        run.batches(1).unwrap();
        let files: Vec<PathBuf> = files_of(&harness, batch)
            .iter()
            .map(|file| file.strip_prefix(harness.checkpoint()).unwrap().with_file_name(""))
            .collect();
        assert_eq!(files, [PathBuf::from("commits/"), PathBuf::from("plans/")]);
    }
}

/// Departs: no record is replaced. What comes late for a batch that has one is refused, and the newest is that of the newest batch,
/// whatever was written last.
#[test]
fn ckp_03_the_newest_record_is_that_of_the_newest_batch() {
    let harness = Harness::new(SECOND);
    let run = start_plain(&harness, &Input::of([[1], [2]]), &Output::default()).unwrap();
    run.batches(2).unwrap();
    run.stop().unwrap();
    let checkpoint = checkpoint_of(&harness);
    let first = wait_for(checkpoint.plan(1)).unwrap().unwrap().plan;
    let before = contents_of(&harness).last_plan;
    let late = |batch_id| {
        wait_for(checkpoint.log_plan(BatchPlan {
            batch_id,
            seed: 7,
            ..first.clone()
        }))
    };
    assert_eq!(late(2).unwrap_err().kind(), Kind::Fenced);
    assert_eq!(late(1).unwrap_err().kind(), Kind::Fenced);
    assert_eq!(contents_of(&harness).last_plan, before);
    let before = before.unwrap().plan;
    assert_eq!((before.batch_id, before.batch_time_ms), (2, 2000));
    assert_eq!((files_of(&harness, 1).len(), files_of(&harness, 2).len()), (2, 2));
}

fn counts(stream: DStream<Text>) -> DStream<(Text, i64)> {
    stream
        .map(|word| (word, 1))
        .update_state_by_key(|values, old| Some(summed(&values, old)))
}

/// Departs: every batch leaves a file with what it changed, and it goes when no version needs it any more.
#[test]
fn ckp_05_the_files_of_a_state_are_there_while_they_are_needed() {
    let harness = Harness::new(HALF);
    let (input, output) = (Input::of(all_words("a; a; a; a; a; a")), Output::sorted());
    let start = || {
        let run = harness.start(|context| {
            counts(input.stream(context))
                .checkpoint(SECOND)
                .foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap()
    };
    let folder = harness.checkpoint().join("state/update-state-0");
    for recovery in 1..=3 {
        let run = start();
        run.batches(2).unwrap();
        run.kill();
        let newest = contents_of(&harness).last_plan.unwrap().plan;
        let version = newest
            .states
            .get("update-state-0")
            .map(|version| folder.join(&version.name));
        assert!(version.unwrap().exists(), "recovery {recovery}");
        assert!(fs::read_dir(&folder).unwrap().count() >= 2);
    }
    assert_eq!(output.batches(), batches_of("a1; a2; a3; a4; a5; a6"));
}

/// What each call of an output got, in the order of the calls.
type Calls<T> = Arc<Mutex<Vec<(i64, Vec<T>)>>>;

const TWICE: &str = "a a b; _ _; ; a a b; _ _; ";

/// Reduces by key, and writes each batch to a file of its own. Calls fail in the third batch while `fails` is set.
fn start_reduced<'a>(harness: &'a Harness, calls: &Calls<(Text, i64)>, fails: &Arc<AtomicBool>) -> Result<Run<'a>> {
    let (calls, fails, folder) = (Arc::clone(calls), Arc::clone(fails), harness.folder().to_owned());
    harness.start(|context| {
        let words = Input::of(all_words(TWICE)).stream(context);
        let reduced = words.map(|word| (word, 1)).reduce_by_key(|a, b| a + b);
        reduced.foreach_batch(move |mut values, batch| {
            values.sort();
            let time_ms = batch.batch_time_ms;
            fs::write(folder.join(format!("out-{time_ms}")), format!("{values:?}"))?;
            calls.lock().unwrap().push((time_ms, values));
            if time_ms == 1500 && fails.load(Ordering::SeqCst) {
                return Err(std::io::Error::other("no room"));
            }
            Ok(())
        });
        Ok(())
    })
}

/// Departs: batch 3 was committed before the restart, so that it isn't run again.
#[test]
fn ckp_06_batches_go_on_after_a_restart() {
    let expected: Vec<_> = (1..=6)
        .map(|batch| batch * 500)
        .zip(batches_of::<i64>("a2 b1; _2; ; a2 b1; _2; "))
        .collect();
    let harness = Harness::new(HALF);
    let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(false)));
    let run = start_reduced(&harness, &calls, &fails).unwrap();
    run.batches(3).unwrap();
    run.kill();
    start_reduced(&harness, &calls, &fails).unwrap().batches(3).unwrap();
    assert_eq!(*calls.lock().unwrap(), expected);
    for (time_ms, values) in expected {
        let written = fs::read_to_string(harness.folder().join(format!("out-{time_ms}")));
        assert_eq!(written.unwrap(), format!("{values:?}"));
    }
}

/// The same where batch 3 was not committed: it is run again with the same values, over the file that is there already.
#[test]
fn ckp_06_a_batch_that_was_not_committed_is_run_again() {
    let harness = Harness::new(HALF);
    let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(true)));
    let run = start_reduced(&harness, &calls, &fails).unwrap();
    let error = run.batches(3).unwrap_err();
    assert_eq!(error.kind(), Kind::UserCode, "{error}");
    drop(run);
    fails.store(false, Ordering::SeqCst);
    let before = calls.lock().unwrap().len();
    start_reduced(&harness, &calls, &fails).unwrap().batches(1).unwrap();
    let calls = calls.lock().unwrap();
    let again = &calls[before..];
    assert_eq!(again[0], (1500, vec![]));
    assert!(again[1..].iter().all(|(time_ms, _)| *time_ms > 1500));
    // Time passed between the attempts, so that the lists after it came together.
    let all: i64 = again
        .iter()
        .flat_map(|(_, values)| values)
        .map(|(_, count)| count)
        .sum();
    assert_eq!(all, 5);
    assert_eq!(
        calls[..2],
        [(500, batches_of("a2 b1").concat()), (1000, batches_of("_2").concat())]
    );
}

#[test]
fn ckp_08_a_state_goes_on_after_a_kill() {
    let harness = Harness::new(HALF);
    let (input, output) = (Input::of(vec![["a".to_owned()]; 10]), Output::sorted());
    let start = || {
        let run = harness.start(|context| {
            counts(input.stream(context))
                .checkpoint(HALF * 2)
                .foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap()
    };
    let run = start();
    run.batches(7).unwrap();
    run.kill();
    start().batches(3).unwrap();
    assert_eq!(output.batches(), batches_of("a1; a2; a3; a4; a5; a6; a7; a8; a9; a10"));
}

#[test]
fn ckp_14_an_input_of_three_outputs_is_restored_once() {
    let harness = Harness::new(HALF);
    let input = Input::of((1..=6).map(|value| [value]));
    let calls: [Calls<i32>; 3] = Default::default();
    let start = || {
        let run = harness.start(|context| {
            let stream = input.stream(context);
            for calls in &calls {
                let calls = Arc::clone(calls);
                stream.clone().foreach_batch(move |values, batch| {
                    calls.lock().unwrap().push((batch.batch_time_ms, values));
                });
            }
            Ok(())
        });
        run.unwrap()
    };
    let run = start();
    run.batches(3).unwrap();
    run.kill();
    start().batches(3).unwrap();
    let expected: Vec<_> = (1..=6).map(|value| (i64::from(value) * 500, vec![value])).collect();
    for calls in &calls {
        assert_eq!(*calls.lock().unwrap(), expected);
    }
}

/// Writes over the newest plan, and gives what stood there.
fn damage_newest_plan(harness: &Harness) -> (PathBuf, Vec<u8>) {
    let newest = contents_of(harness).last_plan.unwrap().plan.batch_id;
    let mut files = files_of(harness, newest);
    let plan = files.pop().unwrap();
    let before = fs::read(&plan).unwrap();
    fs::write(&plan, "corrupt").unwrap();
    (plan, before)
}

/// Departs: a checkpoint that can't be read is never replaced by a new one. Another folder is one line of the program.
#[test]
fn ckp_16_a_damaged_checkpoint_is_refused() {
    let harness = Harness::new(HALF);
    let (input, output) = (Input::of([[1], [2]]), Output::default());
    let run = start_plain(&harness, &input, &output).unwrap();
    run.batches(1).unwrap();
    run.kill();
    let (plan, _) = damage_newest_plan(&harness);
    let error = start_plain(&harness, &input, &output).unwrap_err();
    let name = plan.file_name().unwrap().to_str().unwrap();
    assert!(
        error.kind() == Kind::Config && error.to_string().contains(name),
        "{error}"
    );
    assert_eq!(output.batches(), [[1]]);
}

/// Departs: the record before is not used in place of a damaged one, since by it the newest batch never was, and what it read would be
/// delivered once more in another batch. Nothing runs until the file is restored.
#[test]
fn ckp_17_an_older_record_does_not_stand_for_a_damaged_one() {
    let harness = Harness::new(HALF);
    let (input, output) = (Input::of([[1], [2], [3]]), Output::default());
    let run = start_plain(&harness, &input, &output).unwrap();
    run.batches(2).unwrap();
    run.kill();
    let (plan, before) = damage_newest_plan(&harness);
    start_plain(&harness, &input, &output).unwrap_err();
    assert_eq!(output.batches(), [[1], [2]]);
    fs::write(&plan, before).unwrap();
    start_plain(&harness, &input, &output).unwrap().batches(1).unwrap();
    assert_eq!(output.batches(), [[1], [2], [3]]);
}

/// Runs a program to its thirtieth list, killed after every `stride` batches and left alone for a while.
fn kill_every<'a>(harness: &'a Harness, stride: u32, start: impl Fn() -> Run<'a>) {
    while harness.now_ms() < 30_000 {
        let run = start();
        run.batches(stride).unwrap();
        run.kill();
        harness.pass(Duration::from_millis(u64::from(stride) * 700));
    }
    start().batches(1).unwrap();
}

#[test]
fn ckp_19_everything_comes_out_however_often_it_is_killed() {
    for stride in [1, 2, 3, 5] {
        let harness = Harness::new(SECOND);
        let (input, output) = (Input::of((1..=30).map(|value| [value])), Output::default());
        kill_every(&harness, stride, || start_plain(&harness, &input, &output).unwrap());
        let all: Vec<i32> = output.batches().concat();
        let expected: BTreeSet<i32> = (1..=30).collect();
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), expected, "every {stride}");
    }
}

#[test]
fn ckp_20_a_running_count_is_right_however_often_it_is_killed() {
    for stride in [1, 2, 3, 5] {
        let harness = Harness::new(SECOND);
        let lists = (1..=30).map(|words| vec!["a".to_owned(); words]);
        let (input, output) = (Input::of(lists), Output::default());
        let start = || {
            let run = harness.start(|context| {
                counts(input.stream(context))
                    .checkpoint(seconds(5))
                    .foreach_batch(output.keep());
                Ok(())
            });
            run.unwrap()
        };
        kill_every(&harness, stride, start);
        let sums: BTreeSet<i64> = (1..=30).map(|words| words * (words + 1) / 2).collect();
        let counted: Vec<i64> = output.batches().concat().into_iter().map(|(_, count)| count).collect();
        assert!(
            counted.iter().all(|count| sums.contains(count)),
            "every {stride}: {counted:?}"
        );
        assert!(counted.is_sorted(), "every {stride}: {counted:?}");
        assert_eq!(counted.last(), Some(&465));
    }
}

#[test]
fn ckp_21_a_queue_is_not_recovered() {
    let harness = Harness::new(HALF);
    let output = Output::default();
    let start = || {
        let queue = Queue::default();
        queue.push([1]);
        harness.start(|context| {
            context.queue_stream(&queue).foreach_batch(output.keep());
            Ok(())
        })
    };
    let run = start().unwrap();
    run.batches(2).unwrap();
    run.kill();
    assert_eq!(files_of(&harness, 2).len(), 2);
    let error = start().unwrap_err();
    assert!(
        error.kind() == Kind::Config && error.to_string().contains("can't be recovered"),
        "{error}"
    );
    assert_eq!(output.batches(), [vec![1], vec![]]);
}

#[test]
fn time_passed_while_nothing_ran_is_made_up_for() {
    let harness = Harness::new(HALF);
    let input = Input::of([vec![1], vec![2], vec![3], vec![4]]);
    let output = Output::sorted();
    let start = || {
        harness.start(|context| {
            input
                .stream(context)
                .window(HALF * 2, HALF)
                .foreach_batch(output.keep());
            Ok(())
        })
    };
    let run = start().unwrap();
    run.batches(2).unwrap();
    run.kill();
    harness.pass(HALF * 3);
    start().unwrap().batches(1).unwrap();
    let times: Vec<i64> = output.all().into_keys().collect();
    assert_eq!(times, [500, 1000, 1500, 2000, 2500, 3000]);
    assert_eq!(
        output.batches(),
        [vec![1], vec![1, 2], vec![2, 3, 4], vec![3, 4], vec![], vec![]]
    );
}
