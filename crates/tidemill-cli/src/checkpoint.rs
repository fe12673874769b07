//! `tidemill checkpoint show|history|verify|rebuild`

use std::io::Write;

use tidemill_core::ways_out::WaysOut;
use tidemill_engine::checkpoint::{Checkpoint, Contents, SinkCommit};
use tidemill_engine::error::{Error, Kind};
use tokio::sync::watch;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Who it belongs to, the last plan, the last commit, positions, keyed state, what was ever lost.
pub(crate) async fn show(settings: &Settings) -> Result<(), Failure> {
    let checkpoint = assemble::checkpoint(settings)?;
    let contents = contents(&checkpoint).await?;
    let losses = checkpoint.all_losses().await?;
    let states = states(&checkpoint, &contents).await?;
    let mut out = std::io::stdout().lock();
    print(&mut out, &checkpoint.location(), &contents).map_err(anyhow::Error::from)?;
    for state in states {
        writeln!(out, "{state}").map_err(anyhow::Error::from)?;
    }
    for record in &losses {
        for loss in &record.losses {
            let (source, partition) = (&loss.source, &loss.partition);
            writeln!(
                out,
                "lost {source} {partition} from {} until {} in batch {}",
                loss.from, loss.until, record.batch_id
            )
            .map_err(anyhow::Error::from)?;
        }
    }
    Ok(())
}

async fn contents(checkpoint: &Checkpoint) -> Result<Contents, Error> {
    let contents = checkpoint.read().await?;
    if contents.app.is_none() {
        return Err(Error::new(
            Kind::Config,
            format!(
                "there is no checkpoint at {}; `tidemill run` makes it",
                checkpoint.location()
            ),
        ));
    }
    Ok(contents)
}

fn print(out: &mut impl Write, location: &str, contents: &Contents) -> std::io::Result<()> {
    writeln!(out, "checkpoint {location}")?;
    if let Some(app) = &contents.app {
        writeln!(out, "app {} {}", app.app, app.app_uuid)?;
    }
    writeln!(out, "epoch {}", contents.epoch)?;
    let settled = contents.last_commit.as_ref().map(|commit| commit.batch_id);
    if let Some(last) = &contents.last_plan {
        let state = if settled == Some(last.plan.batch_id) {
            "settled"
        } else {
            "not settled"
        };
        writeln!(
            out,
            "last plan {} {state}, time {} ms, epoch {}",
            last.plan.batch_id, last.plan.batch_time_ms, last.plan.epoch
        )?;
        let positions = if settled == Some(last.plan.batch_id) {
            last.plan.after()
        } else {
            last.plan.before.clone()
        };
        for position in positions.iter() {
            writeln!(
                out,
                "position {} {} {}",
                position.source, position.partition, position.offset
            )?;
        }
        for sink in &last.plan.sinks {
            writeln!(out, "sink {} {} {}", sink.name, sink.kind, sink.target)?;
        }
    }
    if let Some(commit) = &contents.last_commit {
        for (name, sink) in &commit.sinks {
            writeln!(out, "last commit {} sink {name}: {}", commit.batch_id, counts(sink))?;
        }
    }
    Ok(())
}

/// A line per operator with keyed state: its version, and what that says of itself. One that is lost is told in its line, since all
/// the others are worth knowing then.
async fn states(checkpoint: &Checkpoint, contents: &Contents) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for (operator, version) in contents.last_commit.iter().flat_map(|commit| &commit.states) {
        let says = match checkpoint.state(operator, version).await {
            Ok(state) => format!("kind {}, shape {}", state.kind, state.shape),
            Err(error) if error.kind() == Kind::Loss => error.chain(),
            Err(error) => return Err(error),
        };
        lines.push(format!(
            "state {operator} of batch {}, {}: {says}",
            version.batch_id, version.name
        ));
    }
    Ok(lines)
}

fn counts(sink: &SinkCommit) -> String {
    format!(
        "{} rows of {} records, {} skipped, {} dead-lettered",
        sink.rows, sink.records_in, sink.skipped, sink.dead_lettered
    )
}

/// One line per batch still kept.
pub(crate) async fn history(settings: &Settings) -> Result<(), Failure> {
    let checkpoint = assemble::checkpoint(settings)?;
    contents(&checkpoint).await?;
    let mut out = std::io::stdout().lock();
    let planned = checkpoint.planned().await?;
    for batch in &planned {
        let batch = *batch;
        let Some(logged) = checkpoint.plan(batch).await? else {
            continue;
        };
        let offsets: u64 = logged.plan.ranges.iter().map(|range| range.offsets()).sum();
        let ending = match checkpoint.commit(batch).await? {
            // A plan is logged once the batch before it is in all sinks, maybe before its record is.
            None if planned.last() > Some(&batch) => "settled, its record was lost with the process".to_owned(),
            None => "not settled".to_owned(),
            Some(commit) => commit
                .sinks
                .iter()
                .map(|(name, sink)| format!("{name} {}", counts(sink)))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let plan = &logged.plan;
        let ending = match plan.turn.as_ref().and_then(|turn| turn.rewound_to) {
            Some(to) => format!("rewound to the positions before batch {to}; {ending}"),
            None => ending,
        };
        writeln!(
            out,
            "batch {batch} time {} ms epoch {} ranges {} offsets {offsets} limit {}: {ending}",
            plan.batch_time_ms,
            plan.epoch,
            plan.ranges.len(),
            if plan.limits.reason.is_empty() {
                "start"
            } else {
                &plan.limits.reason
            }
        )
        .map_err(anyhow::Error::from)?;
    }
    Ok(())
}

/// Reads every record and checks version, checksum and order.
pub(crate) async fn verify(settings: &Settings) -> Result<(), Failure> {
    let checkpoint = assemble::checkpoint(settings)?;
    let contents = contents(&checkpoint).await?;
    let mut plans = 0_u64;
    let mut commits = 0_u64;
    let mut before: Option<(u64, i64)> = None;
    for batch in checkpoint.planned().await? {
        let Some(logged) = checkpoint.plan(batch).await? else {
            continue;
        };
        plans += 1;
        commits += u64::from(checkpoint.commit(batch).await?.is_some());
        let time = logged.plan.batch_time_ms;
        if logged.plan.batch_id != batch {
            return Err(damaged(format!("plan {batch} says it is batch {}", logged.plan.batch_id)).into());
        }
        if let Some((last, last_time)) = before
            && (logged.plan.follows() != Some(last) || time <= last_time)
        {
            return Err(damaged(format!(
                "plan {batch} at {time} ms follows plan {last} at {last_time} ms"
            ))
            .into());
        }
        before = Some((batch, time));
    }
    checkpoint.all_losses().await?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{plans} plans and {commits} commit records are whole, epoch {}",
        contents.epoch
    )
    .map_err(anyhow::Error::from)?;
    Ok(())
}

/// Makes a lost checkpoint again from the ledgers of the sinks.
pub(crate) async fn rebuild(settings: &Settings) -> Result<(), Failure> {
    let (_stop, stopped) = watch::channel(false);
    let (driver, _progress) = assemble::driver(settings, true, stopped, WaysOut::default()).await?;
    let (batch, settled) = driver.rebuild().await?;
    let place = assemble::checkpoint(settings)?.location();
    let state = if settled {
        "is settled in every sink".to_owned()
    } else {
        "is not settled in every sink: the next run finishes it".to_owned()
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "checkpoint {place} is rebuilt; its last batch is {batch}, which {state}"
    )
    .map_err(anyhow::Error::from)?;
    Ok(())
}

fn damaged(what: String) -> Error {
    Error::new(
        Kind::Config,
        format!("the checkpoint is damaged: {what}. Restore it from a copy"),
    )
}
