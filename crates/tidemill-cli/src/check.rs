//! `tidemill check`

use std::io::Write;

use tidemill_core::ways_out::WaysOut;
use tidemill_engine::driver::{Standing, all_of};
use tokio::sync::watch;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Everything that can be known before starting: what was found on standard output, problems as the command's error.
pub(crate) async fn check(settings: &Settings, ways_out: WaysOut) -> Result<(), Failure> {
    let (_stop, stopped) = watch::channel(false);
    let (mut driver, _progress) = assemble::driver(settings, true, stopped, ways_out).await?;
    let checked = driver.check().await;
    let mut out = std::io::stdout().lock();
    for found in &checked.found {
        writeln!(out, "{found}").map_err(anyhow::Error::from)?;
    }
    all_of(checked.problems)?;
    let state = checked.standing.as_ref().map(state).unwrap_or_default();
    writeln!(
        out,
        "{} is fine: {} sources, {} queries, {} sinks; {state}",
        settings.file,
        settings.sources.len(),
        settings.queries.len(),
        settings.sinks.len()
    )
    .map_err(anyhow::Error::from)?;
    Ok(())
}

fn state(standing: &Standing) -> String {
    match (&standing.contents.last_plan, &standing.contents.last_commit) {
        (None, _) => "a first start".to_owned(),
        (Some(plan), Some(commit)) if commit.batch_id == plan.plan.batch_id => {
            format!("goes on after batch {}", plan.plan.batch_id)
        }
        (Some(plan), _) => format!("batch {} is not settled and will be finished first", plan.plan.batch_id),
    }
}
