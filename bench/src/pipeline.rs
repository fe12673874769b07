//! Pipeline files of the bench, each in a fresh folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tidemill_kafka::embedded::ad_events::AVRO_SCHEMA;

/// The schema of Avro records, beside the pipeline file.
const SCHEMA_FILE: &str = "events.avsc";

/// How the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceFormat {
    /// Bytes.
    Raw,
    /// All seven columns are declared.
    Json,
    /// The schema lies beside the file.
    Avro,
}

/// The seven columns of an ad event.
const COLUMNS: &str = "user_id VARCHAR, page_id VARCHAR, ad_id VARCHAR, ad_type VARCHAR, event_type VARCHAR, \
                       event_time TIMESTAMP(3), ip_address VARCHAR";

/// What a pipeline file says, as far as rows differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// Batch interval.
    pub(crate) interval: Duration,
    /// Bootstrap brokers.
    pub(crate) brokers: &'a str,
    /// The topic.
    pub(crate) topic: &'a str,
    /// Its format.
    pub(crate) format: SourceFormat,
    /// Properties of the source's client, by name.
    pub(crate) properties: &'a [(&'a str, String)],
    /// The query.
    pub(crate) sql: &'a str,
    /// The lines of the sink beside its query.
    pub(crate) sink: &'a str,
}

/// A pipeline file in a folder of its own with a name of its own, so that checkpoint, sink and ledger are fresh.
#[derive(Debug)]
pub(crate) struct Pipeline {
    folder: PathBuf,
    name: String,
}

impl Pipeline {
    /// Writes the file in a new folder below `folder`.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(crate) fn write(folder: &Path, row: &str, text: &Text<'_>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "bench-{row}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = folder.join(&name);
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let pipeline = Self { folder, name };
        std::fs::write(pipeline.file(), text.toml(&pipeline.name)).context("write the pipeline file")?;
        if text.format == SourceFormat::Avro {
            std::fs::write(pipeline.beside(SCHEMA_FILE), AVRO_SCHEMA).context("write the schema")?;
        }
        Ok(pipeline)
    }

    /// The application's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The pipeline file.
    pub(crate) fn file(&self) -> PathBuf {
        self.beside("pipeline.toml")
    }

    /// A file beside the pipeline file.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder that file sinks write to: `out` beside the file.
    pub(crate) fn out(&self) -> PathBuf {
        self.beside("out")
    }
}

impl Text<'_> {
    fn toml(&self, name: &str) -> String {
        let Self {
            brokers,
            topic,
            sql,
            sink,
            ..
        } = self;
        let interval = self.interval.as_millis();
        let format = match self.format {
            SourceFormat::Raw => "format = \"raw\"".to_owned(),
            SourceFormat::Json => format!("format = \"json\"\ncolumns = \"{COLUMNS}\""),
            SourceFormat::Avro => format!("format = \"avro\"\nschema = \"{SCHEMA_FILE}\""),
        };
        let properties = self
            .properties
            .iter()
            .map(|(name, value)| format!("\"{name}\" = \"{value}\""));
        let properties = properties.collect::<Vec<_>>().join(", ");
        format!(
            r#"name = "{name}"
interval = "{interval}ms"
checkpoint = "checkpoint"

[sources.events]
kind = "kafka"
brokers = "{brokers}"
topics = ["{topic}"]
{format}
start = "earliest"
properties = {{ {properties} }}

[sinks.out]
sql = """{sql}"""
{sink}
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pipelines_share_neither_folder_nor_name() {
        let text = Text {
            interval: Duration::from_secs(1),
            brokers: "localhost:9092",
            topic: "t",
            format: SourceFormat::Json,
            properties: &[
                ("client.id", "bench".to_owned()),
                ("security.protocol", "SSL".to_owned()),
            ],
            sql: "SELECT * FROM events WHERE event_type = 'view'",
            sink: "kind = \"console\"\nlimit = 1",
        };
        let folder = tempfile::tempdir().unwrap();
        let first = Pipeline::write(folder.path(), "count", &text).unwrap();
        let second = Pipeline::write(folder.path(), "count", &text).unwrap();
        assert_ne!(first.name(), second.name());
        assert_ne!(first.out(), second.out());
        let written = std::fs::read_to_string(first.file()).unwrap();
        assert!(
            written.contains(r#"properties = { "client.id" = "bench", "security.protocol" = "SSL" }"#),
            "{written}"
        );
        assert!(
            written.contains("interval = \"1000ms\"") && written.contains("ip_address VARCHAR\""),
            "{written}"
        );
    }
}
