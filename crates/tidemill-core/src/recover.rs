//! What to do at start, and after every unknown outcome: one pure function, one variant per case.

mod refusal;

use crate::ledger::LedgerRecord;
use crate::plan::{BatchId, BatchPlan, SinkIdentity, TableIdentity};
use crate::ways_out::WaysOut;

pub use refusal::Refusal;

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
    /// Hash of what it takes now, without its name.
    pub query_hash: String,
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
    /// What a person ordered for this start.
    pub ways_out: WaysOut,
}

impl Facts {
    /// The sink's record, where it is this application's; that of an adopted sink is left behind.
    fn record<'a>(&self, sink: &'a SinkFacts) -> Option<&'a LedgerRecord> {
        sink.ledger.as_ref().filter(|record| record.app_uuid == self.app_uuid)
    }
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
        /// Sinks to be born once it is settled.
        births: Vec<String>,
        /// True where the plan log lacks the plan and a sink's ledger gave it: the checkpoint is older than the sink.
        from_ledger: bool,
    },
}

/// Decides from what was read, touching nothing.
///
/// # Errors
/// [`Refusal`] where going on could lose or double rows.
pub fn decide(facts: &Facts) -> Result<Recovery, Refusal> {
    for sink in &facts.sinks {
        if let Some(record) = &sink.ledger
            && record.app_uuid != facts.app_uuid
            && !facts.ways_out.adopts(&sink.identity.name)
        {
            return Err(foreign(facts, sink, record));
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
        match standing(facts, sink, &last)? {
            Standing::Unborn if sink.dead_letters => late.push(sink),
            Standing::Unborn => births.push(sink.identity.name.clone()),
            Standing::Holds => {}
            Standing::Lacks => missing.push(sink),
        }
    }
    if missing.is_empty() || settled {
        births.extend(late.drain(..).map(|sink| sink.identity.name.clone()));
    }
    if settled {
        return Ok(Recovery::Continue { last, births });
    }
    for planned in &last.plan.sinks {
        let in_file = facts.sinks.iter().any(|sink| sink.identity.name == planned.name);
        if !in_file && !facts.ways_out.drops(&planned.name) {
            return Err(Refusal::GoneUnsettled {
                sink: planned.name.clone(),
                batch,
            });
        }
    }
    if missing.iter().any(|sink| changed(facts, sink, &last.plan)) {
        return Err(Refusal::ChangedUnsettled { batch });
    }
    let other = last.plan.tables.iter().find(|table| !facts.tables.contains(table));
    if let (Some(table), false) = (other, missing.is_empty()) {
        return Err(Refusal::TableChanged {
            table: table.name.clone(),
            batch,
        });
    }
    let missing = late.iter().chain(&missing).map(|sink| sink.identity.name.clone());
    Ok(Recovery::Finish {
        missing: missing.collect(),
        plan: last,
        births,
        from_ledger,
    })
}

/// True where the sink would be given other rows than the plan was made for. A plan that reads nothing gives none.
fn changed(facts: &Facts, sink: &SinkFacts, plan: &BatchPlan) -> bool {
    match plan.query_hashes.get(&sink.identity.name) {
        _ if plan.is_birth() => false,
        Some(planned) => *planned != sink.query_hash,
        None => plan.pipeline_hash != facts.pipeline_hash,
    }
}

fn foreign(facts: &Facts, sink: &SinkFacts, record: &LedgerRecord) -> Refusal {
    Refusal::Foreign {
        sink: sink.identity.name.clone(),
        theirs: record.app_uuid.clone(),
        ours: facts.app_uuid.clone(),
    }
}

/// The newest plan of plan log and ledgers: an old checkpoint next to a newer sink takes the plan from the ledger (X7).
fn newest_plan(facts: &Facts) -> Result<Option<(LoggedPlan, bool)>, Refusal> {
    let mut newest = facts.last_plan.clone().map(|plan| (plan, false));
    for sink in &facts.sinks {
        let Some(record) = facts.record(sink) else { continue };
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

fn standing(facts: &Facts, sink: &SinkFacts, last: &LoggedPlan) -> Result<Standing, Refusal> {
    let name = &sink.identity.name;
    let batch = last.plan.batch_id;
    let settled = facts.settled == Some(batch);
    let planned = last.plan.sinks.iter().find(|planned| planned.name == *name);
    if !sink.exactly_once {
        return Ok(if planned.is_some() && !settled {
            Standing::Lacks
        } else {
            Standing::Holds
        });
    }
    if let Some(record) = sink.ledger.as_ref().filter(|record| record.app_uuid != facts.app_uuid) {
        return match planned {
            // The plan that takes it over is logged, its record is not written.
            Some(_) if !settled && last.plan.is_birth() => Ok(Standing::Lacks),
            Some(_) if !settled => Err(foreign(facts, sink, record)),
            // Taken over by a plan of its own, after the recovery.
            _ => Ok(Standing::Holds),
        };
    }
    let moved = planned.filter(|planned| planned.target != sink.identity.target || planned.kind != sink.identity.kind);
    if let Some(planned) = moved
        && !facts.ways_out.begins_anew(name)
    {
        return Err(Refusal::TargetChanged {
            sink: name.clone(),
            was: format!("{} {}", planned.kind, planned.target),
            now: format!("{} {}", sink.identity.kind, sink.identity.target),
        });
    }
    let Some(record) = &sink.ledger else {
        return match planned {
            None => Ok(Standing::Unborn),
            Some(_) if last.plan.bears(name) => Ok(if settled { Standing::Unborn } else { Standing::Lacks }),
            Some(planned) if facts.ways_out.begins_anew(name) => match settled || facts.ways_out.drops(name) {
                true => Ok(Standing::Unborn),
                false => Err(Refusal::MovedUnsettled {
                    sink: name.clone(),
                    batch,
                    was: format!("{} {}", planned.kind, planned.target),
                }),
            },
            Some(_) => Err(Refusal::LedgerMissing {
                sink: name.clone(),
                batch,
                target: sink.identity.target.clone(),
            }),
        };
    };
    if record.batch_id == batch {
        return Ok(Standing::Holds);
    }
    if let Some(was) = moved {
        if settled || facts.ways_out.drops(name) {
            // A ledger that was left there earlier.
            return Ok(Standing::Unborn);
        }
        // One ledger for both places tells whether the batch is in the old one; a ledger of the new place alone does not.
        if !record.plan.sinks.contains(was) {
            return Err(Refusal::MovedUnsettled {
                sink: name.clone(),
                batch,
                was: format!("{} {}", was.kind, was.target),
            });
        }
    }
    if let Some(settled) = facts.settled
        && record.batch_id < settled
        && planned.is_some()
    {
        return Err(Refusal::SinkBehind {
            sink: name.clone(),
            ledger: record.batch_id,
            settled,
        });
    }
    if planned.is_some() && last.plan.follows().is_some_and(|before| record.batch_id < before) {
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
mod tests;
