//! State through its public face, on a local checkpoint.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;
use proptest::sample::Index;
use tidemill_core::StateVersion;

use super::*;
use crate::store::{Put, Store};

const COUNTS: &str = "counts";

fn spec() -> OperatorSpec {
    OperatorSpec {
        id: COUNTS.to_owned(),
        kind: "map_with_state".to_owned(),
        shape: "text, count".to_owned(),
    }
}

/// A checkpoint in memory that counts what is read.
#[derive(Debug, Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    reads: AtomicUsize,
}

#[async_trait]
impl Store for Memory {
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
        match self.files.lock().expect("lock").entry(path.to_owned()) {
            Entry::Occupied(_) => Ok(Put::Exists),
            Entry::Vacant(free) => {
                free.insert(bytes);
                Ok(Put::Created)
            }
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.files.lock().expect("lock").get(path).cloned())
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let files = self.files.lock().expect("lock");
        Ok(files
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.files.lock().expect("lock").remove(path);
        Ok(())
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

/// A checkpoint, and room for caches.
struct Place {
    folder: tempfile::TempDir,
    checkpoint: Arc<Memory>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let checkpoint = Arc::default();
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
        let opened = StateStore::open(settings, Arc::<Memory>::clone(&self.checkpoint)).await;
        opened.expect("opened")
    }

    /// What a fresh machine and a machine with this cache say of a version.
    async fn restored(&self, cache: &str, version: &StateVersion) -> Entries {
        let old = all(&self.process(cache, Some(version)).await);
        let fresh = tempfile::tempdir_in(self.folder.path()).expect("temp dir");
        let new = all(&self.process(&fresh.path().display().to_string(), Some(version)).await);
        assert!(
            old == new,
            "the cache differs from the checkpoint at batch {}",
            version.batch_id
        );
        new
    }

    fn files(&self) -> Vec<String> {
        let files = self.checkpoint.files.lock().expect("lock");
        let prefix = name::path(COUNTS, "");
        files
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut files = self.checkpoint.files.lock().expect("lock");
        change(files.get_mut(&name::path(COUNTS, name)).expect("there"));
    }

    fn remove(&self, name: &str) {
        let removed = self
            .checkpoint
            .files
            .lock()
            .expect("lock")
            .remove(&name::path(COUNTS, name));
        assert!(removed.is_some());
    }

    /// Files read since the last call.
    fn reads(&self) -> usize {
        self.checkpoint.reads.swap(0, Ordering::Relaxed)
    }
}

/// Bucket and key to value.
type Entries = BTreeMap<(u16, String), String>;

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
fn all(state: &StateStore) -> Entries {
    let reader = state.reader(COUNTS).expect("reader");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let of_bucket = |bucket| {
        reader
            .range(bucket, b"", None)
            .map(move |entry| (bucket, entry.expect("entry")))
    };
    let entries = (0..BUCKETS).flat_map(of_bucket);
    entries
        .map(|(bucket, (key, value))| ((bucket, text(key)), text(value)))
        .collect()
}

fn entries(entries: &[(u16, &str, &str)]) -> Entries {
    let owned = |(bucket, key, value): &(u16, &str, &str)| ((*bucket, (*key).to_owned()), (*value).to_owned());
    entries.iter().map(owned).collect()
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
        entries(&[(0, "a", "1"), (0, "b", "1")]),
        entries(&[(0, "b", "1"), (5, "c", "")]),
        entries(&[(0, "b", "3"), (5, "c", "")]),
    ];
    for (number, (version, expected)) in versions.iter().zip(&expected).enumerate() {
        let state = place.process(&format!("new-{number}"), Some(version)).await;
        assert_eq!(&all(&state), expected, "version {number}");
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
    assert_eq!(all(&state), entries(&[(0, "a", "2")]));
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
    place.remove(&one.name);
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
async fn an_operator_whose_restoration_failed_can_not_be_read() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let two = step(&mut state, 2, &[(0, "a", Some("2"))]).await;
    place.remove(&one.name);
    let error = state.restore(&spec(), Some(&one)).await.expect_err("missing");
    assert_eq!(error.kind(), Kind::Loss);
    assert_eq!(state.reader(COUNTS).expect_err("not restored").kind(), Kind::Bug);
    state
        .restore(&spec(), Some(&two))
        .await
        .expect("the cache still holds it");
    assert_eq!(all(&state), entries(&[(0, "a", "2")]));
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
    assert_eq!(all(&fresh), entries(&[(0, "a", "2")]));
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

#[tokio::test]
async fn a_cache_that_holds_the_version_is_used_as_it_is() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let two = step(&mut state, 2, &[(0, "b", Some("2"))]).await;
    drop(state);
    place.reads();
    let state = place.process("a", Some(&two)).await;
    assert_eq!(
        (place.reads(), all(&state)),
        (1, entries(&[(0, "a", "1"), (0, "b", "2")]))
    );
}

#[tokio::test]
async fn x30_a_process_that_ends_between_stage_and_advance_goes_on_from_either() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    let two = step(&mut state, 2, &[(0, "a", Some("2"))]).await;
    let three = state
        .stage(COUNTS, at(3), changes(&[(0, "a", None), (1, "b", Some("3"))]))
        .await
        .expect("staged");
    drop(state);
    // No sink has batch 3.
    assert_eq!(all(&place.process("a", Some(&two)).await), entries(&[(0, "a", "2")]));
    place.reads();
    // A sink has it: its file alone is read.
    assert_eq!(all(&place.process("a", Some(&three)).await), entries(&[(1, "b", "3")]));
    assert_eq!(place.reads(), 1);
    // Back once more, as a rewind does.
    assert_eq!(place.restored("a", &two).await, entries(&[(0, "a", "2")]));
}

#[tokio::test]
async fn a_cache_that_fell_behind_is_moved_forward() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1")), (9, "z", Some("1"))]).await;
    drop(state);
    let mut state = place.process("elsewhere", Some(&one)).await;
    step(&mut state, 2, &[(0, "a", Some("2"))]).await;
    step(&mut state, 3, &[(9, "z", None)]).await;
    let four = step(&mut state, 4, &[(0, "b", Some("4"))]).await;
    drop(state);
    place.reads();
    let state = place.process("a", Some(&four)).await;
    // Batches 2 to 4: the first file is not read again.
    assert_eq!(
        (place.reads(), all(&state)),
        (3, entries(&[(0, "a", "2"), (0, "b", "4")]))
    );
}

#[tokio::test]
async fn x30_a_cache_on_a_branch_that_was_given_up_is_made_anew() {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let one = step(&mut state, 1, &[(0, "a", Some("1"))]).await;
    step(&mut state, 2, &[(0, "x", Some("given up"))]).await;
    drop(state);
    let mut state = place.process("elsewhere", Some(&one)).await;
    let three = step(&mut state, 3, &[(0, "b", Some("3"))]).await;
    drop(state);
    assert_eq!(
        place.restored("a", &three).await,
        entries(&[(0, "a", "1"), (0, "b", "3")])
    );
}

#[tokio::test]
async fn two_drivers_attempts_at_a_batch_do_not_touch_one_another() {
    let place = Place::new();
    let mut old = place.process("old", None).await;
    let one = step(&mut old, 1, &[(0, "a", Some("1"))]).await;
    let mut new = place.process("new", Some(&one)).await;
    let theirs = new
        .stage(COUNTS, attempt(2, 2), changes(&[(0, "a", Some("new"))]))
        .await
        .expect("staged");
    let ours = old
        .stage(COUNTS, attempt(2, 1), changes(&[(0, "a", Some("old"))]))
        .await
        .expect("staged");
    new.advance(COUNTS, &theirs).await.expect("advanced");
    // The old one has not noticed yet, and tidies up.
    old.advance(COUNTS, &ours).await.expect("advanced");
    old.tidy(&[[(COUNTS.to_owned(), ours)].into()]).await.expect("tidy");
    drop(new);
    assert_eq!(place.restored("new", &theirs).await, entries(&[(0, "a", "new")]));
}

/// Batches of small and large changes until files are folded and buckets written whole.
async fn long_history(place: &Place, cache: &str) -> (StateStore, StateVersion, Entries) {
    let mut state = place.process(cache, None).await;
    let mut model = Entries::new();
    let mut last = None;
    for batch in 1..=40_u64 {
        let mut batch_changes = Changes::default();
        for number in 0..40 {
            let bucket = u16::try_from((batch * 7 + number) % u64::from(BUCKETS)).expect("bucket");
            let key = format!("{}", (batch + number) % 11);
            let large = batch % 10 > 7;
            let value = (number % 5 != 0).then(|| format!("{batch}").repeat(if large { 10_000 } else { 1 }));
            batch_changes.set(bucket, key.clone().into_bytes(), value.clone().map(String::into_bytes));
            match value {
                Some(value) => drop(model.insert((bucket, key), value)),
                None => drop(model.remove(&(bucket, key))),
            }
        }
        let version = state.stage(COUNTS, at(batch), batch_changes).await.expect("staged");
        state.advance(COUNTS, &version).await.expect("advanced");
        last = Some(version);
    }
    (state, last.expect("a batch"), model)
}

#[tokio::test]
async fn folded_files_and_whole_buckets_restore_the_same() {
    let place = Place::new();
    let (state, last, model) = long_history(&place, "a").await;
    assert!(all(&state) == model);
    state
        .tidy(&[[(COUNTS.to_owned(), last.clone())].into()])
        .await
        .expect("tidy");
    drop(state);
    let left = place.files().len();
    assert!(left < 20, "{left} files of 40 batches");
    assert!(place.restored("a", &last).await == model);
    let file = version::VersionFile::decode(
        place.checkpoint.files.lock().expect("lock")[&name::path(COUNTS, &last.name)].clone(),
    );
    let head = file.expect("sound").head;
    assert!(!head.snapshots.is_empty() && head.chain.len() < left, "{head:?}");
}

#[tokio::test]
async fn x30_every_file_that_a_version_needs_is_missed() {
    let place = Place::new();
    let (state, last, _) = long_history(&place, "a").await;
    state
        .tidy(&[[(COUNTS.to_owned(), last.clone())].into()])
        .await
        .expect("tidy");
    for (number, name) in place.files().into_iter().enumerate() {
        let bytes = place.checkpoint.files.lock().expect("lock")[&name::path(COUNTS, &name)].clone();
        place.remove(&name);
        let mut fresh = place.open(&format!("fresh-{number}")).await;
        let error = fresh.restore(&spec(), Some(&last)).await.expect_err("missing");
        assert_eq!(error.kind(), Kind::Loss);
        assert!(
            error.chain().contains(&name) && error.chain().contains("after batch 40"),
            "{}",
            error.chain()
        );
        place
            .checkpoint
            .files
            .lock()
            .expect("lock")
            .insert(name::path(COUNTS, &name), bytes);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime")
}

/// What a driver and its operator do.
#[derive(Debug, Clone)]
enum Act {
    /// A batch with changes: bucket, key, value; more than 100 removes. True where it is given up.
    Batch(Vec<(u16, u8, u8)>, bool),
    /// The process ends and begins again, on this machine or another.
    Restart(bool),
    /// Back to one of the kept versions.
    Rewind(Index),
    /// All but the newest three versions may go.
    Tidy,
}

fn act() -> impl Strategy<Value = Act> {
    let change = (0..4_u16, 0..12_u8, 0..=120_u8);
    prop_oneof![
        10 => (prop::collection::vec(change, 0..8), prop::bool::weighted(0.2)).prop_map(|(changes, lost)| Act::Batch(changes, lost)),
        1 => any::<bool>().prop_map(Act::Restart),
        1 => any::<Index>().prop_map(Act::Rewind),
        1 => Just(Act::Tidy),
    ]
}

/// Runs acts against a map.
async fn follow(acts: Vec<Act>) {
    let place = Place::new();
    let mut state = place.process("a", None).await;
    let mut kept: Vec<(Option<StateVersion>, Entries)> = vec![(None, Entries::new())];
    for (number, act) in acts.into_iter().enumerate() {
        let (version, model) = kept.last().expect("one is kept").clone();
        match act {
            Act::Batch(list, lost) => {
                let mut next = model.clone();
                let mut batch = Changes::default();
                for (bucket, key, value) in list {
                    let key = format!("k{key}");
                    let value = (value <= 100).then(|| format!("{value}").repeat(if value < 10 { 60_000 } else { 1 }));
                    batch.set(bucket, key.clone().into_bytes(), value.clone().map(String::into_bytes));
                    match value {
                        Some(value) => drop(next.insert((bucket, key), value)),
                        None => drop(next.remove(&(bucket, key))),
                    }
                }
                let staged = state.stage(COUNTS, at(number as u64 + 1), batch).await.expect("staged");
                if !lost {
                    state.advance(COUNTS, &staged).await.expect("advanced");
                    kept.push((Some(staged), next));
                }
            }
            Act::Restart(same) => {
                drop(state);
                let cache = if same {
                    "a".to_owned()
                } else {
                    format!("machine-{number}")
                };
                state = place.process(&cache, version.as_ref()).await;
            }
            Act::Rewind(to) => {
                kept.truncate(to.index(kept.len()) + 1);
                let (version, _) = kept.last().expect("one is kept");
                state.restore(&spec(), version.as_ref()).await.expect("restored");
            }
            Act::Tidy => {
                kept.drain(..kept.len().saturating_sub(3));
                let keep = |version: &StateVersion| [(COUNTS.to_owned(), version.clone())].into();
                let keep: Vec<_> = kept
                    .iter()
                    .filter_map(|(version, _)| version.as_ref().map(keep))
                    .collect();
                state.tidy(&keep).await.expect("tidy");
            }
        }
        let (_, model) = kept.last().expect("one is kept");
        assert!(all(&state) == *model, "after act {number}");
    }
    let (version, model) = kept.last().expect("one is kept");
    if let Some(version) = version {
        drop(state);
        assert!(place.restored("a", version).await == *model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn x30_whatever_happens_the_base_is_what_its_version_says(acts in prop::collection::vec(act(), 1..60)) {
        runtime().block_on(follow(acts));
    }

    #[test]
    fn x30_a_flipped_bit_or_a_cut_is_an_error_that_names_operator_and_batch(
        which in any::<Index>(), place_in_file in any::<Index>(), bit in 0..8_u32, cut in any::<bool>(),
    ) {
        runtime().block_on(async {
            let place = Place::new();
            let mut state = place.process("a", None).await;
            step(&mut state, 1, &[(0, "a", Some("1")), (5, "b", Some("1"))]).await;
            let two = step(&mut state, 2, &[(0, "a", None), (6, "c", Some("2"))]).await;
            drop(state);
            let files = place.files();
            let name = &files[which.index(files.len())];
            place.change(name, |bytes| {
                let at = place_in_file.index(bytes.len());
                if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            });
            let mut fresh = place.open("b").await;
            let error = fresh.restore(&spec(), Some(&two)).await.expect_err("damaged");
            let text = error.chain();
            assert_eq!(error.kind(), Kind::Loss);
            assert!(text.contains("operator counts after batch 2") && text.contains(name), "{text}");
        });
    }
}

/// Files as version 1 of the format wrote them: changes alone; changes with a whole bucket and an empty one; folded changes.
const KEPT: [(&str, &[u8]); 3] = [
    (
        "00000000000000000001-1-0-0a0b0c0d0e0f00010203040506070809.version",
        include_bytes!(
            "../../../../tests/fixtures/v1/state/00000000000000000001-1-0-0a0b0c0d0e0f00010203040506070809.version"
        ),
    ),
    (
        "00000000000000000002-1-0-1a1b1c1d1e1f10111213141516171819.version",
        include_bytes!(
            "../../../../tests/fixtures/v1/state/00000000000000000002-1-0-1a1b1c1d1e1f10111213141516171819.version"
        ),
    ),
    (
        "00000000000000000004-2-1-2a2b2c2d2e2f20212223242526272829.version",
        include_bytes!(
            "../../../../tests/fixtures/v1/state/00000000000000000004-2-1-2a2b2c2d2e2f20212223242526272829.version"
        ),
    ),
];

#[tokio::test]
async fn files_of_version_1_are_read() {
    let place = Place::new();
    for (name, bytes) in KEPT {
        let put = place
            .checkpoint
            .put_new(&name::path(COUNTS, name), bytes.to_vec())
            .await;
        put.expect("put");
    }
    let expected = [
        entries(&[(0, "a", "1"), (0, "b", "1"), (5, "c", "1")]),
        entries(&[(0, "b", "2"), (5, "c", "1")]),
        entries(&[(0, "b", "2"), (5, "d", "4"), (63, "e", "3")]),
    ];
    for ((name, _), expected) in KEPT.iter().zip(expected) {
        let version = StateVersion {
            batch_id: StageName::parse(name).expect("a name").batch_id,
            name: (*name).to_owned(),
        };
        assert_eq!(place.restored("a", &version).await, expected, "{name}");
    }
}
