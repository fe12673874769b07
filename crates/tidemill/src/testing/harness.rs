//! A place for runs of a program: a checkpoint, and a clock that is moved by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tidemill_engine::driver::{Event, Listener, Summary};
use tidemill_engine::error::Result;
use tidemill_engine::time::Clock;

use super::clock::ManualClock;
use crate::context::{Builder, StreamingContext};
use crate::running::Ending;

/// Runs programs one after another on one checkpoint. The clock begins at 0 and stands still but for
/// [`Run::batches`] and [`Harness::pass`].
#[derive(Debug)]
pub struct Harness {
    interval: Duration,
    clock: Arc<ManualClock>,
    folder: PathBuf,
    /// Removes the folder, where it is the harness's own.
    _temporary: Option<TempDir>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Run<'a> {
    harness: &'a Harness,
    context: StreamingContext,
    heard: Arc<Heard>,
}

/// Counts the batches that ended.
#[derive(Debug)]
struct Heard {
    clock: Arc<ManualClock>,
    completed: AtomicU64,
}

/// Tells the clock's waiters that a program has ended.
#[derive(Debug)]
struct AtEnd(Arc<ManualClock>);

impl Ending for AtEnd {
    fn ended(&self) {
        self.0.nudge();
    }
}

impl Listener for Heard {
    fn hear(&self, event: Event) {
        if matches!(event, Event::BatchCompleted(_)) {
            self.completed.fetch_add(1, Ordering::SeqCst);
        }
        self.clock.nudge();
    }
}

impl Harness {
    /// A clock at 0, an empty checkpoint, and a batch every `interval`.
    ///
    /// # Panics
    /// Where no temporary folder can be made.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// let harness = Harness::new(Duration::from_secs(1));
    /// assert_eq!(harness.now_ms(), 0);
    /// ```
    pub fn new(interval: Duration) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            interval,
            clock: Arc::default(),
            folder: temporary.path().to_owned(),
            _temporary: Some(temporary),
        }
    }

    /// The same in a folder that outlives it, for a program that is killed with its process.
    #[cfg(test)]
    pub(crate) fn in_folder(interval: Duration, folder: PathBuf) -> Self {
        Self {
            interval,
            clock: Arc::default(),
            folder,
            _temporary: None,
        }
    }

    /// The folder of the checkpoint.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(harness.checkpoint().join("app.json").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    /// A folder for whatever a test needs; removed with the harness.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let words = harness.folder().join("words.txt");
    /// std::fs::write(&words, "a b")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The time in milliseconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// run.batches(2)?;
    /// assert_eq!(harness.now_ms(), 2_000);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Lets time pass while nothing runs.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// harness.pass(Duration::from_secs(5));
    /// assert_eq!(harness.now_ms(), 5_000);
    /// ```
    pub fn pass(&self, time: Duration) {
        self.clock.move_to(self.now_ms() + millis(time));
    }

    /// Starts a program on the checkpoint, or goes on from it.
    ///
    /// # Errors
    /// Those of `declare` and of the start.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// let run = harness.start(|context| {
    ///     words.stream(context).foreach_batch(kept.keep());
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// run.kill();
    /// # let again = Output::default();
    /// // The same program, gone on with: the first batch is not run again.
    /// let run = harness.start(|context| {
    ///     words.stream(context).foreach_batch(again.keep());
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// assert_eq!(again.batches(), [["b"]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn start(&self, declare: impl FnOnce(&StreamingContext) -> Result<()>) -> Result<Run<'_>> {
        self.start_with(|builder| builder, declare)
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// let run = harness.start_with(|builder| builder.memory_limit(1 << 20), |context| {
    ///     words.stream(context).foreach_batch(kept.keep());
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn start_with(
        &self,
        settings: impl FnOnce(Builder) -> Builder,
        declare: impl FnOnce(&StreamingContext) -> Result<()>,
    ) -> Result<Run<'_>> {
        let heard = Arc::new(Heard {
            clock: Arc::clone(&self.clock),
            completed: AtomicU64::new(0),
        });
        let mut builder = StreamingContext::builder("harness", self.interval).checkpoint(self.checkpoint());
        builder.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        builder.listener = Some(Arc::clone(&heard) as Arc<dyn Listener>);
        let clock = Arc::clone(&self.clock);
        builder.at_end = Some(Arc::new(AtEnd(clock)));
        let context = settings(builder).get_or_create(declare)?;
        context.start()?;
        let run = Run {
            harness: self,
            context,
            heard,
        };
        run.settle()?;
        Ok(run)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Run<'_> {
    /// The program's context.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # use tidemill::ContextState;
    /// assert_eq!(run.context().state(), ContextState::Active);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn context(&self) -> &StreamingContext {
        &self.context
    }

    /// Moves the clock on by so many intervals, and waits after each until the program has nothing left to do.
    ///
    /// # Errors
    /// What ended the program, if it did not end well.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// run.batches(2)?;
    /// assert_eq!(kept.batches(), [["a"], ["b"]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn batches(&self, count: u32) -> Result<()> {
        for _ in 0..count {
            let interval = millis(self.harness.interval);
            let next = (self.harness.now_ms() / interval + 1) * interval;
            self.harness.clock.move_to(next);
            self.settle()?;
        }
        Ok(())
    }

    /// Batches that ended since the start, failed ones among them.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// run.batches(2)?;
    /// assert_eq!(run.completed(), 2);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn completed(&self) -> u64 {
        self.heard.completed.load(Ordering::SeqCst)
    }

    /// Waits until every batch that is due has ended. Where the program waits for a time before that, as it does between two attempts
    /// at something that failed, the clock is moved there.
    fn settle(&self) -> Result<()> {
        let clock = &self.harness.clock;
        loop {
            let interval = millis(self.harness.interval);
            let due = self.harness.now_ms() / interval * interval;
            let at = clock.wait_until(|first| match (self.context.has_ended(), first) {
                (true, _) => Some(None),
                (false, Some(first)) => Some(Some(first)),
                (false, None) => None,
            });
            let Some(first) = at else {
                return self.context.await_termination().map(drop);
            };
            if first == due + interval {
                return Ok(());
            }
            clock.move_to(first);
        }
    }

    /// Ends the program between two batches as SIGKILL would: nothing more is written.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// run.batches(1)?;
    /// run.kill();
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn kill(self) {
        self.context.kill();
    }

    /// Ends the program in order: what was planned is finished.
    ///
    /// # Errors
    /// What ended it, if it did not end well.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (words, kept) = (Input::of([["a"], ["b"]]), Output::default());
    /// # let run = harness.start(|context| {
    /// #     words.stream(context).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// run.batches(2)?;
    /// let summary = run.stop()?;
    /// assert_eq!(summary.records_in, 2);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn stop(self) -> Result<Summary> {
        self.context.stop()?;
        self.context.await_termination()
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.context.kill();
    }
}
