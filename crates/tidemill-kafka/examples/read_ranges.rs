//! Reads all records of a topic once, as one batch would, and prints what it read and what that cost.
//!
//! `cargo run --example read_ranges -- BROKERS TOPIC [GROUP]`

use std::io::Write;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tidemill_core::plan::RangePlan;
use tidemill_engine::source::{RawColumns, Source};
use tidemill_kafka::{KafkaConfig, KafkaSource};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Sum {
    rows: u64,
    bytes: u64,
    chunks: u64,
    offsets: i64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, group @ ..] = arguments.as_slice() else {
        return Err("give BROKERS TOPIC [GROUP]".into());
    };
    let mut config = KafkaConfig::new(brokers, [topic.as_str()]);
    config.group = group.first().cloned();
    let source = KafkaSource::new(config)?;
    let mut out = std::io::stdout().lock();
    let ends = source.ends(true).await?;
    let ranges: Vec<RangePlan> = ends
        .iter()
        .map(|end| RangePlan {
            source: "example".into(),
            partition: end.partition.clone(),
            topic_id: end.topic_id.clone(),
            from: end.earliest,
            until: end.end,
            leader_epoch: end.leader_epoch,
        })
        .collect();
    for range in &ranges {
        writeln!(
            out,
            "{} id {:?} [{}, {})",
            range.partition, range.topic_id, range.from, range.until
        )?;
    }
    let started = Instant::now();
    let cpu = cpu_time();
    let columns = RawColumns {
        key: true,
        value: true,
        timestamp: true,
        headers: false,
    };
    let scan = source.scan(ranges.clone(), columns);
    let tasks: Vec<_> = (0..ranges.len())
        .map(|range| tokio::spawn(read(scan.stream(range))))
        .collect();
    let mut all = Sum::default();
    for (range, task) in ranges.iter().zip(tasks) {
        let sum = task.await??;
        writeln!(
            out,
            "{}: {} rows, {} bytes, {} chunks",
            range.partition, sum.rows, sum.bytes, sum.chunks
        )?;
        all.rows += sum.rows;
        all.bytes += sum.bytes;
        all.chunks += sum.chunks;
        all.offsets = all.offsets.wrapping_add(sum.offsets);
    }
    let (wall, cpu) = (started.elapsed(), cpu_time() - cpu);
    writeln!(
        out,
        "total: {} rows, {} bytes, {} chunks, offset sum {}",
        all.rows, all.bytes, all.chunks, all.offsets
    )?;
    let per_row = cpu.as_nanos() / u128::from(all.rows.max(1));
    writeln!(
        out,
        "{wall:?} wall, {cpu:?} CPU, {per_row} ns CPU per row, peak {} MB",
        peak_memory_mb()
    )?;
    let positions: Vec<_> = ranges
        .iter()
        .map(|range| (range.partition.clone(), range.until))
        .collect();
    source.publish(&positions).await?;
    let partitions: Vec<_> = positions.into_iter().map(|(partition, _)| partition).collect();
    writeln!(out, "published: {:?}", source.published(&partitions).await?)?;
    Ok(())
}

async fn read(mut stream: tidemill_engine::source::RangeStream) -> Result<Sum, tidemill_engine::error::Error> {
    let mut sum = Sum::default();
    while let Some(rows) = stream.next().await {
        let rows = rows?;
        sum.chunks += 1;
        sum.rows += rows.offsets.len() as u64;
        sum.offsets = rows
            .offsets
            .values()
            .iter()
            .fold(sum.offsets, |sum, offset| sum.wrapping_add(*offset));
        if let Some(values) = &rows.values {
            sum.bytes += values.lengths().map(u64::from).sum::<u64>();
        }
    }
    Ok(sum)
}

/// User and system time of this process, from the kernel's counters in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|field| fields.get(*field)?.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn peak_memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
