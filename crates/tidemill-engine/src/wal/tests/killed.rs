//! The process is killed at each of the log's failpoints: what was acknowledged is found.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::super::testing::*;
use super::super::*;
use crate::failpoint;

const FOLDER: &str = "TIDEMILL_TEST_LOG_FOLDER";
const RECORDS: u64 = 60;

/// What is killed: it appends, and writes down what was acknowledged.
#[tokio::test]
#[ignore = "started by the test beside it, in a process of its own"]
async fn killed_while_it_appends() {
    failpoint::arm_from_env().unwrap();
    let folder = std::env::var(FOLDER).unwrap();
    let mut place = Place::on(LocalStorage::new(Path::new(&folder).join("log")));
    place.settings.segment_bytes_max = 400;
    let log = place.start(1);
    let mut acknowledged = std::fs::File::create(Path::new(&folder).join("acknowledged")).unwrap();
    for number in 0..RECORDS {
        let range = put(&log, format!("{number:060}")).await.unwrap();
        writeln!(acknowledged, "{}", range.sequence).unwrap();
        if number % 10 == 9 {
            log.forget_before(number - 9).await.unwrap();
        }
    }
}

fn run(folder: &Path, failpoints: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "wal::tests::killed::killed_while_it_appends",
            "--ignored",
            "--quiet",
        ])
        .env(FOLDER, folder)
        .env("TIDEMILL_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn what_was_acknowledged_outlives_a_kill_at_any_point() {
    let points = failpoint::POINTS.iter().filter(|(_, owner)| *owner == "log");
    for (point, at) in points.flat_map(|(point, _)| [1, 3].map(|at| (point, at))) {
        let folder = tempfile::tempdir().unwrap();
        let status = run(folder.path(), &format!("{point}=kill@{at}"));
        assert_eq!(status.signal(), Some(9), "{point}@{at}: {status}");
        let text = std::fs::read_to_string(folder.path().join("acknowledged")).unwrap();
        let acknowledged = text.lines().count() as u64;
        let place = Place::on(LocalStorage::new(folder.path().join("log")));
        let mut takeover = place.takeover(2);
        // What was forgotten last, at most.
        takeover.needed_from = (acknowledged / 10 * 10).saturating_sub(10);
        let (bodies, report) = all(&takeover).unwrap();
        let expected = (takeover.needed_from..report.next_sequence).map(|number| format!("{number:060}").into_bytes());
        assert_eq!(bodies, expected.collect::<Vec<_>>(), "{point}@{at}");
        assert!(report.next_sequence >= acknowledged, "{point}@{at}");
    }
}
