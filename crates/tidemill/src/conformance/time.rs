//! Section 6: time and timer.

use super::{contents_of, millis};
use crate::testing::{Harness, Input, Output};
use crate::time::{floor, is_multiple, through, until};

fn times_of(output: &Output<i32>) -> Vec<i64> {
    output.all().into_keys().collect()
}

/// Departs: a stop ends the wait at once and no tick comes after it, since what came until then is read at the next start. As there, no
/// tick is lost or merged.
#[test]
fn time_02_a_stop_loses_no_tick() {
    let harness = Harness::new(millis(100));
    let (input, output) = (Input::of(Vec::<Vec<i32>>::new()), Output::default());
    let start = || {
        let run = harness.start(|context| {
            input.stream(context).foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap()
    };
    assert_eq!(start().stop().unwrap().batches, 0);
    harness.pass(millis(200));
    assert_eq!(times_of(&output), [0; 0]);
    let run = start();
    assert_eq!(times_of(&output), [100, 200]);
    harness.pass(millis(250));
    run.batches(1).unwrap();
    assert_eq!(times_of(&output), [100, 200, 300, 400, 500]);
}

#[test]
fn time_03_times_are_floored_from_zero_time() {
    for (time_ms, step_ms, zero_ms, floored) in [
        (1350, 200, 0, 1200),
        (199, 200, 0, 0),
        (1350, 200, 50, 1250),
        (1350, 200, 150, 1350),
        (1350, 200, 200, 1200),
    ] {
        assert_eq!(
            floor(time_ms, step_ms, zero_ms),
            floored,
            "{time_ms}, {step_ms}, {zero_ms}"
        );
    }
}

#[test]
fn time_04_times_in_steps() {
    let before = |from, end, step| until(from, end, step).collect::<Vec<_>>();
    assert_eq!(before(1000, 1100, 100), [1000]);
    assert_eq!(before(1000, 1000, 100), [0; 0]);
    assert_eq!(before(1000, 1100, 30), [1000, 1030, 1060, 1090]);
    assert_eq!(through(1000, 1100, 100).collect::<Vec<_>>(), [1000, 1100]);
}

/// Lengths of time are those of the standard library, which divide.
#[test]
fn time_05_multiples() {
    for (of_ms, expected) in [(5, true), (1, true), (1000, true), (6, false)] {
        assert_eq!(is_multiple(1000, of_ms), expected, "{of_ms}");
    }
    assert_eq!(millis(1000).div_duration_f64(millis(2000)), 0.5);
}

#[test]
fn time_06_the_first_tick_comes_strictly_after_the_start() {
    for (now, first, zero) in [(1234, 1500, 1000), (1500, 2000, 1500)] {
        let harness = Harness::new(millis(500));
        harness.pass(millis(now));
        let (input, output) = (Input::of(Vec::<Vec<i32>>::new()), Output::default());
        let run = harness.start(|context| {
            input.stream(context).foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap().batches(1).unwrap();
        assert_eq!(times_of(&output), [first]);
        assert_eq!(contents_of(&harness).last_plan.unwrap().plan.zero_ms, Some(zero));
    }
}
