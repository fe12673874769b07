//! What a program gave, batch by batch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::task::BatchContext;

/// Keeps the values of each batch: give [`keep`](Self::keep) to [`DStream::foreach_batch`](crate::DStream::foreach_batch).
#[derive(Debug)]
pub struct Output<T> {
    // A leaf lock, held to add and to look.
    batches: Arc<Mutex<BTreeMap<i64, Vec<T>>>>,
    arrange: fn(&mut Vec<T>),
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        Self {
            batches: Arc::clone(&self.batches),
            arrange: self.arrange,
        }
    }
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Self {
            batches: Arc::default(),
            arrange: |_values| {},
        }
    }
}

impl<T: Ord> Output<T> {
    /// Keeps the values of each batch in order: that in which they come is nobody's promise where keys were brought together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([[3, 1, 2]]);
    /// let kept = Output::sorted();
    /// # let run = harness.start(|context| {
    /// input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [1, 2, 3]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn sorted() -> Self {
        Self {
            batches: Arc::default(),
            arrange: |values| values.sort(),
        }
    }
}

impl<T: Clone + Send + 'static> Output<T> {
    /// A callback that keeps what it is called with. A batch that runs again takes the place of its first run.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([[3, 1, 2]]);
    /// let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [3, 1, 2]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn keep(&self) -> impl Fn(Vec<T>, &BatchContext) + Send + Sync + use<T> {
        let (batches, arrange) = (Arc::clone(&self.batches), self.arrange);
        move |mut values, batch| {
            arrange(&mut values);
            let mut batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            batches.insert(batch.batch_time_ms, values);
        }
    }

    /// The values of each batch that was kept, by batch time in milliseconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([[1], [2]]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// # input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.all()[&2_000], [2]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn all(&self) -> BTreeMap<i64, Vec<T>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The values of each batch that was kept, the oldest first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([[1], [2]]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// # input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.batches(), [[1], [2]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn batches(&self) -> Vec<Vec<T>> {
        self.all().into_values().collect()
    }

    /// The values of the batch at a time, in milliseconds; empty where there was none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([[1], [2]]);
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// # input.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.at(1_000), [1]);
    /// assert!(kept.at(7_000).is_empty());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn at(&self, time_ms: i64) -> Vec<T> {
        self.all().remove(&time_ms).unwrap_or_default()
    }
}
