//! Servers that go away in the middle of a run and come back: the run goes on unaided.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemill_tests::case::{Input, LIMIT};
use tidemill_tests::lossy_proxy::LossyProxy;
use tidemill_tests::oracle::{self, Row, Truth};
use tidemill_tests::own_server::OwnServer;
use tidemill_tests::pipeline::{Finished, Pipeline, Run};
use tidemill_tests::target::{Kind, Target, with_database_at};
use tidemill_tests::{java, servers};

use crate::sheet::{files, head, sink, source, source_at};

const COLUMNS: &str = "seq BIGINT, part INT, aborted BOOLEAN";
const SQL: &str = "SELECT seq, part, aborted FROM events";
const PARTITIONS: u64 = 3;

/// A topic that is far larger than all buffers between broker and sink, so that most of it is unread when reading begins.
struct Large {
    topic: String,
    truth: Truth,
}

fn large(brokers: &str, records: u64, padding: u64) -> Large {
    let topic = servers::unique("large");
    java::load_at(
        brokers,
        &topic,
        records,
        PARTITIONS,
        &["--padding", &padding.to_string()],
    )
    .unwrap();
    Large {
        topic,
        truth: Truth::of_load(records, PARTITIONS),
    }
}

/// The rows are exactly those that were committed: the same count and the same sum, none twice, in order.
fn is_exact(truth: &Truth, pipeline: &Pipeline, target: &Target, ended: &Finished) {
    let rows: Vec<Row> = target
        .rows(pipeline.folder())
        .unwrap()
        .iter()
        .map(|row| Row::from_json(row).unwrap())
        .collect();
    oracle::judge(truth, &rows).assert_clean(&ended.log_tail());
}

fn ended_well(run: Run) -> Finished {
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    ended
}

#[test]
fn a_scan_rides_through_the_end_of_its_broker() {
    let mut broker = OwnServer::kafka().unwrap();
    let input = large(broker.address(), 300_000, 400);
    let target = files();
    let text =
        head("broker") + &source_at(broker.address(), "events", &input.topic, COLUMNS, "") + &sink("out", SQL, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let mut run = pipeline
        .start_to_end(&[("TIDEMILL_FAILPOINTS", "read.first-rows=stop@1")])
        .unwrap();
    assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
    broker.end(Signal::KILL).unwrap();
    run.signal(Signal::CONT);
    assert!(
        run.wait_for_log("reading from kafka is interrupted", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    broker.again().unwrap();
    let ended = ended_well(run);
    assert!(
        ended.stderr.contains("reading from kafka goes on"),
        "{}",
        ended.log_tail()
    );
    is_exact(&input.truth, &pipeline, &target, &ended);
}

/// Resident at most, all in all: the program itself, 32 MiB of fetched bytes, decoded rows, what the sink gathers.
const RESIDENT_BYTES_MAX: u64 = 150 << 20;
const DOWN: Duration = Duration::from_secs(20);

/// The lag is larger than the bound, so that a reader that took it in would show.
#[test]
fn memory_stays_bounded_while_the_broker_is_down_under_a_large_lag() {
    let mut broker = OwnServer::kafka().unwrap();
    let input = large(broker.address(), 500_000, 900);
    let target = files();
    let text = head("memory")
        + &source_at(
            broker.address(),
            "events",
            &input.topic,
            COLUMNS,
            "max_batch_bytes = \"1GiB\"",
        )
        + &sink("out", SQL, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let mut run = pipeline
        .start(&[], &[("TIDEMILL_FAILPOINTS", "read.first-rows=stop@1")])
        .unwrap();
    assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
    broker.end(Signal::KILL).unwrap();
    let down = Instant::now();
    run.signal(Signal::CONT);
    assert!(
        run.wait_for_log("reading from kafka is interrupted", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    assert!(
        run.runs_for(DOWN.saturating_sub(down.elapsed())).unwrap(),
        "{}",
        run.log()
    );
    let while_down = run.resident_bytes_max().unwrap();
    broker.again().unwrap();
    // Waiting for more, the run has read all there is.
    assert!(run.wait_for_log("lag_records=0", LIMIT).unwrap(), "{}", run.log());
    let at_end = run.resident_bytes_max().unwrap();
    eprintln!(
        "resident at most {} MiB while down, {} MiB in all",
        while_down >> 20,
        at_end >> 20
    );
    assert!(at_end < RESIDENT_BYTES_MAX, "{at_end} bytes resident");
    run.signal(Signal::TERM);
    let ended = ended_well(run);
    is_exact(&input.truth, &pipeline, &target, &ended);
}

/// Between two batches nothing is read: the next ends can't be asked for, and that is said.
#[test]
fn a_run_that_waits_rides_through_the_end_of_its_broker() {
    let mut broker = OwnServer::kafka().unwrap();
    let input = large(broker.address(), 3000, 0);
    let target = files();
    let text =
        head("idle") + &source_at(broker.address(), "events", &input.topic, COLUMNS, "") + &sink("out", SQL, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let run = pipeline.start(&[], &[]).unwrap();
    assert!(run.wait_for_log("lag_records=0", LIMIT).unwrap(), "{}", run.log());
    broker.end(Signal::KILL).unwrap();
    assert!(
        run.wait_for_log("end offsets can't be read", LIMIT).unwrap(),
        "{}",
        run.log()
    );
    broker.again().unwrap();
    let more = ["--first", "1000"];
    java::load_at(broker.address(), &input.topic, 3000, PARTITIONS, &more).unwrap();
    assert!(run.wait_for_log("batch=2", LIMIT).unwrap(), "{}", run.log());
    run.signal(Signal::TERM);
    ended_well(run);
    let ended = pipeline.run_to_end(&[], LIMIT).unwrap();
    is_exact(&Truth::of_load(6000, PARTITIONS), &pipeline, &target, &ended);
}

/// The server is stopped in the middle of a transaction, comes back seconds later, and each row is there once.
#[test]
fn a_run_rides_through_the_end_of_its_database() {
    let input = large(&servers::kafka(), 9000, 0);
    for point in ["postgres.after-copy", "postgres.after-ledger"] {
        let mut server = OwnServer::postgres().unwrap();
        let create =
            "CREATE TABLE rows (arrival BIGINT GENERATED ALWAYS AS IDENTITY, seq BIGINT, part INT, aborted BOOLEAN)";
        with_database_at(server.address(), async |database| {
            Ok(database.batch_execute(create).await?)
        })
        .unwrap();
        let text = head("database")
            + &source("events", &input.topic, COLUMNS, "max_rate_per_partition = 5000")
            + &format!(
                "[sinks.out]\nsql = \"{SQL}\"\nkind = \"postgres\"\nurl = \"${{OWN_DATABASE}}\"\ntable = \"rows\"\n"
            );
        let pipeline = Pipeline::write(&text).unwrap();
        let armed = format!("{point}=stop@3");
        let mut run = pipeline
            .start_to_end(&[("OWN_DATABASE", server.address()), ("TIDEMILL_FAILPOINTS", &armed)])
            .unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
        server.end(Signal::QUIT).unwrap(); // immediate
        run.signal(Signal::CONT);
        // The first failure is that of the broken session, the second that of the server that isn't there.
        assert!(run.wait_for_log("retry_ms=400", LIMIT).unwrap(), "{}", run.log());
        let log = run.log();
        assert!(
            log.contains("the batch was not committed; nothing is lost, intake waits"),
            "{log}"
        );
        assert!(log.contains("Connection refused"), "{log}");
        server.again().unwrap();
        let ended = ended_well(run);
        let select = "SELECT part, seq, aborted FROM rows ORDER BY arrival";
        let rows: Vec<Row> = with_database_at(server.address(), async |database| {
            let rows = database.query(select, &[]).await?;
            let row = |row: &tokio_postgres::Row| Row {
                lane: row.get::<_, i32>(0).to_string(),
                seq: row.get(1),
                aborted: row.get(2),
            };
            Ok(rows.iter().map(row).collect())
        })
        .unwrap();
        oracle::judge(&input.truth, &rows).assert_clean(&format!("{point}\n{}", ended.log_tail()));
        let password = server.address().split(['/', ':', '@']).nth(4).unwrap();
        assert!(!ended.stderr.contains(password));
        eprintln!("stopped at {point}: clean");
    }
}

/// X20: the batch was committed, but its answer is lost and the sink can't be asked at once. It must be asked before
/// anything runs again.
#[test]
fn x20_a_commit_whose_answer_was_lost_is_found_in_the_ledger() {
    for refusals in [0, 1, 3] {
        let input = Input::small();
        let target = Target::create(Kind::Postgres, COLUMNS).unwrap();
        let proxy = LossyProxy::start(5, refusals).unwrap();
        let text = head("lost")
            + &source("events", &input.topic, COLUMNS, "max_rate_per_partition = 1000")
            + &sink("out", SQL, &target);
        let pipeline = Pipeline::write(&text).unwrap();
        let run = pipeline
            .start_to_end(&[("DATABASE_URL", &proxy.url().unwrap())])
            .unwrap();
        let ended = ended_well(run);
        let log = &ended.stderr;
        assert!(
            log.contains("the ledger holds the batch after all"),
            "{refusals} refusals: {log}"
        );
        is_exact(&input.truth, &pipeline, &target, &ended);
    }
}
