//! Sessions: what a user does without a break of more than five batches.
//!
//! ```text
//! cargo run --example sessions
//! ```
//! Reads 50,000 ad events from an embedded broker. A session is a state with a timeout; when it ends it is told once, with the number of
//! its events. Prints how many sessions ended and how many go on, and ends with 1 where their events are not all that there are.

#![expect(clippy::print_stdout, reason = "what an example finds is its output")]

mod embedded;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use embedded::{AdEvent, Embedded, TOPIC};
use serde::{Deserialize, Serialize};
use tidemill::prelude::*;

const EVENTS: u64 = 50_000;
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    events: u64,
    last_ms: i64,
}

/// Takes an event in; at the timeout the session is told.
fn session(_user: &String, event: Option<i64>, session: &mut State<Session>) -> Option<u64> {
    let Some(time_ms) = event else {
        return session.get().map(|ended| ended.events);
    };
    let events = session.get().map_or(0, |session| session.events) + 1;
    session.update(Session {
        events,
        last_ms: time_ms,
    });
    None
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let embedded = Embedded::with(EVENTS)?;
    let ended: Arc<Mutex<Vec<u64>>> = Arc::default();
    let open: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();

    let (told, going_on) = (Arc::clone(&ended), Arc::clone(&open));
    let context = StreamingContext::builder("sessions", INTERVAL)
        .checkpoint(embedded.checkpoint())
        .until_caught_up()
        .get_or_create(|context| {
            let events = DirectKafka::new(embedded.brokers())
                .topics([TOPIC])
                .max_rate_per_partition(5_000);
            let sessions = context
                .kafka_direct_stream(events)?
                .try_map(|record| serde_json::from_slice::<AdEvent>(record.value()))
                .map(|event| (event.user_id, event.event_time))
                .map_with_state(StateSpec::function(session).timeout(INTERVAL * 5))
                .named("sessions");
            sessions
                .mapped()
                .flat_map(|ended| ended)
                .foreach_batch(move |ended, _batch| {
                    told.lock().expect("nobody panics with it").extend(ended);
                });
            sessions.state_snapshots().foreach_batch(move |states, _batch| {
                let all = states
                    .into_iter()
                    .map(|(user, session)| (user, session.events))
                    .collect();
                *going_on.lock().expect("nobody panics with it") = all;
            });
            Ok(())
        })?;
    context.start()?;
    context.await_termination()?;

    let (ended, open) = (ended.lock().expect("locked"), open.lock().expect("locked"));
    let events: u64 = ended.iter().chain(open.values()).sum();
    println!("{} sessions ended, {} go on, {events} events", ended.len(), open.len());
    ensure!(events == EVENTS, "{events} events in sessions, there were {EVENTS}");
    Ok(())
}
