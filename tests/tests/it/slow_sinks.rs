//! Sinks that are slower than their input, or away: memory stays flat, and nothing is lost or doubled.
//!
//! Seconds here, minutes by hand: `TIDEMILL_TEST_SLOW_SECONDS=600 scripts/test integration -- slow_sinks`.

use std::time::Duration;

use rustix::process::Signal;
use tidemill_tests::case::LIMIT;
use tidemill_tests::own_server::OwnServer;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::target::{Kind, Target, with_database, with_database_at};
use tidemill_tests::{java, servers};

use crate::sheet::{files, head, sink, source};

const PARTITIONS: u64 = 2;
/// Records per second that come, ten times what the slow table takes.
const PACE: u64 = 4_000;

fn slow_time() -> Duration {
    let seconds = std::env::var("TIDEMILL_TEST_SLOW_SECONDS");
    Duration::from_secs(seconds.map_or(30, |seconds| seconds.parse().unwrap()))
}

/// Rows, and rows that are there once and without a gap before them, of a table of (part, seq).
fn counted(table: &str) -> (i64, i64) {
    let query = format!(
        "SELECT count(*), coalesce((SELECT sum(whole)::bigint FROM (SELECT CASE WHEN count(*) = count(DISTINCT seq) AND max(seq) + 1 \
         = count(*) THEN count(*) ELSE 0 END AS whole FROM {table} GROUP BY part) t), 0) FROM {table}"
    );
    with_database(async |database| {
        let row = database.query_one(&query, &[]).await?;
        Ok((row.get(0), row.get(1)))
    })
    .unwrap()
}

#[test]
fn a_sink_ten_times_slower_than_its_input_keeps_memory_flat() {
    let time = slow_time();
    let topic = servers::unique("slow");
    java::create_topic(&topic, PARTITIONS, &[]).unwrap();
    let target = Target::create(Kind::Postgres, "part INT, seq BIGINT").unwrap();
    let table = target.place().to_owned();
    let slow = format!(
        "CREATE FUNCTION {table}_slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(0.0025); RETURN NEW; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_slow();"
    );
    with_database(async |database| Ok(database.batch_execute(&slow).await?)).unwrap();
    let text = head("slow")
        + &source("events", &topic, "part INT, seq BIGINT", "")
        + &sink("out", "SELECT part, seq FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let mut run = pipeline.start(&[], &[]).unwrap();
    // For a little longer than is looked at.
    let records = (PACE * (time.as_secs() + 10)).to_string();
    let pace = PACE.to_string();
    let load = [&topic, &records, "2", "--pace", &pace, "--padding", "200"];
    let mut load = java::spawn("Load", &load).unwrap();
    assert!(
        run.wait_for_log("limit=\"back-pressure\"", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    assert!(run.runs_for(time / 3).unwrap(), "{}", run.log());
    let early = run.resident_bytes_max().unwrap();
    assert!(run.runs_for(time * 2 / 3).unwrap(), "{}", run.log());
    let late = run.resident_bytes_max().unwrap();
    load.kill().unwrap();
    load.wait().unwrap();
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    let (rows, whole) = counted(&table);
    eprintln!(
        "{time:?}: {rows} rows of {} records/s, resident at most {} MiB after a third, {} MiB in the end",
        PACE,
        early >> 20,
        late >> 20
    );
    assert_eq!(rows, whole, "every row once, in order, without a gap");
    let taken = u64::try_from(rows).unwrap();
    assert!(taken * 5 < PACE * time.as_secs(), "{taken} rows: the sink was not slow");
    assert!(late < early + (16 << 20), "{early} bytes resident, then {late}");
}

#[test]
fn three_sinks_of_which_one_is_away_go_on_when_it_is_back() {
    const RECORDS: u64 = 6_000;
    let topic = servers::unique("away");
    java::create_topic(&topic, PARTITIONS, &[]).unwrap();
    let mut database = OwnServer::postgres().unwrap();
    let create = "CREATE TABLE rows (part INT, seq BIGINT)";
    with_database_at(database.address(), async |database| {
        Ok(database.batch_execute(create).await?)
    })
    .unwrap();
    let (folder, out) = (files(), Target::create(Kind::Kafka, "").unwrap());
    let sql = "SELECT part, seq FROM events";
    let text = head("away")
        + &source("events", &topic, "part INT, seq BIGINT", "")
        + &sink("files", sql, &folder)
        + &sink("topic", sql, &out)
        + &format!(
            "[sinks.table]\nsql = \"{sql}\"\nkind = \"postgres\"\nurl = \"${{OWN_DATABASE}}\"\ntable = \"rows\"\n"
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let env = [("OWN_DATABASE", database.address())];
    let load = [&topic, &RECORDS.to_string(), "2", "--pace", "500"];
    let mut load = java::spawn("Load", &load).unwrap();
    let mut run = pipeline.start(&[], &env).unwrap();
    assert!(run.wait_for_log("batch=2 ", LIMIT).unwrap(), "{}", run.log());
    database.end(Signal::QUIT).unwrap();
    assert!(
        run.wait_for_log("nothing is lost, intake waits", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    assert!(run.runs_for(slow_time() / 2).unwrap(), "{}", run.log());
    let url = database.address().to_owned();
    database.again().unwrap();
    assert!(load.wait().unwrap().success());
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).unwrap().code(), Some(0));
    let ended = pipeline.run_to_end(&[("OWN_DATABASE", &url)], LIMIT).unwrap();
    let expected: Vec<(i64, i64)> = (0..2)
        .flat_map(|part| (0..RECORDS as i64 / 2).map(move |seq| (part, seq)))
        .collect();
    for (name, target) in [("files", &folder), ("topic", &out)] {
        let rows = target.rows(pipeline.folder()).unwrap();
        let mut rows: Vec<(i64, i64)> = rows
            .iter()
            .map(|row| (row["part"].as_i64().unwrap(), row["seq"].as_i64().unwrap()))
            .collect();
        rows.sort_unstable();
        assert!(rows == expected, "{name}: {} rows\n{}", rows.len(), ended.log_tail());
    }
    let rows: Vec<(i64, i64)> = with_database_at(&url, async |database| {
        let rows = database
            .query("SELECT part, seq FROM rows ORDER BY part, seq", &[])
            .await?;
        Ok(rows
            .iter()
            .map(|row| (i64::from(row.get::<_, i32>(0)), row.get(1)))
            .collect())
    })
    .unwrap();
    assert!(rows == expected, "table: {} rows\n{}", rows.len(), ended.log_tail());
}
