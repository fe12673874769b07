//! The rows of section 12 that read files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::{contents_of, seconds, to_be_killed_here};
use crate::WatchedFolder;
use crate::testing::{Harness, Output};

/// Puts a file in its folder whole.
fn put(folder: &Path, name: &str, text: &str) {
    let aside = folder.join(format!(".{name}"));
    fs::write(&aside, text).unwrap();
    fs::rename(&aside, folder.join(name)).unwrap();
}

/// File 0 is there before the start, files 1 to 5 come later, one per batch.
fn files_read(of: impl Fn(WatchedFolder) -> WatchedFolder) -> Vec<String> {
    let harness = Harness::new(seconds(2));
    let folder = harness.folder().join("in");
    fs::create_dir(&folder).unwrap();
    put(&folder, "0", "0\n");
    let output = Output::sorted();
    let run = harness
        .start(|context| {
            context
                .file_stream(of(WatchedFolder::at(&folder)))
                .foreach_batch(output.keep());
            Ok(())
        })
        .unwrap();
    for file in 1..=5 {
        put(&folder, &file.to_string(), &format!("{file}\n"));
        run.batches(1).unwrap();
        assert_eq!(output.all().pop_last().unwrap().1.last(), Some(&file.to_string()));
    }
    output.batches().concat()
}

#[test]
fn op_17_files_that_come_are_read_and_old_ones_where_asked_for() {
    assert_eq!(files_read(|files| files), ["1", "2", "3", "4", "5"]);
    assert_eq!(files_read(WatchedFolder::with_old), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn op_18_what_is_renamed_to_a_watched_name_is_new() {
    let harness = Harness::new(seconds(1));
    let folder = harness.folder().join("in");
    fs::create_dir(&folder).unwrap();
    put(&folder, "old.log", "old\n");
    let output = Output::default();
    let run = harness
        .start(|context| {
            let logs = WatchedFolder::at(&folder).accepting(|name| name.ends_with(".log"));
            context.file_stream(logs).foreach_batch(output.keep());
            Ok(())
        })
        .unwrap();
    put(&folder, "new.part", "new\n");
    run.batches(1).unwrap();
    fs::rename(folder.join("new.part"), folder.join("new.log")).unwrap();
    run.batches(1).unwrap();
    assert_eq!(output.batches(), [vec![], vec!["new".to_owned()]]);
}

/// What the stream ends with where a file that was read is changed so.
fn after_a_change(change: impl FnOnce(&Path)) -> crate::Error {
    let harness = Harness::new(seconds(1));
    let folder = harness.folder().join("in");
    fs::create_dir(&folder).unwrap();
    let output: Output<String> = Output::default();
    let run = harness
        .start(|context| {
            context
                .file_stream(WatchedFolder::at(&folder))
                .foreach_batch(output.keep());
            Ok(())
        })
        .unwrap();
    put(&folder, "f", "1\n");
    run.batches(1).unwrap();
    change(&folder);
    let error = run.batches(1).unwrap_err();
    assert_eq!(output.batches(), [["1"]]);
    error
}

#[test]
fn a_file_that_changes_after_it_was_read_stops_the_stream() {
    let replaced = after_a_change(|folder| put(folder, "f", "1\n2\n"));
    let added_to = after_a_change(|folder| {
        let mut file = fs::OpenOptions::new().append(true).open(folder.join("f")).unwrap();
        file.write_all(b"2\n").unwrap();
    });
    for error in [replaced, added_to] {
        assert_eq!(error.kind(), crate::Kind::Loss, "{error}");
    }
}

/// The names of the files that were planned to be read.
fn planned(harness: &Harness) -> Vec<String> {
    let positions = contents_of(harness).last_plan.unwrap().plan.after();
    positions.iter().map(|file| file.partition.topic.clone()).collect()
}

/// Numbers in the files of a checkpoint's folder, but for that of the first positions.
fn batches_in(harness: &Harness, folder: &str) -> usize {
    fs::read_dir(harness.checkpoint().join(folder)).unwrap().count() - 1
}

/// Sums over files that came before a kill, while nothing ran, and after it. The count of the checkpoint's files departs: batch 4 is
/// planned once batch 3 is settled, so that a kill in batch 3 leaves five. What came while nothing ran is all in the first batch after it.
#[test]
fn ckp_10_ckp_11_files_that_came_while_nothing_ran_are_read_once() {
    let harness = Harness::new(seconds(2));
    let folder = harness.folder().join("in");
    fs::create_dir(&folder).unwrap();
    let output = Output::default();
    let start = |in_third: Option<SyncSender<()>>| {
        harness.start(|context| {
            let keep = output.keep();
            context
                .file_stream(WatchedFolder::at(&folder))
                .map(|line| line.parse::<u64>().unwrap_or(0))
                .reduce_by_window(|a, b| a + b, seconds(60), seconds(2))
                .foreach_batch(move |sums, batch| match &in_third {
                    Some(reached) if batch.batch_time_ms == 6_000 => to_be_killed_here(reached),
                    _ => {
                        keep(sums, batch);
                        Ok(())
                    }
                });
            Ok(())
        })
    };
    let (reached, reaches) = sync_channel(1);
    let run = start(Some(reached)).unwrap();
    for file in 1..=2 {
        put(&folder, &file.to_string(), &format!("{file}\n"));
        run.batches(1).unwrap();
    }
    put(&folder, "3", "3\n");
    harness.pass(seconds(2));
    reaches.recv().unwrap();
    run.kill();
    assert_eq!(output.batches(), [[1], [3]]);
    assert_eq!((batches_in(&harness, "plans"), batches_in(&harness, "commits")), (3, 2));
    for file in 4..=6 {
        put(&folder, &file.to_string(), &format!("{file}\n"));
    }
    harness.pass(seconds(9));
    assert_eq!(
        (harness.now_ms(), planned(&harness)),
        (15_000, vec!["1".into(), "2".into(), "3".into()])
    );
    let run = start(None).unwrap();
    assert_eq!(run.completed(), 5);
    for file in 7..=9 {
        put(&folder, &file.to_string(), &format!("{file}\n"));
        run.batches(1).unwrap();
    }
    let sums: Vec<u64> = output.batches().concat();
    assert_eq!(sums, [1, 3, 6, 21, 21, 21, 21, 28, 36, 45]);
}
