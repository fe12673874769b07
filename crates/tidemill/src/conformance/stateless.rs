//! Section 12: stateless operators. The rows that read files are in [`files`](super::files).

use std::fmt::Display;

use super::{SECOND, Text, all_words, batches_of, run, run_words, seconds, words};
use crate::testing::{Harness, Input, Output};
use crate::{Batch, DStream, Queue, StreamingContext};

const NUMBERS: [&[i32]; 3] = [&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 10, 11, 12]];

#[test]
fn op_01_glom() {
    let slices = run(&NUMBERS, 3, DStream::glom);
    assert_eq!(
        slices,
        [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]].map(|batch| batch.map(Vec::from))
    );
}

#[test]
fn op_02_map_partitions() {
    let sums = run(&NUMBERS, 3, |stream| {
        stream.map_partitions(|values| [values.sum::<i32>()])
    });
    assert_eq!(sums, [[3, 7], [11, 15], [19, 23]]);
}

#[test]
fn op_03_repartition() {
    for (before, after) in [(2, 5), (5, 2)] {
        let harness = Harness::new(SECOND);
        let hundreds = [1..=100, 101..=200, 201..=300];
        let input = Input::cut(hundreds.clone().map(Some), before);
        let output = Output::default();
        let run = harness.start(|context| {
            let repartitioned = input.stream(context).repartition(after);
            repartitioned.glom().foreach_batch(output.keep());
            Ok(())
        });
        run.unwrap().batches(3).unwrap();
        for (slices, hundred) in output.batches().into_iter().zip(hundreds) {
            let lengths: Vec<usize> = slices.iter().map(Vec::len).collect();
            assert_eq!(lengths, vec![100 / after; after]);
            let mut values = slices.concat();
            values.sort_unstable();
            assert_eq!(values, hundred.collect::<Vec<i32>>());
        }
        assert_eq!(output.batches().len(), 3);
    }
}

#[test]
fn op_04_values_of_a_key_come_together() {
    let lists = "a a b; _ _; ";
    let grouped = run_words(lists, DStream::group_by_key);
    let group = |word: &str, values: &[i64]| (Text::from(word), values.to_vec());
    assert_eq!(
        grouped,
        [
            vec![group("a", &[1, 1]), group("b", &[1])],
            vec![group("", &[1, 1])],
            vec![]
        ]
    );
    let reduced = run_words(lists, |stream| stream.reduce_by_key(|a, b| a + b));
    assert_eq!(reduced, batches_of("a2 b1; _2; "));
}

#[test]
fn op_05_reduce() {
    let sums = run(&NUMBERS, 3, |stream| stream.reduce(|a, b| a + b));
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
fn op_07_count_by_value() {
    let lists: [&[i32]; 4] = [&[1], &[1, 1, 1], &[1, 2], &[1, 1, 2, 2]];
    let counts = run(&lists, 4, DStream::count_by_value);
    assert_eq!(
        counts,
        [vec![(1, 1)], vec![(1, 3)], vec![(1, 1), (2, 1)], vec![(1, 2), (2, 2)]]
    );
}

#[test]
fn op_08_union() {
    let lists: [&[i32]; 3] = [&[1, 2, 3, 4], &[101, 102, 103, 104], &[201, 202, 203, 204]];
    let runs_of = |length: i32| [1, 101, 201].map(|first| (first..first + length).collect::<Vec<_>>());
    let with_itself = run(&lists, 3, |stream| stream.clone().union(stream.map(|value| value + 4)));
    assert_eq!(with_itself, runs_of(8));
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of(lists.map(<[i32]>::to_vec)), Output::sorted());
    let run = harness.start(|context| {
        let stream = input.stream(context);
        let four = stream.clone().map(|value| value + 4);
        let eight = stream.clone().map(|value| value + 8);
        context.union([stream, four, eight]).foreach_batch(output.keep());
        Ok(())
    });
    run.unwrap().batches(3).unwrap();
    assert_eq!(output.batches(), runs_of(12));
}

/// How a stream is made of one that has no batch, or of one that gives an error instead of null.
type Faulty = fn(&StreamingContext, DStream<i32>) -> DStream<i32>;

#[test]
fn op_09_a_batch_that_is_not_there_is_an_error() {
    let cases: [(&str, Option<Vec<i32>>, Faulty, &str); 5] = [
        (
            "union",
            None,
            |_, stream| stream.clone().union(stream),
            "has no batch at this time",
        ),
        (
            "transform",
            None,
            |_, stream| stream.transform(|batch| batch),
            "has no batch at this time",
        ),
        (
            "transform_with",
            None,
            |_, stream| stream.clone().transform_with(stream, |batch, _: Batch<i32>| batch),
            "has no batch at this time",
        ),
        (
            "context.transform",
            None,
            |context, stream| context.transform([stream], |batches| batches[0].clone()),
            "has no batch at this time",
        ),
        (
            "transform to nothing",
            Some(vec![1]),
            |_, stream| stream.transform(|_| Err::<Batch<i32>, _>("nothing")),
            "nothing",
        ),
    ];
    for (name, list, faulty, text) in cases {
        let harness = Harness::new(SECOND);
        let (input, output) = (Input::with_gaps([list]), Output::default());
        let run = harness.start(|context| {
            faulty(context, input.stream(context)).foreach_batch(output.keep());
            Ok(())
        });
        let run = run.unwrap();
        run.batches(1).unwrap_err();
        let error = run.context().await_termination().unwrap_err();
        assert!(error.to_string().contains(text), "{name}: {error}");
        assert!(output.batches().is_empty(), "{name}");
    }
}

/// What an operator gives on two streams of words, those of the first with 1, those of the second with x.
fn beside<U: Clone + Ord + Send + 'static>(
    left: &str,
    right: &str,
    operator: impl Fn(DStream<(Text, i64)>, DStream<(Text, Text)>) -> DStream<U>,
) -> Vec<Vec<U>> {
    let harness = Harness::new(SECOND);
    let (left, right, output) = (
        Input::with_gaps(words(left)),
        Input::with_gaps(words(right)),
        Output::sorted(),
    );
    let run = harness.start(|context| {
        let left = left.stream(context).map(|word| (word, 1));
        let right = right.stream(context).map(|word| (word, "x".to_owned()));
        operator(left, right).foreach_batch(output.keep());
        Ok(())
    });
    run.unwrap().batches(4).unwrap();
    output.batches()
}

const LEFT: &str = "a b; a _; _; ";
const RIGHT: &str = "a b; b _; ; _";

/// A key and both sides in the way of the page; `–` is none.
fn row(key: &str, left: Option<impl Display>, right: Option<impl Display>) -> Text {
    let side = |side: Option<Text>| side.filter(|side| !side.is_empty()).unwrap_or("–".to_owned());
    let left = side(left.map(|left| left.to_string()));
    let right = side(right.map(|right| right.to_string()));
    format!("{}:{left}/{right}", if key.is_empty() { "_" } else { key })
}

#[test]
fn op_10_join() {
    let rows = beside(LEFT, RIGHT, |left, right| {
        left.join(right)
            .map(|(key, (left, right))| row(&key, Some(left), Some(right)))
    });
    assert_eq!(rows, all_words("a:1/x b:1/x; _:1/x; ; "));
}

#[test]
fn op_11_left_outer_join() {
    let rows = beside(LEFT, RIGHT, |left, right| {
        left.left_outer_join(right)
            .map(|(key, (left, right))| row(&key, Some(left), right))
    });
    assert_eq!(rows, all_words("a:1/x b:1/x; _:1/x a:1/–; _:1/–; "));
}

#[test]
fn op_12_right_outer_join() {
    let rows = beside(LEFT, RIGHT, |left, right| {
        left.right_outer_join(right)
            .map(|(key, (left, right))| row(&key, left, Some(right)))
    });
    assert_eq!(rows, all_words("a:1/x b:1/x; _:1/x b:–/x; ; _:–/x"));
}

#[test]
fn op_13_full_outer_join() {
    let rows = beside(LEFT, RIGHT, |left, right| {
        left.full_outer_join(right)
            .map(|(key, (left, right))| row(&key, left, right))
    });
    assert_eq!(rows, all_words("a:1/x b:1/x; _:1/x a:1/– b:–/x; _:1/–; _:–/x"));
}

#[test]
fn op_14_cogroup() {
    let rows = beside("a a b; a _; _; ", "a a b; b _; ; ", |left, right| {
        left.cogroup(right).map(|(key, (left, right))| {
            let left: Text = left.iter().map(i64::to_string).collect();
            row(&key, Some(left), Some(right.concat()))
        })
    });
    assert_eq!(rows, all_words("a:11/xx b:1/x; _:1/x a:1/– b:–/x; _:1/–; "));
}

#[test]
fn op_15_slice() {
    let harness = Harness::new(SECOND);
    let input = Input::of([[1], [2], [3], [4], [5]]);
    let (mut stream, mut summed) = (None, None);
    let settings = |builder: crate::Builder| builder.remember(seconds(4));
    let run = harness.start_with(settings, |context| {
        let plain = input.stream(context);
        let error = plain.slice(0, 1000).unwrap_err();
        assert!(error.to_string().contains("not initialised"), "{error}");
        let sums = plain.clone().reduce_by_window(|a, b| a + b, seconds(2), seconds(1));
        sums.clone().foreach_batch(|_sums, _batch| ());
        (stream, summed) = (Some(plain), Some(sums));
        Ok(())
    });
    let (run, stream, summed) = (run.unwrap(), stream.unwrap(), summed.unwrap());
    run.batches(4).unwrap();
    let values = |from_ms, to_ms| {
        let slice = stream.slice(from_ms, to_ms)?;
        Ok::<Vec<i32>, crate::Error>(slice.into_values().flatten().collect())
    };
    for (from_ms, to_ms, expected) in [
        (0, 1000, vec![1]),
        (0, 2000, vec![1, 2]),
        (1000, 2000, vec![1, 2]),
        (2000, 4000, vec![2, 3, 4]),
        // Ends that are no batch times are taken back to one.
        (1500, 2999, vec![1, 2]),
        (2000, 1000, vec![]),
    ] {
        assert_eq!(values(from_ms, to_ms).unwrap(), expected, "{from_ms}–{to_ms}");
    }
    let refused = |refused: crate::Result<Vec<i32>>| refused.unwrap_err().to_string();
    assert!(refused(values(4000, 5000)).contains("5000 has not come yet"));
    // The window looks back at two batches of it more than the four that all streams remember.
    run.batches(3).unwrap();
    assert_eq!(values(2000, 3000).unwrap(), [2, 3]);
    assert!(refused(values(1000, 2000)).contains("1000 is forgotten"));
    let error = summed.slice(6000, 7000).unwrap_err();
    assert!(error.to_string().contains("state of window-0"), "{error}");
}

#[test]
fn what_was_a_queue_is_not_sliced() {
    let harness = Harness::new(SECOND);
    let queue = Queue::default();
    queue.push([1]);
    let mut stream = None;
    let run = harness.start(|context| {
        let plain = context.queue_stream(&queue);
        plain.clone().foreach_batch(|_values, _batch| ());
        stream = Some(plain);
        Ok(())
    });
    run.unwrap().batches(1).unwrap();
    let error = stream.unwrap().slice(1000, 1000).unwrap_err();
    assert!(error.to_string().contains("made of a queue"), "{error}");
}

#[test]
fn op_16_queued_sets_come_one_by_one_or_all_at_once() {
    let cases = [
        (Queue::default(), vec![vec![1], vec![2], vec![3], vec![4], vec![5]]),
        (Queue::all_at_once(), vec![vec![1, 2, 3], vec![4, 5]]),
    ];
    for (queue, expected) in cases {
        let harness = Harness::new(SECOND);
        let output = Output::default();
        let run = harness.start(|context| {
            context.queue_stream(&queue).foreach_batch(output.keep());
            Ok(())
        });
        let run = run.unwrap();
        (1..=3).for_each(|value| queue.push([value]));
        run.batches(1).unwrap();
        (4..=5).for_each(|value| queue.push([value]));
        run.batches(u32::try_from(expected.len()).unwrap() - 1).unwrap();
        assert_eq!(output.batches(), expected);
    }
}

/// Two queues stand for the receivers, which there are none of: a stream is numbered when it is made, whatever it reads.
#[test]
fn op_19_streams_are_numbered_as_they_are_made() {
    let harness = Harness::new(SECOND);
    let input = Input::of([[1]]);
    let mut ids = Vec::new();
    let run = harness.start(|context| {
        let queues = [Queue::default(), Queue::default()].map(|queue| context.queue_stream(&queue));
        let inputs = [(); 3].map(|()| input.stream(context));
        ids = queues.iter().chain(&inputs).map(|stream| stream.stream.id).collect();
        context
            .union(queues)
            .union(context.union(inputs))
            .foreach_batch(|_values, _batch| ());
        Ok(())
    });
    run.unwrap();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
}
