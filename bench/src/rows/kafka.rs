//! All rows into another topic.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::data::Data;
use crate::expected::Sums;
use crate::pipeline::{Pipeline, SourceFormat, Text};
use crate::report::Run;
use crate::topics;

const OUT: &str = "bench-out";

pub(super) fn to_kafka(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let brokers = bench.topics.brokers();
    let sink = format!(
        "kind = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{OUT}\"\nformat = \"json\"\nkey = \"ad_id\"\ncompression = \"lz4\""
    );
    let text = Text {
        interval: Duration::from_secs(1),
        brokers,
        topic: Data::Events.topic(),
        format: SourceFormat::Json,
        properties: &[],
        sql: "SELECT * FROM events",
        sink: &sink,
    };
    let pipeline = Pipeline::write(bench.folder.path(), "kafka", &text)?;
    bench.topics.make(OUT, topics::PARTITIONS)?;
    let finished = bench.run(&pipeline, &[])?;
    finished.read_exactly(records)?;
    let found = bench.topics.read_committed(OUT)?;
    Sums {
        time_ms: 0,
        ..expected.all.clone()
    }
    .compare(&found)?;
    bench.topics.remove(OUT)?;
    bench.topics.remove(&format!("tidemill-ledger-{}", pipeline.name()))?;
    Ok(Run::new("kafka").with_throughput(records, &finished))
}
