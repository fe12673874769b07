//! All that is there, as fast as it goes: counts and files.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::data::Data;
use crate::expected::{Expected, Sums};
use crate::files;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::process::Finished;
use crate::report::Run;

const COUNT: &str = "SELECT count(*) AS n, sum(octet_length(value)) AS bytes FROM events";

/// Where a count reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) brokers: &'a str,
    pub(super) topic: &'a str,
    /// Of the source's client.
    pub(super) properties: &'a [(&'a str, String)],
}

impl<'a> Place<'a> {
    /// A topic that `load` filled.
    pub(super) fn loaded(bench: &'a Bench, data: Data) -> Self {
        Self {
            brokers: bench.topics.brokers(),
            topic: data.topic(),
            properties: &[],
        }
    }
}

pub(super) fn count(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let place = Place::loaded(bench, Data::Events);
    let finished = counted(bench, "count", place, records, expected.value_bytes)?;
    Ok(Run::new("count").with_throughput(records, &finished))
}

pub(super) fn count_raw(bench: &Bench) -> Result<Run> {
    let records = bench.topics.loaded(Data::Raw)?;
    let place = Place::loaded(bench, Data::Raw);
    let finished = counted(bench, "count-raw", place, records, records * 100)?;
    Ok(Run::new("count-raw").with_throughput(records, &finished))
}

/// Counts the records and bytes of a topic, which must be these.
pub(super) fn counted(bench: &Bench, name: &str, place: Place<'_>, records: u64, bytes: u64) -> Result<Finished> {
    let text = Text {
        interval: Duration::from_secs(1),
        brokers: place.brokers,
        topic: place.topic,
        format: SourceFormat::Raw,
        properties: place.properties,
        sql: COUNT,
        sink: "kind = \"console\"",
    };
    let finished = bench.run(&Pipeline::write(bench.folder.path(), name, &text)?, &[])?;
    finished.read_exactly(records)?;
    let found = table_sums(&finished.stdout, &["n", "bytes"])?;
    if found != [records, bytes] {
        bail!(
            "wrong: expected {records} records of {bytes} bytes, the output adds up to {found:?}\n{}",
            finished.stdout
        );
    }
    Ok(finished)
}

pub(super) fn json_count(bench: &Bench) -> Result<Run> {
    views_per_ad(bench, "json-count", Data::Events, SourceFormat::Json, bench.events()?)
}

pub(super) fn avro_count(bench: &Bench) -> Result<Run> {
    views_per_ad(
        bench,
        "avro-count",
        Data::Avro,
        SourceFormat::Avro,
        bench.events_in(Data::Avro)?,
    )
}

fn views_per_ad(
    bench: &Bench,
    name: &str,
    data: Data,
    format: SourceFormat,
    (records, expected): (u64, &Expected),
) -> Result<Run> {
    let text = Text {
        interval: Duration::from_secs(1),
        brokers: bench.topics.brokers(),
        topic: data.topic(),
        format,
        properties: &[],
        sql: "SELECT ad_id, count(*) AS views FROM events WHERE event_type = 'view' GROUP BY ad_id",
        sink: "kind = \"file\"\npath = \"out\"\nformat = \"json\"",
    };
    let pipeline = Pipeline::write(bench.folder.path(), name, &text)?;
    let finished = bench.run(&pipeline, &[])?;
    finished.read_exactly(records)?;
    let found = files::counts_by_ad(&files::committed(&pipeline.out())?, "views")?;
    Sums {
        time_ms: 0,
        ..expected.views.clone()
    }
    .compare(&found)?;
    Ok(Run::new(name).with_throughput(records, &finished))
}

pub(super) fn parquet(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let text = Text {
        interval: Duration::from_secs(1),
        brokers: bench.topics.brokers(),
        topic: Data::Events.topic(),
        format: SourceFormat::Json,
        properties: &[],
        sql: "SELECT * FROM events WHERE event_type = 'view'",
        sink: "kind = \"file\"\npath = \"out\"\nformat = \"parquet\"\ncompression = \"snappy\"",
    };
    let pipeline = Pipeline::write(bench.folder.path(), "parquet", &text)?;
    let finished = bench.run(&pipeline, &[])?;
    finished.read_exactly(records)?;
    let found = files::committed(&pipeline.out())?;
    expected.views.compare(&files::parquet_sums(&found)?)?;
    Ok(Run::new("parquet")
        .with_throughput(records, &finished)
        .with("rows", files::rows(&found)))
}

/// Adds up the columns of whole numbers of every table that the console sink printed.
fn table_sums(stdout: &str, columns: &[&str]) -> Result<Vec<u64>> {
    let mut sums = vec![0; columns.len()];
    for line in stdout.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells == columns {
            continue;
        }
        if cells.len() != columns.len() {
            bail!("not a row of {columns:?}: {line}");
        }
        for (sum, cell) in sums.iter_mut().zip(&cells) {
            *sum += cell
                .parse::<u64>()
                .with_context(|| format!("not a row of {columns:?}: {line}"))?;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_all_batches_are_added_up() {
        let stdout = "batch 1: 1 rows\n+----+-------+\n| n  | bytes |\n+----+-------+\n| 40 | 8600  |\n+----+-------+\n\
                      batch 2: 1 rows\n+---+-------+\n| n | bytes |\n+---+-------+\n| 2 | 430   |\n+---+-------+\n";
        assert_eq!(table_sums(stdout, &["n", "bytes"]).unwrap(), [42, 9_030]);
        assert_eq!(table_sums("", &["n"]).unwrap(), [0]);
        assert!(table_sums("| 2 |   |\n", &["n", "bytes"]).is_err());
        assert!(table_sums("| 2 |\n", &["n", "bytes"]).is_err());
    }
}
