//! What a person may order for one start, where sinks and checkpoint no longer fit (X8, X9).

use crate::recover::{Facts, Refusal};

/// The orders of one start. Each names what it is for; none is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaysOut {
    /// Sinks to be taken over from another application of the same name.
    pub adopt: Vec<String>,
    /// Sinks in which the last batch is given up.
    pub drop_sinks: Vec<String>,
    /// Sinks that were renamed in the file: the old name, then the new one.
    pub renames: Vec<(String, String)>,
    /// Sinks that begin anew where they point now.
    pub new_targets: Vec<String>,
    /// Stateful operators whose state is given up.
    pub forget_states: Vec<String>,
}

impl WaysOut {
    /// True where the sink is to be taken over.
    pub fn adopts(&self, sink: &str) -> bool {
        self.adopt.iter().any(|name| name == sink)
    }

    /// True where the last batch is given up in the sink.
    pub fn drops(&self, sink: &str) -> bool {
        self.drop_sinks.iter().any(|name| name == sink)
    }

    /// True where the sink begins anew.
    pub fn begins_anew(&self, sink: &str) -> bool {
        self.new_targets.iter().any(|name| name == sink)
    }
}

/// Looks whether each order has something to do: one that is left in a start script would later be followed unasked.
///
/// `owners` are the uuids that stand in the sinks, in the order of the facts.
///
/// # Errors
/// [`Refusal::NotApplicable`].
pub fn applicable(facts: &Facts, owners: &[Option<String>]) -> Result<(), Refusal> {
    let orders = &facts.ways_out;
    let refuse = |flag, sink: &str, why: String| {
        Err(Refusal::NotApplicable {
            flag,
            sink: sink.to_owned(),
            why,
        })
    };
    let last = facts.last_plan.as_ref().map(|last| &last.plan);
    let planned = |name: &str| last.and_then(|last| last.sinks.iter().find(|sink| sink.name == name));
    let in_file = |name: &str| facts.sinks.iter().find(|sink| sink.identity.name == name);
    let not_in_file = || "the file has no such sink".to_owned();
    for name in &orders.adopt {
        let Some(sink) = in_file(name) else {
            return refuse("--adopt", name, not_in_file());
        };
        let by_ledger = sink.ledger.iter().map(|record| &record.app_uuid);
        let owner = facts
            .sinks
            .iter()
            .zip(owners)
            .find(|(other, _)| other.identity.name == *name);
        let mut uuids = by_ledger.chain(owner.and_then(|(_, uuid)| uuid.as_ref()));
        if uuids.all(|uuid| *uuid == facts.app_uuid) {
            return refuse("--adopt", name, "no other application owns it".to_owned());
        }
    }
    for name in &orders.drop_sinks {
        let settled = last.map(|last| last.batch_id) == facts.settled;
        if in_file(name).is_some() && !orders.begins_anew(name) {
            return refuse("--drop-sink", name, "the file still has it".to_owned());
        }
        if planned(name).is_none() {
            return refuse("--drop-sink", name, "the last batch was not planned for it".to_owned());
        }
        if settled {
            return refuse("--drop-sink", name, "the last batch is settled in it".to_owned());
        }
    }
    for (old, _) in &orders.renames {
        if planned(old).is_none() {
            return refuse(
                "--rename-sink",
                old,
                "the last batch was not planned for a sink of that name".to_owned(),
            );
        }
    }
    for name in &orders.new_targets {
        let Some(sink) = in_file(name) else {
            return refuse("--new-target", name, not_in_file());
        };
        let Some(was) = planned(name) else {
            return refuse(
                "--new-target",
                name,
                "it begins after the last batch in any case".to_owned(),
            );
        };
        let elsewhere = was.target != sink.identity.target || was.kind != sink.identity.kind;
        if !elsewhere && sink.ledger.is_some() {
            return refuse("--new-target", name, "it points where it did".to_owned());
        }
    }
    Ok(())
}
