//! Sections 14 and 15: a state per key.

use super::{Text, batches_of, run};
use crate::{State, StateSpec};

#[test]
fn sta_01_a_state_is_updated_for_every_key() {
    let lists: &[&[&str]] = &[&["a"], &["a", "b"], &["a", "b", "c"], &["a", "b"], &["a"], &[]];
    let states = run(lists, 6, |stream| {
        stream
            .map(|word| (word.to_owned(), 1i64))
            .update_state_by_key(|values, old: Option<i64>| Some(values.iter().sum::<i64>() + old.unwrap_or(0)))
    });
    assert_eq!(states, batches_of("a1; a2 b1; a3 b2 c1; a4 b3 c1; a5 b3 c1; a5 b3 c1"));
}

fn counting(_key: &Text, value: Option<i64>, state: &mut State<i64>) -> i64 {
    let count = state.get().copied().unwrap_or(0) + value.unwrap_or(0);
    state.update(count);
    count
}

#[test]
fn mws_01_a_running_count_and_its_snapshots() {
    let lists: &[&[&str]] = &[&[], &["a"], &["a", "b"], &["a", "b", "c"], &["a", "b"], &["a"], &[]];
    let keyed = |word: &str| (word.to_owned(), 1i64);
    let counts = run(lists, 7, |stream| {
        stream.map(keyed).map_with_state(StateSpec::function(counting)).mapped()
    });
    assert_eq!(
        counts,
        [vec![], vec![1], vec![1, 2], vec![1, 2, 3], vec![3, 4], vec![5], vec![]]
    );
    let snapshots = run(lists, 7, |stream| {
        stream
            .map(keyed)
            .map_with_state(StateSpec::function(counting))
            .state_snapshots()
    });
    assert_eq!(
        snapshots,
        batches_of("; a1; a2 b1; a3 b2 c1; a4 b3 c1; a5 b3 c1; a5 b3 c1")
    );
}
