//! `tidemill rewind`

use std::io::Write;

use tidemill_core::ways_out::WaysOut;
use tidemill_engine::driver::{Rewind, SinkAgain};
use tidemill_engine::sink::Again;
use tokio::sync::watch;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Says what going back does, and does it with `yes`.
pub(crate) async fn rewind(settings: &Settings, to: u64, yes: bool) -> Result<(), Failure> {
    let (_stop, stopped) = watch::channel(false);
    let (driver, _progress) = assemble::driver(settings, true, stopped, WaysOut::default()).await?;
    let rewind = driver.rewind(to, yes).await?;
    let mut out = std::io::stdout().lock();
    print(&mut out, &rewind).map_err(anyhow::Error::from)?;
    Ok(())
}

fn print(out: &mut impl Write, rewind: &Rewind) -> std::io::Result<()> {
    for position in rewind.before.iter() {
        let now = rewind.now.get(&position.source, &position.partition);
        writeln!(
            out,
            "position {} {} from {} back to {}",
            position.source,
            position.partition,
            now.map_or("-".to_owned(), |now| now.offset.to_string()),
            position.offset
        )?;
    }
    for sink in &rewind.sinks {
        writeln!(out, "sink {}: {}", sink.name, again(sink, rewind.to, rewind.last))?;
    }
    match rewind.done {
        Some(batch) => writeln!(
            out,
            "rewound by batch {batch}: the next run goes on before batch {}, under new batch ids",
            rewind.to
        ),
        None => writeln!(out, "nothing was changed; with --yes it is done"),
    }
}

fn again(sink: &SinkAgain, to: u64, last: u64) -> String {
    let rows = sink.rows;
    match sink.again {
        Again::Twice => format!("its {rows} rows of batches {to} to {last} stay, and come a second time"),
        Again::Replaced => format!(
            "its {rows} rows of batches {to} to {last} are overwritten where their keys come again; keys that don't, stay"
        ),
        Again::TwiceByManifest => format!(
            "its {rows} rows of batches {to} to {last} stay, and come a second time in files of later batches; nothing is \
             retracted: a reader that wants them once leaves out the manifests {to} to {last}"
        ),
    }
}
