//! Ends of Kafka transactions whose outcome the client can't know: the answer is lost or late, or the request itself is
//! late and reaches the broker in the middle of the next transaction (X24).

use std::time::Duration;

use rustix::process::Signal;
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::pipeline::Finished;
use tidemill_tests::proxy::{EndFault, Ends, Proxy};
use tidemill_tests::target::{Kind, Target};
use tidemill_tests::{java, servers};

/// How long the sink's client waits for an answer.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);
/// Offsets of each partition in a batch: the small topic takes eight batches.
const PER_BATCH: u64 = 100;

const LOSE: EndFault = EndFault::LoseAnswer { refuse: Duration::ZERO };
/// The client can't ask again in time: it gives the transaction up without an outcome.
const LOSE_FOR_LONG: EndFault = EndFault::LoseAnswer {
    refuse: Duration::from_secs(5),
};
const TOO_LATE: EndFault = EndFault::DelayAnswer(Duration::from_secs(5));

/// A pipeline whose sink goes through a proxy, armed with `faults`.
fn through_proxy(faults: &[(u32, EndFault)]) -> (Proxy, Case<'static>) {
    let proxy = Proxy::start(&servers::kafka()).expect("a proxy");
    for (pass, fault) in faults {
        proxy.arm(*pass, *fault);
    }
    let target = Target::topic_behind(&proxy.address(), SOCKET_TIMEOUT).expect("a topic");
    let case = Case::with_target(target, Input::small(), PER_BATCH).expect("a pipeline");
    (proxy, case)
}

/// One run through all the faults ends by itself, and shows every record once at every moment.
fn survives(faults: &[(u32, EndFault)]) -> (Ends, Finished) {
    let (proxy, case) = through_proxy(faults);
    let onlooker = case.watch().expect("an onlooker");
    let finished = case
        .pipeline
        .start_to_end(&[])
        .and_then(|run| run.wait(LIMIT))
        .expect("it ends");
    assert_eq!(finished.code(), Some(0), "{}", finished.log_tail());
    let watched = onlooker
        .finish()
        .unwrap_or_else(|error| panic!("{error:?}\n{}", finished.log_tail()));
    case.judge()
        .expect("the sink can be read")
        .assert_clean(&finished.log_tail());
    let ends = proxy.ends();
    eprintln!("{faults:?}: {ends:?}, {watched:?}, clean");
    (ends, finished)
}

#[test]
fn answers_lost_at_the_birth_and_at_several_commits_change_nothing() {
    // A birth and eight batches: the first end, and the last.
    let (ends, _) = survives(&[(0, LOSE), (1, LOSE), (1, LOSE), (2, LOSE), (0, LOSE)]);
    assert_eq!(ends.lost, 5);
}

#[test]
fn ends_without_any_outcome_are_found_in_the_ledger() {
    let (ends, finished) = survives(&[(2, LOSE_FOR_LONG), (2, LOSE_FOR_LONG)]);
    assert_eq!(ends.lost, 2);
    let found = finished.stderr.matches("the ledger holds the batch after all").count();
    assert_eq!(found, 2, "{}", finished.log_tail());
}

#[test]
fn answers_that_come_after_the_socket_timeout_change_nothing() {
    let (ends, _) = survives(&[(2, TOO_LATE), (3, TOO_LATE)]);
    assert_eq!(ends.delayed, 2);
}

#[test]
fn an_end_that_arrives_in_the_next_transaction_is_refused_by_the_broker() {
    let (ends, _) = survives(&[
        (2, EndFault::DeliverLate),
        (2, EndFault::DeliverLate),
        (1, EndFault::DeliverLate),
    ]);
    assert_eq!(ends.late.len(), 3);
    assert!(ends.late.iter().all(|code| *code != 0), "taken for another's: {ends:?}");
}

/// Proves that these tests can fail: a sink that asks again and goes on with the same producer has its next transaction
/// ended halfway by the late request. What was written by then is visible without its ledger record, and is written again.
#[test]
fn a_sink_that_goes_on_after_an_end_in_doubt_is_caught() {
    let (proxy, case) = through_proxy(&[(2, EndFault::DeliverLate)]);
    let run = case
        .pipeline
        .start_to_end(&[("TIDEMILL_SABOTAGE", "retry-end-of-transaction")]);
    let finished = run.and_then(|run| run.wait(LIMIT)).expect("it ends");
    let verdict = case.judge().expect("the sink can be read");
    assert_eq!(
        proxy.ends().late,
        [0],
        "the late end was not taken\n{}",
        finished.log_tail()
    );
    assert!(
        verdict.lost + verdict.duplicated > 0,
        "not caught: {}, {verdict}\n{}",
        finished.status,
        finished.log_tail()
    );
    eprintln!("retry-end-of-transaction: caught: {}, {verdict}", finished.status);
}

/// Frozen between the beginning of a batch and its first rows the producer has no transaction; with rows it has, and may take as
/// long as the broker lets it.
#[test]
fn x25_a_transaction_begins_with_the_first_row() {
    let case = Case::new(Kind::Kafka, Input::small(), PER_BATCH).expect("a pipeline");
    let id = format!("tidemill-{}-out", case.app);
    let told = || java::run("Topics", &["transaction", &id]).expect("it is known");
    let armed = [(
        "TIDEMILL_FAILPOINTS",
        "sink.after-begin=stop@2,kafka.before-ledger=stop@3",
    )];
    let mut run = case.pipeline.start_to_end(&armed).expect("it starts");
    for state in ["CompleteCommit", "Ongoing"] {
        assert!(run.wait_frozen(LIMIT).expect("it lives"), "{}", run.log());
        let told = told();
        assert!(
            told.contains(&format!("state {state} timeout 900000")),
            "{state}: {told}"
        );
        run.signal(Signal::CONT);
    }
    let ended = run.wait(LIMIT).expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    case.judge()
        .expect("the sink can be read")
        .assert_clean(&ended.log_tail());
}
