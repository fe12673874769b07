//! A reader that looks at a sink again and again while its pipeline works and is killed.
//!
//! Every look must show a state that is right by itself: nothing doubled, nothing aborted, nothing unknown, of each lane
//! the beginning without a gap (see [`judge_prefix`]); and each batch whole or not at all. Whether a batch was whole is
//! known from what comes later: the number of its rows never changes once it was seen, and it never goes away. Files
//! and tables show batches, a topic shows what a batch wrote to one partition.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::java;
use crate::oracle::{Row, Truth, judge_prefix};
use crate::target::{Kind, Target};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What an onlooker saw, all of it right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// How often it looked.
    pub looks: u32,
    /// Looks that saw the work half done: some records, not all.
    pub midway: u32,
    /// Batches seen (of each partition of a topic).
    pub batches: usize,
}

/// A reader on its way. It ends with this value.
#[derive(Debug)]
pub struct Onlooker {
    stop: Stop,
    thread: JoinHandle<Result<Watched>>,
}

/// Asks for the last look: by being dropped.
#[derive(Debug)]
enum Stop {
    Looks(#[expect(dead_code, reason = "only its end is told")] SyncSender<()>),
    Watch(#[expect(dead_code, reason = "only its end is told")] ChildStdin),
}

impl Onlooker {
    /// Begins to look at `target`, whose rows have a column `batch`. `folder` is the pipeline's. The reader of a topic
    /// takes seconds to start on a busy machine: it has looked once when this returns.
    ///
    /// # Errors
    /// Where java can't be started.
    pub fn start(target: &Arc<Target>, folder: PathBuf, truth: &Truth) -> Result<Self> {
        let looks = Looks::of(truth);
        if target.kind() == Kind::Kafka {
            let mut watch = java::pipe("Watch", &[target.place(), &PAUSE.as_millis().to_string()])?;
            let stop = watch.stdin.take().context("standard input is a pipe")?;
            let (began, has_begun) = sync_channel(1);
            let thread = std::thread::spawn(move || watch_topic(watch, looks, &began));
            // Where the reader ends without a look, `finish` tells why.
            let _ended = has_begun.recv();
            return Ok(Self {
                stop: Stop::Watch(stop),
                thread,
            });
        }
        let (stop, stopped) = sync_channel(0);
        let target = Arc::clone(target);
        Ok(Self {
            stop: Stop::Looks(stop),
            thread: std::thread::spawn(move || look_again(&target, &folder, &stopped, looks)),
        })
    }

    /// Takes a last look and tells what was seen.
    ///
    /// # Errors
    /// The first look that was wrong, in words; or that the sink couldn't be read.
    pub fn finish(self) -> Result<Watched> {
        drop(self.stop);
        match self.thread.join() {
            Ok(watched) => watched,
            Err(_) => bail!("the onlooker panicked"),
        }
    }
}

fn look_again(target: &Target, folder: &std::path::Path, stopped: &Receiver<()>, mut looks: Looks) -> Result<Watched> {
    loop {
        let last = stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected);
        let rows = target.rows(folder)?;
        looks.look(&rows.into_iter().map(|row| (0, row)).collect::<Vec<_>>())?;
        if last {
            return Ok(looks.watched);
        }
    }
}

fn watch_topic(mut watch: Child, mut looks: Looks, began: &SyncSender<()>) -> Result<Watched> {
    let out = watch.stdout.take().context("standard output is a pipe")?;
    let mut rows: Vec<(i64, Value)> = Vec::new();
    let mut outcome = Ok(());
    for line in BufReader::new(out).lines() {
        let line = line?;
        if outcome.is_err() {
            // Read on: a full pipe would keep the program from its end.
        } else if line == "look" {
            outcome = looks.look(&rows);
            let _nobody_waits = began.try_send(());
        } else {
            outcome = row_of(&line).map(|row| rows.push(row));
        }
    }
    let status = watch.wait()?;
    outcome?;
    ensure!(status.success(), "Watch: {status}");
    Ok(looks.watched)
}

fn row_of(line: &str) -> Result<(i64, Value)> {
    let record: Value = serde_json::from_str(line).with_context(|| format!("Watch printed {line}"))?;
    let partition = record["partition"].as_i64().context("no partition")?;
    let value = record["value"]
        .as_str()
        .with_context(|| format!("no value in {line}"))?;
    Ok((partition, serde_json::from_str(value)?))
}

/// What the looks have shown so far.
#[derive(Debug)]
struct Looks {
    truth: Truth,
    /// Rows of each batch in each partition.
    shown: BTreeMap<(i64, i64), usize>,
    watched: Watched,
}

impl Looks {
    fn of(truth: &Truth) -> Self {
        Self {
            truth: truth.clone(),
            shown: BTreeMap::new(),
            watched: Watched::default(),
        }
    }

    /// Takes all that is visible at one moment, each row with its partition.
    fn look(&mut self, visible: &[(i64, Value)]) -> Result<()> {
        self.watched.looks += 1;
        let number = self.watched.looks;
        let mut rows = Vec::with_capacity(visible.len());
        let mut now: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for (partition, value) in visible {
            rows.push(Row::from_json(value).map_err(anyhow::Error::msg)?);
            let batch = value["batch"]
                .as_i64()
                .with_context(|| format!("no batch in {value}"))?;
            *now.entry((*partition, batch)).or_default() += 1;
        }
        let verdict = judge_prefix(&self.truth, &rows);
        ensure!(verdict.is_clean(), "look {number}: {verdict}");
        for ((partition, batch), before) in &self.shown {
            let after = now.get(&(*partition, *batch)).copied().unwrap_or(0);
            ensure!(
                after == *before,
                "look {number}: batch {batch} (partition {partition}) has {after} rows, an earlier look showed {before}"
            );
        }
        self.watched.midway += u32::from(!rows.is_empty() && rows.len() < self.truth.records());
        self.watched.batches = now.len();
        self.shown = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(batch: i64, seq: i64) -> (i64, Value) {
        (0, json!({"part": 0, "seq": seq, "batch": batch, "aborted": false}))
    }

    fn after(looks: &[&[(i64, Value)]]) -> Result<Watched> {
        let mut all = Looks::of(&Truth::of_load(4, 1));
        for look in looks {
            all.look(look)?;
        }
        Ok(all.watched)
    }

    #[test]
    fn whole_batches_in_order_are_right_at_every_look() {
        let rows = [row(1, 0), row(1, 1), row(2, 2), row(3, 3)];
        let seen = after(&[&[], &rows[..2], &rows[..2], &rows[..3], &rows]).expect("all right");
        assert_eq!((seen.looks, seen.midway, seen.batches), (5, 3, 3));
    }

    #[test]
    fn a_batch_that_grows_shrinks_or_goes_away_is_found() {
        let rows = [row(1, 0), row(1, 1), row(2, 2), row(2, 3)];
        for looks in [
            [&rows[..1], &rows[..2]],
            [&rows[..4], &rows[..3]],
            [&rows[..4], &rows[..2]],
        ] {
            let error = after(&looks).expect_err("not whole").to_string();
            assert!(error.contains("look 2: batch"), "{error}");
        }
    }

    #[test]
    fn a_wrong_look_is_found_though_a_later_one_would_be_right() {
        let rows = [row(1, 0), row(1, 1), row(2, 2), row(2, 3)];
        for wrong in [
            vec![row(1, 0), row(1, 1), row(1, 1)],
            vec![row(1, 0), row(2, 2), row(2, 3)],
            vec![row(1, 1), row(1, 0)],
        ] {
            assert!(after(&[&wrong, &rows]).is_err(), "{wrong:?}");
        }
    }
}
