//! Section 13: windows, of two seconds every second unless stated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{SECOND, Text, all_words, batches_of, millis, run, run_with_gaps, seconds};
use crate::{DStream, Kind};

type Pairs = DStream<(Text, i64)>;
/// A reduction by key and window, given window and slide.
type Reduction = fn(Pairs, Duration, Duration) -> Pairs;

const PLAIN: Reduction = |pairs, window, slide| pairs.reduce_by_key_and_window(|a, b| a + b, window, slide);
const INVERSE: Reduction =
    |pairs, window, slide| pairs.reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, window, slide);
const FILTERED: Reduction = |pairs, window, slide| {
    pairs.reduce_by_key_and_window_with_filter(|a, b| a + b, |a, b| a - b, window, slide, |_key, value| *value != 0)
};

/// What an operator gives on a list of pairs per batch.
fn run_pairs<U: Clone + Ord + Send + 'static>(lists: &str, operator: impl Fn(Pairs) -> DStream<U>) -> Vec<Vec<U>> {
    let lists = batches_of::<i64>(lists);
    let batches = u32::try_from(lists.len()).unwrap();
    run_with_gaps(lists.into_iter().map(Some), batches, operator).unwrap()
}

const SINGLES: [&[i32]; 6] = [&[0], &[1], &[2], &[3], &[4], &[5]];

#[test]
fn win_01_a_window_of_two_batches() {
    let windows = run(&SINGLES, 6, |stream| stream.window(seconds(2), seconds(1)));
    assert_eq!(
        windows,
        [vec![0], vec![0, 1], vec![1, 2], vec![2, 3], vec![3, 4], vec![4, 5]]
    );
}

#[test]
fn win_02_a_window_every_two_batches() {
    let windows = run(&SINGLES, 6, |stream| stream.window(seconds(2), seconds(2)));
    assert_eq!(windows, [[0, 1], [2, 3], [4, 5]]);
}

/// Departs: there are no storage levels. A window keeps what came before it as state, so that its parent is computed once per
/// batch whether anything is persisted or not; on the window itself, persisting serves those who take the window twice.
#[test]
fn win_05_a_window_computes_its_parent_once() {
    type Persisted = fn(DStream<i32>) -> DStream<i32>;
    let cases: [(Persisted, u32); 2] = [(|window| window, 11), (DStream::persist, 11)];
    for (persisted, in_windows) in cases {
        let (before, behind) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        run(&SINGLES, 6, |stream| {
            let (before, behind) = (Arc::clone(&before), Arc::clone(&behind));
            let counted = stream.map(move |value| {
                before.fetch_add(1, Ordering::SeqCst);
                value
            });
            persisted(counted.window(seconds(2), seconds(1))).map(move |value| {
                behind.fetch_add(1, Ordering::SeqCst);
                value
            })
        });
        assert_eq!(before.load(Ordering::SeqCst), 6);
        assert_eq!(behind.load(Ordering::SeqCst), in_windows);
    }
    let taken = Arc::new(AtomicU32::new(0));
    run(&SINGLES, 6, |stream| {
        let taken = Arc::clone(&taken);
        let window = stream.window(seconds(2), seconds(1)).map(move |value| {
            taken.fetch_add(1, Ordering::SeqCst);
            value
        });
        let window = window.persist();
        window.clone().union(window)
    });
    assert_eq!(taken.load(Ordering::SeqCst), 11);
}

#[test]
fn win_06_values_of_a_key_in_one_batch() {
    for reduction in [PLAIN, INVERSE] {
        let windows = run_pairs("a1 a3", |pairs| reduction(pairs, seconds(2), seconds(1)));
        assert_eq!(windows, batches_of("a4"));
    }
}

#[test]
fn win_07_values_of_a_key_in_two_batches() {
    for reduction in [PLAIN, INVERSE] {
        for (lists, expected) in [("a1; a1", "a1; a2"), ("a1; a1 b1", "a1; a2 b1")] {
            let windows = run_pairs(lists, |pairs| reduction(pairs, seconds(2), seconds(1)));
            assert_eq!(windows, batches_of(expected));
        }
    }
}

#[test]
fn win_08_what_left_the_window_is_gone() {
    let windows = run_pairs("a1; a1; ; ", |pairs| PLAIN(pairs, seconds(2), seconds(1)));
    assert_eq!(windows, batches_of("a1; a2; a1; "));
}

#[test]
fn win_10_a_window_of_four_batches_every_two() {
    for reduction in [PLAIN, INVERSE] {
        let windows = run_pairs("a1; a2; a3; a4; a5; a6; ; ", |pairs| {
            reduction(pairs, seconds(4), seconds(2))
        });
        assert_eq!(windows, batches_of("a3; a10; a18; a11"));
    }
}

const BIG: &str = "a1; a1 b1; a1 b1 c1; a1 b1; a1; ; a1; a1 b1; a1 b1 c1; a1 b1; a1; ";
const BIG_REDUCED: &str = "a1; a2 b1; a2 b2 c1; a2 b2 c1; a2 b1; a1; a1; a2 b1; a2 b2 c1; a2 b2 c1; a2 b1; a1";

#[test]
fn win_11_keys_come_and_go() {
    for reduction in [PLAIN, FILTERED] {
        let windows = run_pairs(BIG, |pairs| reduction(pairs, seconds(2), seconds(1)));
        assert_eq!(windows, batches_of(BIG_REDUCED));
    }
}

#[test]
fn win_12_without_a_filter_keys_stay() {
    let windows = run_pairs(BIG, |pairs| INVERSE(pairs, seconds(2), seconds(1)));
    assert_eq!(
        windows,
        batches_of(
            "a1; a2 b1; a2 b2 c1; a2 b2 c1; a2 b1 c0; a1 b0 c0; a1 b0 c0; a2 b1 c0; a2 b2 c1; a2 b2 c1; a2 b1 c0; a1 b0 c0"
        )
    );
}

#[test]
fn win_13_all_values_of_a_key_in_a_window() {
    let windows = run_pairs(BIG, |pairs| pairs.group_by_key_and_window(seconds(2), seconds(1)));
    let ones = |sum: i64| vec![1; usize::try_from(sum).unwrap()];
    let expected: Vec<Vec<(Text, Vec<i64>)>> = batches_of(BIG_REDUCED)
        .into_iter()
        .map(|sums| sums.into_iter().map(|(key, sum)| (key, ones(sum))).collect())
        .collect();
    assert_eq!(windows, expected);
}

#[test]
fn win_14_count_by_window() {
    let lists: [&[i32]; 6] = [&[1], &[1], &[1, 2], &[0], &[], &[]];
    let counts = run(&lists, 6, |stream| stream.count_by_window(seconds(2), seconds(1)));
    assert_eq!(counts, [[1], [2], [3], [3], [1], [0]]);
}

#[test]
fn win_15_count_by_value_and_window() {
    let lists = all_words("a; b b; a b");
    let counts = run_with_gaps(lists.into_iter().map(Some), 3, |stream| {
        stream
            .count_by_value_and_window(seconds(2), seconds(1))
            .map(|(word, count)| (word, i64::try_from(count).unwrap()))
    });
    assert_eq!(counts.unwrap(), batches_of("a1; a1 b2; a1 b3"));
}

#[test]
fn win_16_nothing_is_counted_before_something_came() {
    let lists: [&[i32]; 4] = [&[], &[], &[7], &[]];
    let counts = run(&lists, 5, |stream| stream.count_by_window(seconds(2), seconds(1)));
    assert_eq!(counts, [vec![], vec![], vec![1], vec![1], vec![0]]);
}

#[test]
fn win_17_lengths_must_be_multiples_of_the_slide() {
    let window: Reduction = |pairs, window, slide| pairs.window(window, slide);
    for reduction in [window, PLAIN, INVERSE, FILTERED] {
        for (window, slide, what) in [(1500, 1000, "a window of 1500 ms"), (2000, 1500, "a slide of 1500 ms")] {
            let lists = [Some(Vec::new())];
            let refused = run_with_gaps(lists, 1, |pairs| reduction(pairs, millis(window), millis(slide)));
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
    // A window over a window with a slide of its own.
    let lists = [Some(vec![1])];
    let over = run_with_gaps(lists, 1, |stream| {
        let every_two = stream.window(SECOND * 2, SECOND * 2);
        every_two.window(SECOND * 3, SECOND * 2)
    });
    assert!(over.unwrap_err().to_string().contains("a window of 3000 ms"));
}
