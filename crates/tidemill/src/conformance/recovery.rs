//! Section 17: checkpoint and recovery, with batches of 500 ms unless stated.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::plan::BatchPlan;

use super::update_state::summed;
use super::{SECOND, Text, all_words, batches_of, checkpoint_of, contents_of, to_be_killed_here, wait_for};
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

/// How the batches of [`TWICE`] are saved, each in a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saving {
    InOutput,
    AsFiles,
    InTransform,
}

/// Reduces by key and saves. What `third` says is what the last output of the third batch ends with.
fn start_reduced<'a>(
    harness: &'a Harness,
    saving: Saving,
    calls: &Calls<(Text, i64)>,
    third: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<Run<'a>> {
    let (calls, folder) = (Arc::clone(calls), harness.folder().to_owned());
    let save = move |time_ms: i64, file: &str, values: &[(Text, i64)]| {
        let batch = folder.join(format!("out-{time_ms}"));
        fs::create_dir_all(&batch)?;
        let lines: String = values.iter().map(|value| format!("{value:?}\n")).collect();
        fs::write(batch.join(file), lines)
    };
    harness.start(|context| {
        let words = Input::of(all_words(TWICE)).stream(context);
        let mut reduced = words.map(|word| (word, 1)).reduce_by_key(|a, b| a + b);
        if saving == Saving::InTransform {
            let save = save.clone();
            reduced = reduced.transform(move |batch| {
                let (save, time_ms) = (save.clone(), batch.time_ms());
                batch.map(move |value| {
                    save(time_ms, &format!("word-{}", value.0), std::slice::from_ref(&value)).unwrap();
                    value
                })
            });
        }
        if saving == Saving::AsFiles {
            let lines = reduced.clone().map(|value| format!("{value:?}"));
            lines.save_as_files(harness.folder().join("out"), "");
        }
        reduced.foreach_batch(move |mut values, batch| {
            values.sort();
            let time_ms = batch.batch_time_ms;
            if saving == Saving::InOutput {
                save(time_ms, "all", &values)?;
            }
            calls.lock().unwrap().push((time_ms, values));
            if time_ms == 1500 { third() } else { Ok(()) }
        });
        Ok(())
    })
}

/// The lines that were saved of a batch, in order.
fn saved(harness: &Harness, time_ms: i64) -> Vec<String> {
    let Ok(files) = fs::read_dir(harness.folder().join(format!("out-{time_ms}"))) else {
        return Vec::new();
    };
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let mut lines: Vec<String> = texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.sort();
    lines
}

/// The batches of [`TWICE`], reduced.
fn reduced_twice() -> Vec<(i64, Vec<(Text, i64)>)> {
    (1..=6)
        .map(|batch| batch * 500)
        .zip(batches_of("a2 b1; _2; ; a2 b1; _2; "))
        .collect()
}

/// Batch 3 had its output when the program ended, but was not committed: it is run again, over what is saved already.
#[test]
fn ckp_06_a_batch_is_run_again_after_a_restart() {
    for saving in [Saving::InOutput, Saving::AsFiles, Saving::InTransform] {
        let harness = Harness::new(HALF);
        let calls = Calls::default();
        let (reached, reaches) = sync_channel(1);
        let run = start_reduced(&harness, saving, &calls, move || to_be_killed_here(&reached)).unwrap();
        run.batches(2).unwrap();
        harness.pass(HALF);
        reaches.recv().unwrap();
        run.kill();
        assert_eq!(*calls.lock().unwrap(), reduced_twice()[..3], "{saving:?}");
        let run = start_reduced(&harness, saving, &calls, || Ok(())).unwrap();
        run.batches(3).unwrap();
        assert_eq!(calls.lock().unwrap()[3..], reduced_twice()[2..], "{saving:?}");
        for (time_ms, values) in reduced_twice() {
            let lines: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            assert_eq!(saved(&harness, time_ms), lines, "{saving:?}, batch of {time_ms}");
        }
    }
}

/// Where Spark runs batch 3 once more even so: a batch that was committed is settled for good (X14).
#[test]
fn ckp_06_a_committed_batch_is_not_run_again() {
    let harness = Harness::new(HALF);
    let calls = Calls::default();
    let run = start_reduced(&harness, Saving::InOutput, &calls, || Ok(())).unwrap();
    run.batches(3).unwrap();
    run.kill();
    let run = start_reduced(&harness, Saving::InOutput, &calls, || Ok(())).unwrap();
    run.batches(3).unwrap();
    assert_eq!(*calls.lock().unwrap(), reduced_twice());
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

/// Departs: the record before is not used in place of a damaged one. What the output of the newest batch was given would be delivered
/// once more in another batch, under other ids: a plan is never cut again (X11). Nothing runs until the file is restored.
#[test]
fn ckp_17_an_older_record_does_not_stand_for_a_damaged_one() {
    let harness = Harness::new(HALF);
    let (input, calls) = (Input::of([[1], [2], [3]]), Calls::default());
    let start = |in_second: Option<SyncSender<()>>| {
        harness.start(|context| {
            let calls = Arc::clone(&calls);
            input.stream(context).foreach_batch(move |values, batch| {
                calls.lock().unwrap().push((batch.batch_time_ms, values));
                match &in_second {
                    Some(reached) if batch.batch_time_ms == 1000 => to_be_killed_here(reached),
                    _ => Ok(()),
                }
            });
            Ok(())
        })
    };
    let (reached, reaches) = sync_channel(1);
    let run = start(Some(reached)).unwrap();
    run.batches(1).unwrap();
    harness.pass(HALF);
    reaches.recv().unwrap();
    run.kill();
    let delivered = vec![(500, vec![1]), (1000, vec![2])];
    assert_eq!(*calls.lock().unwrap(), delivered);
    let (plan, before) = damage_newest_plan(&harness);
    start(None).unwrap_err();
    assert_eq!(*calls.lock().unwrap(), delivered);
    fs::write(&plan, before).unwrap();
    start(None).unwrap().batches(1).unwrap();
    assert_eq!(calls.lock().unwrap()[2..], [(1000, vec![2]), (1500, vec![3])]);
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
