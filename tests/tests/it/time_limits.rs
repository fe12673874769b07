//! X19: a batch that its sink's time limit ends twice stops the stream and names the setting.

use std::fs;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::pipeline::{Finished, Run};
use tidemill_tests::target::{Kind, with_database};
use tidemill_tests::{java, servers};

fn stopped_at(setting: &str, finished: &Finished) {
    assert_eq!(finished.code(), Some(1), "{}", finished.log_tail());
    let named = finished.stderr.lines().filter(|line| line.contains(setting)).count();
    assert!(
        named >= 2,
        "{setting} is named in {named} lines\n{}",
        finished.log_tail()
    );
    assert!(
        finished.stderr.contains("batch 1 for sink out, ranges"),
        "{}",
        finished.log_tail()
    );
}

#[test]
fn x19_a_statement_timeout_that_ends_a_batch_twice_stops_the_stream() {
    let case = Case::new(Kind::Postgres, Input::small(), 100).unwrap();
    let table = case.target.place();
    let slow = format!(
        "CREATE FUNCTION slow_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slow_{table}()"
    );
    with_database(async |database| Ok(database.batch_execute(&slow).await?)).unwrap();
    let url = servers::postgres();
    let mark = if url.contains('?') { '&' } else { '?' };
    let limited = format!("{url}{mark}options=-cstatement_timeout%3D1500");
    let run = case.pipeline.start_to_end(&[("DATABASE_URL", &limited)]).unwrap();
    stopped_at("statement_timeout", &run.wait(LIMIT).unwrap());
    let verdict = case.judge_prefix().unwrap();
    assert!(verdict.is_clean(), "{verdict}");

    let fast = format!("DROP TRIGGER slow ON {table}");
    with_database(async |database| Ok(database.batch_execute(&fast).await?)).unwrap();
    case.finish().unwrap();
}

/// Waits until no transaction is open on the topic: its stable end is its end.
fn wait_settled(topic: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = java::run("Topics", &["describe", topic])?;
        let open = text.lines().filter(|line| line.starts_with("partition ")).any(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
            after("stable") != after("end")
        });
        if !open {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a transaction is still open\n{text}");
    }
}

/// Lets the coordinator end the transaction that a frozen driver holds, and thaws it.
fn outlive(mut run: Run, topic: &str) -> Result<Run> {
    if !run.wait_frozen(LIMIT)? {
        bail!("the driver ended instead\n{}", run.wait(LIMIT)?.log_tail());
    }
    wait_settled(topic)?;
    run.signal(Signal::CONT);
    Ok(run)
}

#[test]
fn x19_a_transaction_timeout_that_ends_a_batch_twice_stops_the_stream() {
    let case = Case::new(Kind::Kafka, Input::small(), 100).unwrap();
    let text = fs::read_to_string(case.pipeline.file()).unwrap();
    let limited = text.replace(
        "[rate]",
        "properties = { \"transaction.timeout.ms\" = \"2000\" }\n[rate]",
    );
    fs::write(case.pipeline.file(), limited).unwrap();
    // The first end of a transaction is that of the birth record.
    let points = "kafka.before-end=stop@2,kafka.before-end=stop@3";
    let run = case.pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", points)]).unwrap();
    let run = outlive(run, case.target.place()).unwrap();
    // Frozen again at the second run of the batch, not still.
    assert!(run.wait_for_log("the batch was not committed", LIMIT).unwrap());
    let run = outlive(run, case.target.place()).unwrap();
    stopped_at("transaction.timeout.ms", &run.wait(LIMIT).unwrap());
    fs::write(case.pipeline.file(), text).unwrap();
    case.finish().unwrap();
}
