//! Section 15: a state per key, touched where there are values.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::state::{BUCKETS, Changes, OperatorSpec, StageName, StateReader, StateSettings, StateStore};
use tidemill_engine::store::LocalStore;

use super::{
    SECOND, Text, all_words, batches_of, contents_of, millis, pairs, run_with_gaps, run_words, seconds, wait_for,
};
use crate::testing::{Harness, Input, Output};
use crate::{DStream, State, StateSpec};

/// J of the page: an empty batch, then those of section 14.
const WORDS: &str = "; a; a b; a b c; a b; a; ";
const SNAPSHOTS: &str = "; a1; a2 b1; a3 b2 c1; a4 b3 c1; a5 b3 c1; a5 b3 c1";

fn counting(_key: &Text, value: Option<i64>, state: &mut State<i64>) -> i64 {
    let count = state.get().copied().unwrap_or(0) + value.unwrap_or(0);
    state.update(count);
    count
}

#[test]
fn mws_01_a_running_count_and_its_snapshots() {
    let counts = run_words(WORDS, |stream| {
        stream.map_with_state(StateSpec::function(counting)).mapped()
    });
    assert_eq!(
        counts,
        [vec![], vec![1], vec![1, 2], vec![1, 2, 3], vec![3, 4], vec![5], vec![]]
    );
    let snapshots = run_words(WORDS, |stream| {
        stream.map_with_state(StateSpec::function(counting)).state_snapshots()
    });
    assert_eq!(snapshots, batches_of(SNAPSHOTS));
}

#[test]
fn mws_04_keys_without_values_time_out() {
    let lists = all_words(&format!("a b c; a b; a; ; ; {}", ["a"; 21].join(";")));
    let harness = Harness::new(SECOND);
    let (input, gone, snapshots) = (Input::of(lists), Output::sorted(), Output::sorted());
    let run = harness.start(|context| {
        let state = |_time_ms: i64, key: &Text, value: Option<i64>, state: &mut State<i64>| {
            if state.is_timing_out() {
                return Some(key.clone());
            }
            counting(key, value, state);
            None
        };
        let spec = StateSpec::function_with_time(state).timeout(seconds(3));
        let stated = input.stream(context).map(|word| (word, 1)).map_with_state(spec);
        stated.mapped().foreach_batch(gone.keep());
        stated
            .state_snapshots()
            .map(|(key, _)| key)
            .foreach_batch(snapshots.keep());
        Ok(())
    });
    run.unwrap().batches(20).unwrap();
    // Here every batch looks for them: c is idle since 1 s, b since 2 s, both for longer than 3 s one batch later than that.
    let gone: BTreeMap<i64, Vec<Text>> = gone.all().into_iter().filter(|(_, keys)| !keys.is_empty()).collect();
    assert_eq!(
        gone,
        [(5000, vec!["c".to_owned()]), (6000, vec!["b".to_owned()])].into()
    );
    assert!(snapshots.batches().contains(&all_words("a b c").concat()));
    assert_eq!(snapshots.at(20_000), ["a"]);
}

#[test]
fn mws_07_snapshots_go_on_after_a_restart() {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of(all_words(WORDS)), Output::sorted());
    let start = || {
        let run = harness.start(|context| {
            let spec = StateSpec::function(counting);
            let stated = input.stream(context).map(|word| (word, 1)).map_with_state(spec);
            stated
                .checkpoint(seconds(3))
                .state_snapshots()
                .foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap()
    };
    let run = start();
    run.batches(3).unwrap();
    run.kill();
    start().batches(4).unwrap();
    assert_eq!(output.batches(), batches_of(SNAPSHOTS));
}

/// In Rust's form: no such element is `None`, and an act that is refused panics, which fails the batch.
#[test]
fn mws_08_the_state_object() {
    type Make = fn() -> State<i32>;
    /// What is left, `None` where the act was refused.
    type Left = Option<Option<i32>>;
    let after = |make: Make, act: fn(&mut State<i32>)| {
        let mut state = make();
        let is_refused = catch_unwind(AssertUnwindSafe(|| act(&mut state))).is_err();
        (!is_refused).then(|| state.get().copied())
    };
    let update: fn(&mut State<i32>) = |state| state.update(3);
    let cases: [(&str, Make, Option<i32>, Left, Left); 5] = [
        ("none", || State::new(None), None, Some(Some(3)), Some(None)),
        ("set", || State::new(Some(1)), Some(1), Some(Some(3)), Some(None)),
        (
            "updated",
            || {
                let mut state = State::new(None);
                state.update(2);
                state
            },
            Some(2),
            Some(Some(3)),
            Some(None),
        ),
        (
            "removed",
            || {
                let mut state = State::new(Some(1));
                state.remove();
                state
            },
            None,
            None,
            None,
        ),
        ("timing out", || State::timing_out(1), Some(1), None, None),
    ];
    for (name, make, value, updated, removed) in cases {
        let state = make();
        assert_eq!(state.get().copied(), value, "{name}");
        assert_eq!(state.exists(), value.is_some(), "{name}");
        assert_eq!(state.is_timing_out(), name == "timing out");
        assert_eq!(after(make, update), updated, "{name}, update");
        assert_eq!(after(make, State::remove), removed, "{name}, remove");
    }
}

/// What is kept of keys after each batch, where the function sets the state to the first value of a key and does nothing after that.
fn kept(lists: &str, timeout: Option<Duration>) -> Vec<Vec<Text>> {
    run_words(lists, |stream| set_once(stream, timeout).map(|(key, _)| key))
}

fn set_once(stream: DStream<(Text, i64)>, timeout: Option<Duration>) -> DStream<(Text, i64)> {
    let spec = StateSpec::function(|_key: &Text, value, state: &mut State<i64>| {
        if let (false, Some(value)) = (state.exists(), value) {
            state.update(value);
        }
    });
    let spec = timeout.into_iter().fold(spec, StateSpec::timeout);
    stream.map_with_state(spec).state_snapshots()
}

/// A state of 1000 in the batch of 2000, which times out below a threshold: 2000 less the timeout.
#[test]
fn mws_09_a_state_times_out_when_it_is_strictly_older() {
    for (threshold, expected) in [(1000, "a; a"), (1001, "a; ")] {
        assert_eq!(
            kept("a; ", Some(millis(2000 - threshold))),
            all_words(expected),
            "{threshold}"
        );
    }
}

#[test]
fn mws_10_with_a_timeout_any_value_keeps_a_state_alive() {
    // Not below a threshold of 1001 in the batch of 2000; then its time is 2000: it outlives a threshold of 2000, not one of 2001.
    assert_eq!(kept("a; a; ", Some(millis(999))), all_words("a; a; "));
    assert_eq!(kept("a; a; ; ", Some(millis(1000))), all_words("a; a; a; "));
}

/// The base of an operator's state as the checkpoint holds it.
fn base_of(harness: &Harness, operator: &OperatorSpec) -> StateReader {
    let version = contents_of(harness).last_commit.unwrap().states.remove(&operator.id);
    wait_for(async {
        let mut store = store_in(harness, "read-again").await;
        store.restore(operator, version.as_ref()).await.unwrap();
        store.reader(&operator.id).unwrap()
    })
}

async fn store_in(harness: &Harness, cache: &str) -> StateStore {
    let settings = StateSettings {
        cache: harness.folder().join(cache),
        memory_bytes_max: 16 << 20,
    };
    let checkpoint = Arc::new(LocalStore::new(harness.checkpoint()));
    StateStore::open(settings, checkpoint).await.unwrap()
}

fn entries(base: &StateReader) -> Vec<(Vec<u8>, Vec<u8>)> {
    let of = |bucket| base.range(bucket, b"", None).map(Result::unwrap);
    (0..BUCKETS).flat_map(of).collect()
}

#[test]
fn mws_11_without_a_timeout_what_does_nothing_changes_nothing() {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of(all_words("a; a b")), Output::sorted());
    let run = harness.start(|context| {
        let spec = StateSpec::function(|key: &Text, value, state: &mut State<i64>| {
            if let (false, Some(value), "a") = (state.exists(), value, key.as_str()) {
                state.update(value);
            }
        });
        let stated = input.stream(context).map(|word| (word, 1)).map_with_state(spec);
        stated.state_snapshots().foreach_batch(output.keep());
        Ok(())
    });
    let run = run.unwrap();
    run.batches(2).unwrap();
    run.stop().unwrap();
    assert_eq!(output.batches(), batches_of("a1; a1"));
    let operator = OperatorSpec {
        id: "map-with-state-0".to_owned(),
        kind: "map-with-state".to_owned(),
        shape: "(String, i64)".to_owned(),
    };
    let entries = entries(&base_of(&harness, &operator));
    let times: Vec<&[u8]> = entries.iter().map(|(_, value)| &value[..8]).collect();
    assert_eq!(times, [1000_i64.to_be_bytes()]);
}

/// Batches of 10 ms: the state of 10 in the batch of 20, looked for below 11 and below 10.
#[test]
fn mws_13_states_are_found_by_their_time() {
    let found = |threshold: u64| {
        let harness = Harness::new(millis(10));
        let (input, output) = (Input::of([vec![(1, 100)]]), Output::default());
        let run = harness.start(|context| {
            let spec = StateSpec::function_with_time(|_time_ms, key: &i32, value, state: &mut State<i32>| {
                match value {
                    Some(value) => state.update(value),
                    None => return Some((*key, *state.get()?)),
                }
                None
            });
            let spec = spec.timeout(millis(20 - threshold));
            input
                .stream(context)
                .map_with_state(spec)
                .mapped()
                .foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap().batches(2).unwrap();
        output.at(20)
    };
    assert_eq!(found(11), [(1, 100)]);
    assert_eq!(found(10), []);
    let removed = run_with_gaps(["a1", "a2", ""].map(|list| Some(pairs::<i64>(list))), 3, |stream| {
        let spec = StateSpec::function(|_key: &Text, value: Option<i64>, state: &mut State<i64>| match value {
            Some(2) => state.remove(),
            Some(value) => state.update(value),
            None => panic!("a state that was removed times out"),
        });
        stream.map_with_state(spec.timeout(millis(500))).state_snapshots()
    });
    assert_eq!(removed.unwrap(), batches_of("a1; ; "));
}

/// A version on another changes neither that one nor who reads it.
#[test]
fn mws_13_copies_do_not_change_what_they_are_of() {
    let harness = Harness::new(SECOND);
    wait_for(async {
        let mut store = store_in(&harness, "parent").await;
        store.restore(&copied(), None).await.unwrap();
        let parent = next(&mut store, 1, &[("1", Some("100"))]).await;
        let reader = store.reader("copied").unwrap();
        next(&mut store, 2, &[("1", None), ("2", Some("200"))]).await;
        let child = entries(&store.reader("copied").unwrap());
        assert_eq!(child, [(b"2".to_vec(), b"200".to_vec())]);
        store.restore(&copied(), Some(&parent)).await.unwrap();
        for parent in [&reader, &store.reader("copied").unwrap()] {
            assert_eq!(entries(parent), [(b"1".to_vec(), b"100".to_vec())]);
        }
    });
}

fn copied() -> OperatorSpec {
    OperatorSpec {
        id: "copied".to_owned(),
        kind: "map-with-state".to_owned(),
        shape: "(String, String)".to_owned(),
    }
}

async fn next(store: &mut StateStore, batch_id: u64, changed: &[(&str, Option<&str>)]) -> tidemill_core::StateVersion {
    let mut changes = Changes::default();
    for (key, value) in changed {
        let value = value.map(|value| value.as_bytes().to_vec());
        changes.set(0, key.as_bytes().to_vec(), value);
    }
    let name = StageName {
        batch_id,
        epoch: 1,
        attempt: 0,
    };
    let version = store.stage("copied", name, changes).await.unwrap();
    store.advance("copied", &version).await.unwrap();
    version
}

/// Ten versions, each on the one before, read back where nothing but the files that the last one needs is left.
#[test]
fn mws_14_a_chain_of_copies_is_read_back() {
    let harness = Harness::new(SECOND);
    wait_for(async {
        let mut store = store_in(&harness, "written").await;
        store.restore(&copied(), None).await.unwrap();
        let mut newest = None;
        for copy in 1..=10 {
            let (key, value) = (format!("key {copy}"), format!("value {copy}"));
            let before = format!("key {}", copy / 2);
            let changed = [(before.as_str(), None), (key.as_str(), Some(value.as_str()))];
            newest = Some(next(&mut store, copy, &changed).await);
        }
        let newest = newest.unwrap();
        store
            .tidy(&[[("copied".to_owned(), newest.clone())].into()])
            .await
            .unwrap();
        let files = std::fs::read_dir(harness.checkpoint().join("state/copied"))
            .unwrap()
            .count();
        assert!(files < 5, "{files} files");
        let mut again = store_in(&harness, "read").await;
        again.restore(&copied(), Some(&newest)).await.unwrap();
        let keys: Vec<Text> = entries(&again.reader("copied").unwrap())
            .into_iter()
            .map(|(key, value)| String::from_utf8([key, b": ".to_vec(), value].concat()).unwrap())
            .collect();
        assert_eq!(
            keys,
            [
                "key 10: value 10",
                "key 6: value 6",
                "key 7: value 7",
                "key 8: value 8",
                "key 9: value 9"
            ]
        );
    });
}
