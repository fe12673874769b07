//! A program that changes between two starts: what still fits goes on, the rest is refused before anything runs, with what to do.

use super::{Text, seconds};
use crate::testing::{Harness, Input, Output, Run};
use crate::{DStream, Kind, Result, State, StateSpec, StreamingContext};

fn counting(_key: &Text, value: Option<i64>, state: &mut State<i64>) -> i64 {
    let count = state.get().copied().unwrap_or(0) + value.unwrap_or(0);
    state.update(count);
    count
}

struct Changing {
    harness: Harness,
    input: Input<&'static str>,
    output: Output<(Text, i64)>,
}

impl Changing {
    fn new() -> Self {
        Self {
            harness: Harness::new(seconds(1)),
            input: Input::of(vec![vec!["a", "b"]; 9]),
            output: Output::sorted(),
        }
    }

    /// A version of the program: what it makes of pairs.
    fn version(&self, of: impl Fn(&StreamingContext, DStream<(Text, i64)>) -> DStream<(Text, i64)>) -> Result<Run<'_>> {
        self.version_with(&[], of)
    }

    fn version_with(
        &self,
        forget: &[&str],
        of: impl Fn(&StreamingContext, DStream<(Text, i64)>) -> DStream<(Text, i64)>,
    ) -> Result<Run<'_>> {
        let settings = |builder: crate::Builder| {
            forget
                .iter()
                .fold(builder, |builder, operator| builder.forget_state(*operator))
        };
        self.harness.start_with(settings, |context| {
            let pairs = self.input.stream(context).map(|word| (word.to_owned(), 1i64));
            of(context, pairs).foreach_batch(self.output.keep());
            Ok(())
        })
    }
}

fn counts(stream: DStream<(Text, i64)>, name: &str) -> DStream<(Text, i64)> {
    stream
        .map_with_state(StateSpec::function(counting))
        .named(name)
        .state_snapshots()
}

#[test]
fn a_program_goes_through_three_versions_with_its_state() {
    let changing = Changing::new();
    let run = changing.version(|_, pairs| counts(pairs, "counts")).unwrap();
    run.batches(2).unwrap();
    run.kill();
    // An operator is added before it.
    let second = |_: &StreamingContext, pairs: DStream<(Text, i64)>| {
        counts(
            pairs
                .reduce_by_key_and_window(|a, b| a + b, seconds(2), seconds(1))
                .named("two"),
            "counts",
        )
    };
    let run = changing.version(second).unwrap();
    run.batches(2).unwrap();
    run.kill();
    // It is taken away again, which its state has to be let go for.
    let refused = changing.version(|_, pairs| counts(pairs, "counts")).unwrap_err();
    assert_eq!(refused.kind(), Kind::Config);
    assert!(refused.to_string().contains(".forget_state(\"two\")"), "{refused}");
    let run = changing
        .version_with(&["two"], |_, pairs| counts(pairs, "counts"))
        .unwrap();
    run.batches(1).unwrap();
    let both = |count| vec![("a".to_owned(), count), ("b".to_owned(), count)];
    assert_eq!(changing.output.batches(), [both(1), both(2), both(3), both(5), both(6)]);
}

#[test]
fn a_state_of_another_kind_or_type_is_refused_and_left_as_it_is() {
    let changing = Changing::new();
    let run = changing.version(|_, pairs| counts(pairs, "counts")).unwrap();
    run.batches(1).unwrap();
    run.kill();
    let refused = changing
        .version(|_, pairs| {
            pairs
                .update_state_by_key(|values, old: Option<i64>| Some(values.len() as i64 + old.unwrap_or(0)))
                .named("counts")
        })
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Config);
    assert!(refused.to_string().contains("counts"), "{refused}");
    let run = changing.version(|_, pairs| counts(pairs, "counts")).unwrap();
    run.batches(1).unwrap();
    let both = |count| vec![("a".to_owned(), count), ("b".to_owned(), count)];
    assert_eq!(changing.output.batches(), [both(1), both(2)]);
}
