//! State through its public face, on a local checkpoint.

use std::path::Path;
use std::sync::Arc;

use tidemill_core::StateVersion;

use super::*;
use crate::error::Kind;
use crate::store::{LocalStore, Store};

const COUNTS: &str = "counts";

fn spec() -> OperatorSpec {
    OperatorSpec {
        id: COUNTS.to_owned(),
        kind: "map_with_state".to_owned(),
        shape: "text, count".to_owned(),
    }
}

/// A checkpoint, and a state store on it.
struct Place {
    folder: tempfile::TempDir,
    checkpoint: Arc<dyn Store>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let checkpoint = Arc::new(LocalStore::new(folder.path().join("checkpoint")));
        Self { folder, checkpoint }
    }

    /// A process with a cache folder of this name, and the operator restored.
    async fn process(&self, cache: &str, version: Option<&StateVersion>) -> StateStore {
        let mut state = self.open(cache).await;
        state.restore(&spec(), version).await.expect("restored");
        state
    }

    async fn open(&self, cache: &str) -> StateStore {
        let settings = StateSettings {
            cache: self.folder.path().join(cache),
            memory_bytes_max: 16 << 20,
        };
        let opened = StateStore::open(settings, Arc::clone(&self.checkpoint)).await;
        opened.expect("opened")
    }

    fn file(&self, version: &StateVersion) -> std::path::PathBuf {
        self.folder
            .path()
            .join("checkpoint/state")
            .join(COUNTS)
            .join(&version.name)
    }

    fn files(&self) -> Vec<String> {
        names(&self.folder.path().join("checkpoint/state").join(COUNTS))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

fn at(batch_id: u64) -> StageName {
    attempt(batch_id, 1)
}

fn attempt(batch_id: u64, epoch: u64) -> StageName {
    StageName {
        batch_id,
        epoch,
        attempt: 0,
    }
}

fn changes(entries: &[(u16, &str, Option<&str>)]) -> Changes {
    let mut changes = Changes::default();
    for (bucket, key, value) in entries {
        changes.set(
            *bucket,
            key.as_bytes().to_vec(),
            value.map(|value| value.as_bytes().to_vec()),
        );
    }
    changes
}

fn get(reader: &StateReader, bucket: u16, key: &str) -> Option<String> {
    let value = reader.get(bucket, key.as_bytes()).expect("read");
    value.map(|value| String::from_utf8(value).expect("text"))
}

/// All entries, as text.
fn all(state: &StateStore) -> Vec<(u16, String, String)> {
    let reader = state.reader(COUNTS).expect("reader");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let mut all = Vec::new();
    for bucket in 0..BUCKETS {
        for entry in reader.range(bucket, b"", None) {
            let (key, value) = entry.expect("entry");
            all.push((bucket, text(key), text(value)));
        }
    }
    all
}

async fn step(state: &mut StateStore, batch: u64, entries: &[(u16, &str, Option<&str>)]) -> StateVersion {
    let version = state.stage(COUNTS, at(batch), changes(entries)).await.expect("staged");
    state.advance(COUNTS, &version).await.expect("advanced");
    version
}

#[tokio::test]
async fn x30_nothing_is_visible_before_all_sinks_have_the_batch() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1")), (63, "z", Some("1"))]).await;
    let before = state.reader(COUNTS).expect("reader");
    let two = state
        .stage(COUNTS, at(2), changes(&[(0, "a", Some("2")), (63, "z", None)]))
        .await
        .expect("staged");
    assert_eq!(
        get(&state.reader(COUNTS).expect("reader"), 0, "a").as_deref(),
        Some("1")
    );
    state.advance(COUNTS, &two).await.expect("advanced");
    state.advance(COUNTS, &two).await.expect("again");
    let after = state.reader(COUNTS).expect("reader");
    assert_eq!(
        (get(&after, 0, "a").as_deref(), get(&after, 63, "z")),
        (Some("2"), None)
    );
    // A reader stays where it was.
    assert_eq!(
        (get(&before, 0, "a").as_deref(), get(&before, 63, "z").as_deref()),
        (Some("1"), Some("1"))
    );
    assert_eq!(state.describe()[0].version.as_ref(), Some(&two));
    assert!(one.name < two.name);
}

#[tokio::test]
async fn x30_a_version_is_restored_where_nothing_is_left_but_the_checkpoint() {
    let place = Place::new();
    let mut versions = Vec::new();
    {
        let mut state = place.process("a", None).await;
        versions.push(step(&mut state, 1, &[(0, "a", Some("1")), (0, "b", Some("1"))]).await);
        versions.push(step(&mut state, 2, &[(0, "a", None), (5, "c", Some(""))]).await);
        versions.push(step(&mut state, 3, &[(0, "b", Some("3"))]).await);
    }
    let expected = [
        vec![(0, "a", "1"), (0, "b", "1")],
        vec![(0, "b", "1"), (5, "c", "")],
        vec![(0, "b", "3"), (5, "c", "")],
    ];
    for (number, (version, expected)) in versions.iter().zip(&expected).enumerate() {
        let state = place.process(&format!("new-{number}"), Some(version)).await;
        let found = all(&state);
        let found: Vec<_> = found
            .iter()
            .map(|(bucket, key, value)| (*bucket, key.as_str(), value.as_str()))
            .collect();
        assert_eq!(&found, expected, "version {number}");
    }
}

#[tokio::test]
async fn x30_a_batch_that_was_given_up_leaves_the_base_as_it_was() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let given_up = state
        .stage(COUNTS, at(2), changes(&[(0, "a", Some("x"))]))
        .await
        .expect("staged");
    let other = state
        .stage(COUNTS, attempt(2, 2), changes(&[(0, "a", Some("2"))]))
        .await
        .expect("staged");
    state.advance(COUNTS, &other).await.expect("advanced");
    assert_eq!(all(&state), [(0, "a".to_owned(), "2".to_owned())]);
    let error = state
        .advance(COUNTS, &given_up)
        .await
        .expect_err("made on another version");
    assert_eq!(error.kind(), Kind::Bug);
    let error = state
        .stage(COUNTS, at(2), Changes::default())
        .await
        .expect_err("batch 2 on batch 2");
    assert_eq!(error.kind(), Kind::Bug);
}

#[tokio::test]
async fn state_of_another_kind_or_shape_is_refused() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    for (what, other) in [
        (
            "kind",
            OperatorSpec {
                kind: "window".to_owned(),
                ..spec()
            },
        ),
        (
            "shape",
            OperatorSpec {
                shape: "text, sum".to_owned(),
                ..spec()
            },
        ),
    ] {
        let error = state.restore(&other, Some(&one)).await.expect_err(what);
        assert_eq!(error.kind(), Kind::Config);
        let text = error.chain();
        let was = if what == "kind" {
            "map_with_state"
        } else {
            "text, count"
        };
        assert!(
            text.contains("operator counts after batch 1") && text.contains(was),
            "{text}"
        );
    }
    let bad = OperatorSpec {
        id: "../x".to_owned(),
        ..spec()
    };
    assert_eq!(
        state.restore(&bad, None).await.expect_err("no name").kind(),
        Kind::Config
    );
}

#[tokio::test]
async fn x30_a_missing_file_is_never_taken_for_empty_state() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let two = step(&mut state, 2, &[(0, "b", Some("1"))]).await;
    std::fs::remove_file(place.file(&one)).expect("removed");
    let error = place
        .open("b")
        .await
        .restore(&spec(), Some(&two))
        .await
        .expect_err("missing");
    assert_eq!(error.kind(), Kind::Loss);
    let text = error.chain();
    assert!(
        text.contains("operator counts after batch 2") && text.contains(&one.name),
        "{text}"
    );
}

#[tokio::test]
async fn what_no_kept_version_needs_is_removed() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let given_up = state
        .stage(COUNTS, at(2), changes(&[(0, "a", Some("x"))]))
        .await
        .expect("staged");
    let two = step(&mut state, 2, &[(0, "a", Some("2"))]).await;
    let under_way = state
        .stage(COUNTS, at(3), changes(&[(0, "a", Some("3"))]))
        .await
        .expect("staged");
    let of_another_driver = state
        .stage(COUNTS, attempt(3, 2), Changes::default())
        .await
        .expect("staged");
    let keep = |version: &StateVersion| vec![[(COUNTS.to_owned(), version.clone())].into()];
    state.tidy(&[]).await.expect("tidy");
    assert_eq!(place.files().len(), 5);
    state.tidy(&keep(&two)).await.expect("tidy");
    let mut left = vec![
        one.name.clone(),
        two.name.clone(),
        under_way.name.clone(),
        of_another_driver.name.clone(),
    ];
    left.sort_unstable();
    assert_eq!(place.files(), left);
    assert!(!left.contains(&given_up.name));
    let fresh = place.process("b", Some(&two)).await;
    assert_eq!(all(&fresh), [(0, "a".to_owned(), "2".to_owned())]);
}

#[tokio::test]
async fn changes_lie_over_the_base() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let entries = [
        (1, "b", Some("1")),
        (1, "d", Some("1")),
        (1, "f", Some("1")),
        (2, "x", Some("1")),
    ];
    step(&mut state, 1, &entries).await;
    let base = state.reader(COUNTS).expect("reader");
    let mut over = changes(&[(1, "a", Some("2")), (1, "b", None)]);
    over.merge(changes(&[
        (1, "d", Some("2")),
        (1, "e", Some("2")),
        (1, "g", None),
        (3, "y", Some("2")),
    ]));
    let range = |bucket, from: &str, until: Option<&str>| -> String {
        let entries = over.range_on(&base, bucket, from.as_bytes(), until.map(str::as_bytes));
        let text = |entry: Result<(Vec<u8>, Vec<u8>)>| {
            let (key, value) = entry.expect("entry");
            format!("{}{} ", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
        };
        entries.map(text).collect()
    };
    assert_eq!(range(1, "", None), "a2 d2 e2 f1 ");
    assert_eq!(range(1, "b", Some("f")), "d2 e2 ");
    assert_eq!(range(1, "f", Some("b")), "");
    assert_eq!(
        (range(2, "", None), range(3, "", None)),
        ("x1 ".to_owned(), "y2 ".to_owned())
    );
    assert_eq!(over.value_on(&base, 1, b"b").expect("read"), None);
    assert_eq!(
        over.value_on(&base, 1, b"f").expect("read").as_deref(),
        Some(b"1".as_slice())
    );
    assert_eq!(
        (over.get(1, b"g"), over.get(1, b"f"), over.len()),
        (Some(None), None, 6)
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let place = Place::new();
    let state = place.process("a", None).await;
    let mut large = Changes::default();
    large.set(0, vec![0; KEY_BYTES_MAX + 1], None);
    assert_eq!(
        state.stage(COUNTS, at(1), large).await.expect_err("key").kind(),
        Kind::Config
    );
    let mut wrong = Changes::default();
    wrong.set(BUCKETS, Vec::new(), None);
    assert_eq!(
        state.stage(COUNTS, at(1), wrong).await.expect_err("bucket").kind(),
        Kind::Bug
    );
    assert_eq!(state.reader("other").expect_err("not restored").kind(), Kind::Bug);
}
