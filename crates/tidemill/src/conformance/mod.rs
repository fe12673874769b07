//! Spark Streaming's own cases, row by row of the conformance page: each test is named by its row's id.
//!
//! Default: batches of 1 s on a manual clock from 0, the i-th list is the data of batch i, two slices, values of a batch compared as
//! a set. Where Tidemill departs on purpose the test says so and states our value.

mod change_of_program;
mod files;
#[cfg(feature = "fault-injection")]
mod killed;
mod lifecycle;
mod listeners;
mod map_with_state;
mod recovery;
mod remembering;
mod stateless;
mod time;
mod update_state;
mod upgrade;
mod windows;

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tidemill_engine::checkpoint::{Checkpoint, Contents};
use tidemill_engine::store::LocalStore;

use crate::testing::{Harness, Input, Output};
use crate::{DStream, Result};

const SECOND: Duration = Duration::from_secs(1);

/// A text as the key of a pair.
type Text = String;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What an operator gives for each of `batches` batches, sorted, on lists of which `None` is no batch at all.
fn run_with_gaps<T, U>(
    lists: impl IntoIterator<Item = Option<Vec<T>>>,
    batches: u32,
    operator: impl Fn(DStream<T>) -> DStream<U>,
) -> Result<Vec<Vec<U>>>
where
    T: Clone + Send + Sync + 'static,
    U: Clone + Ord + Send + 'static,
{
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::with_gaps(lists), Output::sorted());
    let run = harness.start(|context| {
        operator(input.stream(context)).foreach_batch(output.keep());
        Ok(())
    })?;
    run.batches(batches)?;
    Ok(output.batches())
}

/// The same on lists that are all there.
fn run<T, U>(lists: &[&[T]], batches: u32, operator: impl Fn(DStream<T>) -> DStream<U>) -> Vec<Vec<U>>
where
    T: Clone + Send + Sync + 'static,
    U: Clone + Ord + Send + 'static,
{
    run_with_gaps(lists.iter().map(|list| Some(list.to_vec())), batches, operator).unwrap()
}

/// Texts with a number each: `"a2 b1"` is a with 2 and b with 1; an empty text is written `_`.
fn pairs<N: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<(Text, N)> {
    text.split_whitespace()
        .map(|pair| {
            let at = pair
                .find(|letter: char| letter.is_ascii_digit() || letter == '-')
                .unwrap();
            (pair[..at].replace('_', ""), pair[at..].parse().unwrap())
        })
        .collect()
}

/// A list of pairs per batch, batches separated by `;`.
fn batches_of<N: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<Vec<(Text, N)>> {
    text.split(';').map(pairs).collect()
}

/// A list of words per batch, batches separated by `;`; an empty word is written `_`, a batch that is not there at all `no-RDD`.
fn words(text: &str) -> Vec<Option<Vec<Text>>> {
    let word = |word: &str| if word == "_" { Text::new() } else { word.to_owned() };
    let batch = |batch: &str| {
        let is_there = batch.trim() != "no-RDD";
        is_there.then(|| batch.split_whitespace().map(word).collect())
    };
    text.split(';').map(batch).collect()
}

/// The same where all batches are there.
fn all_words(text: &str) -> Vec<Vec<Text>> {
    words(text).into_iter().map(Option::unwrap).collect()
}

/// What an operator gives for each list of [`words`], each word with 1.
fn run_words<U: Clone + Ord + Send + 'static>(
    text: &str,
    operator: impl Fn(DStream<(Text, i64)>) -> DStream<U>,
) -> Vec<Vec<U>> {
    let lists = words(text);
    let batches = u32::try_from(lists.len()).unwrap();
    run_with_gaps(lists, batches, |stream| operator(stream.map(|word| (word, 1)))).unwrap()
}

/// What an output's call ends with that tells of itself: its batch is not committed, and the program can be killed in it. A later
/// attempt has nothing new to tell.
fn to_be_killed_here(reached: &SyncSender<()>) -> std::io::Result<()> {
    let _told = reached.try_send(());
    Err(std::io::Error::other("to be killed here"))
}

/// Runs something asynchronous to its end.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn checkpoint_of(harness: &Harness) -> Checkpoint {
    Checkpoint::new(Arc::new(LocalStore::new(harness.checkpoint())))
}

fn contents_of(harness: &Harness) -> Contents {
    wait_for(checkpoint_of(harness).read()).unwrap()
}
