//! The pipeline file: read whole, checked whole, all problems at once.

mod document;
pub(crate) mod place;
mod problem;
pub(crate) mod properties;
pub(crate) mod query;
pub(crate) mod secret;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod table;
mod units;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_core::rate::{PidEstimator, PidSettings};
use toml::de::DeTable;

use document::{Document, Section};
use place::Place;
pub(crate) use problem::{Problem, Problems};
use query::QuerySettings;
use sink::{From, SinkSettings};
use source::SourceSettings;
use table::TableSettings;

/// A pipeline file, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The file's name as it was given.
    pub file: String,
    /// Application id.
    pub name: String,
    /// Time between batches.
    pub interval: Duration,
    /// Where the checkpoint is.
    pub checkpoint: Place,
    /// Where state of running queries is cached: beside a checkpoint on local disk, else in the user's cache folder.
    pub state_cache: PathBuf,
    /// Bytes that sorts, joins and aggregates may hold.
    pub memory_limit: u64,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Parameters of back-pressure, `None` = off.
    pub backpressure: Option<PidSettings>,
    /// Sources in the order of the file.
    pub sources: Vec<SourceSettings>,
    /// Reference tables in the order of the file.
    pub tables: Vec<TableSettings>,
    /// Queries in the order of the file.
    pub queries: Vec<QuerySettings>,
    /// Sinks in the order of the file.
    pub sinks: Vec<SinkSettings>,
}

impl Settings {
    /// Reads and checks a pipeline file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Problems {
            file: file.clone(),
            list: vec![Problem {
                line: 0,
                path: String::new(),
                message: format!("can't be read: {error}"),
            }],
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&file, &text, folder, env)
    }

    pub(crate) fn parse(
        file: &str,
        text: &str,
        folder: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        let doc = Document::new(text, env);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(0, |span| doc.line(span.start));
            doc.problem(line, "", error.message().to_owned());
        }
        let settings = if errors.is_empty() {
            read(&doc, file, table.get_ref(), folder, env)
        } else {
            None
        };
        doc.finish(file)?;
        settings.ok_or_else(|| Problems {
            file: file.to_owned(),
            list: vec![Problem {
                line: 0,
                path: String::new(),
                message: "could not be read".to_owned(),
            }],
        })
    }
}

fn read(
    doc: &Document<'_>,
    file: &str,
    table: &DeTable<'_>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<Settings> {
    let top = Section::new(doc, String::new(), 1, table);
    let name = top.required("name", "\"ad-views\"");
    if let Some(name) = &name {
        let fits = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fits) {
            top.wrong("name", "must be 1 to 63 of a-z, 0-9 and \"-\"");
        }
    }
    if !top.has("interval") {
        top.wrong("interval", "is missing; for example interval = \"1s\"");
    }
    let interval = top.duration("interval", Duration::from_secs(1));
    if interval < Duration::from_millis(5) {
        top.wrong("interval", "must be 5ms or more");
    }
    let checkpoint = place::checkpoint(&top, folder);
    let memory_limit = top.size("memory_limit", 1 << 30);
    let drain_timeout = top.duration("drain_timeout", Duration::from_secs(30));
    top.later(&["zookeeper", "web", "cluster"]);
    let backpressure = rate(&top, interval);
    let app = name.clone().unwrap_or_default();
    let sources: Vec<SourceSettings> = top
        .named("sources")
        .into_iter()
        .filter_map(|(name, section)| source::read(&name, section, &app, folder))
        .collect();
    let references: Vec<TableSettings> = top
        .named("tables")
        .into_iter()
        .filter_map(|(name, section)| table::read(&name, section, folder))
        .collect();
    let queries: Vec<QuerySettings> = top
        .named("queries")
        .into_iter()
        .filter_map(|(name, section)| query::read(&name, section, interval))
        .collect();
    let sinks: Vec<SinkSettings> = top
        .named("sinks")
        .into_iter()
        .filter_map(|(name, section)| sink::read(&name, section, folder))
        .collect();
    for (key, what) in [("sources", "source"), ("sinks", "sink")] {
        if !top.has(key) {
            doc.problem(0, "", format!("there is no {what}: add [{key}.NAME]"));
        }
    }
    tables(doc, &top);
    top.finish();
    let (name, checkpoint) = (name?, checkpoint?);
    Some(Settings {
        file: file.to_owned(),
        interval,
        state_cache: state_cache(&checkpoint, &name, env),
        name,
        checkpoint,
        memory_limit,
        drain_timeout,
        backpressure,
        sources,
        tables: references,
        queries,
        sinks,
    })
}

fn state_cache(checkpoint: &Place, app: &str, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if let Place::Folder(folder) = checkpoint {
        return folder.join("state-cache");
    }
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let caches = caches.unwrap_or_else(std::env::temp_dir);
    caches.join("tidemill").join(app).join("state-cache")
}

/// `[rate]`: back-pressure is on unless it is switched off.
fn rate(top: &Section<'_, '_>, interval: Duration) -> Option<PidSettings> {
    let mut pid = PidSettings::new(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
    let Some(rate) = top.sub("rate") else {
        return Some(pid);
    };
    let on = rate.flag("backpressure", true);
    for (key, value) in [
        ("proportional", &mut pid.proportional),
        ("integral", &mut pid.integral),
        ("derivative", &mut pid.derivative),
        ("min_rate", &mut pid.min_rate),
    ] {
        *value = rate.number(key).unwrap_or(*value);
    }
    if let Err(invalid) = PidEstimator::new(pid) {
        rate.wrong(invalid.name, format!("must be {}", invalid.bound));
    }
    rate.finish();
    on.then_some(pid)
}

/// Names of tables are told apart, and every `from` names one that streams.
fn tables(doc: &Document<'_>, top: &Section<'_, '_>) {
    let mut known = BTreeSet::new();
    let taken = |section: &Section<'_, '_>, name: &str| {
        let message = format!("there is a source or query named {name} already");
        doc.problem(section.line, section.path.clone(), message);
    };
    for key in ["sources", "queries"] {
        for (name, section) in top.named(key) {
            if !known.insert(name.clone()) {
                taken(&section, &name);
            }
        }
    }
    for (name, section) in top.named("tables") {
        if known.contains(&name) {
            taken(&section, &name);
        }
    }
    for (_, section) in top.named("sinks") {
        let Some(table) = section.raw("from").and_then(|value| value.as_str()) else {
            continue;
        };
        if !known.contains(table) {
            let all: Vec<&str> = known.iter().map(String::as_str).collect();
            section.wrong(
                "from",
                format!(
                    "there is no source or query named {table}; there are {}",
                    all.join(", ")
                ),
            );
        }
    }
}

impl From {
    /// The query's text.
    pub(crate) fn sql(&self) -> String {
        match self {
            Self::Table(name) => format!("SELECT * FROM \"{name}\""),
            Self::Sql(sql) => sql.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
