//! `[queries.x]`

use std::time::Duration;

use tidemill_engine::sql::running::{Emit, Scope, Ttl, Window};
use toml::de::DeValue;

use super::document::Section;

/// One query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuerySettings {
    /// The table's name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// The text.
    pub sql: String,
    /// What its aggregates range over.
    pub scope: Scope,
}

pub(super) fn read(name: &str, section: Section<'_, '_>, interval: Duration) -> Option<QuerySettings> {
    let sql = section.required("sql", "\"SELECT …\"");
    let scope = scope(&section, interval);
    let line = section.line;
    section.finish();
    Some(QuerySettings {
        name: name.to_owned(),
        line,
        sql: sql?,
        scope: scope?,
    })
}

/// What the aggregates of a query range over, and what it gives of them.
fn scope(section: &Section<'_, '_>, interval: Duration) -> Option<Scope> {
    if section.raw("scope").is_some_and(DeValue::is_table) {
        if section.one_of("emit", &["changed", "all"], &[], "all") == "changed" {
            let message = "a window gives all its groups, emit = \"all\": of those that it left out nobody could tell which have left it";
            section.wrong("emit", message);
        }
        if section.has("ttl") {
            section.wrong(
                "ttl",
                "belongs to scope = \"running\": what left the window is forgotten",
            );
        }
        return window(section.sub("scope")?, interval).map(Scope::Windowed);
    }
    if section.one_of("scope", &["batch", "running"], &[], "batch") == "batch" {
        for key in ["emit", "ttl"] {
            if section.has(key) {
                section.wrong(key, "belongs to scope = \"running\"");
            }
        }
        return Some(Scope::Batch);
    }
    Some(Scope::Running {
        emit: match section.one_of("emit", &["changed", "all"], &[], "changed") {
            "all" => Emit::All,
            _ => Emit::Changed,
        },
        ttl: ttl(section, interval),
    })
}

/// How long groups without records are kept.
fn ttl(section: &Section<'_, '_>, interval: Duration) -> Option<Ttl> {
    section.has("ttl").then_some(())?;
    let idle = section.duration("ttl", interval);
    if idle < interval {
        let message = format!("must be the interval, {}ms, or more", interval.as_millis());
        section.wrong("ttl", message);
    }
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Some(Ttl {
        idle_ms: millis(idle),
        interval_ms: millis(interval),
    })
}

/// Both lengths are whole numbers of batches, as in Spark.
fn window(lengths: Section<'_, '_>, interval: Duration) -> Option<Window> {
    let length_ms = length(&lengths, "window", "\"5m\"", interval);
    let slide_ms = length(&lengths, "slide", "\"1m\"", interval);
    lengths.finish();
    Some(Window {
        length_ms: length_ms?,
        slide_ms: slide_ms?,
    })
}

fn length(lengths: &Section<'_, '_>, key: &'static str, example: &str, interval: Duration) -> Option<i64> {
    lengths.required(key, example)?;
    let millis = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    let (length_ms, interval_ms) = (millis(lengths.duration(key, interval)), millis(interval).max(1));
    let below_ms = length_ms - length_ms % interval_ms;
    if length_ms > 0 && length_ms == below_ms {
        return Some(length_ms);
    }
    let mut fitting = vec![format!("\"{}ms\"", below_ms.saturating_add(interval_ms))];
    if below_ms > 0 {
        fitting.insert(0, format!("\"{below_ms}ms\""));
    }
    let message = format!(
        "must be a multiple of the interval, {interval_ms}ms: {}",
        fitting.join(" or ")
    );
    lengths.wrong(key, message);
    None
}
