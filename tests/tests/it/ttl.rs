//! Groups of running queries that get no record for longer than their time to live, killed and restarted, held against a recount
//! by the batch time of each record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::{Finished, Pipeline, look_again_soon};
use tidemill_tests::records::produce;
use tidemill_tests::target::{Kind, Target};

use crate::running::{COLUMNS, RECORDS, Total, key, key_of, numbered, recounted, total};
use crate::sheet::{files, head, numbers, sink, source, topic};

const INTERVAL_MS: i64 = 100;
/// One interval: from batch to batch some groups are forgotten, and some go on by a record in the batch that would have.
const TTL_MS: i64 = 100;
const TTL: &str = "ttl = \"100ms\"";
/// Ten batches.
const PER_BATCH: &str = "max_rate_per_partition = 400";
const TOTALS: &str = "SELECT k, count(*) AS c, sum(n) AS s, CAST(round(1000 * avg(n)) AS BIGINT) AS mean, min(n) AS low, max(n) AS high, \
     CAST(batch_time() AS BIGINT) AS ms FROM events WHERE n % 10 <> 3 GROUP BY k";
const TABLE: &str = "k TEXT, c BIGINT, s BIGINT, mean BIGINT, low BIGINT, high BIGINT, ms BIGINT";

/// Totals by batch time and key.
type Totals = BTreeMap<(i64, String), Total>;

/// What a query gives, batch by batch: the groups that changed, and all of them.
#[derive(Debug, Default, PartialEq)]
struct Given {
    changed: Totals,
    all: Totals,
}

/// A running query over a topic, twice: what changed goes into files and into a table that is upserted, all groups into a table
/// that is appended to. A sink beside them notes the batch time of every record.
struct Totalled {
    topic: String,
    pipeline: Pipeline,
    batches: Target,
    changed: Target,
    upserted: Target,
    all: Target,
}

impl Totalled {
    fn over(topic: &str) -> Self {
        let table = |columns: &str| Target::create(Kind::Postgres, columns).unwrap();
        let (batches, changed, all) = (table("n BIGINT, at BIGINT"), files(), table(TABLE));
        let upserted = table(&format!("{TABLE}, PRIMARY KEY (k)"));
        let query = |name: &str, emit: &str| {
            format!("[queries.{name}]\nsql = \"{TOTALS}\"\nscope = \"running\"\nemit = \"{emit}\"\n{TTL}\n")
        };
        let text = head("ttl")
            + "[rate]\nbackpressure = false\n"
            + &source("events", topic, COLUMNS, PER_BATCH)
            + &query("totals", "changed")
            + &query("living", "all")
            + &sink("changed", "SELECT * FROM totals", &changed)
            + &sink("upserted", "SELECT * FROM totals", &upserted)
                .replace("mode = \"append\"", "mode = \"upsert\"\nkey = [\"k\"]")
            + &sink("all", "SELECT * FROM living", &all)
            + &sink(
                "batches",
                "SELECT n, CAST(batch_time() AS BIGINT) AS at FROM events",
                &batches,
            );
        Self {
            topic: topic.to_owned(),
            pipeline: Pipeline::write(&text).unwrap(),
            batches,
            changed,
            upserted,
            all,
        }
    }

    /// The numbers of each batch, by its time.
    fn noted(&self) -> BTreeMap<i64, Vec<i64>> {
        let rows = self.batches.rows(self.pipeline.folder()).unwrap();
        let mut noted: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (n, at) in numbers(&rows, "n").into_iter().zip(numbers(&rows, "at")) {
            noted.entry(at).or_default().push(n);
        }
        noted
    }

    /// A row of a batch and key that came twice fails.
    fn rows(&self, output: &Target) -> Totals {
        let mut totals = Totals::new();
        for row in output.rows(self.pipeline.folder()).unwrap() {
            let ms = row["ms"].as_i64().unwrap_or_else(|| panic!("no ms in {row}"));
            assert_eq!(totals.insert((ms, key(&row)), total(&row)), None, "twice: {row}");
        }
        totals
    }

    fn assert_exact(&self, expected: &Given, why: &str) {
        let given = Given {
            changed: self.rows(&self.changed),
            all: self.rows(&self.all),
        };
        assert_eq!(given, *expected, "{why}");
        let last: BTreeMap<&String, (i64, Total)> = (expected.changed.iter())
            .map(|((ms, key), total)| (key, (*ms, *total)))
            .collect();
        let table = self.rows(&self.upserted);
        let table: BTreeMap<_, _> = table.iter().map(|((ms, key), total)| (key, (*ms, *total))).collect();
        assert_eq!(table, last, "{why}: a forgotten group keeps its row");
    }

    fn ends(&self, args: &[&str]) -> Finished {
        self.pipeline.start(args, &[]).unwrap().wait(LIMIT).unwrap()
    }
}

/// The same in a program that remembers every record.
#[derive(Debug, Default)]
struct Recount {
    since: Option<i64>,
    groups: BTreeMap<i64, (i64, Vec<i64>)>,
    given: Given,
}

impl Recount {
    fn of(noted: &BTreeMap<i64, Vec<i64>>, ttl_ms: Option<i64>) -> Given {
        let mut recount = Self::default();
        for (at, numbers) in noted {
            recount.batch(*at, numbers, ttl_ms);
        }
        recount.given
    }

    fn batch(&mut self, at: i64, numbers: &[i64], ttl_ms: Option<i64>) {
        self.since = ttl_ms.map(|_| self.since.unwrap_or(at));
        let ttl_ms = ttl_ms.unwrap_or(i64::MAX / 2);
        let since = self.since.unwrap_or(at);
        let idle = |last: i64| at - last.max(since);
        for n in numbers.iter().filter(|n| *n % 10 != 3) {
            let (last, all) = self.groups.entry(key_of(*n)).or_insert((at, Vec::new()));
            if idle(*last) > ttl_ms + INTERVAL_MS {
                all.clear();
            }
            *last = at;
            all.push(*n);
            all.sort_unstable();
        }
        self.groups.retain(|_, (last, _)| idle(*last) <= ttl_ms);
        for (last, numbers) in self.groups.values() {
            for (key, total) in recounted(numbers.iter().copied()) {
                if *last == at {
                    self.given.changed.insert((at, key.clone()), total);
                }
                self.given.all.insert((at, key), total);
            }
        }
    }
}

/// Waits until the clock is this far behind the last batch.
fn wait_after(totalled: &Totalled, ms: i64) {
    let last = *totalled.noted().keys().next_back().unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        if now > Duration::from_millis(u64::try_from(last + ms).unwrap()) {
            return;
        }
        assert!(Instant::now() < deadline, "the clock stands");
        look_again_soon();
    }
}

/// A batch comes every interval, until it is killed. Then time goes by, and no group is left.
#[test]
fn x30_groups_are_forgotten_exactly_wherever_a_kill_falls() {
    let topic = topic("forgotten", 3, &numbered(0, RECORDS));
    // Four sinks and two operators with state.
    for (point, pass) in [
        ("state.before-stage", 9),
        ("state.before-stage", 12),
        ("state.after-stage", 11),
        ("state.after-stage", 14),
        ("sink.before-commit", 21),
        ("sink.before-commit", 22),
        ("sink.before-commit", 27),
        ("sink.after-commit", 21),
        ("sink.after-commit", 27),
        ("sink.after-commit", 28),
        ("commit-log.before", 6),
    ] {
        let totalled = Totalled::over(&topic);
        let armed = format!("{point}=kill@{pass}");
        let run = totalled
            .pipeline
            .start(&[], &[("TIDEMILL_FAILPOINTS", &armed)])
            .unwrap();
        let killed = run.wait(LIMIT).unwrap();
        assert!(killed.was_killed(), "{armed}: {}", killed.log_tail());
        wait_after(&totalled, TTL_MS + INTERVAL_MS);
        totalled.pipeline.run_to_end(&[], LIMIT).unwrap();
        let noted = totalled.noted();
        assert_eq!(noted.values().map(Vec::len).sum::<usize>(), 1200, "{armed}");
        let expected = Recount::of(&noted, Some(TTL_MS));
        totalled.assert_exact(&expected, &armed);
        assert_ne!(expected, Recount::of(&noted, None), "{armed}: nothing was forgotten");
    }
}

/// No batch is run in between: what should have been forgotten then must not go on from a late record.
#[test]
fn a_pipeline_without_input_forgets_at_its_next_batch() {
    let topic = topic("idle", 3, &numbered(0, 60));
    let totalled = Totalled::over(&topic);
    let mut run = totalled.pipeline.start(&[], &[]).unwrap();
    let mut records = 60;
    for _ in 0..3 {
        let deadline = Instant::now() + LIMIT;
        while totalled.noted().values().map(Vec::len).sum::<usize>() < records {
            assert!(Instant::now() < deadline && run.is_running().unwrap(), "{}", run.log());
            look_again_soon();
        }
        wait_after(&totalled, TTL_MS + 2 * INTERVAL_MS);
        // Of the keys 0 to 6 only three go on.
        produce(&totalled.topic, &numbered(0, 3)).unwrap();
        records += 3;
    }
    let deadline = Instant::now() + LIMIT;
    while totalled.noted().values().map(Vec::len).sum::<usize>() < records {
        assert!(Instant::now() < deadline, "{}", run.log());
        look_again_soon();
    }
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let noted = totalled.noted();
    totalled.assert_exact(&Recount::of(&noted, Some(TTL_MS)), "idle");
    let last = *noted.keys().next_back().unwrap();
    let all = totalled.rows(&totalled.all);
    assert!(
        all.range((last, String::new())..).all(|(_, total)| total.count == 1),
        "{all:?}"
    );
}

/// Each start reads some records, with another time to live.
#[test]
fn a_time_to_live_may_come_go_and_change_between_starts() {
    let topic = topic("edited-ttl", 3, &[]);
    let totalled = Totalled::over(&topic);
    let (mut recount, mut seen) = (Recount::default(), 0);
    for (ttl, ttl_ms, from, until) in [
        ("", None, 0, 300),
        ("ttl = \"1h\"", Some(3_600_000), 300, 400),
        (TTL, Some(TTL_MS), 0, 60),
        (TTL, Some(TTL_MS), 60, 120),
        ("", None, 120, 180),
        ("", None, 0, 60),
        (TTL, Some(TTL_MS), 120, 180),
        ("ttl = \"1h\"", Some(3_600_000), 0, 200),
        ("ttl = \"200ms\"", Some(200), 0, 30),
    ] {
        totalled.pipeline.edit(TTL, ttl).unwrap();
        produce(&topic, &numbered(from, until)).unwrap();
        totalled.pipeline.run_to_end(&[], LIMIT).unwrap();
        let noted = totalled.noted();
        for (at, numbers) in noted.iter().skip(seen) {
            recount.batch(*at, numbers, ttl_ms);
        }
        seen = noted.len();
        totalled.assert_exact(&recount.given, &format!("{ttl}, {from} to {until}"));
        wait_after(&totalled, TTL_MS + 2 * INTERVAL_MS);
    }
}

/// X12: a batch runs again as it was planned to.
#[test]
fn another_time_to_live_waits_for_the_last_batch() {
    let topic = topic("unsettled", 3, &numbered(0, 600));
    let totalled = Totalled::over(&topic);
    let armed = [("TIDEMILL_FAILPOINTS", "sink.before-commit=kill@10")];
    let killed = totalled.pipeline.start_to_end(&armed).unwrap().wait(LIMIT).unwrap();
    assert!(killed.was_killed(), "{}", killed.log_tail());
    for other in ["ttl = \"300ms\"", ""] {
        totalled.pipeline.edit(TTL, other).unwrap();
        let refused = totalled.ends(&["--until-caught-up"]);
        assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
        let said = "the queries were changed while batch ";
        assert!(refused.stderr.contains(said), "{}", refused.log_tail());
    }
    totalled.pipeline.edit(TTL, TTL).unwrap();
    totalled.pipeline.run_to_end(&[], LIMIT).unwrap();
    totalled.assert_exact(&Recount::of(&totalled.noted(), Some(TTL_MS)), "unsettled");
}

#[test]
fn a_time_to_live_that_cannot_be_is_refused_by_check() {
    let topic = topic("refused", 1, &[]);
    let totalled = Totalled::over(&topic);
    let edits = [
        (
            TTL,
            "ttl = \"99ms\"",
            "queries.totals.ttl: must be the interval, 100ms, or more",
        ),
        (
            TTL,
            "ttl = \"0s\"",
            "queries.living.ttl: must be the interval, 100ms, or more",
        ),
        (
            "scope = \"running\"\nemit = \"all\"",
            "scope = \"batch\"",
            "queries.living.ttl: belongs to scope = \"running\"",
        ),
        (
            "scope = \"running\"\nemit = \"all\"",
            "scope = { window = \"5m\", slide = \"1m\" }",
            "queries.living.ttl: belongs to scope = \"running\": what left the window is forgotten",
        ),
    ];
    totalled.pipeline.refuses(&edits).unwrap();
}
