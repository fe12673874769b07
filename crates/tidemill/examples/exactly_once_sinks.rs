//! Exactly once into tables, topics and folders, whatever ends the program on its way.
//!
//! ```text
//! KAFKA=localhost:9092 TOPIC=events SINKS=postgres:numbered,kafka:numbered,files:out,totals:totals \
//!     DATABASE_URL=postgres://… CHECKPOINT=checkpoint/numbered cargo run --example exactly_once_sinks
//! ```
//! Reads a topic of JSON events and gives each its number among those of its partition, which a state counts. `SINKS` says where
//! they go, in the order in which the sinks commit a batch: a table and a topic that are there, a folder. `totals` is a table with
//! the number of events per partition, upserted. `APP` (default `numbered`) is the key of the ledgers. The program ends with 3 where
//! a newer instance has taken over.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tidemill::prelude::*;
use tidemill::{Files, KafkaTopic, Kind, PostgresTable};

/// One event as it is read.
#[derive(Debug, Serialize, Deserialize)]
struct Event {
    seq: i64,
    part: i32,
    aborted: bool,
}

/// One event as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Numbered {
    seq: i64,
    part: String,
    aborted: bool,
    number: i64,
}

const COLUMNS: &str = "seq BIGINT NOT NULL, part VARCHAR NOT NULL, aborted BOOLEAN, number BIGINT NOT NULL";

/// A place to write to.
#[derive(Debug)]
enum Place {
    Files(Files),
    Topic(KafkaTopic),
    Table(PostgresTable),
    Totals(PostgresTable),
}

fn main() -> Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    #[cfg(feature = "fault-injection")]
    tidemill::arm_failpoints()?;
    let places = variable("SINKS")?.split(',').map(place).collect::<Result<Vec<_>>>()?;
    let stream = DirectKafka::new(variable("KAFKA")?)
        .topics([variable("TOPIC")?])
        .max_rate_per_partition(1_000);
    let app = variable("APP").unwrap_or_else(|_| "numbered".to_owned());

    let context = StreamingContext::builder(app, Duration::from_millis(200))
        .checkpoint(variable("CHECKPOINT")?)
        .until_caught_up()
        .get_or_create(|context| {
            let numbered = context
                .kafka_direct_stream(stream)?
                .try_map(|record| serde_json::from_slice::<Event>(record.value()))
                .map(|event| (event.part, event))
                .map_with_state(StateSpec::function(number))
                .named("numbers")
                .mapped()
                .flat_map(|event| event);
            let totals = numbered
                .clone()
                .map(|event| (event.part, 1))
                .update_state_by_key(|ones, total| Some(ones.iter().sum::<i64>() + total.unwrap_or(0)))
                .named("totals");
            for place in places {
                match place {
                    Place::Files(files) => numbered.clone().to_files(files),
                    Place::Topic(topic) => numbered.clone().to_kafka(topic),
                    Place::Table(table) => numbered.clone().to_postgres(table),
                    Place::Totals(table) => totals.clone().to_postgres(table),
                }
            }
            Ok(())
        })?;
    context.start()?;
    match context.await_termination() {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == Kind::Fenced => {
            eprintln!("{}", error.chain());
            Ok(ExitCode::from(3))
        }
        Err(error) => Err(error.into()),
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the variable {name} is not set"))
}

fn place(text: &str) -> Result<Place> {
    let (kind, name) = text
        .split_once(':')
        .with_context(|| format!("SINKS: {text}: expected KIND:NAME"))?;
    Ok(match kind {
        "files" => Place::Files(Files::new(name).columns(COLUMNS).json()),
        "kafka" => Place::Topic(KafkaTopic::new(variable("KAFKA")?, name).columns(COLUMNS).key("part")),
        "postgres" => Place::Table(PostgresTable::new(variable("DATABASE_URL")?, name).columns(COLUMNS)),
        "totals" => Place::Totals(
            PostgresTable::new(variable("DATABASE_URL")?, name)
                .columns("part VARCHAR NOT NULL, events BIGINT NOT NULL")
                .upsert(["part"])
                .create_table(),
        ),
        _ => bail!("SINKS: {kind}: expected files, kafka, postgres or totals"),
    })
}

/// The event with its number in the partition, from 1.
fn number(part: &i32, event: Option<Event>, state: &mut State<i64>) -> Option<Numbered> {
    let event = event?;
    let number = state.get().copied().unwrap_or(0) + 1;
    state.update(number);
    Some(Numbered {
        seq: event.seq,
        part: part.to_string(),
        aborted: event.aborted,
        number,
    })
}
