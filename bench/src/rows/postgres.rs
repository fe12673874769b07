//! All rows into a table, beside plain COPY of the same rows in transactions of the same size.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::data::Data;
use crate::database::Database;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::report::{Run, per_second, rounded};

/// Rows of a transaction where no run of ours sets the size: about a batch of 256 MiB.
const TRANSACTION_ROWS: u64 = 1_250_000;

pub(super) fn beside_copy(bench: &Bench) -> Result<Vec<Run>> {
    let (records, expected) = bench.events()?;
    let text = Text {
        interval: Duration::from_secs(1),
        brokers: bench.topics.brokers(),
        topic: Data::Events.topic(),
        format: SourceFormat::Json,
        properties: &[],
        sql: "SELECT * FROM events",
        sink: "kind = \"postgres\"\nurl = \"${BENCH_DATABASE_URL}\"\ntable = \"ad_events\"\ncreate_table = true",
    };
    let pipeline = Pipeline::write(bench.folder.path(), "postgres", &text)?;
    let database = Database::make(bench.postgres()?, pipeline.name())?;
    let finished = bench.run(&pipeline, &[("BENCH_DATABASE_URL", database.url())])?;
    finished.read_exactly(records)?;
    expected.all.compare(&database.sums()?)?;
    let version = database.version()?;
    database.drop()?;
    let transactions: Vec<u64> = finished.batch_records()?.into_iter().filter(|rows| *rows > 0).collect();
    let plain = copy(bench, &format!("{}-copy", pipeline.name()), &transactions)?;
    let ours = records as f64 / finished.wall.as_secs_f64();
    let theirs = plain.figures["records_per_s"].as_f64().unwrap_or(f64::INFINITY);
    let run = Run::new("postgres")
        .with_throughput(records, &finished)
        .with("of_plain_copy", rounded(ours / theirs, 4))
        .with("postgres", version);
    Ok(vec![run, plain])
}

pub(super) fn copy_alone(bench: &Bench) -> Result<Run> {
    let (records, _) = bench.events()?;
    let name = format!("bench-postgres-copy-{}", std::process::id());
    copy(bench, &name, &transactions_of(records, TRANSACTION_ROWS))
}

fn copy(bench: &Bench, name: &str, transactions: &[u64]) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let database = Database::make(bench.postgres()?, name)?;
    let copied = database.copy(transactions)?;
    expected.all.compare(&database.sums()?)?;
    let version = database.version()?;
    database.drop()?;
    Ok(Run::new("postgres-copy")
        .with("wall_s", rounded(copied.time.as_secs_f64(), 4))
        .with("cpu_s", rounded(copied.cpu.as_secs_f64(), 4))
        .with("records", records)
        .with("transactions", transactions.len())
        .with("records_per_s", per_second(records, copied.time))
        .with(
            "cpu_ns_per_record",
            rounded(copied.cpu.as_nanos() as f64 / records.max(1) as f64, 1),
        )
        .with("postgres", version))
}

fn transactions_of(records: u64, rows: u64) -> Vec<u64> {
    let mut transactions = vec![rows; usize::try_from(records / rows).unwrap_or(0)];
    transactions.extend(Some(records % rows).filter(|rest| *rest > 0));
    transactions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_into_transactions() {
        assert_eq!(transactions_of(10, 4), [4, 4, 2]);
        assert_eq!(transactions_of(8, 4), [4, 4]);
        assert_eq!(transactions_of(3, 4), [3]);
        assert!(transactions_of(0, 4).is_empty());
    }
}
