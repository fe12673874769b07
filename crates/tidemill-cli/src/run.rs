//! `tidemill run`

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use tidemill_core::ways_out::WaysOut;
use tidemill_engine::driver::Progress;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::args::LogFormat;
use crate::assemble;
use crate::settings::Settings;

/// Log lines go to standard error; standard output carries data only.
pub(crate) fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::new("info,rdkafka=warn,librdkafka=warn");
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).init(),
    }
}

/// Runs a pipeline until it is stopped, caught up, or fails.
pub(crate) async fn run(settings: &Settings, until_caught_up: bool, ways_out: WaysOut) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let (driver, progress) = assemble::driver(settings, until_caught_up, stop, ways_out).await?;
    let bar = (until_caught_up && std::io::stderr().is_terminal()).then(|| tokio::spawn(show(progress)));
    let summary = driver.run().await;
    if let Some(bar) = bar {
        bar.abort();
    }
    let summary = summary?;
    tracing::info!(
        batches = summary.batches,
        records = summary.records_in,
        rows = summary.rows_out,
        skipped = summary.skipped,
        dead_lettered = summary.dead_lettered,
        "ended well"
    );
    Ok(())
}

/// The first SIGTERM or SIGINT drains; the second ends the process at once, which is safe at any moment.
fn stop_on_signal() -> Result<watch::Receiver<bool>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        for time in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if time == 1 {
                tracing::info!("draining: the batch in hand is finished and committed; a second signal ends at once");
                stop.send_replace(true);
            } else {
                exit_at_once();
            }
        }
    });
    Ok(stopped)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a person asked twice; recovery takes any state"
)]
fn exit_at_once() -> ! {
    std::process::exit(1)
}

async fn show(mut progress: watch::Receiver<Progress>) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    while progress.changed().await.is_ok() {
        let now = *progress.borrow();
        bar.set_length(now.total);
        bar.set_position(now.done);
    }
    bar.finish();
}
