//! The targets by name.

use tidemill_kafka::fuzzing;

use crate::formats;

/// One decoder.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them: first what brokers send, then what producers wrote, then what people and former runs left in files.
pub(crate) const ALL: &[Target] = &[
    target("answers", fuzzing::answer),
    target("fetch", fuzzing::fetch),
    target("scram", fuzzing::scram),
    target("statistics", fuzzing::statistics),
    target("record-batches", fuzzing::record_batches),
    target("gzip", fuzzing::gzip),
    target("snappy", fuzzing::snappy),
    target("lz4", fuzzing::lz4),
    target("zstd", fuzzing::zstd),
    target("json", formats::json),
    target("csv", formats::csv),
    target("avro", formats::avro),
    target("avro-schema", formats::avro_schema),
    target("columns", formats::columns),
    target("checkpoint", formats::checkpoint),
    target("state-version", formats::state_version),
    target("log-segment", formats::log_segment),
    target("manifest", formats::manifest),
    target("settings", formats::settings),
];

impl Target {
    /// Sound inputs to begin with.
    pub(crate) fn seeds(self) -> Vec<Vec<u8>> {
        let mut seeds = fuzzing::seeds(self.name);
        seeds.extend(formats::seeds(self.name));
        seeds
    }
}
