use std::collections::BTreeMap;

use super::*;
use crate::plan::{LimitsInForce, Turn};
use crate::position::Positions;
use crate::ways_out::applicable;

fn identity(name: &str) -> SinkIdentity {
    SinkIdentity {
        name: name.into(),
        kind: "file".into(),
        target: format!("/out/{name}"),
    }
}

fn plan(batch: BatchId, sinks: &[&str]) -> LoggedPlan {
    let plan = BatchPlan {
        app: "app".into(),
        app_uuid: "ours".into(),
        epoch: 1,
        incarnation: "i".into(),
        batch_id: batch,
        batch_time_ms: 0,
        seed: 0,
        reduce_slices: 2,
        before: Positions::default(),
        ranges: Vec::new(),
        sinks: sinks.iter().map(|name| identity(name)).collect(),
        tables: Vec::new(),
        limits: LimitsInForce::default(),
        pipeline_hash: "queries".into(),
        query_hashes: BTreeMap::new(),
        states: BTreeMap::new(),
        zero_ms: None,
        turn: None,
    };
    LoggedPlan {
        plan,
        hash: format!("hash-{batch}"),
    }
}

fn sink(name: &str, ledger: Option<BatchId>) -> SinkFacts {
    let ledger = ledger.map(|batch| {
        let logged = plan(batch, &["a", "b"]);
        LedgerRecord {
            app: "app".into(),
            app_uuid: "ours".into(),
            sink: name.into(),
            batch_id: batch,
            birth: batch == 0,
            epoch: 1,
            incarnation: "i".into(),
            plan_hash: logged.hash,
            positions: Positions::default(),
            plan: logged.plan,
            losses: Vec::new(),
            states: BTreeMap::new(),
            rows: 0,
        }
    });
    SinkFacts {
        identity: identity(name),
        exactly_once: true,
        dead_letters: name.ends_with(".dead_letter"),
        ledger,
        query_hash: "query".into(),
    }
}

fn facts(last: Option<BatchId>, settled: Option<BatchId>, sinks: Vec<SinkFacts>) -> Facts {
    Facts {
        app_uuid: "ours".into(),
        last_plan: last.map(|batch| plan(batch, &["a", "b"])),
        settled,
        sinks,
        pipeline_hash: "queries".into(),
        tables: Vec::new(),
        ways_out: WaysOut::default(),
    }
}

fn missing(recovery: &Recovery) -> &[String] {
    match recovery {
        Recovery::Finish { missing, .. } => missing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_anywhere_is_fresh() {
    let decision = decide(&facts(None, None, vec![sink("a", None)])).expect("decides");
    assert_eq!(decision, Recovery::Fresh);
}

#[test]
fn a_crash_between_plan_0_and_the_births_is_finished() {
    let decision = decide(&facts(Some(0), None, vec![sink("a", Some(0)), sink("b", None)])).expect("decides");
    assert_eq!(missing(&decision), ["b"]);
}

#[test]
fn a_settled_plan_goes_on() {
    let decision = decide(&facts(Some(7), Some(7), vec![sink("a", Some(7)), sink("b", Some(7))])).expect("decides");
    assert!(
        matches!(decision, Recovery::Continue { ref births, .. } if births.is_empty()),
        "{decision:?}"
    );
}

#[test]
fn a_new_sink_is_born_after_the_settled_plan() {
    let sinks = vec![sink("a", Some(7)), sink("b", Some(7)), sink("c", None)];
    let decision = decide(&facts(Some(7), Some(7), sinks)).expect("decides");
    assert!(
        matches!(decision, Recovery::Continue { ref births, .. } if births == &["c"]),
        "{decision:?}"
    );
}

#[test]
fn an_unsettled_plan_runs_for_the_sinks_that_lack_it() {
    let decision = decide(&facts(Some(7), Some(6), vec![sink("a", Some(7)), sink("b", Some(6))])).expect("decides");
    assert_eq!(missing(&decision), ["b"]);
    let decision = decide(&facts(Some(7), Some(6), vec![sink("a", Some(6)), sink("b", Some(6))])).expect("decides");
    assert_eq!(missing(&decision), ["a", "b"]);
}

#[test]
fn a_crash_between_sinks_and_commit_record_only_needs_the_record() {
    let decision = decide(&facts(Some(7), Some(6), vec![sink("a", Some(7)), sink("b", Some(7))])).expect("decides");
    assert!(missing(&decision).is_empty());
}

#[test]
fn x07_an_old_checkpoint_takes_the_plan_from_the_ledger() {
    let decision = decide(&facts(Some(3), Some(3), vec![sink("a", Some(7)), sink("b", Some(6))])).expect("decides");
    assert!(matches!(decision, Recovery::Finish { from_ledger: true, ref plan, .. } if plan.plan.batch_id == 7));
    assert_eq!(missing(&decision), ["b"]);
}

#[test]
fn x07_another_plan_of_the_same_batch_stops() {
    let mut other = sink("a", Some(7));
    other.ledger.as_mut().expect("set").plan_hash = "else".into();
    let refusal = decide(&facts(Some(7), Some(6), vec![other])).expect_err("refused");
    assert!(matches!(refusal, Refusal::Diverged { batch: 7, .. }), "{refusal}");
}

#[test]
fn x08_a_foreign_uuid_is_refused() {
    let mut foreign = sink("a", Some(7));
    foreign.ledger.as_mut().expect("set").app_uuid = "theirs".into();
    let refusal = decide(&facts(None, None, vec![foreign])).expect_err("refused");
    assert!(
        matches!(refusal, Refusal::Foreign { .. }) && !refusal.is_loss(),
        "{refusal}"
    );
}

#[test]
fn x09_an_emptied_or_moved_sink_is_refused() {
    let refusal = decide(&facts(Some(7), Some(7), vec![sink("a", None), sink("b", Some(7))])).expect_err("refused");
    assert!(matches!(refusal, Refusal::LedgerMissing { batch: 7, .. }), "{refusal}");
    let mut moved = sink("a", Some(7));
    moved.identity.target = "/elsewhere".into();
    let refusal = decide(&facts(Some(7), Some(7), vec![moved])).expect_err("refused");
    assert!(matches!(refusal, Refusal::TargetChanged { .. }), "{refusal}");
}

#[test]
fn x09_a_sink_that_left_the_file_unsettled_is_refused() {
    let refusal = decide(&facts(Some(7), Some(6), vec![sink("a", Some(7))])).expect_err("refused");
    assert!(matches!(refusal, Refusal::GoneUnsettled { batch: 7, .. }), "{refusal}");
    decide(&facts(Some(7), Some(7), vec![sink("a", Some(7))])).expect("a settled one may go");
}

#[test]
fn x10_a_restored_backup_of_a_sink_is_a_loss() {
    let refusal = decide(&facts(Some(7), Some(7), vec![sink("a", Some(5)), sink("b", Some(7))])).expect_err("refused");
    assert!(
        matches!(
            refusal,
            Refusal::SinkBehind {
                ledger: 5,
                settled: 7,
                ..
            }
        ),
        "{refusal}"
    );
    assert!(refusal.is_loss());
}

#[test]
fn changed_queries_wait_until_the_last_batch_is_settled() {
    let mut changed = facts(Some(7), Some(6), vec![sink("a", Some(6)), sink("b", Some(6))]);
    changed.pipeline_hash = "other".into();
    assert!(matches!(
        decide(&changed).expect_err("refused"),
        Refusal::ChangedUnsettled { batch: 7 }
    ));
    changed.settled = Some(7);
    changed.sinks = vec![sink("a", Some(7)), sink("b", Some(7))];
    decide(&changed).expect("goes on");
}

#[test]
fn a_commit_without_its_plan_is_damage() {
    let refusal = decide(&facts(None, Some(3), vec![sink("a", None)])).expect_err("refused");
    assert!(matches!(refusal, Refusal::Damaged { settled: 3, .. }), "{refusal}");
}

#[test]
fn callbacks_run_again_when_unsettled() {
    let mut console = sink("a", None);
    console.exactly_once = false;
    let mut unsettled = facts(Some(7), Some(6), vec![console.clone()]);
    unsettled.last_plan = Some(plan(7, &["a"]));
    assert_eq!(missing(&decide(&unsettled).expect("decides")), ["a"]);
    unsettled.settled = Some(7);
    assert!(matches!(
        decide(&unsettled).expect("decides"),
        Recovery::Continue { .. }
    ));
}

#[test]
fn x08_an_adopted_sink_is_left_to_a_plan_of_its_own() {
    let mut foreign = sink("a", Some(70));
    foreign.ledger.as_mut().expect("set").app_uuid = "theirs".into();
    let mut fresh = facts(None, None, vec![foreign.clone()]);
    fresh.ways_out.adopt = vec!["a".into()];
    assert_eq!(decide(&fresh).expect("decides"), Recovery::Fresh);
    // Its first plan is logged, then a crash.
    let mut turn = plan(71, &["a"]);
    turn.plan.turn = Some(Turn {
        adopted: vec!["a".into()],
        ..Turn::default()
    });
    fresh.last_plan = Some(turn);
    assert_eq!(missing(&decide(&fresh).expect("decides")), ["a"]);
    fresh.ways_out = WaysOut::default();
    let refusal = decide(&fresh).expect_err("refused");
    assert!(refusal.to_string().contains("--adopt a"), "{refusal}");
}

#[test]
fn x09_a_sink_that_left_the_file_may_be_given_up() {
    let mut gone = facts(Some(7), Some(6), vec![sink("a", Some(6))]);
    gone.last_plan.as_mut().expect("set").plan.query_hashes = BTreeMap::from([("a".into(), "query".into())]);
    gone.pipeline_hash = "without b".into();
    let refusal = decide(&gone).expect_err("refused");
    assert!(refusal.to_string().contains("--drop-sink b"), "{refusal}");
    gone.ways_out.drop_sinks = vec!["b".into()];
    applicable(&gone, &[None]).expect("applies");
    assert_eq!(missing(&decide(&gone).expect("decides")), ["a"]);
    gone.settled = Some(7);
    assert!(matches!(applicable(&gone, &[None]), Err(Refusal::NotApplicable { .. })));
}

#[test]
fn x09_a_moved_sink_begins_anew_after_a_settled_batch_only() {
    let mut moved = sink("a", None);
    moved.identity.target = "/elsewhere".into();
    let mut facts = facts(Some(7), Some(7), vec![moved, sink("b", Some(7))]);
    facts.ways_out.new_targets = vec!["a".into()];
    applicable(&facts, &[None, None]).expect("applies");
    let decision = decide(&facts).expect("decides");
    assert!(
        matches!(decision, Recovery::Continue { ref births, .. } if births == &["a"]),
        "{decision:?}"
    );
    // A ledger that an earlier stay left there is no older copy.
    facts.sinks[0].ledger = sink("a", Some(3)).ledger;
    let decision = decide(&facts).expect("decides");
    assert!(
        matches!(decision, Recovery::Continue { ref births, .. } if births == &["a"]),
        "{decision:?}"
    );
    facts.sinks[0].ledger = None;
    facts.settled = Some(6);
    let refusal = decide(&facts).expect_err("refused");
    assert!(matches!(refusal, Refusal::MovedUnsettled { batch: 7, .. }), "{refusal}");
    facts.ways_out.drop_sinks = vec!["a".into()];
    let decision = decide(&facts).expect("decides");
    assert!(missing(&decision).is_empty(), "{decision:?}");
    facts.sinks[0].identity.target = "/out/a".into();
    facts.sinks[0].ledger = sink("a", Some(6)).ledger;
    assert!(matches!(
        applicable(&facts, &[None, None]),
        Err(Refusal::NotApplicable { .. })
    ));
}

#[test]
fn x32_a_rewound_plan_is_finished_whatever_the_queries_are() {
    let mut rewound = facts(Some(9), Some(8), vec![sink("a", Some(9)), sink("b", Some(8))]);
    rewound.sinks[0].ledger.as_mut().expect("set").batch_id = 9;
    rewound.last_plan.as_mut().expect("set").plan.turn = Some(Turn {
        version: 1,
        follows: Some(8),
        rewound_to: Some(3),
        ..Turn::default()
    });
    rewound.pipeline_hash = "other".into();
    assert_eq!(missing(&decide(&rewound).expect("decides")), ["b"]);
}

#[test]
fn x17_a_batch_that_stopped_at_a_bad_record_runs_for_a_new_sink_of_dead_letters_first() {
    let sinks = |b| vec![sink("events.dead_letter", None), sink("a", Some(6)), sink("b", b)];
    let unsettled = decide(&facts(Some(7), Some(6), sinks(Some(6)))).expect("decides");
    assert_eq!(missing(&unsettled), ["events.dead_letter", "a", "b"]);
    let mut again = sinks(Some(6));
    again[0] = sink("events.dead_letter", Some(7));
    let again = decide(&facts(Some(7), Some(6), again)).expect("decides");
    assert!(
        matches!(again, Recovery::Finish { ref births, .. } if births.is_empty()),
        "{again:?}"
    );
    assert_eq!(missing(&again), ["a", "b"], "it holds the batch already");
}

#[test]
fn x17_where_all_sinks_hold_the_batch_a_sink_of_dead_letters_is_born_after_it() {
    let sinks = vec![sink("events.dead_letter", None), sink("a", Some(7)), sink("b", Some(7))];
    let decision = decide(&facts(Some(7), Some(6), sinks)).expect("decides");
    assert!(missing(&decision).is_empty());
    assert!(matches!(decision, Recovery::Finish { ref births, .. } if births == &["events.dead_letter"]));
}

#[test]
fn x12_a_changed_reference_table_waits_until_the_last_batch_is_settled() {
    let table = |sha256: &str| TableIdentity {
        name: "campaigns".into(),
        bytes: 7,
        sha256: sha256.into(),
    };
    let mut changed = facts(Some(7), Some(6), vec![sink("a", Some(6)), sink("b", Some(6))]);
    changed.last_plan.as_mut().expect("set").plan.tables = vec![table("old")];
    changed.tables = vec![table("new")];
    let refusal = decide(&changed).expect_err("refused");
    assert!(matches!(refusal, Refusal::TableChanged { batch: 7, .. }), "{refusal}");
    assert!(refusal.to_string().contains("campaigns"), "{refusal}");
    let mut same = changed.clone();
    same.tables = vec![table("old")];
    decide(&same).expect("runs again");
    changed.sinks = vec![sink("a", Some(7)), sink("b", Some(7))];
    decide(&changed).expect("nothing is left to run");
}
