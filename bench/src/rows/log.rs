//! Records into the write-ahead log beside the same bytes in large blocks, on the same disk, in turns.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidemill_engine::checkpoint::Checkpoint;
use tidemill_engine::store::LocalStore;
use tidemill_engine::time::SystemClock;
use tidemill_engine::wal::{EpochGate, LocalStorage, Log, LogSettings, OnDamage, Takeover, Ticket};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::Bench;
use crate::report::{Run, rounded};

const RECORD_BYTES: usize = 1 << 10;
const BLOCK_BYTES: usize = 4 << 20;
/// Of each part of a round.
const BYTES: usize = 64 << 20;
const ROUNDS: usize = 5;
const WRITERS: [usize; 3] = [1, 8, 64];
/// Of one writer.
const IN_FLIGHT: usize = 256;
const OWNER: Uuid = Uuid::from_u128(1);

/// Each number of writers, by what they took together beside the blocks of the same rounds.
pub(super) fn beside_blocks(bench: &Bench) -> Result<Vec<Run>> {
    let folder = bench.checkpoint("log")?;
    let runtime = Runtime::new()?;
    let mut plain = Duration::ZERO;
    let mut logged = [Duration::ZERO; WRITERS.len()];
    for round in 0..=ROUNDS {
        // Every part is the first of a round once, more or less.
        for part in (0..=WRITERS.len()).map(|part| (part + round) % (WRITERS.len() + 1)) {
            let place = folder.join(format!("{round}-{part}"));
            let (sum, time) = match part.checked_sub(1) {
                None => (&mut plain, blocks(&place)?),
                Some(number) => (&mut logged[number], runtime.block_on(records(&place, WRITERS[number]))?),
            };
            // A virtual machine pays for memory that it never used before. The first round does, and its pages are used again.
            std::fs::remove_dir_all(&place)?;
            if round > 0 {
                *sum += time;
            }
        }
    }
    let mib_per_s = |time: Duration| (BYTES * ROUNDS) as f64 / f64::from(1 << 20) / time.as_secs_f64();
    let runs = WRITERS.iter().zip(logged).map(|(writers, time)| {
        Run::new(format!("log-{writers}"))
            .with("mib_per_s", rounded(mib_per_s(time), 1))
            .with("plain_mib_per_s", rounded(mib_per_s(plain), 1))
            .with(
                "records_per_s",
                rounded((BYTES / RECORD_BYTES * ROUNDS) as f64 / time.as_secs_f64(), 0),
            )
            .with("of_plain", rounded(plain.as_secs_f64() / time.as_secs_f64(), 4))
    });
    Ok(runs.collect())
}

/// Blocks into one file, each synced.
fn blocks(folder: &Path) -> Result<Duration> {
    std::fs::create_dir_all(folder)?;
    let block = vec![b'x'; BLOCK_BYTES];
    let mut file = File::create_new(folder.join("blocks"))?;
    let begun = Instant::now();
    for _ in 0..BYTES / BLOCK_BYTES {
        file.write_all(&block)?;
        file.sync_all()?;
    }
    Ok(begun.elapsed())
}

/// The same bytes as records, each acknowledged; then the log is read and counted.
async fn records(folder: &Path, writers: usize) -> Result<Duration> {
    let log = Arc::new(start(folder).await?);
    let begun = Instant::now();
    let writing: Vec<_> = (0..writers)
        .map(|_| tokio::spawn(write(Arc::clone(&log), BYTES / RECORD_BYTES / writers)))
        .collect();
    for writer in writing {
        writer.await??;
    }
    let time = begun.elapsed();
    log.close().await?;
    let taken = takeover(folder, 2).run(&mut |_| Ok(()))?;
    let (found, written) = (taken.report.records, BYTES / RECORD_BYTES);
    ensure!(
        found == written as u64,
        "wrong: {found} records in the log of {written}"
    );
    Ok(time)
}

async fn start(folder: &Path) -> Result<Log> {
    let checkpoint = Checkpoint::new(Arc::new(LocalStore::new(folder.join("checkpoint"))));
    let epoch = checkpoint.claim_epoch(0, "bench", 0).await?;
    let taken = takeover(folder, epoch).run(&mut |_| Ok(()))?;
    let gate = EpochGate { checkpoint, epoch };
    let clock = Arc::new(SystemClock::default());
    Ok(Log::start(taken, LogSettings::default(), Arc::new(gate), clock)?)
}

fn takeover(folder: &Path, epoch: u64) -> Takeover {
    Takeover {
        storage: Arc::new(LocalStorage::new(folder.join("log"))),
        log: OWNER,
        epoch,
        needed_from: 0,
        on_damage: OnDamage::Stop,
    }
}

async fn write(log: Arc<Log>, records: usize) -> Result<()> {
    let record = vec![b'x'; RECORD_BYTES];
    let mut in_flight: VecDeque<Ticket> = VecDeque::with_capacity(IN_FLIGHT);
    for _ in 0..records {
        if in_flight.len() == IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.acknowledged().await?;
        }
        in_flight.push_back(log.append(&record).await?);
    }
    for ticket in in_flight {
        ticket.acknowledged().await?;
    }
    Ok(())
}
