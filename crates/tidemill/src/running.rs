//! A program that runs: the driver on threads of its own, and how it ended.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tidemill_core::rate::PidSettings;
use tidemill_core::ways_out::WaysOut;
use tidemill_engine::checkpoint::Checkpoint;
use tidemill_engine::checkpoint::record::hash;
use tidemill_engine::driver::{Driver, DriverSettings, Event, Listener, Output, Summary, TickPolicy};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sql::template::{Catalog, Template};
use tidemill_engine::state::StateSettings;
use tidemill_engine::store::LocalStore;
use tokio::sync::watch;

use crate::context::Builder;
use crate::listener::ListenerBus;
use crate::output::{Declared, OutputSettings};
use crate::record::COLUMNS;
use crate::source::DeclaredSource;

/// All of a program.
pub(crate) struct Program {
    pub(crate) settings: Builder,
    pub(crate) sources: Vec<DeclaredSource>,
    pub(crate) outputs: Vec<Declared>,
    pub(crate) listeners: Arc<ListenerBus>,
}

/// Hears what the driver tells, for the listeners and for who moves the clock.
#[derive(Debug)]
struct Heard {
    listeners: Arc<ListenerBus>,
    beside: Option<Arc<dyn Listener>>,
}

impl Listener for Heard {
    fn hear(&self, event: Event) {
        if let Some(beside) = &self.beside {
            beside.hear(event.clone());
        }
        self.listeners.hear(event);
    }
}

/// Hears that a program has ended.
pub(crate) trait Ending: std::fmt::Debug + Send + Sync {
    fn ended(&self);
}

/// A program that runs, or has ended.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    kill: watch::Sender<bool>,
    ended: Arc<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    // A leaf lock, held for a look.
    how: Mutex<Option<std::result::Result<Summary, (Kind, String)>>>,
    changed: Condvar,
}

impl Ended {
    fn set(&self, how: Result<Summary>) {
        let how = how.map_err(|error| (error.kind(), error.chain()));
        *self.how.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        self.changed.notify_all();
    }
}

impl Running {
    pub(crate) fn start(program: Program) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (kill, mut killed) = watch::channel(false);
        let at_end = program.settings.at_end.clone();
        let ended = Arc::new(Ended::default());
        let listeners = Arc::clone(&program.listeners);
        let refused = |what, error| Error::with_source(Kind::Refused, what, error);
        let runtime = tokio::runtime::Runtime::new().map_err(|error| refused("start the runtime", error))?;
        let told = Arc::clone(&ended);
        listeners.start()?;
        std::thread::Builder::new()
            .name("tidemill-driver".to_owned())
            .spawn(move || {
                // What closures own may be a runtime, which must not be dropped inside another one.
                let held: Vec<_> = program.outputs.iter().map(|output| output.parts.held()).collect();
                let how = runtime.block_on(async {
                    tokio::select! {
                        how = run(program, stopped) => how,
                        _ = killed.wait_for(|killed| *killed) => Err(Error::new(Kind::Refused, "the program was killed")),
                    }
                });
                drop(runtime);
                drop(held);
                listeners.finish();
                told.set(how);
                if let Some(at_end) = at_end {
                    at_end.ended();
                }
            })
            .map_err(|error| refused("start the driver's thread", error))?;
        Ok(Self { stop, kill, ended })
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends it where it stands, and waits until it has.
    pub(crate) fn kill(&self) {
        self.kill.send_replace(true);
        // How it ended is nobody's concern.
        let _how = self.wait(None);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.how.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// How it ended; `None` where it goes on beyond `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<Option<Summary>> {
        let how = self.ended.how.lock().unwrap_or_else(PoisonError::into_inner);
        let how = match timeout {
            None => self.ended.changed.wait_while(how, |how| how.is_none()),
            Some(timeout) => self
                .ended
                .changed
                .wait_timeout_while(how, timeout, |how| how.is_none())
                .map(|(how, _)| how)
                .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        };
        match how.unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Ok(None),
            Some(Ok(summary)) => Ok(Some(*summary)),
            Some(Err((kind, text))) => Err(Error::new(*kind, text.clone())),
        }
    }
}

async fn run(program: Program, stopped: watch::Receiver<bool>) -> Result<Summary> {
    let Program {
        settings,
        sources,
        outputs: declared,
        listeners,
    } = program;
    let checkpoint = Checkpoint::new(Arc::new(LocalStore::new(&settings.checkpoint)));
    refuse_lost(&sources, &checkpoint).await?;
    let reduce_slices = std::thread::available_parallelism().map_or(2, usize::from);
    let tables = sources
        .iter()
        .map(|source| source.table(&settings.app).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    let catalog = Catalog {
        tables: tables.clone(),
        references: Vec::new(),
        queries: Vec::new(),
        reduce_slices,
        memory_bytes_max: settings.memory_limit,
    };
    for source in &sources {
        let sql = format!("SELECT {COLUMNS} FROM {}", source.name);
        source
            .reading
            .planned(Template::plan(&catalog, &source.name, &sql).await?);
    }
    let driver_sources = sources
        .iter()
        .zip(&tables)
        .map(|(source, table)| source.for_driver(&table.source))
        .collect();
    let names: Vec<String> = declared.iter().map(|output| output.name.clone()).collect();
    let mut outputs = Vec::new();
    for Declared { name, parts, .. } in declared {
        let (job, sink) = parts.parts(&OutputSettings {
            app: settings.app.clone(),
            name: name.clone(),
            interval: settings.interval,
            held_bytes_max: settings.memory_limit / 2,
        })?;
        outputs.push(Output {
            query_hash: hash(name.as_bytes()),
            name,
            job,
            sink,
            dead_letters: false,
            successor: None,
        });
    }
    let (driver, _progress) = Driver::new(
        driver_settings(&settings, reduce_slices, &names),
        Arc::clone(&settings.clock),
        checkpoint,
        driver_sources,
        outputs,
        stopped,
    );
    let heard = Heard {
        listeners,
        beside: settings.listener.clone(),
    };
    driver.heard_by(Arc::new(heard)).run().await
}

fn driver_settings(settings: &Builder, reduce_slices: usize, outputs: &[String]) -> DriverSettings {
    let interval_ms = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
    DriverSettings {
        app: settings.app.clone(),
        interval: settings.interval,
        drain_timeout: Duration::from_secs(30),
        backpressure: settings.backpressure.then(|| PidSettings::new(interval_ms)),
        reduce_slices,
        pipeline_hash: hash(outputs.join("\n").as_bytes()),
        tables: Vec::new(),
        ticks: TickPolicy::Every,
        until_caught_up: settings.until_caught_up,
        ways_out: WaysOut {
            forget_states: settings.forget_states.clone(),
            ..WaysOut::default()
        },
        state: Some(StateSettings {
            cache: settings.checkpoint.join("state-cache"),
            memory_bytes_max: (settings.memory_limit / 4) as u64,
        }),
    }
}

/// What waited in a queue is gone with the process that held it.
async fn refuse_lost(sources: &[DeclaredSource], checkpoint: &Checkpoint) -> Result<()> {
    if !sources.iter().any(|source| source.is_lost_with_the_process) {
        return Ok(());
    }
    let positions = checkpoint.read().await?.last_plan.map(|last| last.plan.after());
    if positions.is_none_or(|positions| positions.iter().all(|position| position.offset == 0)) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Config,
        format!(
            "the program reads a queue, and the checkpoint {} is of a run whose queue is gone: it can't be recovered. Use a source that \
             lasts, or another checkpoint",
            checkpoint.location()
        ),
    ))
}
