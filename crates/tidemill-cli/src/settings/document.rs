//! Reading a TOML document key by key, with the line of each, and collecting everything that is wrong.

use std::cell::RefCell;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};
use super::units;

/// Looks a variable up for `${NAME}`.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is shared while one file is read.
pub(crate) struct Document<'a> {
    text: &'a str,
    env: Env<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    pub(crate) fn new(text: &'a str, env: Env<'a>) -> Self {
        Self {
            text,
            env,
            problems: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    pub(crate) fn problem(&self, line: usize, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            line,
            path: path.into(),
            message: message.into(),
        });
    }

    /// Everything wrong that was found, by line.
    pub(crate) fn finish(self, file: &str) -> Result<(), Problems> {
        let mut list = self.problems.into_inner();
        list.sort();
        list.dedup();
        if list.is_empty() {
            Ok(())
        } else {
            Err(Problems {
                file: file.to_owned(),
                list,
            })
        }
    }
}

/// One table of the document.
pub(crate) struct Section<'d, 'i> {
    pub doc: &'d Document<'d>,
    pub path: String,
    pub line: usize,
    table: &'d DeTable<'i>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d, 'i> Section<'d, 'i> {
    pub(crate) fn new(doc: &'d Document<'d>, path: String, line: usize, table: &'d DeTable<'i>) -> Self {
        Self {
            doc,
            path,
            line,
            table,
            known: RefCell::default(),
        }
    }

    fn value(&self, key: &'static str) -> Option<(&'d DeValue<'i>, usize)> {
        self.known.borrow_mut().push(key);
        let value: &'d Spanned<DeValue<'i>> = self.table.get(key)?;
        Some((value.get_ref(), self.doc.line(value.span().start)))
    }

    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// The line of a key, or of the section where it is missing.
    pub(crate) fn line_of(&self, key: &'static str) -> usize {
        self.value(key).map_or(self.line, |(_, line)| line)
    }

    pub(crate) fn wrong(&self, key: &'static str, message: impl Into<String>) {
        self.doc.problem(self.line_of(key), self.at(key), message);
    }

    fn wrong_type(&self, key: &'static str, line: usize, expected: &str, found: &DeValue<'_>) {
        self.doc.problem(
            line,
            self.at(key),
            format!("expected {expected}, found {}", found.type_str()),
        );
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        let (value, line) = self.value(key)?;
        match value.as_str() {
            Some(text) => self.substituted(text, line, &self.at(key)),
            None => {
                self.wrong_type(key, line, "a text", value);
                None
            }
        }
    }

    pub(crate) fn required(&self, key: &'static str, example: &str) -> Option<String> {
        if !self.has(key) {
            self.doc.problem(
                self.line,
                self.at(key),
                format!("is missing; for example {key} = {example}"),
            );
        }
        self.text(key)
    }

    fn substituted(&self, text: &str, line: usize, path: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(begin) = rest.find("${") {
            out.push_str(&rest[..begin]);
            let Some(length) = rest[begin..].find('}') else {
                self.doc.problem(line, path, "\"${\" without \"}\"");
                return None;
            };
            let name = &rest[begin + 2..begin + length];
            match (self.doc.env)(name) {
                Some(value) => out.push_str(&value),
                None => {
                    self.doc
                        .problem(line, path, format!("the environment variable {name} is not set"));
                    return None;
                }
            }
            rest = &rest[begin + length + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    pub(crate) fn flag(&self, key: &'static str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some((DeValue::Boolean(flag), _)) => *flag,
            Some((other, line)) => {
                self.wrong_type(key, line, "true or false", other);
                default
            }
        }
    }

    pub(crate) fn count(&self, key: &'static str) -> Option<u64> {
        let (value, line) = self.value(key)?;
        match value
            .as_integer()
            .and_then(|number| number.as_str().replace('_', "").parse::<u64>().ok())
        {
            Some(number) if number > 0 => Some(number),
            _ => {
                self.wrong_type(key, line, "a whole number above 0", value);
                None
            }
        }
    }

    pub(crate) fn number(&self, key: &'static str) -> Option<f64> {
        let (value, line) = self.value(key)?;
        let text = value
            .as_float()
            .map(|number| number.as_str())
            .or_else(|| value.as_integer().map(|number| number.as_str()));
        let number = text.and_then(|text| text.replace('_', "").parse().ok());
        if number.is_none() {
            self.wrong_type(key, line, "a number", value);
        }
        number
    }

    pub(crate) fn duration(&self, key: &'static str, default: Duration) -> Duration {
        self.parsed(key, units::duration).unwrap_or(default)
    }

    pub(crate) fn size(&self, key: &'static str, default: u64) -> u64 {
        self.parsed(key, units::size).unwrap_or(default)
    }

    fn parsed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|message| self.wrong(key, message)).ok()
    }

    /// One of `now`, or the default; those of `later` are refused as not in this version.
    pub(crate) fn one_of(
        &self,
        key: &'static str,
        now: &[&'static str],
        later: &[&str],
        default: &'static str,
    ) -> &'static str {
        let (value, line) = match self.value(key) {
            None => return default,
            Some(found) => found,
        };
        let Some(text) = value.as_str() else {
            self.wrong_type(key, line, &format!("one of {}", now.join(", ")), value);
            return default;
        };
        if let Some(found) = now.iter().find(|known| **known == text) {
            return found;
        }
        let message = if later.contains(&text) {
            format!("\"{text}\" is not in this version; this version has {}", now.join(", "))
        } else {
            format!("\"{text}\" is unknown; expected one of {}", now.join(", "))
        };
        self.doc.problem(line, self.at(key), message);
        default
    }

    /// Keys of the contract that come later.
    pub(crate) fn later(&self, keys: &[&'static str]) {
        for key in keys {
            if self.has(key) {
                self.wrong(key, "is not in this version");
            }
        }
    }

    pub(crate) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let (value, line) = self.value(key)?;
        let Some(array) = value.as_array() else {
            self.wrong_type(key, line, "a list of texts", value);
            return None;
        };
        let mut texts = Vec::new();
        for item in array {
            match item.get_ref().as_str() {
                Some(text) => texts.extend(self.substituted(text, line, &self.at(key))),
                None => self.wrong_type(key, line, "a list of texts", item.get_ref()),
            }
        }
        Some(texts)
    }

    /// A table of texts, as `properties` is.
    pub(crate) fn pairs(&self, key: &'static str) -> Vec<(String, String, usize)> {
        let Some((value, line)) = self.value(key) else {
            return Vec::new();
        };
        let Some(table) = value.as_table() else {
            self.wrong_type(key, line, "a table", value);
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            let line = self.doc.line(name.span().start);
            let path = format!("{}.{}", self.at(key), name.get_ref());
            let text = match value.get_ref() {
                DeValue::String(text) => self.substituted(text, line, &path),
                DeValue::Integer(number) => Some(number.as_str().to_owned()),
                DeValue::Boolean(flag) => Some(flag.to_string()),
                other => {
                    self.doc
                        .problem(line, path, format!("expected a text, found {}", other.type_str()));
                    None
                }
            };
            pairs.extend(text.map(|text| (name.get_ref().to_string(), text, line)));
        }
        pairs
    }

    pub(crate) fn sub(&self, key: &'static str) -> Option<Section<'d, 'i>> {
        let (value, line) = self.value(key)?;
        match value.as_table() {
            Some(table) => Some(Section::new(self.doc, self.at(key), line, table)),
            None => {
                self.wrong_type(key, line, "a table", value);
                None
            }
        }
    }

    pub(crate) fn raw(&self, key: &'static str) -> Option<&'d DeValue<'i>> {
        self.value(key).map(|(value, _)| value)
    }

    /// The tables below a key, by name, in the order of the file.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(String, Section<'d, 'i>)> {
        let Some((value, line)) = self.value(key) else {
            return Vec::new();
        };
        let Some(tables) = value.as_table() else {
            self.wrong_type(key, line, "tables with a name each", value);
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, value) in tables {
            let line = self.doc.line(name.span().start);
            let path = format!("{}.{}", self.at(key), name.get_ref());
            match value.get_ref().as_table() {
                Some(table) => {
                    let section = Section::new(self.doc, path, line, table);
                    named.push((name.span().start, name.get_ref().to_string(), section));
                }
                None => self.doc.problem(
                    line,
                    path,
                    format!("expected a table, found {}", value.get_ref().type_str()),
                ),
            }
        }
        named.sort_by_key(|(at, _, _)| *at);
        named.into_iter().map(|(_, name, section)| (name, section)).collect()
    }

    /// Every key that nobody asked for is unknown; the nearest known one is named.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let nearest = known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, name), *known))
                .min()
                .filter(|(distance, known)| *distance <= 2.max(known.len() / 3));
            let hint = match nearest {
                Some((_, nearest)) => format!("; did you mean \"{nearest}\"?"),
                None => {
                    let mut all: Vec<&str> = known.clone();
                    all.sort_unstable();
                    all.dedup();
                    format!("; known here: {}", all.join(", "))
                }
            };
            self.doc.problem(
                self.doc.line(key.span().start),
                self.at(name),
                format!("unknown key{hint}"),
            );
        }
    }
}
