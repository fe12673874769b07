//! `[sinks.x]`

use std::path::Path;

use tidemill_kafka::sink::refused_property;

use super::document::Section;
use super::place::{Place, place};
use super::properties::{Properties, properties};
use super::secret::Secret;

/// Where a sink's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// A source or query by name.
    Table(String),
    /// A query of its own.
    Sql(String),
}

/// One sink.
#[derive(Debug, Clone)]
pub(crate) struct SinkSettings {
    /// The sink's name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// Its rows.
    pub from: From,
    /// Where they go.
    pub kind: SinkKind,
}

/// What a sink writes to.
#[derive(Debug, Clone)]
pub(crate) enum SinkKind {
    /// Standard output.
    Console {
        /// Rows printed per batch at most.
        limit: u64,
    },
    /// Files in a folder.
    File {
        /// Where they lie.
        path: Place,
        /// `parquet`, `json` or `csv`.
        format: &'static str,
        /// `none`, `snappy`, `zstd`, `lz4`; empty: the format's default.
        compression: &'static str,
        /// Columns whose values name folders.
        partition_by: Vec<String>,
    },
    /// A table.
    Postgres {
        /// Connection, may hold a password.
        url: Secret,
        /// `table` or `schema.table`.
        table: String,
        /// Make it when it is missing.
        create_table: bool,
        /// Columns by which rows are upserted; none: they are appended.
        key: Vec<String>,
    },
    /// A topic.
    Kafka {
        /// Bootstrap brokers.
        brokers: String,
        /// The topic.
        topic: String,
        /// `json`, `avro` or `raw`.
        format: &'static str,
        /// Column that becomes the record key.
        key: Option<String>,
        /// Column that holds the headers.
        headers: Option<String>,
        /// `none`, `gzip`, `snappy`, `lz4`, `zstd`.
        compression: &'static str,
        /// Properties of the client.
        properties: Properties,
    },
}

impl SinkKind {
    /// The columns of the key whose row a row takes the place of; none: rows are appended.
    pub(crate) fn upsert_key(&self) -> &[String] {
        match self {
            Self::Postgres { key, .. } => key,
            Self::Console { .. } | Self::File { .. } | Self::Kafka { .. } => &[],
        }
    }
}

pub(super) fn read(name: &str, section: Section<'_, '_>, folder: &Path) -> Option<SinkSettings> {
    let from = match (section.text("from"), section.text("sql")) {
        (Some(_), Some(_)) => {
            section.wrong("sql", "a sink has either from or sql");
            None
        }
        (Some(table), None) => Some(From::Table(table)),
        (None, Some(sql)) => Some(From::Sql(sql)),
        (None, None) => {
            if !section.has("from") && !section.has("sql") {
                section.wrong("from", "is missing; name a source or query, or give sql");
            }
            None
        }
    };
    if !section.has("kind") {
        section.wrong("kind", "is missing; one of console, file, postgres, kafka");
    }
    let kind = match section.one_of("kind", &["console", "file", "postgres", "kafka"], &[], "") {
        "console" => Some(SinkKind::Console {
            limit: section.count("limit").unwrap_or(20),
        }),
        "file" => file(&section, folder),
        "postgres" => postgres(&section),
        "kafka" => kafka(&section),
        _ => return None,
    };
    let line = section.line;
    section.finish();
    Some(SinkSettings {
        name: name.to_owned(),
        line,
        from: from?,
        kind: kind?,
    })
}

fn file(section: &Section<'_, '_>, folder: &Path) -> Option<SinkKind> {
    let format = section.one_of("format", &["parquet", "json", "csv"], &[], "parquet");
    let compression = match format {
        "json" | "csv" => section.one_of("compression", &["none"], &["gzip", "zstd"], ""),
        _ => section.one_of("compression", &["none", "snappy", "zstd", "lz4"], &["gzip"], ""),
    };
    let partition_by = partition_by(section);
    let path = place(section, "path", "\"out\"", folder);
    Some(SinkKind::File {
        path: path?,
        format,
        compression,
        partition_by,
    })
}

fn partition_by(section: &Section<'_, '_>) -> Vec<String> {
    let columns = section.texts("partition_by").unwrap_or_default();
    if columns.is_empty() && section.has("partition_by") {
        section.wrong(
            "partition_by",
            "names no column; leave it out, or for example partition_by = [\"day\"]",
        );
    }
    if let Some(twice) = columns
        .iter()
        .enumerate()
        .find(|(at, column)| columns[..*at].contains(column))
    {
        section.wrong("partition_by", format!("names column {} twice", twice.1));
    }
    columns
}

fn postgres(section: &Section<'_, '_>) -> Option<SinkKind> {
    let upserts = section.one_of("mode", &["append", "upsert"], &[], "append") == "upsert";
    let key = section.texts("key").unwrap_or_default();
    match (upserts, key.is_empty()) {
        (true, true) => section.wrong("key", "is missing; upsert needs it, for example key = [\"ad_id\"]"),
        (false, false) => section.wrong("key", "belongs to mode = \"upsert\""),
        _ => {}
    }
    let create_table = section.flag("create_table", false);
    let url = section.required("url", "\"${DATABASE_URL}\"");
    let table = section.required("table", "\"ad_views\"");
    Some(SinkKind::Postgres {
        url: Secret::new(url?),
        table: table?,
        create_table,
        key,
    })
}

fn kafka(section: &Section<'_, '_>) -> Option<SinkKind> {
    let format = section.one_of("format", &["json", "avro", "raw"], &[], "json");
    let key = section.text("key");
    let headers = section.text("headers");
    let compression = section.one_of("compression", &["none", "lz4", "snappy", "gzip", "zstd"], &[], "none");
    let properties = properties(section, refused_property);
    let brokers = section.required("brokers", "\"localhost:9092\"");
    let topic = section.required("topic", "\"views\"");
    Some(SinkKind::Kafka {
        brokers: brokers?,
        topic: topic?,
        format,
        key,
        headers,
        compression,
        properties,
    })
}
