//! Parts of a pipeline file, and what a run of one leaves.

use serde_json::Value;
use tidemill_tests::java;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce};
use tidemill_tests::servers;
use tidemill_tests::target::{Kind, Target};

/// What fetches the records of a source.
pub(crate) const READERS: [&str; 2] = ["native", "librdkafka"];

/// A new topic that holds `records`.
pub(crate) fn topic(name: &str, partitions: u64, records: &[Record]) -> String {
    let topic = servers::unique(name);
    java::create_topic(&topic, partitions, &[]).unwrap();
    produce(&topic, records).unwrap();
    topic
}

/// The top of the file, with a name of its own.
pub(crate) fn head(app: &str) -> String {
    format!(
        "name = \"{}\"\ninterval = \"100ms\"\ncheckpoint = \"checkpoint\"\n",
        servers::unique(app)
    )
}

/// A JSON source; `more` are further lines.
pub(crate) fn source(name: &str, topic: &str, columns: &str, more: &str) -> String {
    source_at(&servers::kafka(), name, topic, columns, more)
}

/// A JSON source at `brokers`.
pub(crate) fn source_at(brokers: &str, name: &str, topic: &str, columns: &str, more: &str) -> String {
    format!(
        "[sources.{name}]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\nformat = \"json\"\n\
         columns = \"{columns}\"\n{more}\n"
    )
}

/// A sink of the rows of `sql`.
pub(crate) fn sink(name: &str, sql: &str, target: &Target) -> String {
    format!("[sinks.{name}]\nsql = \"\"\"{sql}\"\"\"\n{}\n", target.toml())
}

/// A folder of JSON lines.
pub(crate) fn files() -> Target {
    Target::create(Kind::File, "").unwrap()
}

pub(crate) fn cut(topic: &str, partition: i32, offset: i64) {
    let (partition, offset) = (partition.to_string(), offset.to_string());
    java::run("Topics", &["cut", topic, &partition, &offset]).unwrap();
}

/// The rows of the folder of JSON lines, sorted by their text.
pub(crate) fn rows(pipeline: &Pipeline, target: &Target) -> Vec<Value> {
    let mut rows = target.rows(pipeline.folder()).unwrap();
    rows.sort_by_key(Value::to_string);
    rows
}

/// The rows of the folder of JSON lines, sorted by the number in column `name`.
pub(crate) fn rows_by(name: &str, pipeline: &Pipeline, target: &Target) -> Vec<Value> {
    let mut rows = target.rows(pipeline.folder()).unwrap();
    rows.sort_by_key(|row| row[name].as_i64());
    rows
}

/// The number in column `name` of each row, in the order of the rows.
pub(crate) fn numbers(rows: &[Value], name: &str) -> Vec<i64> {
    rows.iter()
        .map(|row| {
            row[name]
                .as_i64()
                .unwrap_or_else(|| panic!("no number {name} in {row}"))
        })
        .collect()
}
