//! Counts words, batch by batch and over the whole stream.
//!
//! ```text
//! cargo run --example word_count
//! ```
//! The words are those of the JSON texts of 20,000 ad events on an embedded broker. Prints the ten most frequent ones, and ends with 1
//! where they are not what counting without Tidemill gives.

#![expect(clippy::print_stdout, reason = "what an example finds is its output")]

mod embedded;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use embedded::{Embedded, TOPIC};
use tidemill::prelude::*;

const EVENTS: u64 = 20_000;

/// The words of an event: those of its kind and its ad.
fn words(event: &embedded::AdEvent) -> Vec<String> {
    let text = format!("{} {}", event.event_type, event.ad_id.replace('-', " "));
    text.split_whitespace().map(str::to_owned).collect()
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let embedded = Embedded::with(EVENTS)?;
    let counts: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();

    let totals = Arc::clone(&counts);
    let context = StreamingContext::builder("word-count", Duration::from_millis(200))
        .checkpoint(embedded.checkpoint())
        .until_caught_up()
        .get_or_create(|context| {
            let events = DirectKafka::new(embedded.brokers())
                .topics([TOPIC])
                .max_rate_per_partition(10_000);
            context
                .kafka_direct_stream(events)?
                .try_map(|record| serde_json::from_slice::<embedded::AdEvent>(record.value()))
                .flat_map(|event| words(&event))
                .map(|word| (word, 1u64))
                .reduce_by_key(|a, b| a + b)
                .map_with_state(StateSpec::function(
                    |word: &String, new: Option<u64>, total: &mut State<u64>| {
                        let count = total.get().copied().unwrap_or(0) + new.unwrap_or(0);
                        total.update(count);
                        (word.clone(), count)
                    },
                ))
                .named("totals")
                .mapped()
                .foreach_batch(move |changed, _batch| {
                    totals.lock().expect("nobody panics with it").extend(changed);
                });
            Ok(())
        })?;
    context.start()?;
    context.await_termination()?;

    let mut expected = BTreeMap::new();
    for word in embedded.again().flat_map(|event| words(&event)) {
        *expected.entry(word).or_insert(0) += 1;
    }
    let counts = counts.lock().expect("nobody panics with it");
    ensure!(*counts == expected, "the counts are not those of counting again");
    let mut most: Vec<_> = counts.iter().collect();
    most.sort_by_key(|(word, count)| (u64::MAX - **count, (*word).clone()));
    for (word, count) in most.into_iter().take(10) {
        println!("{count:>7} {word}");
    }
    Ok(())
}
