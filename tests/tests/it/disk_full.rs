//! A disk that is full and has room again: intake waits, the reason stands in the log, and the run goes on unaided.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemill_tests::case::{Input, LIMIT};
use tidemill_tests::oracle::{self, Row};
use tidemill_tests::pipeline::{Pipeline, Run};
use tidemill_tests::small_disk::SmallDisk;
use tidemill_tests::target::{Kind, Target, manifests};

use crate::sheet::{head, source};

const COLUMNS: &str = "seq BIGINT, part INT, aborted BOOLEAN";
const DISK_BYTES: u64 = 8 << 20;
const NO_ROOM: &str = "No space left on device";

/// A copy of the small topic with its checkpoint on a small disk, and its files too where `files_too`.
struct OnDisk {
    disk: SmallDisk,
    pipeline: Pipeline,
    target: Target,
}

impl OnDisk {
    fn new(files_too: bool, top: &str) -> Self {
        let disk = SmallDisk::mount(DISK_BYTES).unwrap();
        let kind = if files_too { Kind::File } else { Kind::Postgres };
        let target = Target::create(kind, COLUMNS).unwrap();
        let folder = disk.folder().display();
        let text = head("disk").replace("\"checkpoint\"", &format!("\"{folder}/checkpoint\""))
            + top
            + &source(
                "events",
                &Input::small().topic,
                COLUMNS,
                "max_rate_per_partition = 2000",
            )
            + "[sinks.out]\nsql = \"SELECT seq, part, aborted FROM events\"\n"
            + &target.toml().replace("\"out\"", &format!("\"{folder}/out\""));
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            disk,
            target,
        }
    }

    /// Freezes a run where it passes `point` for the third time and lets it go on without room, until it has failed twice to write.
    fn starved_at(&self, point: &str) -> Run {
        let armed = format!("{point}=stop@3");
        let mut run = self.pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)]).unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{point}: {}", run.log());
        self.disk.fill().unwrap();
        run.signal(Signal::CONT);
        assert!(
            run.wait_for_log("retry_ms=400", LIMIT).unwrap(),
            "{point}: {}",
            run.log()
        );
        run
    }

    fn finished(&self, run: Run, what: &str) {
        let ended = run.wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(0), "{what}: {}", ended.log_tail());
        self.is_exact(what);
    }

    fn is_exact(&self, what: &str) {
        // A file sink's path is absolute here.
        let rows = self.target.rows(self.disk.folder()).unwrap();
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row).unwrap()).collect();
        oracle::judge(&Input::small().truth, &rows).assert_clean(what);
        assert_eq!(temporaries(self.disk.folder()), Vec::<String>::new(), "{what}");
    }
}

/// Half-written files that were left behind.
fn temporaries(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(temporaries(&path));
        } else if path.file_name().unwrap().to_string_lossy().starts_with(".tmp-") {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_plan_and_a_commit_record_wait_for_room() {
    for (point, what) in [
        ("plan.before-log", "the plan could not be written to the checkpoint"),
        (
            "commit-log.before",
            "the commit record could not be written to the checkpoint",
        ),
    ] {
        let on_disk = OnDisk::new(false, "");
        let run = on_disk.starved_at(point);
        let log = run.log();
        assert!(log.contains(what) && log.contains(NO_ROOM), "{point}: {log}");
        on_disk.disk.free().unwrap();
        on_disk.finished(run, point);
    }
}

#[test]
fn data_files_and_manifests_wait_for_room() {
    for point in ["sink.after-begin", "file.before-manifest"] {
        let on_disk = OnDisk::new(true, "");
        let run = on_disk.starved_at(point);
        let log = run.log();
        let waits = "the batch was not committed; nothing is lost, intake waits";
        assert!(log.contains(waits) && log.contains(NO_ROOM), "{point}: {log}");
        on_disk.disk.free().unwrap();
        on_disk.finished(run, point);
        // The attempts that found no room have left no files behind.
        let sink = on_disk.disk.folder().join("out");
        let named: BTreeSet<String> = manifests(&sink)
            .unwrap()
            .iter()
            .flat_map(|manifest| manifest["files"].as_array().unwrap().clone())
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .collect();
        let there: BTreeSet<String> = fs::read_dir(&sink)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "_tidemill")
            .collect();
        assert_eq!(there, named, "{point}");
    }
}

/// The person can't free the disk and stops the run: it ends within its time, and a later one goes on exactly.
#[test]
fn a_stop_without_room_ends_within_the_drain_timeout() {
    // The commit record of batch 1 may be on its way beside the plan of batch 2, and be the one that is told.
    for (point, records) in [
        (
            "plan.before-log",
            &[
                "the plan (plans/00000000000000000002",
                "the commit record (commits/00000000000000000001",
            ][..],
        ),
        (
            "commit-log.before",
            &["the commit record (commits/00000000000000000002"],
        ),
    ] {
        let on_disk = OnDisk::new(false, "drain_timeout = \"2s\"\n");
        let run = on_disk.starved_at(point);
        let asked = Instant::now();
        run.signal(Signal::TERM);
        let ended = run.wait(LIMIT).unwrap();
        let took = asked.elapsed();
        assert_eq!(ended.code(), Some(1), "{point}: {}", ended.log_tail());
        assert!(took > Duration::from_secs(1), "{point}: it drained for {took:?}");
        assert!(took < Duration::from_secs(6), "{point}: it drained for {took:?}");
        let error = ended.stderr.lines().last().unwrap();
        assert!(
            records.iter().any(|record| error.contains(record))
                && error.contains("drain_timeout")
                && error.contains(NO_ROOM),
            "{point}: {error}"
        );
        on_disk.disk.free().unwrap();
        let run = on_disk.pipeline.start_to_end(&[]).unwrap();
        on_disk.finished(run, point);
    }
}

/// The same without failpoints: the disk fills up whenever, and the sink reads as exact in the end.
#[test]
fn a_disk_that_fills_up_at_any_moment_holds_nothing_but_time_up() {
    let on_disk = OnDisk::new(true, "");
    let text = fs::read_to_string(on_disk.pipeline.file()).unwrap();
    let slow = text.replace("max_rate_per_partition = 2000", "max_rate_per_partition = 100");
    fs::write(on_disk.pipeline.file(), slow).unwrap();
    let run = on_disk.pipeline.start_to_end(&[]).unwrap();
    assert!(run.wait_for_log("batch=5 ", LIMIT).unwrap(), "{}", run.log());
    on_disk.disk.fill().unwrap();
    assert!(run.wait_for_log("retry_ms=800", LIMIT).unwrap(), "{}", run.log());
    assert!(run.log().contains(NO_ROOM), "{}", run.log());
    on_disk.disk.free().unwrap();
    on_disk.finished(run, "filled up at any moment");
}
