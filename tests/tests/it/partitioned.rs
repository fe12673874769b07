//! A file sink with `partition_by`, on more values than files may be open.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tidemill_tests::pipeline::{Pipeline, Run, look_again_soon};
use tidemill_tests::target::{Target, manifests};
use tidemill_tests::{java, servers};

use crate::sheet::{head, sink, source};

const LIMIT: Duration = Duration::from_secs(300);
/// Values that name folders, all in one batch.
const VALUES: u64 = 10_000;
/// The bound of the product, and the folder that is being synced beside them.
const OPEN_MAX: usize = 128 + 1;

/// The most that was seen while a run went on.
#[derive(Debug, Default)]
struct Most {
    files_open: usize,
    resident_bytes: u64,
}

fn watch(mut run: Run, folder: &Path) -> (tidemill_tests::pipeline::Finished, Most) {
    let mut most = Most::default();
    let deadline = Instant::now() + LIMIT;
    while run.is_running().unwrap() && Instant::now() < deadline {
        // Both fail where the process ends between the question and the answer.
        most.files_open = most.files_open.max(run.files_open(folder).unwrap_or(0));
        most.resident_bytes = most.resident_bytes.max(run.resident_bytes_max().unwrap_or(0));
        look_again_soon();
    }
    (run.wait(LIMIT).unwrap(), most)
}

fn data_files(folder: &Path) -> usize {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let values = folders.filter(|path| path.file_name().unwrap().to_string_lossy().contains('='));
    values.map(|path| fs::read_dir(path).unwrap().count()).sum()
}

/// Ten thousand values in one batch: killed in the middle of its files, killed again before its manifest, then whole; with few
/// files open and little memory at any time.
#[test]
fn ten_thousand_values_in_one_batch_survive_kills_with_few_files_open() {
    let topic = servers::unique("values");
    java::load(&topic, 2 * VALUES, 2, &[]).unwrap();
    let target = Target::folders(&["value"]).unwrap();
    let text = head("values")
        + &source("events", &topic, "seq BIGINT, part INT", "")
        + &sink(
            "out",
            "SELECT seq, part, 'n/' || CAST(seq AS VARCHAR) AS value FROM events",
            &target,
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let folder = pipeline.folder().join(target.place());
    for point in ["file.after-data-sync=kill@5000", "file.before-manifest=kill@1"] {
        let run = pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", point)]).unwrap();
        let (finished, most) = watch(run, &folder);
        assert!(
            finished.was_killed(),
            "{point}: {}\n{}",
            finished.status,
            finished.log_tail()
        );
        assert!(most.files_open <= OPEN_MAX, "{point}: {most:?}");
        assert!(
            target.rows(pipeline.folder()).unwrap().is_empty(),
            "{point}: no manifest, no row"
        );
    }
    let began = Instant::now();
    let (finished, most) = watch(pipeline.start_to_end(&[]).unwrap(), &folder);
    assert_eq!(finished.code(), Some(0), "{}", finished.log_tail());
    eprintln!("{VALUES} values in {:?}: {most:?}", began.elapsed());
    assert!((2..=OPEN_MAX).contains(&most.files_open), "{most:?}");
    assert!(most.resident_bytes < 512 << 20, "{most:?}");

    let batches: Vec<_> = manifests(&folder).unwrap();
    let files = |manifest: &serde_json::Value| manifest["files"].as_array().unwrap().len();
    let with_rows: Vec<usize> = batches.iter().map(files).filter(|files| *files > 0).collect();
    assert_eq!(
        with_rows,
        [usize::try_from(VALUES).unwrap()],
        "one batch, a file for each value"
    );
    assert!(
        data_files(&folder) > 12_000,
        "what the killed attempts left lies beside them"
    );
    let mut seen = BTreeSet::new();
    for row in target.rows(pipeline.folder()).unwrap() {
        let (seq, part) = (row["seq"].as_u64().unwrap(), row["part"].as_u64().unwrap());
        assert_eq!(row["value"], format!("n/{seq}"));
        assert!(seen.insert((part, seq)), "{row} is there twice");
    }
    let expected: BTreeSet<(u64, u64)> = (0..2)
        .flat_map(|part| (0..VALUES).map(move |seq| (part, seq)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn columns_that_cannot_name_folders_are_refused_by_check() {
    let topic = servers::unique("refused");
    java::load(&topic, 1, 1, &[]).unwrap();
    for (columns, code, said) in [
        (
            &["day"][..],
            2,
            "partition_by names column day, which the query doesn't give; it gives seq, ratio",
        ),
        (&["ratio"], 2, "partition_by names column ratio of type Float64"),
        (&["seq", "ratio"], 2, "column ratio"),
        (&["seq", "seq"], 2, "sinks.out.partition_by: names column seq twice"),
        (&[], 2, "sinks.out.partition_by: names no column"),
    ] {
        let target = Target::folders(columns).unwrap();
        let text = head("refused")
            + &source("events", &topic, "seq BIGINT", "")
            + &sink("out", "SELECT seq, seq / 2.0e0 AS ratio FROM events", &target);
        let checked = Pipeline::write(&text).unwrap().ask(&["check"]).unwrap();
        assert_eq!(checked.code(), Some(code), "{columns:?}: {}", checked.log_tail());
        assert!(checked.stderr.contains(said), "{columns:?}: {}", checked.stderr);
    }
    let target = Target::folders(&["seq"]).unwrap();
    let text =
        head("refused") + &source("events", &topic, "seq BIGINT", "") + &sink("out", "SELECT seq FROM events", &target);
    let checked = Pipeline::write(&text).unwrap().ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(2), "{}", checked.log_tail());
    assert!(checked.stderr.contains("every column"), "{}", checked.stderr);
}
