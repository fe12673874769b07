//! `properties` of a Kafka source or sink.

use std::collections::BTreeMap;
use std::fmt;

use tidemill_kafka::refused_by_librdkafka;
use tidemill_kafka::security::{Refused, Security, is_security};

use super::document::Section;

/// Properties by name; any value may be a secret, so that `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Reads those that librdkafka is to honour; what it can't is a problem at its line.
pub(super) fn properties_of_librdkafka(section: &Section<'_, '_>) -> Properties {
    let pairs = section.pairs("properties");
    let honoured = pairs
        .iter()
        .map(|(name, value, _)| (name.clone(), value.clone()))
        .collect();
    problems(section, &pairs, refused_by_librdkafka(&honoured).err());
    Properties(honoured)
}

/// Reads them; what can't be honoured is a problem at its line. `refused` says why, for what is not about security.
pub(super) fn properties(section: &Section<'_, '_>, refused: impl Fn(&str, &str) -> Option<String>) -> Properties {
    let pairs = section.pairs("properties");
    let mut honoured = BTreeMap::new();
    for (name, value, line) in &pairs {
        let why = if is_security(name) { None } else { refused(name, value) };
        match why {
            Some(why) => section.doc.problem(*line, at(section, name), why),
            None => {
                honoured.insert(name.clone(), value.clone());
            }
        }
    }
    problems(section, &pairs, Security::of(&honoured).err());
    Properties(honoured)
}

fn at(section: &Section<'_, '_>, name: &str) -> String {
    format!("{}.{name}", section.at("properties"))
}

fn problems(section: &Section<'_, '_>, pairs: &[(String, String, usize)], refused: Option<Vec<Refused>>) {
    for refused in refused.unwrap_or_default() {
        let named = pairs.iter().find(|(name, ..)| *name == refused.name);
        // A property that is missing has no line of its own.
        let line = named.or(pairs.first()).map_or(section.line, |(.., line)| *line);
        section.doc.problem(line, at(section, &refused.name), refused.why);
    }
}
