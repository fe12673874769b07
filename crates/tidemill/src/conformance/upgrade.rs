//! A program that is upgraded while it has state, from a checkpoint that stays as the first build of the format wrote it: `fixtures/v1`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use super::{SECOND, Text, seconds};
use crate::testing::{Harness, Input, Output, Run};
use crate::{DStream, Kind, Result, State, StateSpec};

/// Batches that version one ran.
const BEFORE: u32 = 4;

/// The batches of all versions: a twice in the even ones, beside b in the others; c in the first alone.
fn input() -> Input<&'static str> {
    let list = |batch| match batch {
        1 => vec!["a", "b", "c"],
        odd if odd % 2 == 1 => vec!["a", "b"],
        _ => vec!["a", "a"],
    };
    Input::of((1..=9).map(list))
}

/// What version one and two know of a word.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tally {
    count: i64,
    batch_time_ms: i64,
}

type Words = DStream<(Text, i64)>;

/// `name` and each word with its number.
fn told(name: &'static str, of: Words) -> DStream<Text> {
    of.map(move |(word, number)| format!("{name} {word}{number}"))
}

fn tallied(words: Words) -> Words {
    let tally = |time_ms, _word: &Text, value: Option<i64>, state: &mut State<Tally>| {
        let count = state.get().map_or(0, |tally| tally.count) + value?;
        state.update(Tally {
            count,
            batch_time_ms: time_ms,
        });
        Some(())
    };
    let tallies = words
        .map_with_state(StateSpec::function_with_time(tally))
        .named("counts");
    tallies.state_snapshots().map(|(word, tally)| (word, tally.count))
}

fn counted(words: Words, name: &str) -> Words {
    let count = |_word: &Text, value: Option<i64>, state: &mut State<i64>| {
        let count = state.get().copied().unwrap_or(0) + value.unwrap_or(0);
        state.update(count);
    };
    words
        .map_with_state(StateSpec::function(count))
        .named(name)
        .state_snapshots()
}

/// The last three batches, by adding what comes and taking away what goes, and anew from all that they held.
fn windows(words: &Words) -> DStream<Text> {
    let recent = words
        .clone()
        .reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, seconds(3), seconds(1))
        .named("recent");
    let held = words
        .clone()
        .reduce_by_key_and_window(|a, b| a + b, seconds(3), seconds(1))
        .named("held");
    told("recent", recent).union(told("held", held))
}

fn seen(words: Words) -> Words {
    words
        .update_state_by_key(|ones, seen: Option<i64>| Some(ones.iter().sum::<i64>() + seen.unwrap_or(0)))
        .named("seen")
}

fn version_one(words: &Words) -> DStream<Text> {
    let counts = told("counts", tallied(words.clone()));
    counts.union(windows(words)).union(told("seen", seen(words.clone())))
}

/// An operator is added, before all others.
fn version_two(words: &Words) -> DStream<Text> {
    let added = told("added", counted(words.clone(), "added"));
    added.union(version_one(words))
}

/// `seen` is gone, and `counts` keeps something else.
fn version_three(words: &Words) -> DStream<Text> {
    let counts = told("counts", counted(words.clone(), "counts"));
    let added = told("added", counted(words.clone(), "added"));
    counts.union(windows(words)).union(added)
}

fn start<'a>(
    harness: &'a Harness,
    output: &Output<Text>,
    forget: &[&str],
    version: fn(&Words) -> DStream<Text>,
) -> Result<Run<'a>> {
    let settings = |builder: crate::Builder| forget.iter().fold(builder, |builder, name| builder.forget_state(*name));
    harness.start_with(settings, |context| {
        let words = input().stream(context).map(|word| (word.to_owned(), 1i64));
        version(&words).foreach_batch(output.keep());
        Ok(())
    })
}

/// What a batch gives: `"counts a2 b1; seen a1"`.
fn given(text: &str) -> Vec<Text> {
    let mut given = Vec::new();
    for operator in text.split("; ") {
        let (name, words) = operator.split_once(' ').unwrap();
        given.extend(words.split(' ').map(|word| format!("{name} {word}")));
    }
    given.sort();
    given
}

fn fixture() -> PathBuf {
    PathBuf::from("fixtures/v1/checkpoint")
}

/// Files below a folder, but for those of the local cache, which is no format.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            files.push(path);
        } else if !path.ends_with("state-cache") {
            files.extend(self::files(&path));
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

/// A harness that stands where version one ended.
fn upgraded() -> (TempDir, Harness) {
    let folder = tempfile::tempdir().unwrap();
    let harness = Harness::in_folder(SECOND, folder.path().to_owned());
    copy(&fixture(), &harness.checkpoint());
    harness.pass(BEFORE * SECOND);
    (folder, harness)
}

#[test]
fn a_kept_checkpoint_goes_through_two_upgrades() {
    let (_folder, harness) = upgraded();
    let output = Output::sorted();
    let run = start(&harness, &output, &[], version_two).unwrap();
    run.batches(2).unwrap();
    run.kill();
    // One after the other: what is gone, then what is another.
    for (forget, words) in [
        (&[][..], ["operator seen", ".forget_state(\"seen\")"]),
        (
            &["seen"],
            ["has shape \"(String, Tally)\"", ".forget_state(\"counts\")"],
        ),
    ] {
        let refused = start(&harness, &output, forget, version_three).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config);
        let text = refused.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let run = start(&harness, &output, &["seen", "counts"], version_three).unwrap();
    run.batches(1).unwrap();
    let expected = [
        "added a1 b1; counts a7 b3 c1; recent a4 b2 c0; held a4 b2; seen a7 b3 c1",
        "added a3 b1; counts a9 b3 c1; recent a5 b1 c0; held a5 b1; seen a9 b3 c1",
        "added a4 b2; counts a1 b1; recent a4 b2 c0; held a4 b2",
    ];
    assert_eq!(output.batches(), expected.map(given));
}

/// A program that was not upgraded goes on as if nothing had been.
#[test]
fn a_kept_checkpoint_is_gone_on_from() {
    let (_folder, harness) = upgraded();
    let output = Output::sorted();
    start(&harness, &output, &[], version_one).unwrap().batches(1).unwrap();
    let expected = given("counts a7 b3 c1; recent a4 b2 c0; held a4 b2; seen a7 b3 c1");
    assert_eq!(output.batches(), [expected]);
}

fn run_version_one(folder: &Path) -> PathBuf {
    let harness = Harness::in_folder(SECOND, folder.to_owned());
    let run = start(&harness, &Output::sorted(), &[], version_one).unwrap();
    run.batches(BEFORE).unwrap();
    run.stop().unwrap();
    harness.checkpoint()
}

/// The kinds of values in JSON, with all names, lists by their first value.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), form(value))).collect(),
        Value::Array(values) => values.first().map(form).into_iter().collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        other => other.clone(),
    }
}

/// The form of a file: that of each line of JSON; of a version of state that of its head, and all of its bytes, in whatever order. What
/// a window holds is cut as the batch was, by the cores of the machine: of that the form of the head.
fn form_of(file: &Path) -> (Vec<Value>, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let json = |line: &[u8]| form(&serde_json::from_slice(line).unwrap());
    if file.extension().is_some_and(|ending| ending == "json") {
        return (
            bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(json)
                .collect(),
            Vec::new(),
        );
    }
    // Magic, format, bytes of the head, its checksum.
    let (preamble, rest) = bytes.split_at(20);
    let length = u32::from_le_bytes(preamble[12..16].try_into().unwrap());
    let (head, sections) = rest.split_at(usize::try_from(length).unwrap());
    let head: Value = serde_json::from_slice(head).unwrap();
    let sections = if head["kind"] == "window" { &[] } else { sections };
    let mut exact = [&preamble[..12], sections].concat();
    exact.sort_unstable();
    (vec![form(&head)], exact)
}

/// Names of files, without what is drawn, with their forms.
fn forms(checkpoint: &Path) -> BTreeMap<Text, (Vec<Value>, Vec<u8>)> {
    let named = |file: PathBuf| {
        let name = file.strip_prefix(checkpoint).unwrap().display().to_string();
        let name = match name.strip_suffix(".version") {
            Some(version) => version.rsplit_once('-').unwrap().0.to_owned(),
            None => name,
        };
        (name, form_of(&file))
    };
    files(checkpoint).into_iter().map(named).collect()
}

/// What is written now has the form that was written then: older builds of the same format read it too.
#[test]
fn what_is_written_has_the_form_of_the_kept_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (now, then) = (forms(&run_version_one(folder.path())), forms(&fixture()));
    assert_eq!(now.keys().collect::<Vec<_>>(), then.keys().collect::<Vec<_>>());
    for (name, form) in now {
        assert_eq!(form, then[&name], "{name}");
    }
}

#[test]
#[ignore = "makes the fixture of a new version of the format, see fixtures/README.md"]
fn write_the_fixture() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        !fixture().exists(),
        "{} is there: a fixture is never written anew",
        fixture().display()
    );
    copy(&run_version_one(folder.path()), &fixture());
}
