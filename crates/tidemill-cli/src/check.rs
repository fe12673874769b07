//! `tidemill check`

use std::io::Write;

use tokio::sync::watch;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Everything that can be known before starting.
pub(crate) async fn check(settings: &Settings) -> Result<(), Failure> {
    let (_stop, stopped) = watch::channel(false);
    let (mut driver, _progress) = assemble::driver(settings, true, stopped).await?;
    let standing = driver.check().await?;
    let mut out = std::io::stdout().lock();
    let state = match (&standing.contents.last_plan, &standing.contents.last_commit) {
        (None, _) => "a first start".to_owned(),
        (Some(plan), Some(commit)) if commit.batch_id == plan.plan.batch_id => {
            format!("goes on after batch {}", plan.plan.batch_id)
        }
        (Some(plan), _) => format!("batch {} is not settled and will be finished first", plan.plan.batch_id),
    };
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
