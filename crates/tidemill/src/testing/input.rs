//! Values for a program, a list per batch.

use std::sync::Arc;

use tidemill_engine::error::Result;
use tidemill_engine::source::Source;
use tidemill_engine::time::Clock;

use crate::context::StreamingContext;
use crate::dstream::DStream;
use crate::source::memory::{MemorySource, Reach};
use crate::source::{Opens, SourceLimits};

/// Slices that each list is cut into.
const SLICES: usize = 2;

/// Lists of values: the first is the data of the batch at one interval, the second of that at two, and so on; later batches are empty.
/// The same lists must be given to every start of a program.
#[derive(Debug)]
pub struct Input<T>(Arc<Lists<T>>);

#[derive(Debug)]
struct Lists<T> {
    /// `None` where the stream has no batch at all at that time.
    lists: Vec<Option<Vec<T>>>,
    /// Per slice its values, list after list.
    slices: Vec<Vec<T>>,
    /// Per list and slice, where the list ends.
    ends: Vec<Vec<i64>>,
}

impl<T> Clone for Input<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone + Send + Sync + 'static> Input<T> {
    /// A list per batch.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let input = Input::of([vec![1, 2], vec![3]]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// #     input.stream(context).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.all(), std::collections::BTreeMap::from([(1_000, vec![vec![1], vec![2]]), (2_000, vec![vec![3]])]));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn of<L: IntoIterator<Item = T>>(lists: impl IntoIterator<Item = L>) -> Self {
        Self::with_gaps(lists.into_iter().map(Some))
    }

    /// A list per batch; where there is none, the stream has no batch at that time, not even an empty one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let input = Input::with_gaps([Some(vec![1, 2]), None]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// #     input.stream(context).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.all(), std::collections::BTreeMap::from([(1_000, vec![vec![1], vec![2]])]));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn with_gaps<L: IntoIterator<Item = T>>(lists: impl IntoIterator<Item = Option<L>>) -> Self {
        Self::cut(lists, SLICES)
    }

    /// The same, each list cut into so many slices. Default = 2.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let input = Input::cut([Some(vec![1, 2, 3])], 3);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// #     input.stream(context).glom().foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.all(), std::collections::BTreeMap::from([(1_000, vec![vec![1], vec![2], vec![3]])]));
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn cut<L: IntoIterator<Item = T>>(lists: impl IntoIterator<Item = Option<L>>, slices: usize) -> Self {
        let lists: Vec<Option<Vec<T>>> = lists
            .into_iter()
            .map(|list| list.map(|list| list.into_iter().collect()))
            .collect();
        let mut cut = vec![Vec::new(); slices];
        let mut ends = Vec::new();
        for list in &lists {
            let list = list.as_deref().unwrap_or_default();
            for (number, slice) in cut.iter_mut().enumerate() {
                let at = |number: usize| number * list.len() / slices;
                slice.extend_from_slice(&list[at(number)..at(number + 1)]);
            }
            ends.push(cut.iter().map(|slice| slice.len() as i64).collect());
        }
        Self(Arc::new(Lists {
            lists,
            slices: cut,
            ends,
        }))
    }

    /// The lists as a stream of the program.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let input = Input::of([["a", "b"]]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a", "b"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn stream(&self, context: &StreamingContext) -> DStream<T> {
        let opens = InputOpens {
            input: self.clone(),
            clock: context.clock(),
            interval_ms: context.interval_ms(),
        };
        let (name, reading) = context.add_source(Box::new(opens), SourceLimits::none(), false);
        let input = self.clone();
        context.stream_of(move |scope| {
            let number = (scope.time_ms() - scope.zero_ms()) / scope.interval_ms() - 1;
            let list = usize::try_from(number)
                .ok()
                .and_then(|number| input.0.lists.get(number));
            if matches!(list, Some(None)) {
                return Ok(None);
            }
            let input = input.clone();
            let value = move |record: crate::record::Record| {
                let slice = usize::try_from(record.partition()).ok()?;
                let at = usize::try_from(record.offset()).ok()?;
                input.0.slices.get(slice)?.get(at).cloned()
            };
            Ok(Some(reading.batch(&name, scope)?.flat_map(value)))
        })
    }
}

struct InputOpens<T> {
    input: Input<T>,
    clock: Arc<dyn Clock>,
    interval_ms: i64,
}

impl<T> std::fmt::Debug for InputOpens<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InputOpens")
    }
}

impl<T: Send + Sync + 'static> Opens for InputOpens<T> {
    fn open(&self, _app: &str) -> Result<Arc<dyn Source>> {
        let reach = InputReach {
            lists: Arc::clone(&self.input.0),
            clock: Arc::clone(&self.clock),
            interval_ms: self.interval_ms,
        };
        Ok(Arc::new(MemorySource::new("input", Arc::new(reach))))
    }
}

struct InputReach<T> {
    lists: Arc<Lists<T>>,
    clock: Arc<dyn Clock>,
    interval_ms: i64,
}

impl<T: Send + Sync> Reach for InputReach<T> {
    fn ends(&self) -> Vec<i64> {
        let come = usize::try_from(self.clock.now_ms() / self.interval_ms).unwrap_or(0);
        match come.min(self.lists.ends.len()).checked_sub(1) {
            Some(last) => self.lists.ends[last].clone(),
            None => vec![0; self.lists.slices.len()],
        }
    }
}
