//! `tidemill replay`

use std::io::Write;

use tidemill_connect::console::ConsoleSink;
use tidemill_core::ways_out::WaysOut;
use tidemill_engine::error::{Error, Kind};
use tokio::sync::watch;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Runs one past batch again, to standard output.
pub(crate) async fn replay(settings: &Settings, batch: u64) -> Result<(), Failure> {
    let (_stop, stopped) = watch::channel(false);
    let (driver, _progress) = assemble::driver(settings, true, stopped, WaysOut::default()).await?;
    let printing = |error| Error::with_source(Kind::Refused, "printing", error);
    driver
        .replay(batch, |replayed| {
            let name = &replayed.sink;
            let warning = match replayed.changed {
                Some(false) => None,
                Some(true) => {
                    Some("its query or a reference table has changed since the batch was planned; these may be other rows than it holds")
                }
                None => Some("the plan doesn't tell whether its query has changed since"),
            };
            if let Some(warning) = warning {
                writeln!(std::io::stderr(), "warning: sink {name}: {warning}").map_err(printing)?;
            }
            writeln!(std::io::stdout(), "sink {name}").map_err(printing)?;
            Ok(Box::new(ConsoleSink::new(name, usize::MAX)))
        })
        .await?;
    Ok(())
}
