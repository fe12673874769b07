//! Batches of the last while once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::error::{Error, Kind, Result};

use super::DStream;
use crate::batch::Batch;
use crate::batch::whole::fold_slices;
use crate::outcome::guarded_call;
use crate::remembered::Planned;
use crate::scope::Scope;
use crate::time::{floor, through};

impl<T: Send + 'static> DStream<T> {
    /// The values of the batches from `from_ms` to `to_ms`, by batch time. Both are milliseconds since 1970 UTC, belong to what is asked
    /// for, and are taken back to a batch time of this stream where they are none. Times before the first batch give nothing.
    ///
    /// The batches are read and computed again, in memory as a whole, while the caller waits: call it from a thread of your own or
    /// from an output's callback, not from a closure of an operator. How long a stream remembers its batches is for
    /// [`Builder::remember`](crate::Builder::remember) to say; after a start nothing is remembered.
    ///
    /// # Errors
    /// `Config` where the program has not started, a batch has not come yet or is forgotten, or the stream can't be computed again:
    /// it is made of state or of a [`Queue`](crate::Queue); else those of the sources and of user code.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let input = Input::of([vec![1, 2], vec![3]]);
    /// # let mut kept = None;
    /// # let run = harness.start_with(|builder| builder.remember(Duration::from_secs(60)), |context| {
    /// let doubled = input.stream(context).map(|number| number * 2);
    /// doubled.clone().print(1);
    /// #     kept = Some(doubled);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// # let doubled = kept.ok_or_else(|| tidemill::Error::new(tidemill::Kind::Bug, "declared"))?;
    /// // later, on another thread
    /// let batches = doubled.slice(1_000, 2_000)?;
    /// assert_eq!(batches[&1_000], [2, 4]);
    /// assert_eq!(batches[&2_000], [6]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn slice(&self, from_ms: i64, to_ms: i64) -> Result<BTreeMap<i64, Vec<T>>> {
        let refused = |what: String| Error::new(Kind::Config, format!("slice of stream {}: {what}", self.stream.id));
        let Some((zero_ms, newest_ms)) = self.graph.remembered().bounds() else {
            return Err(refused(
                "it is not initialised: the program has had no batch since its start".to_owned(),
            ));
        };
        if let Some(operator) = self.stream.operators().first() {
            return Err(refused(format!(
                "it is made of the state of {}, which has gone on: slice a stream before that",
                operator.id
            )));
        }
        if self.stream.is_read_once() {
            return Err(refused(
                "it is made of a queue, whose values are gone once they were a batch".to_owned(),
            ));
        }
        let slide_ms = self.stream.slide_ms;
        let first_ms = floor(from_ms, slide_ms, zero_ms).max(zero_ms + slide_ms);
        let kept = self.graph.remembered().of(&self.stream);
        let mut values = BTreeMap::new();
        for time_ms in through(first_ms, floor(to_ms, slide_ms, zero_ms), slide_ms) {
            let planned = kept.get(&time_ms).ok_or_else(|| {
                refused(if time_ms > newest_ms {
                    format!("the batch of {time_ms} has not come yet")
                } else {
                    format!(
                        "the batch of {time_ms} is forgotten: the stream remembers {} ms, set Builder::remember to more",
                        self.stream.remembers_ms()
                    )
                })
            })?;
            if let Some(again) = self.again(planned)? {
                values.insert(time_ms, again);
            }
        }
        Ok(values)
    }

    /// The values of a batch; `None` where the stream has none at that time.
    fn again(&self, planned: &Planned) -> Result<Option<Vec<T>>> {
        let interval = Duration::from_millis(self.graph.interval_ms().unsigned_abs());
        let scope = Arc::new(Scope::new(
            &planned.plan,
            interval,
            BTreeMap::new(),
            planned.held_bytes_max,
        ));
        let all = |batch: Batch<T>| {
            let gather = |values: &mut Vec<T>, value| values.push(value);
            planned.runtime.block_on(fold_slices(&batch, Vec::new, gather))
        };
        let values = guarded_call(|| (self.compute)(&scope)?.map(all).transpose());
        scope.release();
        Ok(values?.map(|slices| slices.into_iter().flatten().collect()))
    }
}
