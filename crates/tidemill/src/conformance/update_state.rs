//! Section 14: a state per key, updated for every key.

use super::{SECOND, Text, all_words, batches_of, run_with_gaps, run_words, words};
use crate::DStream;
use crate::testing::{Harness, Input, Output};

const WORDS: &str = "a; a b; a b c; a b; a; ";

/// Adds the values to the state.
pub(super) fn summed(values: &[i64], old: Option<i64>) -> i64 {
    values.iter().sum::<i64>() + old.unwrap_or(0)
}

fn counts(stream: DStream<(Text, i64)>) -> DStream<(Text, i64)> {
    stream.update_state_by_key(|values, old| Some(summed(&values, old)))
}

#[test]
fn sta_01_a_state_is_updated_for_every_key() {
    let states = run_words(WORDS, counts);
    assert_eq!(states, batches_of("a1; a2 b1; a3 b2 c1; a4 b3 c1; a5 b3 c1; a5 b3 c1"));
}

#[test]
fn sta_03_states_begin_with_the_initial_ones_and_know_the_time() {
    let states = run_words(WORDS, |stream| {
        let initial = ["a", "c"].map(|word| (word.to_owned(), 0));
        stream.update_state_by_key_from(initial, |time_ms, _word, values: Vec<i64>, old: Option<i64>| {
            let old = old.unwrap_or(0);
            Some(if values.is_empty() { old } else { old + time_ms })
        })
    });
    assert_eq!(
        states,
        batches_of(
            "a1000 c0; a3000 b2000 c0; a6000 b5000 c3000; a10000 b9000 c3000; a15000 b9000 c3000; a15000 b9000 c3000"
        )
    );
}

/// The state is a count, and batches in a row without data.
#[test]
fn sta_04_keys_are_updated_even_without_a_batch() {
    let lists = words("a b; no-RDD; a c a; c; no-RDD; no-RDD");
    let states = run_with_gaps(lists, 6, |stream| {
        let counted = stream
            .map(|word| (word, 1))
            .update_state_by_key(|values: Vec<i64>, old| {
                let (count, idle) = old.unwrap_or((0, 0));
                let idle = if values.is_empty() { idle + 1 } else { 0 };
                (idle < 2).then(|| (summed(&values, Some(count)), idle))
            });
        counted.map_values(|(count, _idle)| count)
    });
    assert_eq!(states.unwrap(), batches_of("a1 b1; a1 b1; a3 c1; a3 c2; c2; "));
}

/// Departs in form only: what is checkpointed is a version of each operator's state, after every batch.
#[test]
fn sta_05_chained_states_are_both_in_the_checkpoint() {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of(all_words("a; a; a")), Output::sorted());
    let start = || {
        let run = harness.start(|context| {
            let counted = counts(input.stream(context).map(|word| (word, 1)));
            counts(counted.checkpoint(SECOND))
                .checkpoint(SECOND)
                .foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap()
    };
    let run = start();
    run.batches(1).unwrap();
    for operator in ["update-state-0", "update-state-1"] {
        let versions = std::fs::read_dir(harness.checkpoint().join("state").join(operator));
        assert_eq!(versions.unwrap().count(), 1, "{operator}");
    }
    run.kill();
    start().batches(2).unwrap();
    assert_eq!(output.batches(), batches_of("a1; a3; a6"));
}
