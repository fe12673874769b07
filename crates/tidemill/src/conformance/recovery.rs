//! Section 17: checkpoint and recovery.

use std::time::Duration;

use super::Text;
use crate::testing::{Harness, Input, Output};

const HALF: Duration = Duration::from_millis(500);

#[test]
fn ckp_08_a_state_goes_on_after_a_kill() {
    let harness = Harness::new(HALF);
    let input = Input::of(vec![vec!["a"]; 10]);
    let output: Output<(Text, i64)> = Output::sorted();
    let start = || {
        harness.start(|context| {
            input
                .stream(context)
                .map(|word| (word.to_owned(), 1i64))
                .update_state_by_key(|values, old: Option<i64>| Some(values.iter().sum::<i64>() + old.unwrap_or(0)))
                .foreach_batch(output.keep());
            Ok(())
        })
    };
    let run = start().unwrap();
    run.batches(7).unwrap();
    run.kill();
    start().unwrap().batches(3).unwrap();
    let expected: Vec<_> = (1..=10).map(|count| vec![("a".to_owned(), count)]).collect();
    assert_eq!(output.batches(), expected);
}

#[test]
fn time_passed_while_nothing_ran_is_made_up_for() {
    let harness = Harness::new(HALF);
    let input = Input::of([vec![1], vec![2], vec![3], vec![4]]);
    let output = Output::sorted();
    let start = || {
        harness.start(|context| {
            input
                .stream(context)
                .window(HALF * 2, HALF)
                .foreach_batch(output.keep());
            Ok(())
        })
    };
    let run = start().unwrap();
    run.batches(2).unwrap();
    run.kill();
    harness.pass(HALF * 3);
    start().unwrap().batches(1).unwrap();
    let times: Vec<i64> = output.all().into_keys().collect();
    assert_eq!(times, [500, 1000, 1500, 2000, 2500, 3000]);
    assert_eq!(
        output.batches(),
        [vec![1], vec![1, 2], vec![2, 3, 4], vec![3, 4], vec![], vec![]]
    );
}
