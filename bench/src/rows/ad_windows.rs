//! The advertising benchmark's shape: events, filtered, joined with a table of campaigns, counted per ten seconds of event time and
//! upserted.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemill_kafka::embedded::ad_events::AdEvents;

use super::Bench;
use crate::data::Data;
use crate::database::Database;
use crate::expected;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::report::Run;

const CAMPAIGNS: u16 = 100;
const WINDOW_MS: u64 = 10_000;

const WINDOWS: &str = "SELECT campaign, date_bin(INTERVAL '10 seconds', event_time) AS time, count(*) AS views \
                       FROM events JOIN campaigns ON ad_id = ad WHERE event_type = 'view' GROUP BY 1, 2";
const FOUND: &str = "SELECT campaign, (extract(epoch FROM time) * 1000)::bigint, views FROM ad_windows";

pub(super) fn upserted(bench: &Bench) -> Result<Run> {
    let (records, _) = bench.events()?;
    let sink = format!(
        "kind = \"postgres\"\nurl = \"${{BENCH_DATABASE_URL}}\"\ntable = \"ad_windows\"\ncreate_table = true\nmode = \"upsert\"\n\
         key = [\"campaign\", \"time\"]\n\n[queries.windows]\nsql = \"{WINDOWS}\"\nscope = \"running\"\n\n\
         [tables.campaigns]\npath = \"campaigns.csv\"\nformat = \"csv\""
    );
    let text = Text {
        interval: Duration::from_secs(1),
        brokers: bench.topics.brokers(),
        topic: Data::Events.topic(),
        format: SourceFormat::Json,
        properties: &[],
        sql: "SELECT * FROM windows",
        sink: &sink,
    };
    let pipeline = Pipeline::write(bench.folder.path(), "ad-windows", &text)?;
    std::fs::write(pipeline.beside("campaigns.csv"), campaigns()).context("write the campaigns")?;
    let database = Database::make(bench.postgres()?, pipeline.name())?;
    let finished = bench.run(&pipeline, &[("BENCH_DATABASE_URL", database.url())])?;
    finished.read_exactly(records)?;
    compare(&database.numbers(FOUND)?, &views(records))?;
    let version = database.version()?;
    database.drop()?;
    Ok(Run::new("ad-windows")
        .with_throughput(records, &finished)
        .with("postgres", version))
}

fn campaign(ad: u16) -> u16 {
    ad % CAMPAIGNS
}

fn campaigns() -> String {
    let mut csv = "ad,campaign\n".to_owned();
    for ad in 0..AdEvents::ads() {
        let name = String::from_utf8_lossy(&AdEvents::key(ad)).into_owned();
        // Writing to a string does not fail.
        let _written = writeln!(csv, "{name},{}", campaign(ad));
    }
    csv
}

/// Views by campaign and the window's first millisecond.
fn views(records: u64) -> BTreeMap<(u64, u64), u64> {
    let events = expected::ad_events();
    let mut views = BTreeMap::new();
    for n in (0..records).filter(|n| events.is_view(*n)) {
        let window = events.time_ms(n) / WINDOW_MS * WINDOW_MS;
        *views.entry((u64::from(campaign(events.ad(n))), window)).or_default() += 1;
    }
    views
}

fn compare(rows: &[Vec<i64>], expected: &BTreeMap<(u64, u64), u64>) -> Result<()> {
    ensure!(
        rows.len() == expected.len(),
        "wrong: expected {} windows, found {}",
        expected.len(),
        rows.len()
    );
    for row in rows {
        let [campaign, time_ms, views] = row.as_slice() else {
            anyhow::bail!("wrong: not a window: {row:?}");
        };
        let window = (campaign.unsigned_abs(), time_ms.unsigned_abs());
        let right = expected.get(&window);
        ensure!(
            right == Some(&views.unsigned_abs()),
            "wrong: campaign and window {window:?} has {views} views, expected {right:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_lost_or_miscounted_is_found() {
        let expected = views(5_000);
        let mut rows: Vec<Vec<i64>> = expected
            .iter()
            .map(|(window, views)| [window.0, window.1, *views].map(u64::cast_signed).to_vec())
            .collect();
        compare(&rows, &expected).unwrap();
        rows[7][2] += 1;
        assert!(compare(&rows, &expected).is_err());
        rows[7][2] -= 1;
        rows[3][1] += 10_000;
        assert!(compare(&rows, &expected).is_err());
        rows.pop();
        assert!(compare(&rows, &expected).is_err());
    }
}
