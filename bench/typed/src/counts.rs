//! Programs without state.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;
use tidemill::prelude::*;

use crate::{Topic, catch_up, found};

const INTERVAL: Duration = Duration::from_secs(1);
/// Rows that one number of a stream stands for.
const ROWS_PER_NUMBER: u64 = 10_000;

/// Three of the fields of an ad event.
#[derive(Debug, Deserialize)]
struct Event {
    ad_id: String,
    event_type: String,
    #[expect(dead_code, reason = "a program that reads the time would pay for it")]
    event_time: i64,
}

pub(crate) fn bytes(checkpoint: &Path, topic: &Topic) -> Result<Value> {
    let sum: Arc<AtomicU64> = Arc::default();
    let counted = Arc::clone(&sum);
    catch_up(checkpoint, INTERVAL, |context| {
        let records = DirectKafka::new(topic.brokers.as_str()).topics([topic.topic.as_str()]);
        context
            .kafka_direct_stream(records)?
            .foreach_partition(move |records, _task| {
                let bytes: usize = records.map(|record| record.value().len()).sum();
                counted.fetch_add(bytes as u64, Ordering::Relaxed);
            });
        Ok(())
    })?;
    Ok(found("bytes", sum.load(Ordering::Relaxed)))
}

pub(crate) fn views(checkpoint: &Path, topic: &Topic) -> Result<Value> {
    let counts = Counts::default();
    let counted = counts.clone();
    catch_up(checkpoint, INTERVAL, |context| {
        let records = DirectKafka::new(topic.brokers.as_str()).topics([topic.topic.as_str()]);
        context
            .kafka_direct_stream(records)?
            .try_map(|record| serde_json::from_slice::<Event>(record.value()))
            .filter(|event| event.event_type == "view")
            .map(|event| (event.ad_id, 1_u64))
            .reduce_by_key(|a, b| a + b)
            .foreach_batch(move |views, _batch| counted.add(views));
        Ok(())
    })?;
    Ok(counts.found("views"))
}

pub(crate) fn words(checkpoint: &Path, rows: u64, words: u64) -> Result<Value> {
    let counts = Counts::default();
    let counted = counts.clone();
    catch_up(checkpoint, INTERVAL, |context| {
        context
            .rate_stream(Rate::at_once(rows / ROWS_PER_NUMBER).in_slices(8))
            .flat_map(move |number| {
                let first = number * ROWS_PER_NUMBER;
                (first..first + ROWS_PER_NUMBER).map(move |row| (format!("word-{}", row % words), 1_u64))
            })
            .reduce_by_key(|a, b| a + b)
            .foreach_batch(move |counts, _batch| counted.add(counts));
        Ok(())
    })?;
    Ok(counts.found("words"))
}

/// What was counted so far, by name. A leaf lock, held to add and to look.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    fn add(&self, new: Vec<(String, u64)>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, count) in new {
            *counts.entry(name).or_default() += count;
        }
    }

    fn found(&self, name: &str) -> Value {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.iter().map(|(name, count)| (name.clone(), Value::from(*count)));
        found(name, Value::Object(counts.collect()))
    }
}
