//! The program's entry: streams are declared on it, then it is started and awaited.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_engine::driver::{Listener, Summary};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::time::{Clock, SystemClock};

use crate::batch::Batch;
use crate::dstream::{DStream, IntoBatch};
use crate::graph::{Declaration, Graph, Phase};
use crate::listener::{ListenerBus, StreamingListener};
use crate::outcome::guarded_call;
use crate::output::Declared;
use crate::record::Record;
use crate::running::{Ending, Program, Running};
use crate::scope::Scope;
use crate::source::kafka::DirectKafka;
use crate::source::queue::{Queue, QueueOpens};
use crate::source::rate::Rate;
use crate::source::watched_folder::WatchedFolder;
use crate::source::{DeclaredSource, Opens, Reading, SourceLimits};

/// Settings of a program before its streams are declared.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) app: String,
    pub(crate) interval: Duration,
    pub(crate) checkpoint: PathBuf,
    pub(crate) memory_limit: usize,
    pub(crate) until_caught_up: bool,
    pub(crate) backpressure: bool,
    pub(crate) remember: Option<Duration>,
    pub(crate) forget_states: Vec<String>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) listener: Option<Arc<dyn Listener>>,
    pub(crate) at_end: Option<Arc<dyn Ending>>,
}

/// Where a context is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextState {
    /// Its streams are declared.
    Initialized,
    /// It runs, or drains after a stop.
    Active,
    /// It ended, or was stopped before it was started. It can't be started again.
    Stopped,
}

/// A program: streams, what becomes of them, and the loop that runs them.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let words = Input::of([["a"]]);
/// # let run = harness.start(|context| {
/// let words = words.stream(context);
/// words.clone().count().print(1);
/// words.foreach_batch(|words, _batch| assert_eq!(words, ["a"]));
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamingContext {
    settings: Builder,
    graph: Arc<Graph>,
    listeners: Arc<ListenerBus>,
    // Leaf locks, held to add and to move.
    sources: Mutex<Vec<DeclaredSource>>,
    running: Mutex<Option<Running>>,
}

impl StreamingContext {
    /// A program named `app` (`[a-z0-9-]{1,63}`: the key of its checkpoint and of every unique id) with a batch every
    /// `interval`, 5 ms or more.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn builder(app: impl Into<String>, interval: Duration) -> Builder {
        let app = app.into();
        let checkpoint = PathBuf::from("checkpoint").join(&app);
        Builder {
            app,
            interval,
            checkpoint,
            memory_limit: 1 << 30,
            until_caught_up: false,
            backpressure: true,
            remember: None,
            forget_states: Vec::new(),
            clock: Arc::new(SystemClock::default()),
            listener: None,
            at_end: None,
        }
    }

    /// A direct stream: each Kafka partition is a slice of each batch.
    ///
    /// # Errors
    /// `Config` where no topic is named.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # fn declare(context: &StreamingContext) -> tidemill::Result<()> {
    /// let events = context.kafka_direct_stream(DirectKafka::new("localhost:9092").topics(["events"]))?;
    /// events.map(|record| record.value().len()).print(10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kafka_direct_stream(&self, kafka: DirectKafka) -> Result<DStream<Record>> {
        if kafka.topics.is_empty() {
            return Err(Error::new(
                Kind::Config,
                "a direct stream needs topics: DirectKafka::new(…).topics([\"events\"])",
            ));
        }
        let limits = kafka.limits.clone();
        let (name, reading) = self.add_source(Box::new(kafka), limits, false);
        Ok(self.stream_of(move |scope| reading.batch(&name, scope).map(Some)))
    }

    /// A stream of what is put into a queue: each list is a batch. For trying things out; what waits in a queue is gone with the
    /// process, and a program that reads one can't be recovered from its checkpoint.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let queue = tidemill::Queue::default();
    /// # let kept = Output::default();
    /// queue.push([1, 2]);
    /// queue.push([3]);
    /// # let run = harness.start(|context| {
    /// context.queue_stream(&queue).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.batches(), [vec![1, 2], vec![3]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn queue_stream<T: Clone + Send + Sync + 'static>(&self, queue: &Queue<T>) -> DStream<T> {
        let opens = Box::new(QueueOpens(queue.clone()));
        let (name, reading) = self.add_source(opens, SourceLimits::none(), true);
        let queue = queue.clone();
        let what = Declaration {
            read_once: true,
            ..Declaration::default()
        };
        let compute = move |scope: &Arc<Scope>| {
            let queue = queue.clone();
            let records = reading.batch(&name, scope)?;
            Ok(Some(records.flat_map(move |record| queue.value(record.offset()))))
        };
        DStream::declared(&self.graph, what, Arc::new(compute))
    }

    /// A stream of the lines of files that come into a folder.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let kept = Output::default();
    /// std::fs::write(harness.folder().join("words.txt"), "a\nb\n").unwrap();
    /// # let run = harness.start(|context| {
    /// let files = tidemill::WatchedFolder::at(harness.folder()).accepting(|name| name.ends_with(".txt")).with_old();
    /// context.file_stream(files).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a", "b"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn file_stream(&self, files: WatchedFolder) -> DStream<String> {
        let limits = files.limits();
        let (name, reading) = self.add_source(Box::new(files), limits, false);
        let text = |record: Record| String::from_utf8_lossy(record.value()).into_owned();
        self.stream_of(move |scope| Ok(Some(reading.batch(&name, scope)?.map(text))))
    }

    /// A stream of numbers that counts up by a rate: 0, 1, 2, … For trying things out and for measuring.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// context.rate_stream(tidemill::Rate::per_second(3)).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(2)?;
    /// assert_eq!(kept.at(1_000), [0, 1, 2]);
    /// assert_eq!(kept.at(2_000), [3, 4, 5]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn rate_stream(&self, rate: Rate) -> DStream<u64> {
        let (clock, slices) = (self.clock(), rate.slices());
        let opens = Box::new(rate.opens(clock));
        let (name, reading) = self.add_source(opens, SourceLimits::none(), false);
        let number = move |record: Record| {
            let (slice, at) = (record.partition().unsigned_abs(), record.offset().unsigned_abs());
            at * slices + u64::from(slice)
        };
        self.stream_of(move |scope| Ok(Some(reading.batch(&name, scope)?.map(number))))
    }

    /// The values of all streams, batch by batch. All must have the same slide.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (a, b) = (Input::of([[1]]), Input::of([[2]]));
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// let streams = [a.stream(context), b.stream(context)];
    /// context.union(streams).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [1, 2]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn union<T: Send + 'static>(&self, streams: impl IntoIterator<Item = DStream<T>>) -> DStream<T> {
        DStream::union_of(&self.graph, streams.into_iter().collect())
    }

    /// What `f` makes of the batches of all streams at one time, in the order of the streams. All must have the same slide.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let (a, b) = (Input::of([[1]]), Input::of([[2]]));
    /// # let kept = Output::default();
    /// # let run = harness.start(|context| {
    /// let streams = [a.stream(context), b.stream(context)];
    /// context.transform(streams, |batches| batches[0].union(&batches[1])).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), [1, 2]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn transform<T: Send + 'static, U: Send + 'static, B: IntoBatch<U>>(
        &self,
        streams: impl IntoIterator<Item = DStream<T>>,
        f: impl Fn(&[Batch<T>]) -> B + Send + Sync + 'static,
    ) -> DStream<U> {
        let f = move |batches: &[Batch<T>]| guarded_call(|| f(batches).into_batch());
        DStream::merged(&self.graph, streams.into_iter().collect(), f)
    }

    pub(crate) fn add_source(
        &self,
        opens: Box<dyn Opens>,
        limits: SourceLimits,
        is_lost_with_the_process: bool,
    ) -> (String, Reading) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, reading) = (format!("stream_{}", sources.len()), Reading::default());
        sources.push(DeclaredSource {
            name: name.clone(),
            opens,
            reading: reading.clone(),
            limits,
            is_lost_with_the_process,
        });
        (name, reading)
    }

    pub(crate) fn stream_of<T: Send + 'static>(
        &self,
        compute: impl Fn(&Arc<Scope>) -> Result<Option<Batch<T>>> + Send + Sync + 'static,
    ) -> DStream<T> {
        DStream::declared(&self.graph, Declaration::default(), Arc::new(compute))
    }

    /// Lets a listener hear of what the program does from now on; it can be added before and after the start.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([["a"]]);
    /// # let run = harness.start(|context| {
    /// context.add_listener(tidemill::StatsReportListener::over(10));
    /// words.stream(context).print(1);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn add_listener(&self, listener: impl StreamingListener) {
        self.listeners.add(listener);
    }

    /// Where the context is in its life.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([["a"]]);
    /// # let run = harness.start(|context| {
    /// # words.stream(context).print(1);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(run.context().state(), tidemill::ContextState::Active);
    /// run.context().stop()?;
    /// run.context().await_termination()?;
    /// assert_eq!(run.context().state(), tidemill::ContextState::Stopped);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn state(&self) -> ContextState {
        match self.graph.phase() {
            Phase::Declaring => ContextState::Initialized,
            Phase::Started | Phase::Stopped if self.has_ended() => ContextState::Stopped,
            Phase::Started | Phase::Stopped => ContextState::Active,
        }
    }

    /// Starts the loop on threads of its own and returns. Starting again while it runs does nothing.
    ///
    /// # Errors
    /// `Config` where it was stopped, no output is declared, or the program can't be run as it was declared.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn start(&self) -> Result<()> {
        match self.graph.phase() {
            Phase::Declaring => {}
            Phase::Started => {
                tracing::warn!("the context is started already");
                return Ok(());
            }
            Phase::Stopped => return Err(Error::new(Kind::Config, "the context was stopped: make another one")),
        }
        let started = self.start_running();
        let phase = if started.is_ok() {
            Phase::Started
        } else {
            Phase::Stopped
        };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = started.as_ref().ok().cloned();
        self.graph.enter(phase);
        started?;
        Ok(())
    }

    fn start_running(&self) -> Result<Running> {
        self.graph.is_sound()?;
        let outputs = self.graph.take_outputs();
        if outputs.is_empty() {
            return Err(Error::new(
                Kind::Config,
                "no output: end a stream with foreach_batch, foreach_partition or a sink",
            ));
        }
        self.refuse_without_checkpoint(&outputs)?;
        let remember_ms = self
            .settings
            .remember
            .map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        self.graph.settle_memory(&outputs, remember_ms);
        let sources = std::mem::take(&mut *self.sources.lock().unwrap_or_else(PoisonError::into_inner));
        Running::start(Program {
            settings: self.settings.clone(),
            sources,
            outputs,
            listeners: Arc::clone(&self.listeners),
        })
    }

    fn refuse_without_checkpoint(&self, outputs: &[Declared]) -> Result<()> {
        if !self.settings.checkpoint.as_os_str().is_empty() {
            return Ok(());
        }
        let operators = outputs.iter().flat_map(|output| output.stream.operators());
        let mut kept: Vec<String> = operators
            .map(|operator| format!("the state of {}", operator.id))
            .collect();
        kept.dedup();
        kept.insert(0, "the positions".to_owned());
        Err(Error::new(
            Kind::Config,
            format!(
                "checkpoint: the folder has no name, and {} are kept there. Give it one with .checkpoint(\"checkpoint/{}\")",
                kept.join(", "),
                self.settings.app
            ),
        ))
    }

    /// Waits until the stream ends.
    ///
    /// # Errors
    /// What ended it, if it did not end well, each time it is asked; `Config` where something was declared after the start, and in
    /// a listener, for which the end waits.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn await_termination(&self) -> Result<Summary> {
        match self.await_for(None)? {
            Some(summary) => Ok(summary),
            None => Err(Error::new(Kind::Config, "the context is not running")),
        }
    }

    /// The same for no longer than `timeout`: `None` where the stream goes on.
    ///
    /// # Errors
    /// As [`await_termination`](Self::await_termination).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([["a"]]);
    /// # let run = harness.start(|context| {
    /// # words.stream(context).print(1);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// let ended = run.context().await_termination_or_timeout(Duration::ZERO)?;
    /// assert!(ended.is_none(), "it goes on");
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn await_termination_or_timeout(&self, timeout: Duration) -> Result<Option<Summary>> {
        self.await_for(Some(timeout))
    }

    fn await_for(&self, timeout: Option<Duration>) -> Result<Option<Summary>> {
        self.refuse_in_listener("await_termination")?;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match running {
            Some(running) => {
                let ended = running.wait(timeout)?;
                if ended.is_some() {
                    self.graph.is_sound()?;
                }
                Ok(ended)
            }
            None if self.graph.phase() == Phase::Stopped => Ok(Some(Summary::default())),
            None => Err(Error::new(Kind::Config, "the context is not running")),
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.settings.clock)
    }

    pub(crate) fn interval_ms(&self) -> i64 {
        self.graph.interval_ms()
    }

    pub(crate) fn has_ended(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_none_or(Running::has_ended)
    }

    /// Ends the stream where it stands: nothing more is written.
    pub(crate) fn kill(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(running) = running {
            running.kill();
        }
        self.graph.enter(Phase::Stopped);
    }

    /// Asks the stream to end and returns: what was planned is finished and committed. Stopping again does nothing.
    ///
    /// # Errors
    /// `Config` in a listener: the stop would wait for it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let words = Input::of([["a"]]);
    /// # let run = harness.start(|context| {
    /// # words.stream(context).print(1);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// run.context().stop()?;
    /// assert_eq!(run.context().await_termination()?.records_in, 1);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn stop(&self) -> Result<()> {
        self.refuse_in_listener("stop")?;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match running {
            Some(running) => running.stop(),
            None => tracing::warn!("the context is not running"),
        }
        self.graph.enter(Phase::Stopped);
        Ok(())
    }

    fn refuse_in_listener(&self, what: &str) -> Result<()> {
        if self.listeners.is_delivering_here() {
            let text = format!("{what} in a listener: the end waits for the listeners. Do it on another thread");
            return Err(Error::new(Kind::Config, text));
        }
        Ok(())
    }
}

impl Builder {
    /// The checkpoint's folder. Default = `checkpoint/<app>` in the working directory.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn checkpoint(mut self, folder: impl Into<PathBuf>) -> Self {
        self.checkpoint = folder.into();
        self
    }

    /// Takes the end offsets at start, processes to them without waiting for ticks, and ends. Default = off.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn until_caught_up(mut self) -> Self {
        self.until_caught_up = true;
        self
    }

    /// Switches back-pressure on or off: whether batches that take longer than the interval make the next ones smaller.
    /// Default = on.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .backpressure(false)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn backpressure(mut self, on: bool) -> Self {
        self.backpressure = on;
        self
    }

    /// How long batches can be asked for again with [`DStream::slice`]. Default = one slide, or what windows look back at.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .remember(Duration::from_secs(60))
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn remember(mut self, time: Duration) -> Self {
        self.remember = Some(time);
        self
    }

    /// Bytes of rows between slices, of what a query over a [`Table`](crate::Table) sorts, joins and groups, and of state read from
    /// disk, that are held in memory. Default = 1 GiB.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .memory_limit(64 << 20)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Lets the state of an operator go that the program no longer has, or has with another type.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .forget_state("counts-of-words")
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn forget_state(mut self, operator: impl Into<String>) -> Self {
        self.forget_states.push(operator.into());
        self
    }

    /// Declares the program and goes on from its checkpoint where there is one: `declare` runs at every start.
    ///
    /// # Errors
    /// Those of `declare`, and `Config` where name, interval or streams do not fit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::prelude::*;
    /// # let harness = tidemill::testing::Harness::new(Duration::from_secs(1));
    /// # let folder = harness.folder().join("checkpoint");
    /// let context = StreamingContext::builder("numbers", Duration::from_millis(5))
    ///     .checkpoint(folder)
    ///     .until_caught_up()
    ///     .get_or_create(|context| {
    ///         context.rate_stream(Rate::at_once(10)).count().print(1);
    ///         Ok(())
    ///     })?;
    /// context.start()?;
    /// assert_eq!(context.await_termination()?.records_in, 10);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn get_or_create(self, declare: impl FnOnce(&StreamingContext) -> Result<()>) -> Result<StreamingContext> {
        let fits = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        if self.app.is_empty() || self.app.len() > 63 || !self.app.bytes().all(fits) {
            return Err(Error::new(
                Kind::Config,
                format!("name {:?}: must be 1 to 63 of a-z, 0-9 and \"-\"", self.app),
            ));
        }
        if self.interval < Duration::from_millis(5) {
            return Err(Error::new(
                Kind::Config,
                format!("interval {:?}: must be 5 ms or more", self.interval),
            ));
        }
        let context = StreamingContext {
            graph: Arc::new(Graph::new(self.interval)),
            listeners: Arc::default(),
            settings: self,
            sources: Mutex::default(),
            running: Mutex::new(None),
        };
        declare(&context)?;
        context.graph.is_sound()?;
        Ok(context)
    }
}
