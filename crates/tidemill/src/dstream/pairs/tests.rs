use std::time::Duration;

use tidemill_engine::error::Kind;

use super::*;
use crate::StateSpec;
use crate::testing::{Harness, Input, Output};

const SECOND: Duration = Duration::from_secs(1);

type Numbers = DStream<(u8, u64)>;

/// What an operator gives in one batch of the keys 0 to 9, slice by slice.
fn slices_of<U: Clone + Send + 'static>(operator: impl Fn(Numbers) -> DStream<U>) -> Vec<Vec<U>> {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of([(0..10).map(|key| (key, 1))]), Output::default());
    let run = harness.start(|context| {
        operator(input.stream(context)).glom().foreach_batch(output.keep());
        Ok(())
    });
    run.unwrap().batches(1).unwrap();
    output.at(1_000)
}

fn lengths<U: Clone + Send + 'static>(operator: impl Fn(Numbers) -> DStream<U>) -> Vec<usize> {
    slices_of(operator).iter().map(Vec::len).collect()
}

fn counted(numbers: Numbers) -> DStream<(u8, u64)> {
    numbers.update_state_by_key(|values, old: Option<u64>| Some(values.iter().sum::<u64>() + old.unwrap_or(0)))
}

#[test]
fn each_operator_by_key_has_the_slices_it_is_given() {
    let long = 2 * SECOND;
    let spec = || StateSpec::function(|key: &u8, _value: Option<u64>, _state: &mut crate::State<u64>| *key);
    let of_each = [
        lengths(|numbers| numbers.reduce_by_key(|a, b| a + b).with_slices(3)),
        lengths(|numbers| numbers.group_by_key().with_slices(3)),
        lengths(|numbers| numbers.combine_by_key(|a| a, |a, b| a + b, |a, b| a + b).with_slices(3)),
        lengths(|numbers| numbers.clone().cogroup(numbers).with_slices(3)),
        lengths(|numbers| numbers.clone().join(numbers).with_slices(3)),
        lengths(|numbers| numbers.clone().left_outer_join(numbers).with_slices(3)),
        lengths(|numbers| numbers.clone().right_outer_join(numbers).with_slices(3)),
        lengths(|numbers| numbers.clone().full_outer_join(numbers).with_slices(3)),
        lengths(|numbers| counted(numbers).with_slices(3)),
        lengths(|numbers| numbers.map_with_state(spec()).with_slices(3).mapped()),
        lengths(|numbers| {
            numbers
                .reduce_by_key_and_window(|a, b| a + b, long, SECOND)
                .with_slices(3)
        }),
        lengths(|numbers| numbers.group_by_key_and_window(long, SECOND).with_slices(3)),
        lengths(|numbers| {
            let windows = numbers.reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, long, SECOND);
            windows.with_slices(3)
        }),
        lengths(|numbers| numbers.map(|(key, _one)| key).count_by_value().with_slices(3)),
    ];
    for lengths in &of_each {
        assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (3, 10));
        assert_eq!(lengths, &of_each[0], "every operator deals by the same hash");
    }
}

#[test]
fn a_partitioner_says_which_slice_has_a_key() {
    let halves = |key: &u8, _slices: usize| usize::from(*key >= 5);
    let reduced = slices_of(move |numbers| {
        numbers
            .reduce_by_key(|a, b| a + b)
            .with_slices(2)
            .with_partitioner(halves)
    });
    let keys = |slices: Vec<Vec<(u8, u64)>>| -> Vec<Vec<u8>> {
        let sorted = |slice: Vec<(u8, u64)>| {
            let mut keys: Vec<u8> = slice.into_iter().map(|(key, _)| key).collect();
            keys.sort_unstable();
            keys
        };
        slices.into_iter().map(sorted).collect()
    };
    assert_eq!(keys(reduced), [(0..5).collect::<Vec<_>>(), (5..10).collect()]);
    let joined = slices_of(move |numbers| {
        let joined = numbers.clone().join(numbers).with_partitioner(halves).with_slices(2);
        joined.map_values(|(one, other)| one + other)
    });
    assert_eq!(keys(joined), [(0..5).collect::<Vec<_>>(), (5..10).collect()]);
}

#[test]
fn a_slice_that_is_not_there_fails_the_batch() {
    let harness = Harness::new(SECOND);
    let input = Input::of([[(7u8, 1u64)]]);
    let run = harness.start(|context| {
        let reduced = input.stream(context).reduce_by_key(|a, b| a + b);
        let dealt = reduced
            .with_slices(2)
            .with_partitioner(|key, _slices| usize::from(*key));
        dealt.print(1);
        Ok(())
    });
    let error = run.unwrap().batches(1).unwrap_err();
    assert_eq!(error.kind(), Kind::UserCode);
    assert!(error.chain().contains("slice 7, but there are 2"), "{}", error.chain());
}

#[test]
fn slices_where_no_keys_come_together_are_refused() {
    let harness = Harness::new(SECOND);
    let error = harness.start(|context| {
        let numbers = Input::of([[(7u8, 1u64)]]).stream(context);
        let by = |key: &u8, slices: usize| usize::from(*key) % slices;
        let reduced = || numbers.clone().reduce_by_key(|a, b| a + b);
        let declared = [
            reduced().filter(|_pair| true).with_slices(3),
            numbers.clone().with_partitioner(by),
            numbers.clone().window(SECOND, SECOND).with_slices(5),
            reduced().with_slices(0),
            reduced().with_slices(65),
            counted(numbers.clone()).with_partitioner(by),
        ];
        context.union(declared).print(1);
        Ok(())
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.chain();
    for problem in [
        "with_slices(3): stream-2 brings no keys together",
        "with_partitioner: stream-0 brings no keys together",
        "with_slices(5): window-0 brings no keys together",
        "with_slices(0): must be 1 to 64",
        "with_slices(65): must be 1 to 64",
        "with_partitioner: update-state-0 keeps a state",
    ] {
        assert!(text.contains(problem), "no {problem:?} in: {text}");
    }
}

#[test]
fn state_is_found_again_in_other_slices() {
    let harness = Harness::new(SECOND);
    let (input, output) = (
        Input::of(vec![(0..100).map(|key| (key, 1)).collect::<Vec<_>>(); 3]),
        Output::sorted(),
    );
    for slices in [3, 64, 5] {
        let run = harness.start(|context| {
            counted(input.stream(context))
                .with_slices(slices)
                .foreach_batch(output.keep());
            Ok(())
        });
        let run = run.unwrap();
        run.batches(1).unwrap();
        run.kill();
    }
    let expected = |count: u64| (0..100).map(|key| (key, count)).collect::<Vec<_>>();
    assert_eq!(output.batches(), [expected(1), expected(2), expected(3)]);
}
