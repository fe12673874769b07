//! Section 12: stateless operators.

use super::{Text, run};

#[test]
fn op_05_reduce() {
    let sums = run(&[&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 10, 11, 12]], 3, |stream| {
        stream.reduce(|a, b| a + b)
    });
    assert_eq!(sums, [[10], [26], [42]]);
}

#[test]
fn op_06_count() {
    let counts = run(&[&[], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]], 5, |stream| {
        stream.count()
    });
    assert_eq!(counts, [[0], [1], [2], [3], [4]]);
}

#[test]
fn op_04_values_of_a_key_come_together() {
    let lists: &[&[&str]] = &[&["a", "a", "b"], &["", ""], &[]];
    let keyed = |word: &str| (word.to_owned(), 1);
    let reduced = run(lists, 3, |stream| stream.map(keyed).reduce_by_key(|a, b| a + b));
    let one = |word: &str, count: i32| (Text::from(word), count);
    assert_eq!(reduced, [vec![one("a", 2), one("b", 1)], vec![one("", 2)], vec![]]);
}
