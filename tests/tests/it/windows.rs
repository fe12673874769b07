//! Windows over batches, killed and restarted, held against a recount by the batch time of each record.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::process::Signal;
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::{Pipeline, look_again_soon};
use tidemill_tests::records::produce;
use tidemill_tests::target::{Kind, Target};

use crate::running::{COLUMNS, PER_BATCH, RECORDS, Total, key, numbered, recounted, total};
use crate::sheet::{files, head, numbers, sink, source, topic};

const WINDOW_MS: i64 = 1200;
const SLIDE_MS: i64 = 400;
const SCOPE: &str = r#"scope = { window = "1200ms", slide = "400ms" }"#;
const TOTALS: &str = "SELECT k, count(*) AS c, sum(n) AS s, CAST(round(1000 * avg(n)) AS BIGINT) AS mean, min(n) AS low, max(n) AS high, \
     CAST(batch_time() AS BIGINT) AS ms, batch_time() AS until FROM events WHERE n % 10 <> 3 GROUP BY k";
const TABLE: &str = "k TEXT, c BIGINT, s BIGINT, mean BIGINT, low BIGINT, high BIGINT, ms BIGINT, until TIMESTAMP";

/// Totals by the end of their window and key.
type Totals = BTreeMap<(i64, String), Total>;

/// Windows of a topic, into files, a table that is appended to and one that is upserted by `key`. A sink beside them notes the batch
/// time of every record.
struct Windows {
    pipeline: Pipeline,
    batches: Target,
    outputs: [Target; 3],
}

impl Windows {
    fn over(topic: &str, key: &str) -> Self {
        let table = |columns: &str| Target::create(Kind::Postgres, columns).unwrap();
        let batches = table("n BIGINT, at BIGINT");
        let outputs = [
            files(),
            table(TABLE),
            table(&format!("{TABLE}, PRIMARY KEY (k, until)")),
        ];
        let upsert = format!("mode = \"upsert\"\nkey = [{key}]");
        let text = head("windows")
            + "[rate]\nbackpressure = false\n"
            + &source("events", topic, COLUMNS, PER_BATCH)
            + &format!("[queries.totals]\nsql = \"{TOTALS}\"\n{SCOPE}\n")
            + &sink("files", "SELECT * FROM totals", &outputs[0])
            + &sink("appended", "SELECT * FROM totals", &outputs[1])
            + &sink("upserted", "SELECT * FROM totals", &outputs[2]).replace("mode = \"append\"", &upsert)
            + &sink(
                "batches",
                "SELECT n, CAST(batch_time() AS BIGINT) AS at FROM events",
                &batches,
            );
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            batches,
            outputs,
        }
    }

    /// Every window that has a record, counted anew, where all of `records` have come.
    fn expected(&self, records: usize) -> Option<Totals> {
        let rows = self.batches.rows(self.pipeline.folder()).unwrap();
        let mut noted: Vec<(i64, i64)> = numbers(&rows, "n").into_iter().zip(numbers(&rows, "at")).collect();
        noted.sort_unstable();
        assert!(
            noted.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "a record came twice"
        );
        let times = || noted.iter().map(|(_, at)| *at);
        let (first, last) = (times().min()?, times().max()?);
        let mut totals = Totals::new();
        for end in (first..last + WINDOW_MS).filter(|time| time % SLIDE_MS == 0) {
            let inside = noted.iter().filter(|(_, at)| (end - WINDOW_MS + 1..=end).contains(at));
            let of_window = recounted(inside.map(|(n, _)| *n));
            totals.extend(of_window.into_iter().map(|(key, total)| ((end, key), total)));
        }
        (noted.len() == records).then_some(totals)
    }

    /// What a sink holds. A row that came twice fails.
    fn given(&self, output: &Target) -> Totals {
        let mut totals = Totals::new();
        for row in output.rows(self.pipeline.folder()).unwrap() {
            let end = row["ms"].as_i64().unwrap_or_else(|| panic!("no ms in {row}"));
            assert_eq!(totals.insert((end, key(&row)), total(&row)), None, "twice: {row}");
        }
        totals
    }

    /// True where every sink holds the last window that has any of the records.
    fn is_over(&self, records: usize) -> bool {
        let Some(expected) = self.expected(records) else {
            return false;
        };
        let last = expected.keys().next_back();
        let holds = |output: &Target| self.given(output).keys().next_back() >= last;
        self.outputs.iter().all(holds)
    }

    /// Runs on until the last window is over, then stops; every sink holds exactly what is expected.
    fn run_until_over(&self, records: usize, why: &str) {
        let mut run = self.pipeline.start(&[], &[]).unwrap();
        let deadline = Instant::now() + LIMIT;
        while !self.is_over(records) {
            assert!(
                Instant::now() < deadline && run.is_running().unwrap(),
                "{why}: {}",
                run.log()
            );
            look_again_soon();
        }
        run.signal(Signal::TERM);
        let ended = run.wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(0), "{why}: {}", ended.log_tail());
        self.assert_exact(records, why);
    }

    fn assert_exact(&self, records: usize, why: &str) {
        let expected = self.expected(records).unwrap();
        for output in &self.outputs {
            assert_eq!(self.given(output), expected, "{why}: {:?}", output.kind());
        }
    }
}

/// Windows that ended while nothing ran are given late, each at its time.
#[test]
fn x30_windows_are_exact_wherever_a_kill_falls() {
    let topic = topic("windows", 3, &numbered(0, RECORDS));
    for (point, pass) in [
        ("state.before-stage", 2),
        ("state.after-stage", 4),
        ("sink.before-commit", 6),
        ("sink.after-commit", 7),
        ("sink.before-commit", 18),
        ("sink.after-commit", 19),
        ("commit-log.before", 5),
    ] {
        let windows = Windows::over(&topic, r#""k", "until""#);
        let armed = format!("{point}=kill@{pass}");
        let run = windows.pipeline.start(&[], &[("TIDEMILL_FAILPOINTS", &armed)]).unwrap();
        let killed = run.wait(LIMIT).unwrap();
        assert!(killed.was_killed(), "{armed}: {}", killed.log_tail());
        windows.run_until_over(usize::try_from(RECORDS).unwrap(), &armed);
    }
}

/// Runs that end as soon as they are caught up: each gives the windows that are over by then. What left the window is in no later one.
#[test]
fn a_window_is_emptied_by_time() {
    let topic = topic("emptied", 3, &numbered(0, 600));
    let windows = Windows::over(&topic, r#""k", "until""#);
    let deadline = Instant::now() + LIMIT;
    for (from, until) in [(0, 600), (600, 660)] {
        if from > 0 {
            produce(&topic, &numbered(from, until)).unwrap();
        }
        let records = usize::try_from(until).unwrap();
        loop {
            windows.pipeline.run_to_end(&[], LIMIT).unwrap();
            if windows.is_over(records) {
                break;
            }
            assert!(Instant::now() < deadline);
        }
        windows.assert_exact(records, "emptied");
    }
    let idle = windows.pipeline.run_to_end(&[], LIMIT).unwrap();
    let asked = idle.stderr.contains("plan_ms");
    assert!(!asked, "an empty window asks for no batch: {}", idle.log_tail());
}

#[test]
fn another_window_is_refused_until_its_state_is_given_up() {
    let topic = topic("slid", 3, &numbered(0, 60));
    let windows = Windows::over(&topic, r#""k", "until""#);
    windows.pipeline.run_to_end(&[], LIMIT).unwrap();
    windows.pipeline.edit("slide = \"400ms\"", "slide = \"600ms\"").unwrap();
    let refused = windows.pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
    for word in [
        "operator query-totals",
        "window of 1200 ms every 400 ms",
        "window of 1200 ms every 600 ms",
        "--forget-state query-totals",
    ] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.log_tail());
    }
    let order = ["--until-caught-up", "--forget-state", "query-totals"];
    let ended = windows.pipeline.start(&order, &[]).unwrap().wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
}

#[test]
fn what_cannot_slide_is_refused_by_check() {
    let topic = topic("refused", 1, &[]);
    let windows = Windows::over(&topic, r#""k", "until""#);
    let edits = [
        (
            "slide = \"400ms\"",
            "slide = \"250ms\"",
            "queries.totals.scope.slide: must be a multiple of the interval, 100ms",
        ),
        (
            SCOPE,
            "scope = \"batch\"\nemit = \"all\"",
            "queries.totals.emit: belongs to scope",
        ),
        (
            TOTALS,
            "SELECT k, n FROM events",
            "scope = { window = … }: the outermost step of the query must be a GROUP BY",
        ),
        (
            "key = [\"k\", \"until\"]",
            "key = [\"k\"]",
            "mode = \"upsert\" takes a running query as it is",
        ),
    ];
    windows.pipeline.refuses(&edits).unwrap();
}
