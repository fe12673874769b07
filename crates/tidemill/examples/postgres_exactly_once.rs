//! Exactly once into PostgreSQL from a program's own transaction, keyed by `unique_id`.
//!
//! ```text
//! KAFKA=localhost:9092 TOPIC=events DATABASE_URL=postgres://… CHECKPOINT=checkpoint/clicks \
//!     cargo run --example postgres_exactly_once
//! ```
//! Reads a topic of JSON events and writes one row per event into the table `events_seen`. Callbacks run at least once:
//! the same transaction that writes a slice's rows writes the slice's id into `slices_done`, and a slice whose id is there
//! already is skipped.

use std::time::Duration;

use anyhow::{Context, Result};
use tidemill::prelude::*;
use tokio_postgres::{Client, NoTls};

/// One event as it is stored.
struct Event {
    partition: i32,
    offset: i64,
    seq: i64,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    #[cfg(feature = "fault-injection")]
    tidemill::arm_failpoints()?;
    let variable = |name: &str| std::env::var(name).with_context(|| format!("the variable {name} is not set"));
    let (kafka, topic, database) = (variable("KAFKA")?, variable("TOPIC")?, variable("DATABASE_URL")?);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(prepare(&database))?;

    let context = StreamingContext::builder("clicks", Duration::from_millis(200))
        .checkpoint(variable("CHECKPOINT")?)
        .until_caught_up()
        .get_or_create(|context| {
            let stream = DirectKafka::new(kafka).topics([topic]).max_rate_per_partition(1_000);
            context
                .kafka_direct_stream(stream)?
                .flat_map(|record| event(&record))
                .filter(|event| event.seq >= 0)
                .foreach_partition(move |events, task| runtime.block_on(store(&database, events, task)));
            Ok(())
        })?;
    context.start()?;
    context.await_termination()?;
    Ok(())
}

fn event(record: &Record) -> Option<Event> {
    let value: serde_json::Value = serde_json::from_slice(record.value()).ok()?;
    Some(Event {
        partition: record.partition(),
        offset: record.offset(),
        seq: value["seq"].as_i64()?,
    })
}

async fn connect(database: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(database, NoTls)
        .await
        .context("connect to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}

async fn prepare(database: &str) -> Result<()> {
    let tables = "CREATE TABLE IF NOT EXISTS slices_done (unique_id text PRIMARY KEY);
                  CREATE TABLE IF NOT EXISTS events_seen (partition int, \"offset\" bigint, seq bigint)";
    connect(database)
        .await?
        .batch_execute(tables)
        .await
        .context("make the tables")
}

async fn store(database: &str, events: tidemill::Rows<Event>, task: &TaskContext) -> Result<()> {
    let mut client = connect(database).await?;
    let transaction = client.transaction().await?;
    let first = transaction
        .execute(
            "INSERT INTO slices_done VALUES ($1) ON CONFLICT DO NOTHING",
            &[&task.unique_id()],
        )
        .await?;
    if first == 0 {
        tracing::info!(unique_id = task.unique_id(), "done in an earlier run");
        return Ok(());
    }
    let insert = transaction
        .prepare("INSERT INTO events_seen VALUES ($1, $2, $3)")
        .await?;
    for event in events {
        transaction
            .execute(&insert, &[&event.partition, &event.offset, &event.seq])
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}
