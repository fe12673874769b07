//! Section 16: remembering and cleaning.

use super::{SECOND, seconds};
use crate::testing::{Harness, Input};
use crate::{Builder, DStream, StreamingContext};

/// Runs ten batches of a program, whose streams are looked at after them.
fn after_ten_batches<S>(
    settings: impl FnOnce(Builder) -> Builder,
    declare: impl FnOnce(&StreamingContext, DStream<i32>) -> S,
    look: impl FnOnce(S),
) {
    let harness = Harness::new(SECOND);
    let input = Input::of((0..10).map(|batch| [batch]));
    let mut streams = None;
    let run = harness.start_with(settings, |context| {
        streams = Some(declare(context, input.stream(context)));
        Ok(())
    });
    run.unwrap().batches(10).unwrap();
    look(streams.unwrap());
}

fn kept_times<T>(stream: &DStream<T>) -> Vec<i64> {
    stream.graph.remembered().of(&stream.stream).into_keys().collect()
}

#[test]
fn cln_01_a_stream_remembers_what_is_made_of_it() {
    let declare = |_: &StreamingContext, stream: DStream<i32>| {
        let mapped = stream.map(|value| value);
        let inner = mapped.clone().window(seconds(2), seconds(1));
        let outer = inner.clone().window(seconds(4), seconds(2));
        outer.clone().foreach_batch(|_values, _batch| ());
        [mapped, inner, outer]
    };
    after_ten_batches(
        |builder| builder.remember(seconds(3)),
        declare,
        |[mapped, inner, outer]| {
            for (stream, remembers, oldest) in [(&outer, 3000, 8000), (&inner, 7000, 4000), (&mapped, 9000, 2000)] {
                assert_eq!(stream.stream.remembers_ms(), remembers);
                let expected: Vec<i64> = (oldest..=10_000)
                    .step_by(usize::try_from(stream.stream.slide_ms).unwrap())
                    .collect();
                assert_eq!(kept_times(stream), expected);
            }
            assert_eq!(
                mapped.slice(2000, 3000).unwrap(),
                [(2000, vec![1]), (3000, vec![2])].into()
            );
            mapped.slice(1000, 3000).unwrap_err();
        },
    );
}

#[test]
fn cln_02_a_state_is_remembered_for_twice_its_checkpoint_interval() {
    let declare = |_: &StreamingContext, stream: DStream<i32>| {
        let states = stream
            .map(|value| (value, 1))
            .update_state_by_key(|values, old: Option<i32>| Some(values.len() as i32 + old.unwrap_or(0)))
            .checkpoint(seconds(3));
        states.clone().foreach_batch(|_values, _batch| ());
        states
    };
    after_ten_batches(
        |builder| builder,
        declare,
        |states| {
            assert_eq!(states.stream.remembers_ms(), 6000);
            assert_eq!(kept_times(&states), [5000, 6000, 7000, 8000, 9000, 10_000]);
        },
    );
}

#[test]
fn without_more_a_stream_remembers_its_newest_batch() {
    let declare = |_: &StreamingContext, stream: DStream<i32>| {
        stream.clone().foreach_batch(|_values, _batch| ());
        stream
    };
    after_ten_batches(
        |builder| builder,
        declare,
        |stream| assert_eq!(kept_times(&stream), [10_000]),
    );
}

#[test]
fn a_checkpoint_interval_is_a_multiple_of_the_slide() {
    let harness = Harness::new(SECOND);
    let input = Input::of([[1]]);
    let refused = harness.start(|context| {
        let stream = input.stream(context).checkpoint(SECOND * 3 / 2);
        stream.foreach_batch(|_values, _batch| ());
        Ok(())
    });
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("checkpoint interval of 1500 ms"), "{error}");
}
