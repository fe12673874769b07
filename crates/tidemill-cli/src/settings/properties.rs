//! `properties` of a Kafka source or sink.

use std::collections::BTreeMap;
use std::fmt;

use tidemill_kafka::refused_by_librdkafka;
use tidemill_kafka::security::{Security, is_security};

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
    let mut honoured = BTreeMap::new();
    for (name, value, line) in section.pairs("properties") {
        match refused_by_librdkafka(&name, &value) {
            Some(why) => {
                let at = format!("{}.{name}", section.at("properties"));
                section.doc.problem(line, at, why);
            }
            None => {
                honoured.insert(name, value);
            }
        }
    }
    Properties(honoured)
}

/// Reads them; what can't be honoured is a problem at its line. `refused` says why, for what is not about security.
pub(super) fn properties(section: &Section<'_, '_>, refused: impl Fn(&str, &str) -> Option<String>) -> Properties {
    let pairs = section.pairs("properties");
    let at = |name: &str| format!("{}.{name}", section.at("properties"));
    let mut honoured = BTreeMap::new();
    for (name, value, line) in &pairs {
        let why = if is_security(name) { None } else { refused(name, value) };
        match why {
            Some(why) => section.doc.problem(*line, at(name), why),
            None => {
                honoured.insert(name.clone(), value.clone());
            }
        }
    }
    for refused in Security::of(&honoured).err().unwrap_or_default() {
        let named = pairs.iter().find(|(name, ..)| *name == refused.name);
        // A property that is missing has no line of its own.
        let line = named.or(pairs.first()).map_or(section.line, |(.., line)| *line);
        section.doc.problem(line, at(&refused.name), refused.why);
    }
    Properties(honoured)
}
