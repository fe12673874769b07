//! The program's entry: streams are declared on it, then it is started and awaited.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tidemill_core::rate::PidSettings;
use tidemill_core::ways_out::WaysOut;
use tidemill_engine::checkpoint::Checkpoint;
use tidemill_engine::checkpoint::record::hash;
use tidemill_engine::driver::{Driver, DriverSettings, DriverSource, Output, Summary};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::RawFormat;
use tidemill_engine::sql::table::{OnBadRecord, SourceTable};
use tidemill_engine::sql::template::{Catalog, Template};
use tidemill_engine::store::LocalStore;
use tidemill_engine::time::SystemClock;
use tidemill_kafka::{Isolation, KafkaConfig, KafkaSource};
use tokio::sync::watch;

use crate::callback::{Callback, CallbackSink};
use crate::dstream::{DStream, Declared, Outputs};
use crate::kafka::DirectKafka;
use crate::record::{COLUMNS, Record};

/// Settings of a program before its streams are declared.
#[derive(Debug, Clone)]
pub struct Builder {
    app: String,
    interval: Duration,
    checkpoint: PathBuf,
    memory_limit: usize,
    until_caught_up: bool,
    backpressure: bool,
}

/// A program: streams, what becomes of them, and the loop that runs them.
#[derive(Debug)]
pub struct StreamingContext {
    settings: Builder,
    sources: Mutex<Vec<(String, DirectKafka)>>,
    outputs: Outputs,
    stop: watch::Sender<bool>,
    running: Mutex<Option<JoinHandle<Result<Summary>>>>,
}

impl StreamingContext {
    /// A program named `app` (`[a-z0-9-]{1,63}`: the key of its checkpoint and of every unique id) with a batch every
    /// `interval`, 5 ms or more.
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
        }
    }

    /// A direct stream: each Kafka partition is a slice of each batch.
    ///
    /// # Errors
    /// `Config` where no topic is named.
    pub fn kafka_direct_stream(&self, kafka: DirectKafka) -> Result<DStream<Record>> {
        if kafka.topics.is_empty() {
            return Err(Error::new(
                Kind::Config,
                "a direct stream needs topics: DirectKafka::new(…).topics([\"events\"])",
            ));
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("stream_{}", sources.len());
        sources.push((name.clone(), kafka));
        Ok(DStream::of_source(name, Arc::clone(&self.outputs)))
    }

    /// Starts the loop on threads of its own and returns.
    ///
    /// # Errors
    /// `Config` where it was started already or no output is declared.
    pub fn start(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Err(Error::new(Kind::Config, "the context was started already"));
        }
        let declared = std::mem::take(&mut *self.outputs.lock().unwrap_or_else(PoisonError::into_inner));
        if declared.is_empty() {
            return Err(Error::new(
                Kind::Config,
                "no output: end a stream with foreach_batch or foreach_partition",
            ));
        }
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (settings, stopped) = (self.settings.clone(), self.stop.subscribe());
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Error::with_source(Kind::Refused, "start the runtime", error))?;
        let thread = std::thread::Builder::new()
            .name("tidemill-driver".to_owned())
            .spawn(move || {
                // What closures own may be a runtime, which must not be dropped inside another one.
                let held: Vec<Arc<dyn Callback>> = declared.iter().map(|output| Arc::clone(&output.callback)).collect();
                let ended = runtime.block_on(run(settings, sources, declared, stopped));
                drop(runtime);
                drop(held);
                ended
            })
            .map_err(|error| Error::with_source(Kind::Refused, "start the driver's thread", error))?;
        *running = Some(thread);
        Ok(())
    }

    /// Waits until the stream ends.
    ///
    /// # Errors
    /// What ended it, if it did not end well.
    pub fn await_termination(&self) -> Result<Summary> {
        let thread = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread {
            None => Err(Error::new(Kind::Config, "the context is not running")),
            Some(thread) => match thread.join() {
                Ok(ended) => ended,
                Err(_) => Err(Error::new(Kind::Bug, "the driver panicked")),
            },
        }
    }

    /// Asks the stream to end: the batch in hand is finished and committed.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Builder {
    /// The checkpoint's folder. Default = `checkpoint/<app>` in the working directory.
    #[must_use]
    pub fn checkpoint(mut self, folder: impl Into<PathBuf>) -> Self {
        self.checkpoint = folder.into();
        self
    }

    /// Takes the end offsets at start, processes to them without waiting for ticks, and ends. Default = off.
    #[must_use]
    pub fn until_caught_up(mut self) -> Self {
        self.until_caught_up = true;
        self
    }

    /// Switches back-pressure on or off: whether batches that take longer than the interval make the next ones smaller.
    /// Default = on.
    #[must_use]
    pub fn backpressure(mut self, on: bool) -> Self {
        self.backpressure = on;
        self
    }

    /// Declares the program and goes on from its checkpoint where there is one: `declare` runs at every start.
    ///
    /// # Errors
    /// Those of `declare`, and `Config` where name or interval do not fit.
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
        let (stop, _) = watch::channel(false);
        let context = StreamingContext {
            settings: self,
            sources: Mutex::default(),
            outputs: Outputs::default(),
            stop,
            running: Mutex::new(None),
        };
        declare(&context)?;
        Ok(context)
    }
}

async fn run(
    settings: Builder,
    sources: Vec<(String, DirectKafka)>,
    declared: Vec<Declared>,
    stopped: watch::Receiver<bool>,
) -> Result<Summary> {
    let reduce_slices = std::thread::available_parallelism().map_or(2, usize::from);
    let tables = sources
        .iter()
        .map(|(name, kafka)| table(&settings.app, name, kafka).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    let catalog = Catalog {
        tables: tables.clone(),
        references: Vec::new(),
        queries: Vec::new(),
        reduce_slices,
        memory_bytes_max: settings.memory_limit,
    };
    let mut shape = String::new();
    let mut outputs = Vec::new();
    for Declared { name, source, callback } in declared {
        shape.push_str(&format!("{name} {source}\n"));
        let template = Template::plan(&catalog, &name, &format!("SELECT {COLUMNS} FROM {source}")).await?;
        let source_text = format!("source {source}");
        let sink = CallbackSink::new(settings.app.clone(), name.clone(), source, callback);
        outputs.push(Output {
            name,
            template,
            sink: Box::new(sink),
            dead_letters: false,
            query_hash: hash(source_text.as_bytes()),
            successor: None,
        });
    }
    let driver_sources = sources
        .into_iter()
        .zip(tables)
        .map(|((name, kafka), table)| DriverSource {
            name,
            source: Arc::clone(&table.source),
            start: kafka.start,
            on_new_partition: kafka.on_new_partition,
            on_out_of_range: kafka.on_out_of_range,
            bound: kafka.bound,
            initial_rate: kafka.initial_rate,
            batch_bytes_max: kafka.batch_bytes_max,
        })
        .collect();
    let checkpoint = Checkpoint::new(Arc::new(LocalStore::new(settings.checkpoint)));
    let driver_settings = DriverSettings {
        app: settings.app,
        interval: settings.interval,
        drain_timeout: Duration::from_secs(30),
        backpressure: settings
            .backpressure
            .then(|| PidSettings::new(u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX))),
        reduce_slices,
        pipeline_hash: hash(shape.as_bytes()),
        tables: Vec::new(),
        every_tick: true,
        until_caught_up: settings.until_caught_up,
        ways_out: WaysOut::default(),
    };
    let clock = Arc::new(SystemClock::default());
    let (driver, _progress) = Driver::new(driver_settings, clock, checkpoint, driver_sources, outputs, stopped);
    driver.run().await
}

fn table(app: &str, name: &str, kafka: &DirectKafka) -> Result<SourceTable> {
    let mut config = KafkaConfig::new(&kafka.brokers, kafka.topics.clone());
    config.security.clone_from(&kafka.security);
    config.group = Some(kafka.group.clone().unwrap_or_else(|| app.to_owned()));
    config.isolation = if kafka.read_committed {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    Ok(SourceTable {
        name: name.to_owned(),
        source: Arc::new(KafkaSource::new(config)?),
        format: Arc::new(RawFormat),
        on_bad_record: OnBadRecord::Stop,
        columns: RawFormat::schema(),
        checked: Vec::new(),
    })
}
