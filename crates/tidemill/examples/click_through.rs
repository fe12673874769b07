//! Click-through rates of campaigns per ten seconds of event time: filter, project, join with a table of campaigns, count per window.
//!
//! ```text
//! cargo run --example click_through
//! ```
//! Reads 300,000 ad events from an embedded broker. Prints the rate of each window over all campaigns, and ends with 1 where the counts
//! are not what counting without Tidemill gives.

#![expect(clippy::print_stdout, reason = "what an example finds is its output")]

mod embedded;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use embedded::{AdEvent, Embedded, TOPIC};
use tidemill::prelude::*;

const EVENTS: u64 = 300_000;
const CAMPAIGNS: u64 = 100;
const WINDOW_MS: i64 = 10_000;

/// Campaign, and the window's first millisecond.
type Window = (u64, i64);
/// Views and clicks.
type Counts = (u64, u64);

/// The campaign that each ad belongs to.
fn campaigns() -> BTreeMap<String, u64> {
    (0..1_000).map(|ad| (format!("ad-{ad:04}"), ad % CAMPAIGNS)).collect()
}

/// What an event adds to which window.
fn counted(event: &AdEvent, campaigns: &BTreeMap<String, u64>) -> Option<(Window, Counts)> {
    let counts = match event.event_type.as_str() {
        "view" => (1, 0),
        "click" => (0, 1),
        _ => return None,
    };
    let campaign = *campaigns.get(&event.ad_id)?;
    Some(((campaign, event.event_time / WINDOW_MS * WINDOW_MS), counts))
}

fn add(a: Counts, b: Counts) -> Counts {
    (a.0 + b.0, a.1 + b.1)
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let embedded = Embedded::with(EVENTS)?;
    let seen: Arc<Mutex<BTreeMap<Window, Counts>>> = Arc::default();

    let (windows, table) = (Arc::clone(&seen), Arc::new(campaigns()));
    let context = StreamingContext::builder("click-through", Duration::from_millis(500))
        .checkpoint(embedded.checkpoint())
        .until_caught_up()
        .get_or_create(|context| {
            let events = DirectKafka::new(embedded.brokers())
                .topics([TOPIC])
                .max_rate_per_partition(100_000);
            context
                .kafka_direct_stream(events)?
                .try_map(|record| serde_json::from_slice::<AdEvent>(record.value()))
                .flat_map(move |event| counted(&event, &table))
                .reduce_by_key(add)
                .map_with_state(
                    // A window that got nothing for a minute is over.
                    StateSpec::function(|window: &Window, new: Option<Counts>, counts: &mut State<Counts>| {
                        let all = add(counts.get().copied().unwrap_or_default(), new.unwrap_or_default());
                        if !counts.is_timing_out() {
                            counts.update(all);
                        }
                        (*window, all)
                    })
                    .timeout(Duration::from_secs(60)),
                )
                .named("windows")
                .mapped()
                .foreach_batch(move |changed, _batch| {
                    windows.lock().expect("nobody panics with it").extend(changed);
                });
            Ok(())
        })?;
    context.start()?;
    context.await_termination()?;

    let (mut expected, campaigns) = (BTreeMap::new(), campaigns());
    for (window, counts) in embedded.again().filter_map(|event| counted(&event, &campaigns)) {
        let before = expected.entry(window).or_default();
        *before = add(*before, counts);
    }
    let seen = seen.lock().expect("nobody panics with it");
    ensure!(*seen == expected, "the windows are not those of counting again");
    let mut whole: BTreeMap<i64, Counts> = BTreeMap::new();
    for ((_, from), counts) in seen.iter() {
        let before = whole.entry(*from).or_default();
        *before = add(*before, *counts);
    }
    for (from, (views, clicks)) in whole {
        println!(
            "{from} ms: {views} views, {clicks} clicks, {:.3} clicks per view",
            clicks as f64 / views as f64
        );
    }
    Ok(())
}
