//! From settings to a driver: sources, formats, templates and sinks put together.

use std::sync::Arc;

use tidemill_core::ways_out::WaysOut;
use tidemill_engine::checkpoint::Checkpoint;
use tidemill_engine::checkpoint::record::hash;
use tidemill_engine::driver::{Driver, DriverSettings, DriverSource, Output, Progress, Successor, TickPolicy};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::{AvroFormat, CsvFormat, Format, JsonFormat, RawFormat, parse_columns};
use tidemill_engine::sql::dead_letters;
use tidemill_engine::sql::reference::ReferenceTable;
use tidemill_engine::sql::running::{Emit, Scope};
use tidemill_engine::sql::same_for_all::same_for_all;
use tidemill_engine::sql::table::{OnBadRecord, SourceTable};
use tidemill_engine::sql::template::{Catalog, Query, Template};
use tidemill_engine::state::StateSettings;
use tidemill_engine::time::{Clock, SystemClock};
use tidemill_kafka::security::{Security, is_security};
use tidemill_kafka::{Isolation, KafkaConfig, KafkaSource, Reader};
use tokio::sync::watch;

use crate::open_place::open_store;
use crate::open_sink::open_sink;
use crate::settings::properties::Properties;
use crate::settings::sink::{From, SinkKind, SinkSettings};
use crate::settings::source::{DeadLetterTarget, SourceFormat, SourceSettings};
use crate::settings::table::TableSettings;
use crate::settings::{self, Settings};

/// The checkpoint of a pipeline.
///
/// # Errors
/// A bucket whose options do not fit together.
pub(crate) fn checkpoint(settings: &Settings) -> Result<Checkpoint> {
    Ok(Checkpoint::new(open_store(&settings.checkpoint)?))
}

/// The driver of a pipeline, ready to start; nothing is connected yet.
///
/// # Errors
/// Columns and queries that do not fit, with file and line.
pub(crate) async fn driver(
    settings: &Settings,
    until_caught_up: bool,
    stop: watch::Receiver<bool>,
    ways_out: WaysOut,
) -> Result<(Driver, watch::Receiver<Progress>)> {
    let reduce_slices = std::thread::available_parallelism().map_or(2, usize::from);
    let tables = settings
        .sources
        .iter()
        .map(|source| table(settings, source))
        .collect::<Result<Vec<_>>>()?;
    let memory = usize::try_from(settings.memory_limit).unwrap_or(usize::MAX);
    let references = settings
        .tables
        .iter()
        .map(|table| reference(settings, table))
        .collect::<Result<Vec<_>>>()?;
    let identities = references.iter().map(|table| table.identity.clone()).collect();
    let catalog = Catalog {
        tables: tables.clone(),
        references,
        queries: settings
            .queries
            .iter()
            .map(|query| Query {
                name: query.name.clone(),
                sql: query.sql.clone(),
                scope: query.scope,
            })
            .collect(),
        reduce_slices,
        memory_bytes_max: (memory / settings.sinks.len().max(1)).max(1),
    };
    let named: Vec<(String, String)> = settings
        .sinks
        .iter()
        .map(|sink| (sink.name.clone(), sink.from.sql()))
        .collect();
    let catalog = same_for_all(catalog, &named).await?;
    let of_dead_letters: Vec<SinkSettings> = settings.sources.iter().filter_map(dead_letter_sink).collect();
    let mut outputs = Vec::new();
    for (sink, dead_letters) in
        (of_dead_letters.iter().map(|sink| (sink, true))).chain(settings.sinks.iter().map(|sink| (sink, false)))
    {
        let template = Template::plan(&catalog, &sink.name, &sink.from.sql())
            .await
            .and_then(|template| upserts_all_groups(sink, template))
            .map_err(|error| at_line(settings, &error, sink))?;
        let query_hash = hash(format!("{}sink {}\n", computed(settings), sink.from.sql()).as_bytes());
        let opened = open_sink(&settings.name, sink)?;
        outputs.push(match ways_out.renames.iter().find(|(_, new)| *new == sink.name) {
            None => Output {
                name: sink.name.clone(),
                job: Box::new(template),
                sink: opened,
                query_hash,
                successor: None,
                dead_letters,
            },
            Some((old, new)) => {
                let mut before = sink.clone();
                before.name.clone_from(old);
                Output {
                    name: old.clone(),
                    job: Box::new(template),
                    sink: open_sink(&settings.name, &before)?,
                    query_hash,
                    dead_letters,
                    successor: Some(Successor {
                        name: new.clone(),
                        sink: opened,
                    }),
                }
            }
        });
    }
    let sources = settings
        .sources
        .iter()
        .zip(tables)
        .map(|(source, table)| DriverSource {
            name: source.name.clone(),
            source: Arc::clone(&table.source),
            start: source.start.clone(),
            on_new_partition: source.on_new_partition,
            on_out_of_range: source.on_out_of_range,
            bound: source.bound,
            initial_rate: source.initial_rate,
            batch_bytes_max: source.batch_bytes_max,
        })
        .collect();
    let driver_settings = DriverSettings {
        app: settings.name.clone(),
        interval: settings.interval,
        drain_timeout: settings.drain_timeout,
        backpressure: settings.backpressure,
        reduce_slices,
        pipeline_hash: pipeline_hash(settings),
        tables: identities,
        ticks: TickPolicy::Merged,
        until_caught_up,
        ways_out,
        state: Some(StateSettings {
            cache: settings.state_cache.clone(),
            memory_bytes_max: settings.memory_limit / 4,
        }),
    };
    let clock = Arc::new(SystemClock::default());
    Ok(Driver::new(
        driver_settings,
        clock,
        checkpoint(settings)?,
        sources,
        outputs,
        stop,
    ))
}

#[cfg(feature = "file")]
fn reference(settings: &Settings, table: &TableSettings) -> Result<ReferenceTable> {
    use tidemill_connect::file::{ReferenceFormat, read_reference};
    let format = match table.format {
        "json" => ReferenceFormat::Json,
        "csv" => ReferenceFormat::Csv,
        _ => ReferenceFormat::Parquet,
    };
    read_reference(&table.name, &table.path, format, settings.memory_limit)
}

#[cfg(not(feature = "file"))]
fn reference(_settings: &Settings, table: &TableSettings) -> Result<ReferenceTable> {
    let text = format!(
        "table {}: this binary was built without the feature `file`; build it with its default features",
        table.name
    );
    Err(Error::new(Kind::Config, text))
}

/// The sink that takes a source's dead letters, where it keeps them (X17).
fn dead_letter_sink(source: &SourceSettings) -> Option<SinkSettings> {
    let settings::source::OnBadRecord::DeadLetter(target) = &source.on_bad_record else {
        return None;
    };
    let (sql, kind) = match target {
        DeadLetterTarget::Topic(topic) => {
            // What sets up the connection is the same; what bounds fetches is nothing to a producer.
            let of_connection = |name: &str| name == "client.id" || is_security(name);
            let properties = source.properties.0.clone().into_iter();
            let kind = SinkKind::Kafka {
                brokers: source.brokers.join(","),
                topic: topic.clone(),
                format: "raw",
                key: Some("key".to_owned()),
                headers: Some("headers".to_owned()),
                compression: "none",
                properties: Properties(properties.filter(|(name, _)| of_connection(name)).collect()),
            };
            (dead_letters::query_for_records(&source.name), kind)
        }
        DeadLetterTarget::Path(path) => {
            let kind = SinkKind::File {
                path: path.clone(),
                format: "json",
                compression: "",
                partition_by: Vec::new(),
            };
            (dead_letters::query_for_text(&source.name), kind)
        }
    };
    Some(SinkSettings {
        name: dead_letters::table_name(&source.name),
        line: source.line,
        from: From::Sql(sql),
        kind,
    })
}

/// An upserting sink has no way yet to delete the row of a group that a query gave before and leaves out now (X21).
fn upserts_all_groups(sink: &SinkSettings, template: Template) -> Result<Template> {
    let key = sink.kind.upsert_key();
    if key.is_empty() || !template.may_leave_groups_out(key) {
        return Ok(template);
    }
    let text = format!(
        "sinks.{}: mode = \"upsert\" takes a running query as it is: the row of a group that a window, HAVING, WHERE, LIMIT or join \
         leaves out later on would stay in the table. Take batch_time() into the key, append, or leave it to those who read the \
         table",
        sink.name
    );
    Err(Error::new(Kind::Config, text))
}

/// DataFusion names the query; the person needs file and line.
fn at_line(settings: &Settings, error: &Error, sink: &SinkSettings) -> Error {
    let text = error.chain();
    let line = settings
        .queries
        .iter()
        .find(|query| text.starts_with(&format!("queries.{}:", query.name)))
        .map_or(sink.line, |query| query.line);
    Error::new(error.kind(), format!("{}:{line}: {text}", settings.file))
}

/// One source as a table.
///
/// # Errors
/// Columns that can't be read, with file and line.
pub(crate) fn table(settings: &Settings, source: &SourceSettings) -> Result<Arc<SourceTable>> {
    let at = |error: Error| {
        Error::new(
            error.kind(),
            format!(
                "{}:{}: sources.{}.{}: {}",
                settings.file,
                source.line,
                source.name,
                match source.format {
                    SourceFormat::Avro { .. } => "schema",
                    _ => "columns",
                },
                error.chain()
            ),
        )
    };
    let (format, columns): (Arc<dyn Format>, _) = match &source.format {
        SourceFormat::Json => {
            let columns = parse_columns(&source.columns).map_err(at)?;
            (Arc::new(JsonFormat::new(Arc::clone(&columns)).map_err(at)?), columns)
        }
        SourceFormat::Csv { delimiter, header } => {
            let columns = parse_columns(&source.columns).map_err(at)?;
            let format = CsvFormat::new(Arc::clone(&columns), *delimiter, *header).map_err(at)?;
            (Arc::new(format), columns)
        }
        SourceFormat::Avro { schema, header } => {
            let (format, columns) = AvroFormat::new(schema, *header).map_err(at)?;
            (Arc::new(format), columns)
        }
        SourceFormat::Raw => (Arc::new(RawFormat), RawFormat::schema()),
    };
    let mut config = KafkaConfig::new(&source.brokers.join(","), source.topics.clone());
    config.group = Some(source.group.clone());
    config.isolation = if source.read_committed {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    if source.through_librdkafka {
        config.reader = Reader::Librdkafka(source.properties.0.clone());
    }
    config.security = Security::of(&source.properties.0).unwrap_or_default();
    for (name, value) in &source.properties.0 {
        let bytes = || value.parse().unwrap_or(config.partition_fetch_bytes);
        match name.as_str() {
            "client.id" => config.client_id.clone_from(value),
            "fetch.max.bytes" => config.response_bytes_max = bytes(),
            "max.partition.fetch.bytes" | "fetch.message.max.bytes" => config.partition_fetch_bytes = bytes(),
            _ => {}
        }
    }
    Ok(Arc::new(SourceTable {
        name: source.name.clone(),
        source: Arc::new(KafkaSource::new(config)?),
        format,
        on_bad_record: match source.on_bad_record {
            settings::source::OnBadRecord::Stop => OnBadRecord::Stop,
            settings::source::OnBadRecord::Skip => OnBadRecord::Skip,
            settings::source::OnBadRecord::DeadLetter(_) => OnBadRecord::DeadLetter,
        },
        columns,
        checked: Vec::new(),
    }))
}

/// Hash of what the pipeline computes: sources' columns and isolation, queries, what each sink takes. What a bad record does
/// is left out: a batch that stopped at one must still run when the file is changed to skip it.
fn pipeline_hash(settings: &Settings) -> String {
    let mut text = computed(settings);
    for sink in &settings.sinks {
        text.push_str(&format!("sink {} {}\n", sink.name, sink.from.sql()));
    }
    hash(text.as_bytes())
}

/// What all sinks have in common.
fn computed(settings: &Settings) -> String {
    let mut text = String::new();
    for source in &settings.sources {
        text.push_str(&format!(
            "source {} {:?} {} {}\n",
            source.name, source.format, source.columns, source.read_committed
        ));
    }
    for table in &settings.tables {
        text.push_str(&format!("table {} {}\n", table.name, table.format));
    }
    for query in &settings.queries {
        text.push_str(&format!("query {} {}\n", query.name, query.sql));
        match query.scope {
            Scope::Batch => {}
            Scope::Running { emit, ttl } => {
                text.push_str(match emit {
                    Emit::Changed => "running\n",
                    Emit::All => "running, all\n",
                });
                if let Some(ttl) = ttl {
                    text.push_str(&format!("ttl {} {}\n", ttl.idle_ms, ttl.interval_ms));
                }
            }
            Scope::Windowed(window) => {
                text.push_str(&format!("window {} {}\n", window.length_ms, window.slide_ms));
            }
        }
    }
    text
}

/// Now, in milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> i64 {
    SystemClock::default().now_ms()
}

/// The error of a file that names nothing to do.
pub(crate) fn nothing(what: &str) -> Error {
    Error::new(Kind::Config, format!("{what} is not in this version"))
}
