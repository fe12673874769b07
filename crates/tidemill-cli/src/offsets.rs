//! `tidemill offsets`

use std::collections::BTreeMap;
use std::io::Write;

use tidemill_core::position::Positions;

use crate::Failure;
use crate::assemble;
use crate::settings::Settings;

/// Per partition: position, end offset, lag in records and seconds, offsets that an open transaction holds back, group offset.
pub(crate) async fn offsets(settings: &Settings) -> Result<(), Failure> {
    let checkpoint = assemble::checkpoint(settings)?;
    let contents = checkpoint.read().await?;
    let settled = contents.last_commit.as_ref().map(|commit| commit.batch_id);
    let (positions, since_ms) = match &contents.last_plan {
        Some(last) if settled == Some(last.plan.batch_id) => (last.plan.after(), last.plan.batch_time_ms),
        Some(last) => (last.plan.before.clone(), last.plan.batch_time_ms),
        None => (Positions::default(), 0),
    };
    let now_ms = assemble::now_ms();
    let mut rows = vec![
        [
            "source",
            "partition",
            "position",
            "end",
            "lag",
            "lag_seconds",
            "held_back",
            "group_offset",
        ]
        .map(str::to_owned),
    ];
    for source in &settings.sources {
        let table = assemble::table(settings, source)?;
        let ends = table.source.ends(false).await?;
        let partitions: Vec<_> = ends.iter().map(|end| end.partition.clone()).collect();
        let beyond: BTreeMap<_, _> = table.source.high_watermarks().await?.into_iter().collect();
        let published = table.source.published(&partitions).await?;
        for (end, group_offset) in ends.iter().zip(published) {
            let position = positions
                .get(&source.name, &end.partition)
                .map(|position| position.offset);
            let lag = position.map(|position| (end.end - position).max(0));
            // What lies behind the last plan came after it: that long at most has the oldest unread record waited.
            #[expect(clippy::cast_precision_loss, reason = "seconds of lag, for display")]
            let seconds = lag.map(|lag| {
                if lag > 0 {
                    (now_ms - since_ms).max(0) as f64 / 1_000.0
                } else {
                    0.0
                }
            });
            let or_dash = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
            rows.push([
                source.name.clone(),
                end.partition.to_string(),
                or_dash(position),
                end.end.to_string(),
                or_dash(lag),
                seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}")),
                or_dash(beyond.get(&end.partition).map(|beyond| (beyond - end.end).max(0))),
                or_dash(group_offset),
            ]);
        }
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = std::io::stdout().lock();
    for row in &rows {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end()).map_err(anyhow::Error::from)?;
    }
    Ok(())
}
