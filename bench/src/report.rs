//! What a run is written down as.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::figures;
use crate::process::Finished;

/// One measured run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// What was measured, as it is named in the results.
    pub(crate) name: String,
    /// Its figures; the unit is in each one's name.
    pub(crate) figures: Map<String, Value>,
}

impl Run {
    /// A run without figures.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            figures: Map::new(),
        }
    }

    /// Adds a figure.
    pub(crate) fn with(mut self, name: &str, figure: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), figure.into());
        self
    }

    /// Adds what the process used.
    pub(crate) fn with_process(self, finished: &Finished) -> Self {
        let usage = finished.usage;
        self.with("wall_s", rounded(finished.wall.as_secs_f64(), 4))
            .with("cpu_s", rounded((usage.user + usage.system).as_secs_f64(), 4))
            .with("cpu_user_s", rounded(usage.user.as_secs_f64(), 4))
            .with("cpu_system_s", rounded(usage.system.as_secs_f64(), 4))
            .with("peak_mib", rounded(usage.peak_bytes as f64 / f64::from(1 << 20), 1))
    }

    /// Adds what the process did, and what it used, per input record.
    pub(crate) fn with_throughput(self, records: u64, finished: &Finished) -> Self {
        let cpu = finished.usage.user + finished.usage.system;
        self.with_process(finished)
            .with("records", records)
            .with("batches", finished.batches())
            .with("records_per_s", per_second(records, finished.wall))
            .with(
                "cpu_ns_per_record",
                rounded(cpu.as_nanos() as f64 / records.max(1) as f64, 1),
            )
    }

    fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).and_then(Value::as_f64)
    }

    /// The run's line in the results.
    pub(crate) fn line(&self, number: u32, versions: &Value) -> Value {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut line = Map::new();
        line.insert("row".to_owned(), json!(self.name));
        line.insert("run".to_owned(), json!(number));
        line.insert("ended_unix_s".to_owned(), json!(at));
        line.extend(self.figures.clone());
        line.insert("versions".to_owned(), versions.clone());
        Value::Object(line)
    }
}

/// Records per second, whole.
pub(crate) fn per_second(records: u64, time: Duration) -> f64 {
    rounded(records as f64 / time.as_secs_f64().max(1e-9), 0)
}

/// `value` with so many digits after the point.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// What a row has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// The name of the runs it is about.
    pub(crate) run: &'static str,
    /// The figure.
    pub(crate) figure: &'static str,
    /// For people.
    pub(crate) unit: &'static str,
    /// The bound.
    pub(crate) bound: Bound,
}

/// On which side of a number a median has to lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Nowhere: for comparison.
    None,
}

/// What must be reached, row by row.
pub(crate) const TARGETS: &[Target] = &[
    target("count", "cpu_ns_per_record", "ns CPU per record", Bound::AtMost(220.0)),
    target(
        "count-raw",
        "cpu_ns_per_record",
        "ns CPU per record",
        Bound::AtMost(100.0),
    ),
    target(
        "count-zstd",
        "of_plain",
        "of the plain decompressor's CPU",
        Bound::AtMost(1.3),
    ),
    target(
        "count-zstd",
        "beyond_uncompressed_of_plain",
        "of it beyond a count of uncompressed records",
        Bound::None,
    ),
    target("count-gzip", "of_plain", "of zlib's CPU", Bound::AtMost(1.3)),
    target("count-gzip", "of_libdeflate", "of libdeflate's CPU", Bound::None),
    target(
        "count-gzip",
        "beyond_uncompressed_of_plain",
        "of zlib's CPU beyond a count of uncompressed records",
        Bound::None,
    ),
    target(
        "json-count",
        "cpu_ns_per_record",
        "ns CPU per record",
        Bound::AtMost(550.0),
    ),
    target("json-count", "peak_mib", "MiB peak memory", Bound::AtMost(200.0)),
    target(
        "avro-count",
        "cpu_ns_per_record",
        "ns CPU per record",
        Bound::AtMost(450.0),
    ),
    target(
        "parquet",
        "cpu_ns_per_record",
        "ns CPU per input record",
        Bound::AtMost(1_000.0),
    ),
    target("postgres", "records_per_s", "rows/s", Bound::None),
    target("postgres-copy", "records_per_s", "rows/s", Bound::None),
    target(
        "postgres",
        "of_plain_copy",
        "of plain COPY's rows/s",
        Bound::AtLeast(0.5),
    ),
    target("kafka", "records_per_s", "records/s", Bound::AtLeast(700_000.0)),
    target("small-batch-20ms", "p50_ms", "ms p50", Bound::AtMost(5.0)),
    target("small-batch-20ms", "p99_ms", "ms p99", Bound::AtMost(20.0)),
    target("small-batch-5ms", "p50_ms", "ms p50", Bound::None),
    target("small-batch-5ms", "p99_ms", "ms p99", Bound::None),
    target("small-batch-5ms", "of_ticks", "of ticks committed a batch", Bound::None),
    target(
        "small-batch-5ms",
        "behind_at_end_ms",
        "ms behind when the writer stopped",
        Bound::AtMost(10.0),
    ),
    target("start", "start_s", "s to the first committed batch", Bound::AtMost(0.5)),
    target("idle", "of_a_core_percent", "% of a core", Bound::AtMost(0.5)),
    target("idle-1000", "of_a_core_percent", "% of a core", Bound::AtMost(1.0)),
    target("idle-1000", "peak_mib", "MiB peak memory", Bound::AtMost(100.0)),
    target("lag", "of_one_core", "of one core's records/s", Bound::AtLeast(1.7)),
    target("lag", "cores_busy_percent", "% of both cores busy", Bound::None),
    target("tls", "of_plain", "of the CPU without TLS", Bound::AtMost(1.5)),
    target(
        "typed-count",
        "cpu_ns_per_record",
        "ns CPU per record",
        Bound::AtMost(250.0),
    ),
    target(
        "typed-words",
        "cpu_ns_per_record",
        "ns CPU per row",
        Bound::AtMost(150.0),
    ),
    target(
        "typed-json",
        "cpu_ns_per_record",
        "ns CPU per record",
        Bound::AtMost(900.0),
    ),
    target("ad-windows", "records_per_s", "records/s", Bound::AtLeast(1_000_000.0)),
    target(
        "keyed-state",
        "of_few_keys",
        "of the batch time with a hundredth of the keys",
        Bound::AtMost(3.0),
    ),
    target(
        "keyed-state",
        "restart_s",
        "s from a start to its first batch",
        Bound::AtMost(10.0),
    ),
    target(
        "keyed-state",
        "restart_from_checkpoint_s",
        "s of a start without the local cache",
        Bound::AtMost(10.0),
    ),
    target(
        "keyed-state",
        "peak_mib",
        "MiB peak memory, of 512 set",
        Bound::AtMost(512.0),
    ),
    target(
        "inverse-window",
        "of_short_window",
        "of the batch time of a tenth of the slides",
        Bound::AtMost(1.5),
    ),
    target("log-1", "of_plain", "of plain blocks' bytes/s", Bound::None),
    target("log-8", "of_plain", "of plain blocks' bytes/s", Bound::None),
    target("log-64", "of_plain", "of plain blocks' bytes/s", Bound::AtLeast(0.8)),
];

const fn target(run: &'static str, figure: &'static str, unit: &'static str, bound: Bound) -> Target {
    Target {
        run,
        figure,
        unit,
        bound,
    }
}

impl Target {
    /// A line for people about the runs of this name; none where there are none.
    pub(crate) fn verdict(&self, runs: &[Run]) -> Option<String> {
        let values: Vec<f64> = runs
            .iter()
            .filter(|run| run.name == self.run)
            .filter_map(|run| run.figure(self.figure))
            .collect();
        let median = figures::median(&values)?;
        let (what, reached) = match self.bound {
            Bound::AtMost(most) => (format!(", must be at most {most}"), Some(median <= most)),
            Bound::AtLeast(least) => (format!(", must be at least {least}"), Some(median >= least)),
            Bound::None => (String::new(), None),
        };
        let verdict = match reached {
            Some(true) => ": reached",
            Some(false) => ": MISSED",
            None => "",
        };
        let digits = if median.abs() < 10.0 { 3 } else { 1 };
        let median = rounded(median, digits);
        Some(format!(
            "{}: {median} {} (median of {}){what}{verdict}",
            self.run,
            self.unit,
            values.len()
        ))
    }
}

/// Where lines for people and for programs go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Standard output carries only what programs read; lines for people go to standard error.
    pub(crate) json: bool,
}

impl Output {
    /// A line for programs.
    ///
    /// # Errors
    /// Where standard output is closed.
    pub(crate) fn program(self, line: &Value) -> Result<()> {
        Ok(writeln!(std::io::stdout().lock(), "{line}")?)
    }

    /// A line for people.
    ///
    /// # Errors
    /// Where the stream is closed.
    pub(crate) fn person(self, line: &str) -> Result<()> {
        if self.json {
            Ok(writeln!(std::io::stderr().lock(), "{line}")?)
        } else {
            Ok(writeln!(std::io::stdout().lock(), "{line}")?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn finished() -> Finished {
        Finished {
            wall: Duration::from_millis(2_500),
            usage: Usage {
                user: Duration::from_millis(1_500),
                system: Duration::from_millis(500),
                peak_bytes: 50 << 20,
            },
            stdout: String::new(),
            log: Vec::new(),
        }
    }

    #[test]
    fn a_line_holds_row_run_figures_and_versions() {
        let run = Run::new("count").with_throughput(10_000_000, &finished());
        let line = run.line(2, &json!({"tidemill": "0.1.0"}));
        for (name, value) in [
            ("row", json!("count")),
            ("run", json!(2)),
            ("wall_s", json!(2.5)),
            ("cpu_s", json!(2.0)),
            ("cpu_user_s", json!(1.5)),
            ("cpu_system_s", json!(0.5)),
            ("peak_mib", json!(50.0)),
            ("records", json!(10_000_000)),
            ("records_per_s", json!(4_000_000.0)),
            ("cpu_ns_per_record", json!(200.0)),
            ("versions", json!({"tidemill": "0.1.0"})),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert!(!line.to_string().contains('\n'));
    }

    #[test]
    fn the_median_is_held_against_the_target() {
        let runs: Vec<Run> = [250.0, 219.0, 230.0]
            .map(|ns| Run::new("count").with("cpu_ns_per_record", ns))
            .into_iter()
            .collect();
        let verdict = TARGETS[0].verdict(&runs).unwrap();
        assert_eq!(
            verdict,
            "count: 230 ns CPU per record (median of 3), must be at most 220: MISSED"
        );
        let verdict = TARGETS[0].verdict(&runs[1..2]).unwrap();
        assert_eq!(
            verdict,
            "count: 219 ns CPU per record (median of 1), must be at most 220: reached"
        );
        assert_eq!(TARGETS[1].verdict(&runs), None);
        let kafka = [Run::new("kafka").with("records_per_s", 699_999.0)];
        let target = TARGETS.iter().find(|target| target.run == "kafka").unwrap();
        assert!(
            target
                .verdict(&kafka)
                .unwrap()
                .ends_with("must be at least 700000: MISSED")
        );
    }
}
