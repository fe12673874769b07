//! What to do at start, and after every unknown outcome: one pure function, one variant per case.

use crate::ledger::LedgerRecord;
use crate::plan::{BatchId, BatchPlan, SinkIdentity, TableIdentity};

/// A plan with the hash of its logged form.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedPlan {
    /// The plan.
    pub plan: BatchPlan,
    /// SHA-256 of the plan as logged, in hexadecimal.
    pub hash: String,
}

/// What one sink of the pipeline file says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkFacts {
    /// Name, kind and target as the pipeline file has them now.
    pub identity: SinkIdentity,
    /// True where the sink keeps a ledger.
    pub exactly_once: bool,
    /// True where it takes the dead letters of a source.
    pub dead_letters: bool,
    /// The newest ledger record.
    pub ledger: Option<LedgerRecord>,
}

/// Everything recovery looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The application's uuid, from the checkpoint.
    pub app_uuid: String,
    /// The newest plan in the plan log.
    pub last_plan: Option<LoggedPlan>,
    /// The newest batch with a commit record.
    pub settled: Option<BatchId>,
    /// Sinks as the pipeline file names them, in commit order.
    pub sinks: Vec<SinkFacts>,
    /// Hash of what the pipeline file computes now.
    pub pipeline_hash: String,
    /// Reference tables as they are now.
    pub tables: Vec<TableIdentity>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Recovery {
    /// Nothing was ever planned: resolve first positions, log plan 0.
    Fresh,
    /// The last plan is settled: go on after it. `births` are sinks without a ledger yet.
    Continue {
        /// The last plan.
        last: LoggedPlan,
        /// Sinks to be born before the next plan names them.
        births: Vec<String>,
    },
    /// The last plan is not settled: run it for the sinks that lack it, then write its commit record.
    Finish {
        /// The plan, to be run unchanged.
        plan: LoggedPlan,
        /// Sinks that lack it, in commit order. Empty: only the commit record is missing. Among them may be one for dead
        /// letters that the plan does not name yet: the batch stopped at a bad record, and the file was changed to keep it.
        missing: Vec<String>,
        /// Sinks to be born after it.
        births: Vec<String>,
        /// True where the plan log lacks the plan and a sink's ledger gave it: the checkpoint is older than the sink.
        from_ledger: bool,
    },
}

/// Why the pipeline may not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// X8.
    #[error(
        "sink {sink} belongs to another application of the same name: its uuid is {theirs}, this checkpoint's is {ours}. If \
         the checkpoint was lost or moved, point `checkpoint` to it again; else choose another name"
    )]
    Foreign {
        /// The sink.
        sink: String,
        /// The uuid in the sink.
        theirs: String,
        /// The uuid in the checkpoint.
        ours: String,
    },
    /// X9: the plan log names the sink, but the sink remembers nothing.
    #[error(
        "sink {sink} was written up to batch {batch}, but holds no ledger now ({target}): it was emptied or is another \
         place. Restore it, or give the sink a new name to begin it anew"
    )]
    LedgerMissing {
        /// The sink.
        sink: String,
        /// The last batch planned for it.
        batch: BatchId,
        /// Where the sink points.
        target: String,
    },
    /// X9.
    #[error(
        "sink {sink} pointed to {was}, now it points to {now}: its ledger stays behind. Point it back, or give the sink a \
         new name to begin it anew"
    )]
    TargetChanged {
        /// The sink.
        sink: String,
        /// The target in the last plan.
        was: String,
        /// The target in the pipeline file.
        now: String,
    },
    /// X9.
    #[error(
        "sink {sink} is no longer in the file, but batch {batch} is not settled in it. Put it back until one run ended well"
    )]
    GoneUnsettled {
        /// The sink.
        sink: String,
        /// The unsettled batch.
        batch: BatchId,
    },
    /// X10: a backup was restored.
    #[error(
        "sink {sink} stands at batch {ledger}, but the checkpoint saw batch {settled} committed in it: an older copy of the \
         sink was restored. Going on would leave its rows out"
    )]
    SinkBehind {
        /// The sink.
        sink: String,
        /// The newest batch in the sink's ledger.
        ledger: BatchId,
        /// The newest batch settled.
        settled: BatchId,
    },
    /// X7.
    #[error("sink {sink} holds another plan of batch {batch} (hash {theirs}) than the plan log (hash {ours})")]
    Diverged {
        /// The sink.
        sink: String,
        /// The batch.
        batch: BatchId,
        /// The hash in the sink.
        theirs: String,
        /// The hash in the plan log.
        ours: String,
    },
    /// Sinks may differ by one batch only.
    #[error(
        "sink {sink} stands at batch {ledger}, another sink at batch {newest}: more than one apart, a ledger was changed from outside"
    )]
    Apart {
        /// The sink.
        sink: String,
        /// The newest batch in its ledger.
        ledger: BatchId,
        /// The newest batch anywhere.
        newest: BatchId,
    },
    /// The queries changed while a batch is unsettled.
    #[error(
        "the queries were changed while batch {batch} is not settled. Run the old file once with --until-caught-up, then change it"
    )]
    ChangedUnsettled {
        /// The unsettled batch.
        batch: BatchId,
    },
    /// X12.
    #[error(
        "the reference table {table} was changed while batch {batch} is not settled. Put its old files back, run once with \
         --until-caught-up, then change it"
    )]
    TableChanged {
        /// The table.
        table: String,
        /// The unsettled batch.
        batch: BatchId,
    },
    /// The checkpoint contradicts itself.
    #[error("the checkpoint is damaged: batch {settled} has a commit record, but the newest plan is {plan}")]
    Damaged {
        /// The newest batch with a commit record.
        settled: BatchId,
        /// The newest plan, in words.
        plan: String,
    },
}

impl Refusal {
    /// True where data would be lost (exit 4), false where the configuration is at fault (exit 2).
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::SinkBehind { .. } | Self::Apart { .. } | Self::Diverged { .. } | Self::LedgerMissing { .. }
        )
    }
}

/// Decides from what was read, touching nothing.
///
/// # Errors
/// [`Refusal`] where going on could lose or double rows.
pub fn decide(facts: &Facts) -> Result<Recovery, Refusal> {
    for sink in &facts.sinks {
        if let Some(record) = &sink.ledger
            && record.app_uuid != facts.app_uuid
        {
            return Err(Refusal::Foreign {
                sink: sink.identity.name.clone(),
                theirs: record.app_uuid.clone(),
                ours: facts.app_uuid.clone(),
            });
        }
    }
    let Some((last, from_ledger)) = newest_plan(facts)? else {
        return match facts.settled {
            Some(settled) => Err(Refusal::Damaged {
                settled,
                plan: "missing".to_owned(),
            }),
            None => Ok(Recovery::Fresh),
        };
    };
    if let Some(settled) = facts.settled
        && settled > last.plan.batch_id
    {
        return Err(Refusal::Damaged {
            settled,
            plan: last.plan.batch_id.to_string(),
        });
    }
    let batch = last.plan.batch_id;
    let settled = facts.settled == Some(batch);
    let mut births = Vec::new();
    let mut missing = Vec::new();
    let mut late = Vec::new();
    for sink in &facts.sinks {
        let name = sink.identity.name.clone();
        match standing(sink, &last, facts.settled)? {
            Standing::Unborn if sink.dead_letters => late.push(name),
            Standing::Unborn => births.push(name),
            Standing::Holds => {}
            Standing::Lacks => missing.push(name),
        }
    }
    if missing.is_empty() || settled {
        births.append(&mut late);
    }
    if settled {
        return Ok(Recovery::Continue { last, births });
    }
    for planned in &last.plan.sinks {
        if !facts.sinks.iter().any(|sink| sink.identity.name == planned.name) {
            return Err(Refusal::GoneUnsettled {
                sink: planned.name.clone(),
                batch,
            });
        }
    }
    if !missing.is_empty() && last.plan.pipeline_hash != facts.pipeline_hash {
        return Err(Refusal::ChangedUnsettled { batch });
    }
    let changed = last.plan.tables.iter().find(|table| !facts.tables.contains(table));
    if let (Some(table), false) = (changed, missing.is_empty()) {
        return Err(Refusal::TableChanged {
            table: table.name.clone(),
            batch,
        });
    }
    late.append(&mut missing);
    Ok(Recovery::Finish {
        plan: last,
        missing: late,
        births,
        from_ledger,
    })
}

/// The newest plan of plan log and ledgers: an old checkpoint next to a newer sink takes the plan from the ledger (X7).
fn newest_plan(facts: &Facts) -> Result<Option<(LoggedPlan, bool)>, Refusal> {
    let mut newest = facts.last_plan.clone().map(|plan| (plan, false));
    for sink in &facts.sinks {
        let Some(record) = &sink.ledger else { continue };
        match &newest {
            Some((plan, _)) if plan.plan.batch_id > record.batch_id => {}
            Some((plan, _)) if plan.plan.batch_id == record.batch_id => {
                if plan.hash != record.plan_hash {
                    return Err(Refusal::Diverged {
                        sink: sink.identity.name.clone(),
                        batch: record.batch_id,
                        theirs: record.plan_hash.clone(),
                        ours: plan.hash.clone(),
                    });
                }
            }
            _ => {
                newest = Some((
                    LoggedPlan {
                        plan: record.plan.clone(),
                        hash: record.plan_hash.clone(),
                    },
                    true,
                ))
            }
        }
    }
    Ok(newest)
}

enum Standing {
    Unborn,
    Holds,
    Lacks,
}

fn standing(sink: &SinkFacts, last: &LoggedPlan, settled: Option<BatchId>) -> Result<Standing, Refusal> {
    let name = &sink.identity.name;
    let batch = last.plan.batch_id;
    let planned = last.plan.sinks.iter().find(|planned| planned.name == *name);
    if let Some(planned) = planned
        && sink.exactly_once
        && (planned.target != sink.identity.target || planned.kind != sink.identity.kind)
    {
        return Err(Refusal::TargetChanged {
            sink: name.clone(),
            was: format!("{} {}", planned.kind, planned.target),
            now: format!("{} {}", sink.identity.kind, sink.identity.target),
        });
    }
    if !sink.exactly_once {
        return Ok(if planned.is_some() && settled != Some(batch) {
            Standing::Lacks
        } else {
            Standing::Holds
        });
    }
    let Some(record) = &sink.ledger else {
        // Plan 0 reads nothing and is logged before the sinks are born.
        return match planned {
            Some(_) if batch > 0 => Err(Refusal::LedgerMissing {
                sink: name.clone(),
                batch,
                target: sink.identity.target.clone(),
            }),
            Some(_) if settled == Some(batch) => Ok(Standing::Unborn),
            Some(_) => Ok(Standing::Lacks),
            None => Ok(Standing::Unborn),
        };
    };
    if let Some(settled) = settled
        && record.batch_id < settled
        && planned.is_some()
    {
        return Err(Refusal::SinkBehind {
            sink: name.clone(),
            ledger: record.batch_id,
            settled,
        });
    }
    if record.batch_id == batch {
        return Ok(Standing::Holds);
    }
    if planned.is_some() && record.batch_id + 1 < batch {
        return Err(Refusal::Apart {
            sink: name.clone(),
            ledger: record.batch_id,
            newest: batch,
        });
    }
    Ok(if planned.is_some() {
        Standing::Lacks
    } else {
        Standing::Unborn
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LimitsInForce;
    use crate::position::Positions;

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
                rows: 0,
            }
        });
        SinkFacts {
            identity: identity(name),
            exactly_once: true,
            dead_letters: name.ends_with(".dead_letter"),
            ledger,
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
    fn a_crash_between_sinks_and_commit_record_only_needs_the_record() {
        let decision = decide(&facts(Some(7), Some(6), vec![sink("a", Some(7)), sink("b", Some(7))])).expect("decides");
        assert!(missing(&decision).is_empty());
    }

    #[test]
    fn x7_an_old_checkpoint_takes_the_plan_from_the_ledger() {
        let decision = decide(&facts(Some(3), Some(3), vec![sink("a", Some(7)), sink("b", Some(6))])).expect("decides");
        assert!(matches!(decision, Recovery::Finish { from_ledger: true, ref plan, .. } if plan.plan.batch_id == 7));
        assert_eq!(missing(&decision), ["b"]);
    }

    #[test]
    fn x7_another_plan_of_the_same_batch_stops() {
        let mut other = sink("a", Some(7));
        other.ledger.as_mut().expect("set").plan_hash = "else".into();
        let refusal = decide(&facts(Some(7), Some(6), vec![other])).expect_err("refused");
        assert!(matches!(refusal, Refusal::Diverged { batch: 7, .. }), "{refusal}");
    }

    #[test]
    fn x8_a_foreign_uuid_is_refused() {
        let mut foreign = sink("a", Some(7));
        foreign.ledger.as_mut().expect("set").app_uuid = "theirs".into();
        let refusal = decide(&facts(None, None, vec![foreign])).expect_err("refused");
        assert!(
            matches!(refusal, Refusal::Foreign { .. }) && !refusal.is_loss(),
            "{refusal}"
        );
    }

    #[test]
    fn x9_an_emptied_or_moved_sink_is_refused() {
        let refusal = decide(&facts(Some(7), Some(7), vec![sink("a", None), sink("b", Some(7))])).expect_err("refused");
        assert!(matches!(refusal, Refusal::LedgerMissing { batch: 7, .. }), "{refusal}");
        let mut moved = sink("a", Some(7));
        moved.identity.target = "/elsewhere".into();
        let refusal = decide(&facts(Some(7), Some(7), vec![moved])).expect_err("refused");
        assert!(matches!(refusal, Refusal::TargetChanged { .. }), "{refusal}");
    }

    #[test]
    fn x9_a_sink_that_left_the_file_unsettled_is_refused() {
        let refusal = decide(&facts(Some(7), Some(6), vec![sink("a", Some(7))])).expect_err("refused");
        assert!(matches!(refusal, Refusal::GoneUnsettled { batch: 7, .. }), "{refusal}");
        decide(&facts(Some(7), Some(7), vec![sink("a", Some(7))])).expect("a settled one may go");
    }

    #[test]
    fn x10_a_restored_backup_of_a_sink_is_a_loss() {
        let refusal =
            decide(&facts(Some(7), Some(7), vec![sink("a", Some(5)), sink("b", Some(7))])).expect_err("refused");
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
}
