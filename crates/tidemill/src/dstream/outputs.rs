//! Ends of streams: what is done with the values of each batch.

use std::sync::Arc;

use super::DStream;
use crate::callback::{Callback, Called};
use crate::outcome::IntoOutcome;
use crate::output::Declared;
use crate::task::{BatchContext, TaskContext};

/// The values of one slice, in the order of the partition.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let letters = Input::of([['a', 'b']]);
/// # let run = harness.start(|context| {
/// letters.stream(context).repartition(1).foreach_partition(|rows, _task| assert_eq!(rows.len(), 2));
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug)]
pub struct Rows<T>(std::vec::IntoIter<T>);

impl<T> Iterator for Rows<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> ExactSizeIterator for Rows<T> {}

impl<T: Send + 'static> DStream<T> {
    /// Calls `f` once per slice of every batch, with its values in the order of the partition. At least once: use
    /// [`TaskContext::unique_id`] to recognise a second run. `f` may return a `Result`; it may block. An error or a panic
    /// fails the batch: it is run again, three times at most, then the stream stops naming batch, range and text.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([["a", "b"]]);
    /// let (send, sent) = std::sync::mpsc::sync_channel(2);
    /// # let run = harness.start(|context| {
    /// words.stream(context).foreach_partition(move |words, task| {
    ///     // Store the id with the words, in one transaction: a second run of the slice is known by it.
    ///     send.send((task.unique_id(), words.collect::<Vec<_>>()))
    /// });
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// let (id, words) = sent.try_iter().min().unwrap_or_default();
    /// assert!(id.starts_with("harness/output-000/1/"));
    /// assert_eq!(words, ["a"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn foreach_partition<O: IntoOutcome>(self, f: impl Fn(Rows<T>, &TaskContext) -> O + Send + Sync + 'static) {
        let f = move |values: Vec<T>, task: &TaskContext| f(Rows(values.into_iter()), task).into_outcome();
        self.called(Callback::Slice(Arc::new(f)));
    }

    /// Calls `f` once per batch with the values of all slices, slice after slice. At least once, as
    /// [`foreach_partition`](Self::foreach_partition).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([["a", "b"]]);
    /// let (send, sent) = std::sync::mpsc::sync_channel(1);
    /// # let run = harness.start(|context| {
    /// words.stream(context).foreach_batch(move |words, batch| send.send((batch.batch_time_ms, words)));
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(sent.try_recv(), Ok((1_000, vec!["a", "b"])));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn foreach_batch<O: IntoOutcome>(self, f: impl Fn(Vec<T>, &BatchContext) -> O + Send + Sync + 'static) {
        let f = move |values: Vec<T>, batch: &BatchContext| f(values, batch).into_outcome();
        self.called(Callback::Batch(Arc::new(f)));
    }

    fn called(self, callback: Callback<T>) {
        let graph = Arc::clone(&self.graph);
        graph.output(|name| Declared {
            name,
            stream: Arc::clone(&self.stream),
            parts: Box::new(Called { stream: self, callback }),
        });
    }
}

impl<T: std::fmt::Debug + Send + 'static> DStream<T> {
    /// Prints the first `count` values of each batch to standard output, below a line with the batch time; "..." where there are
    /// more.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([["a", "b"]]);
    /// # let run = harness.start(|context| {
    /// // Time: 1000 ms
    /// // "a"
    /// // "b"
    /// words.stream(context).print(10);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn print(self, count: usize) {
        self.foreach_batch(move |values, batch| {
            let mut text = format!("Time: {} ms\n", batch.batch_time_ms);
            for value in values.iter().take(count) {
                text.push_str(&format!("{value:?}\n"));
            }
            if values.len() > count {
                text.push_str("...\n");
            }
            use std::io::Write;
            std::io::stdout().lock().write_all(text.as_bytes())
        });
    }
}
