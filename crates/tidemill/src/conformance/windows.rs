//! Section 13: windows.

use super::{batches_of, run, seconds};

#[test]
fn win_01_a_window_of_two_batches() {
    let lists: &[&[i32]] = &[&[0], &[1], &[2], &[3], &[4], &[5]];
    let windows = run(lists, 6, |stream| stream.window(seconds(2), seconds(1)));
    assert_eq!(
        windows,
        [vec![0], vec![0, 1], vec![1, 2], vec![2, 3], vec![3, 4], vec![4, 5]]
    );
}

#[test]
fn win_02_a_window_every_two_batches() {
    let lists: &[&[i32]] = &[&[0], &[1], &[2], &[3], &[4], &[5]];
    let windows = run(lists, 6, |stream| stream.window(seconds(2), seconds(2)));
    assert_eq!(windows, [[0, 1], [2, 3], [4, 5]]);
}

const BIG: &str = "a1; a1 b1; a1 b1 c1; a1 b1; a1; ; a1; a1 b1; a1 b1 c1; a1 b1; a1; ";

#[test]
fn win_12_without_a_filter_keys_stay() {
    let lists = batches_of::<i64>(BIG);
    let lists: Vec<&[_]> = lists.iter().map(Vec::as_slice).collect();
    let windows = run(&lists, 12, |stream| {
        stream.reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, seconds(2), seconds(1))
    });
    assert_eq!(
        windows,
        batches_of::<i64>(
            "a1; a2 b1; a2 b2 c1; a2 b2 c1; a2 b1 c0; a1 b0 c0; a1 b0 c0; a2 b1 c0; a2 b2 c1; a2 b2 c1; a2 b1 c0; a1 b0 c0"
        )
    );
}
