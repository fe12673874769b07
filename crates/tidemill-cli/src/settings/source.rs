//! `[sources.x]`

use std::collections::BTreeMap;
use std::path::Path;

use tidemill_core::loss::OnOutOfRange;
use tidemill_core::rate::PartitionBound;
use tidemill_core::start::{OnNewPartition, StartPolicy};
use tidemill_engine::format::AvroHeader;
use tidemill_kafka::Topics;
use toml::de::DeValue;

use super::document::Section;
use super::place::{Place, local_path, place_of_text};
use super::properties::{Properties, properties, properties_of_librdkafka};
use super::units;

/// How values are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceFormat {
    /// One JSON object per record.
    Json,
    /// One line of CSV per record.
    Csv {
        /// What stands between fields.
        delimiter: u8,
        /// True: the first line of each record is a header.
        header: bool,
    },
    /// Avro's binary encoding.
    Avro {
        /// The text of the schema's file.
        schema: String,
        /// Whether Confluent's header stands before each record.
        header: AvroHeader,
    },
    /// Bytes, as the column `value`.
    Raw,
}

/// What a bad record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OnBadRecord {
    /// Stops the stream.
    Stop,
    /// Is left out and counted.
    Skip,
    /// Is left out, counted, and kept in a sink of its own.
    DeadLetter(DeadLetterTarget),
}

/// Where dead letters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeadLetterTarget {
    /// A topic of the source's cluster.
    Topic(String),
    /// Files.
    Path(Place),
}

/// One source.
#[derive(Debug, Clone)]
pub(crate) struct SourceSettings {
    /// The table's name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// Bootstrap brokers, `host:port`.
    pub brokers: Vec<String>,
    /// Topics.
    pub topics: Topics,
    /// Format of the values.
    pub format: SourceFormat,
    /// Declared columns; empty for raw and avro.
    pub columns: String,
    /// First start.
    pub start: StartPolicy,
    /// Partitions that are met later.
    pub on_new_partition: OnNewPartition,
    /// Offsets that are gone before they were read.
    pub on_out_of_range: OnOutOfRange,
    /// What a bad record does.
    pub on_bad_record: OnBadRecord,
    /// Records of each partition.
    pub bound: PartitionBound,
    /// Records per second while back-pressure has no estimate.
    pub initial_rate: Option<u64>,
    /// Bytes of one batch.
    pub batch_bytes_max: u64,
    /// Group that positions are published to.
    pub group: String,
    /// False under `read_uncommitted`.
    pub read_committed: bool,
    /// True where librdkafka reads.
    pub through_librdkafka: bool,
    /// Properties that the reader honours.
    pub properties: Properties,
}

const PROPERTIES: &[&str] = &[
    "client.id",
    "max.partition.fetch.bytes",
    "fetch.message.max.bytes",
    "fetch.max.bytes",
];

pub(super) fn read(name: &str, section: Section<'_, '_>, app: &str, folder: &Path) -> Option<SourceSettings> {
    section.one_of("kind", &["kafka"], &[], "kafka");
    if !section.has("kind") {
        section.wrong("kind", "is missing; for example kind = \"kafka\"");
    }
    let brokers = section.required("brokers", "\"localhost:9092\"");
    let topics = topics(&section);
    let columns = section.text("columns");
    let format = format(&section, columns.is_some(), folder);
    let start = start(&section);
    let on_new_partition = match section.one_of("on_new_partition", &["earliest", "latest"], &[], "earliest") {
        "latest" => OnNewPartition::Latest,
        _ => OnNewPartition::Earliest,
    };
    let on_out_of_range = match section.one_of("on_out_of_range", &["stop", "earliest", "latest"], &[], "stop") {
        "earliest" => OnOutOfRange::Earliest,
        "latest" => OnOutOfRange::Latest,
        _ => OnOutOfRange::Stop,
    };
    let on_bad_record = on_bad_record(&section, format.as_ref(), topics.as_ref(), folder);
    let through_librdkafka = section.one_of("reader", &["native", "librdkafka"], &[], "native") == "librdkafka";
    let read_committed = section.one_of(
        "isolation",
        &["read_committed", "read_uncommitted"],
        &[],
        "read_committed",
    ) == "read_committed";
    let bound = PartitionBound {
        max_rate: section.count("max_rate_per_partition").unwrap_or(0),
        min_records: section.count("min_rate_per_partition").unwrap_or(1),
    };
    let initial_rate = section.count("initial_rate");
    let batch_bytes_max = section.size("max_batch_bytes", 256 << 20);
    let group = section.text("group").unwrap_or_else(|| app.to_owned());
    let properties = if through_librdkafka {
        properties_of_librdkafka(&section)
    } else {
        properties(&section, refused_property)
    };
    let line = section.line;
    section.finish();
    Some(SourceSettings {
        name: name.to_owned(),
        line,
        brokers: brokers?.split(',').map(|broker| broker.trim().to_owned()).collect(),
        topics: topics?,
        format: format?,
        columns: columns.unwrap_or_default(),
        start,
        on_new_partition,
        on_out_of_range,
        on_bad_record,
        bound,
        initial_rate,
        batch_bytes_max,
        group,
        read_committed,
        through_librdkafka,
        properties,
    })
}

/// The format with its own keys; those of other formats are refused.
fn format(section: &Section<'_, '_>, has_columns: bool, folder: &Path) -> Option<SourceFormat> {
    if !section.has("format") {
        section.wrong("format", "is missing; for example format = \"json\"");
    }
    let name = section.one_of("format", &["json", "csv", "avro", "raw"], &[], "json");
    match name {
        "raw" if has_columns => section.wrong(
            "columns",
            "raw has one column of its own, \"value BINARY\"; leave columns out",
        ),
        "avro" if has_columns => section.wrong(
            "columns",
            "the schema gives avro its columns; leave columns out and choose among them in the query",
        ),
        "json" | "csv" if !has_columns && !section.has("columns") => section.wrong(
            "columns",
            "is missing; for example columns = \"user_id VARCHAR, ad_id BIGINT\"",
        ),
        _ => {}
    }
    let keys = [
        ("schema", &["avro"][..]),
        ("delimiter", &["csv"][..]),
        ("header", &["csv", "avro"][..]),
    ];
    for (key, formats) in keys {
        if section.has(key) && !formats.contains(&name) {
            section.wrong(key, format!("belongs to format = \"{}\"", formats.join("\" or \"")));
        }
    }
    Some(match name {
        "raw" => SourceFormat::Raw,
        "csv" => SourceFormat::Csv {
            delimiter: delimiter(section),
            header: section.flag("header", false),
        },
        "avro" => SourceFormat::Avro {
            schema: schema(section, folder)?,
            header: match (section.has("header"), section.flag("header", false)) {
                (false, _) => AvroHeader::Told,
                (true, true) => AvroHeader::Always,
                (true, false) => AvroHeader::Never,
            },
        },
        _ => SourceFormat::Json,
    })
}

fn delimiter(section: &Section<'_, '_>) -> u8 {
    match section.text("delimiter").as_deref().map(str::as_bytes) {
        None => b',',
        Some([one]) if one.is_ascii() && !matches!(one, b'"' | b'\n' | b'\r') => *one,
        Some(_) => {
            section.wrong(
                "delimiter",
                "expected one ASCII character that is neither a quote nor a line break, for example \";\"",
            );
            b','
        }
    }
}

/// The text of the schema's file.
fn schema(section: &Section<'_, '_>, folder: &Path) -> Option<String> {
    let path = section.required("schema", "\"events.avsc\"");
    let path = local_path(section, "schema", path, folder)?;
    std::fs::read_to_string(&path)
        .map_err(|error| section.wrong("schema", format!("{} can't be read: {error}", path.display())))
        .ok()
}

/// Why the native reader can't honour a property.
fn refused_property(name: &str, value: &str) -> Option<String> {
    if !PROPERTIES.contains(&name) {
        let known = PROPERTIES.join(", ");
        return Some(format!("the native reader can't honour this; it knows {known}"));
    }
    let is_wrong = name != "client.id" && value.parse::<u32>().is_err();
    is_wrong.then(|| "expected a number of bytes".to_owned())
}

fn on_bad_record(
    section: &Section<'_, '_>,
    format: Option<&SourceFormat>,
    topics: Option<&Topics>,
    folder: &Path,
) -> OnBadRecord {
    if !section.raw("on_bad_record").is_some_and(DeValue::is_table) {
        let forms = ["stop", "skip"];
        return match section.one_of("on_bad_record", &forms, &[], "stop") {
            "skip" => OnBadRecord::Skip,
            _ => OnBadRecord::Stop,
        };
    }
    let target = dead_letter(section, folder);
    if format == Some(&SourceFormat::Raw) {
        section.wrong("on_bad_record", "raw reads every record: none is bad, leave this out");
    }
    if let (Some(DeadLetterTarget::Topic(topic)), Some(read)) = (&target, topics)
        && read.contains(topic)
    {
        section.wrong(
            "on_bad_record",
            format!("the source reads the topic {topic} itself: its dead letters would come back"),
        );
    }
    target.map_or(OnBadRecord::Stop, OnBadRecord::DeadLetter)
}

/// `{ dead_letter = { topic = … } }` or `{ dead_letter = { path = … } }`.
fn dead_letter(section: &Section<'_, '_>, folder: &Path) -> Option<DeadLetterTarget> {
    let policy = section.sub("on_bad_record")?;
    let found = policy.sub("dead_letter").and_then(|target| {
        let topic = target.text("topic");
        let path = target.text("path");
        if target.has("topic") == target.has("path") {
            policy.wrong("dead_letter", "expected either topic or path");
        }
        let path = path.and_then(|path| place_of_text(&target, "path", path, folder));
        target.finish();
        topic.map(DeadLetterTarget::Topic).or(path.map(DeadLetterTarget::Path))
    });
    if !policy.has("dead_letter") {
        section.wrong(
            "on_bad_record",
            "expected stop, skip or { dead_letter = { topic = \"…\" } }",
        );
    }
    policy.finish();
    found
}

fn topics(section: &Section<'_, '_>) -> Option<Topics> {
    let named = section.texts("topics");
    let pattern = section.text("topic_pattern");
    match (named, pattern) {
        (None, Some(pattern)) => match Topics::matching(&pattern) {
            Ok(topics) => Some(topics),
            Err(reason) => {
                section.wrong("topic_pattern", format!("no regular expression: {reason}"));
                None
            }
        },
        (Some(_), Some(_)) => {
            section.wrong("topic_pattern", "stands beside topics; leave one of them out");
            None
        }
        (Some(named), None) if !named.is_empty() => Some(Topics::Named(named)),
        _ => {
            section.wrong(
                "topics",
                "is missing; for example topics = [\"events\"], or topic_pattern = \"events-.*\"",
            );
            None
        }
    }
}

fn start(section: &Section<'_, '_>) -> StartPolicy {
    match section.raw("start") {
        None => StartPolicy::Earliest,
        Some(DeValue::String(text)) => match text.as_ref() {
            "earliest" => StartPolicy::Earliest,
            "latest" => StartPolicy::Latest,
            "committed" => StartPolicy::Committed,
            other => {
                section.wrong(
                    "start",
                    format!(
                        "\"{other}\" is unknown; expected earliest, latest, committed, {{ timestamp = … }} or {{ offsets = … }}"
                    ),
                );
                StartPolicy::Earliest
            }
        },
        Some(_) => given(section).unwrap_or(StartPolicy::Earliest),
    }
}

/// `{ timestamp = … }` or `{ offsets = … }`.
fn given(section: &Section<'_, '_>) -> Option<StartPolicy> {
    let table = section.sub("start")?;
    let since = since(&table);
    let offsets = offsets_by_topic(&table);
    if table.has("timestamp") == table.has("offsets") {
        section.wrong("start", "expected either timestamp or offsets");
    }
    table.finish();
    match since {
        Some(millis) => Some(StartPolicy::Since(millis)),
        None => Some(StartPolicy::Offsets(offsets.into_iter().collect())),
    }
}

fn since(table: &Section<'_, '_>) -> Option<i64> {
    let text = match table.raw("timestamp")? {
        DeValue::Datetime(time) => time.to_string(),
        _ => table.text("timestamp")?,
    };
    units::moment(&text)
        .map_err(|message| table.wrong("timestamp", message))
        .ok()
}

fn offsets_by_topic(table: &Section<'_, '_>) -> Vec<(String, BTreeMap<i32, i64>)> {
    let Some(value) = table.raw("offsets") else {
        return Vec::new();
    };
    let Some(topics) = value.as_table() else {
        table.wrong("offsets", "expected a table, such as { events = { \"0\" = 17 } }");
        return Vec::new();
    };
    let mut found = Vec::new();
    for (topic, partitions) in topics {
        let mut of_topic = BTreeMap::new();
        for (number, offset) in partitions.get_ref().as_table().into_iter().flatten() {
            let offset = offset
                .get_ref()
                .as_integer()
                .and_then(|offset| offset.as_str().replace('_', "").parse().ok());
            match (number.get_ref().parse::<i32>(), offset) {
                (Ok(number), Some(offset)) if number >= 0 && offset >= 0 => {
                    of_topic.insert(number, offset);
                }
                _ => table.wrong(
                    "offsets",
                    format!("{}: expected \"partition\" = offset", topic.get_ref()),
                ),
            }
        }
        found.push((topic.get_ref().to_string(), of_topic));
    }
    found
}
