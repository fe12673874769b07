//! A stream of typed values: a chain of closures over the records of each slice.

use std::sync::{Arc, Mutex, PoisonError};

use crate::callback::Callback;
use crate::outcome::IntoOutcome;
use crate::record::Record;
use crate::task::{BatchContext, TaskContext};

/// One record in, any number of values out. A chain is one such closure: no collection lies between its stages.
pub(crate) type Stage<T> = Arc<dyn Fn(Record, &mut dyn FnMut(T)) + Send + Sync>;

/// An output that a program declared.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) callback: Arc<dyn Callback>,
}

/// Outputs in construction order. A leaf lock, held for a push.
pub(crate) type Outputs = Arc<Mutex<Vec<Declared>>>;

/// A stream of values of one type. Operators take it by value, as the model's do; clone it to use it twice.
pub struct DStream<T> {
    source: String,
    stage: Stage<T>,
    outputs: Outputs,
}

impl<T> Clone for DStream<T> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            stage: Arc::clone(&self.stage),
            outputs: Arc::clone(&self.outputs),
        }
    }
}

impl<T> std::fmt::Debug for DStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DStream")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The values of one slice, in the order of the partition.
#[derive(Debug)]
pub struct Rows<T>(std::vec::IntoIter<T>);

impl<T> Rows<T> {
    pub(crate) fn new(rows: Vec<T>) -> Self {
        Self(rows.into_iter())
    }
}

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

impl DStream<Record> {
    pub(crate) fn of_source(source: String, outputs: Outputs) -> Self {
        Self {
            source,
            stage: Arc::new(|record, out| out(record)),
            outputs,
        }
    }
}

impl<T: Send + 'static> DStream<T> {
    fn chained<U>(self, stage: Stage<U>) -> DStream<U> {
        DStream {
            source: self.source,
            stage,
            outputs: self.outputs,
        }
    }

    /// One value for each value.
    #[must_use]
    pub fn map<U>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> DStream<U> {
        let before = Arc::clone(&self.stage);
        self.chained(Arc::new(move |record, out| before(record, &mut |value| out(f(value)))))
    }

    /// The values for which `keep` is true.
    #[must_use]
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let before = Arc::clone(&self.stage);
        self.chained(Arc::new(move |record, out| {
            before(record, &mut |value| {
                if keep(&value) {
                    out(value);
                }
            });
        }))
    }

    /// Any number of values for each value; an `Option` or a `Vec` will do.
    #[must_use]
    pub fn flat_map<U, I: IntoIterator<Item = U>>(self, f: impl Fn(T) -> I + Send + Sync + 'static) -> DStream<U> {
        let before = Arc::clone(&self.stage);
        self.chained(Arc::new(move |record, out| {
            before(record, &mut |value| f(value).into_iter().for_each(&mut *out));
        }))
    }

    /// Calls `f` once per slice of every batch, with its values in the order of the partition. At least once: use
    /// [`TaskContext::unique_id`] to recognise a second run. `f` may return a `Result`; it may block. An error or a panic
    /// fails the batch: it is run again, three times at most, then the stream stops naming batch, range and text.
    pub fn foreach_partition<O: IntoOutcome>(self, f: impl Fn(Rows<T>, &TaskContext) -> O + Send + Sync + 'static) {
        let f = move |rows: Vec<T>, task: &TaskContext| f(Rows::new(rows), task).into_outcome();
        self.declare(|stage| Arc::new(crate::callback::PerSlice::new(stage, Arc::new(f))));
    }

    /// Calls `f` once per batch with the values of all slices, slice after slice. At least once, as
    /// [`foreach_partition`](Self::foreach_partition).
    pub fn foreach_batch<O: IntoOutcome>(self, f: impl Fn(Vec<T>, &BatchContext) -> O + Send + Sync + 'static) {
        let f = move |rows: Vec<T>, batch: &BatchContext| f(rows, batch).into_outcome();
        self.declare(|stage| Arc::new(crate::callback::PerBatch::new(stage, Arc::new(f))));
    }

    fn declare(self, callback: impl FnOnce(Stage<T>) -> Arc<dyn Callback>) {
        let callback = callback(self.stage);
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        // Outputs commit in the order of their names, which is that of construction.
        let name = format!("output-{:03}", outputs.len());
        outputs.push(Declared {
            name,
            source: self.source,
            callback,
        });
    }
}
