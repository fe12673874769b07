//! One identity pipeline from a loaded topic to a fresh sink, with its truth.

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::onlooker::Onlooker;
use crate::oracle::{self, Row, Truth, Verdict};
use crate::pipeline::Pipeline;
use crate::target::{Kind, Target};
use crate::{java, servers};

/// Time enough for any of these small pipelines on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Bytes of a partition in one answer to a fetch: a few of the small record batches that [`Input::load`] makes, so that a
/// range of 200 offsets arrives in several pieces and a kill can fall between them.
const FETCH_BYTES: u32 = 2000;

/// A loaded topic.
#[derive(Debug)]
pub struct Input {
    /// Its name.
    pub topic: String,
    /// What was committed to it.
    pub truth: Truth,
}

impl Input {
    /// Makes a topic of three partitions with `records` committed records; every third transaction was aborted.
    ///
    /// # Errors
    /// Where loading fails.
    pub fn load(records: u64, per_transaction: u64) -> Result<Self> {
        let topic = servers::unique("load");
        let per_transaction = per_transaction.to_string();
        java::load(
            &topic,
            records,
            3,
            &[
                "--abort-third",
                "--per-transaction",
                &per_transaction,
                "--compression",
                "lz4",
            ],
        )?;
        Ok(Self {
            topic,
            truth: Truth::of_load(records, 3),
        })
    }

    /// A small topic, made once for all tests of this process: about 760 offsets in each partition.
    ///
    /// # Panics
    /// Where loading fails.
    pub fn small() -> &'static Self {
        static SMALL: OnceLock<Input> = OnceLock::new();
        SMALL.get_or_init(|| Self::load(1500, 60).expect("the small topic is loaded"))
    }
}

/// A pipeline, its sink and its truth.
#[derive(Debug)]
pub struct Case<'a> {
    /// The application's name.
    pub app: String,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Where it writes.
    pub target: Arc<Target>,
    truth: &'a Truth,
}

impl<'a> Case<'a> {
    /// A new application that copies `input` to a fresh sink, at most `offsets_per_batch` of each partition in a batch.
    ///
    /// # Errors
    /// Where the sink or the file can't be made.
    pub fn new(kind: Kind, input: &'a Input, offsets_per_batch: u64) -> Result<Self> {
        Self::with_target(Self::fresh(kind)?, input, offsets_per_batch)
    }

    /// A fresh sink that such an application can write to.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn fresh(kind: Kind) -> Result<Target> {
        Target::create(kind, "seq BIGINT, part INT, aborted BOOLEAN, batch BIGINT")
    }

    /// The same with a sink that is there.
    ///
    /// # Errors
    /// Where the file can't be made.
    pub fn with_target(target: Target, input: &'a Input, offsets_per_batch: u64) -> Result<Self> {
        let app = servers::unique(target.kind().name());
        let text = format!(
            r#"name = "{app}"
interval = "100ms"
checkpoint = {checkpoint}

[sources.events]
kind = "kafka"
brokers = "{brokers}"
topics = ["{topic}"]
format = "json"
columns = "seq BIGINT, part INT, aborted BOOLEAN"
start = "earliest"
max_rate_per_partition = {rate}
properties = {{ "max.partition.fetch.bytes" = "{FETCH_BYTES}" }}

[queries.kept]
sql = "SELECT seq, part, aborted, CAST(batch_id() AS BIGINT) AS batch FROM events"

[sinks.out]
from = "kept"
{sink}
[rate]
backpressure = false
"#,
            brokers = servers::kafka(),
            topic = input.topic,
            rate = offsets_per_batch * 10, // per second, and a batch is a tenth of one
            sink = target.toml(),
            checkpoint = target.checkpoint(),
        );
        let pipeline = Pipeline::write(&text)?;
        Ok(Self {
            app,
            pipeline,
            target: Arc::new(target),
            truth: &input.truth,
        })
    }

    /// Begins to look at the sink.
    ///
    /// # Errors
    /// Where it can't.
    pub fn watch(&self) -> Result<Onlooker> {
        Onlooker::start(&self.target, self.pipeline.folder().to_owned(), self.truth)
    }

    fn rows(&self) -> Result<Vec<Row>> {
        self.target
            .rows(self.pipeline.folder())?
            .iter()
            .map(|row| Row::from_json(row).map_err(anyhow::Error::msg))
            .collect()
    }

    /// The verdict on a finished pipeline.
    ///
    /// # Errors
    /// Where the sink can't be read.
    pub fn judge(&self) -> Result<Verdict> {
        Ok(oracle::judge(self.truth, &self.rows()?))
    }

    /// The verdict on a pipeline on its way.
    ///
    /// # Errors
    /// Where the sink can't be read.
    pub fn judge_prefix(&self) -> Result<Verdict> {
        Ok(oracle::judge_prefix(self.truth, &self.rows()?))
    }

    /// Runs to the end without faults and judges.
    ///
    /// # Errors
    /// Where the run fails, or the verdict isn't clean.
    pub fn finish(&self) -> Result<()> {
        let finished = self.pipeline.run_to_end(&[], LIMIT).context("the run without faults")?;
        let verdict = self.judge()?;
        ensure!(verdict.is_clean(), "{verdict}\n{}", finished.log_tail());
        Ok(())
    }
}

/// The names of the failpoints that a pipeline with a sink of `kind` passes, as the binary lists them: one per line, the
/// name, then the sink kind it belongs to where it belongs to one. A name that begins with a kind and a full stop belongs
/// to that kind too.
///
/// # Errors
/// Where the binary doesn't list any.
pub fn failpoints(kind: Kind) -> Result<Vec<String>> {
    let output = Command::new(servers::binary()).arg("failpoints").output()?;
    ensure!(
        output.status.success(),
        "tidemill failpoints: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let points = points_of(&String::from_utf8(output.stdout)?, kind);
    ensure!(
        !points.is_empty(),
        "tidemill failpoints lists none: is it built with the feature fault-injection?"
    );
    Ok(points)
}

fn points_of(listing: &str, kind: Kind) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let belongs_to_this = match words.next() {
                Some(owner) => owner == kind.name(),
                None => !Kind::ALL
                    .iter()
                    .any(|other| *other != kind && name.split('.').next() == Some(other.name())),
            };
            belongs_to_this.then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_other_sinks_are_left_out() {
        let listing = "plan.before-log\nfile.after-manifest file\nstaged.synced file\nkafka.before-end\npostgres.after-copy\n\
             state.after-stage state\n\n";
        assert_eq!(
            points_of(listing, Kind::File),
            ["plan.before-log", "file.after-manifest", "staged.synced"]
        );
        assert_eq!(points_of(listing, Kind::Kafka), ["plan.before-log", "kafka.before-end"]);
        assert_eq!(
            points_of(listing, Kind::Postgres),
            ["plan.before-log", "postgres.after-copy"]
        );
    }
}
