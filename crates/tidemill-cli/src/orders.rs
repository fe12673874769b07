//! `--adopt`, `--drop-sink`, `--rename-sink`, `--new-target` and `--forget-state`: from words to what the driver is told.

use tidemill_core::ways_out::WaysOut;
use tidemill_engine::error::{Error, Kind, Result};

use crate::args::Orders;
use crate::settings::Settings;

/// The orders of a start. Whether they have something to do is seen when checkpoint and sinks were read.
///
/// # Errors
/// `Config` for a rename that the file doesn't show.
pub(crate) fn ways_out(settings: &Settings, orders: Orders) -> Result<WaysOut> {
    let has = |name: &str| settings.sinks.iter().any(|sink| sink.name == name);
    let mut renames = Vec::new();
    for text in &orders.rename_sink {
        let refuse = |why: &str| Err(Error::new(Kind::Config, format!("--rename-sink {text}: {why}")));
        let Some((old, new)) = text
            .split_once('=')
            .filter(|(old, new)| !old.is_empty() && !new.is_empty())
        else {
            return refuse("wanted OLD=NEW, the name before and the name that the file has now");
        };
        if has(old) {
            return refuse(&format!(
                "the file still has a sink {old}; a rename is over there first"
            ));
        }
        if !has(new) {
            return refuse(&format!("the file has no sink {new}"));
        }
        if renames.iter().any(|(other, to)| other == old || to == new) {
            return refuse("named twice");
        }
        renames.push((old.to_owned(), new.to_owned()));
    }
    Ok(WaysOut {
        adopt: orders.adopt,
        drop_sinks: orders.drop_sink,
        renames,
        new_targets: orders.new_target,
        forget_states: orders.forget_state,
    })
}
