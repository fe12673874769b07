//! Programs with state.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tidemill::prelude::*;

use crate::{Topic, found};

/// Short, so that many batches do not take long: what a batch does is the same.
const SLIDE: Duration = Duration::from_millis(25);
const WINDOW_KEYS: u64 = 1_000;
const WINDOW_RATE: u64 = 400_000;
/// A quarter of it is the state's.
const MEMORY: usize = 512 << 20;

/// Prints how many values met a key that was known.
pub(crate) fn keys(checkpoint: &Path, topic: &Topic, keys: u64, per_batch: u64) -> Result<Value> {
    let known: Arc<AtomicU64> = Arc::default();
    let counted = Arc::clone(&known);
    let (partitions, interval) = (8, Duration::from_millis(100));
    let half = topic.records / partitions / 2;
    let touched = move |record: &Record| {
        let (partition, offset) = (record.partition().unsigned_abs(), record.offset().unsigned_abs());
        let (partition, number) = (u64::from(partition), offset % half);
        let place = number * partitions + partition;
        if offset < half {
            [Some(2 * place % keys), Some((2 * place + 1) % keys)]
        } else {
            [Some(scattered(place) % keys), None]
        }
    };
    let context = StreamingContext::builder("bench-keys", interval)
        .checkpoint(checkpoint)
        .memory_limit(MEMORY)
        .backpressure(false)
        .until_caught_up()
        .get_or_create(|context| {
            let records = DirectKafka::new(topic.brokers.as_str())
                .topics([topic.topic.as_str()])
                .max_rate_per_partition(per_batch * 10);
            context
                .kafka_direct_stream(records)?
                .flat_map(move |record| touched(&record).into_iter().flatten().map(|key| (key, 1_u64)))
                .map_with_state(StateSpec::function(
                    |_key: &u64, value: Option<u64>, state: &mut State<u64>| {
                        let before = state.get().copied();
                        state.update(before.unwrap_or(0) + value.unwrap_or(0));
                        u64::from(before.is_some())
                    },
                ))
                .named("keys")
                .mapped()
                .reduce(|a, b| a + b)
                .foreach_batch(move |known, _batch| {
                    counted.fetch_add(known.iter().sum(), Ordering::Relaxed);
                });
            Ok(())
        })?;
    context.start()?;
    context.await_termination()?;
    Ok(found("known", known.load(Ordering::Relaxed)))
}

/// The mixing step of SplitMix64.
fn scattered(number: u64) -> u64 {
    let a = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// Prints the number of slides in which the window held what the slides before had brought.
pub(crate) fn window(checkpoint: &Path, slides: u64, beyond: u64) -> Result<Value> {
    let length = SLIDE * u32::try_from(slides)?;
    let seen: Arc<Seen> = Arc::default();
    let (per_slide, per_window) = (Arc::clone(&seen), Arc::clone(&seen));
    let context = StreamingContext::builder("bench-window", SLIDE)
        .checkpoint(checkpoint)
        .memory_limit(MEMORY)
        .get_or_create(|context| {
            let numbers = context.rate_stream(Rate::per_second(WINDOW_RATE).in_slices(8));
            let counted = numbers.clone();
            counted.count().foreach_batch(move |counts, _batch| {
                per_slide.came(counts.iter().sum(), slides);
            });
            numbers
                .map(|number| (number % WINDOW_KEYS, 1_u64))
                .reduce_by_key_and_window_with_inverse(|a, b| a + b, |a, b| a - b, length, SLIDE)
                .foreach_batch(move |counts, _batch| {
                    per_window.held(counts.iter().map(|(_, count)| count).sum());
                });
            Ok(())
        })?;
    context.start()?;
    seen.wait_for(slides + beyond);
    context.stop()?;
    context.await_termination()?;
    let state = seen.state.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(
        state.wrong == 0,
        "{} of {} windows held another number of rows than came",
        state.wrong,
        state.windows
    );
    Ok(found("windows", state.windows))
}

/// What came per slide, and what windows held.
#[derive(Debug, Default)]
struct Seen {
    // A leaf lock.
    state: Mutex<Slides>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slides {
    /// Rows of the last slides, as many as a window has.
    came: VecDeque<u64>,
    windows: u64,
    wrong: u64,
}

impl Seen {
    fn came(&self, rows: u64, slides: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.came.push_back(rows);
        if state.came.len() as u64 > slides {
            state.came.pop_front();
        }
    }

    fn held(&self, rows: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.windows += 1;
        state.wrong += u64::from(state.came.iter().sum::<u64>() != rows);
        self.changed.notify_all();
    }

    fn wait_for(&self, windows: u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = self.changed.wait_while(state, |state| state.windows < windows);
        drop(reached);
    }
}
