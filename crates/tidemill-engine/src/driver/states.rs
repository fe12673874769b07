//! What stateful operators keep between batches (X30): restored at the start, staged before the first sink commits, brought
//! forward when the batch is settled.

use std::collections::BTreeMap;

use tidemill_core::plan::BatchId;
use tidemill_core::state::StateVersions;

use super::Output;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::job::StateReaders;
use crate::sink::Claim;
use crate::state::{Changes, OperatorSpec, StageName, StateSettings, StateStore};

/// Batches after which versions that nobody needs are removed.
const TIDIED_EVERY: BatchId = 10;

/// The state of a running application; nothing where no operator has any.
#[derive(Debug, Default)]
pub(super) struct States {
    store: Option<StateStore>,
    operators: Vec<OperatorSpec>,
}

fn operators(outputs: &[Output]) -> BTreeMap<String, OperatorSpec> {
    let of_jobs = outputs.iter().flat_map(|output| output.job.operators());
    of_jobs.map(|operator| (operator.id.clone(), operator)).collect()
}

/// State that nobody would read any more is not dropped unasked.
fn refuse_gone(
    operators: &BTreeMap<String, OperatorSpec>,
    versions: &StateVersions,
    forgotten: &[String],
) -> Result<()> {
    let gone = |id: &&String| !operators.contains_key(*id) && !forgotten.contains(id);
    let Some(gone) = versions.keys().find(gone) else {
        return Ok(());
    };
    let known: Vec<&str> = operators.keys().map(String::as_str).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Err(Error::new(
        Kind::Config,
        format!(
            "the checkpoint holds state of the operator {gone}, which the pipeline no longer has (it has: {known}). Give it its name back \
             (in a program with .named({gone:?})), or let its state go: `tidemill run FILE --forget-state {gone}`, in a program \
             .forget_state({gone:?})"
        ),
    ))
}

/// Looks whether the outputs can go on from `versions`, touching nothing.
///
/// # Errors
/// `Config` where an operator is gone or holds something else now; `Loss` where its state is missing or damaged.
pub(super) async fn acceptable(
    checkpoint: &Checkpoint,
    outputs: &[Output],
    versions: &StateVersions,
    forgotten: &[String],
) -> Result<()> {
    let operators = operators(outputs);
    refuse_gone(&operators, versions, forgotten)?;
    let store = checkpoint.store();
    for (id, version) in versions.iter().filter(|(id, _)| !forgotten.contains(id)) {
        if let Some(operator) = operators.get(id) {
            StateStore::check(store.as_ref(), operator, version).await?;
        }
    }
    Ok(())
}

impl States {
    /// Brings all operators of the outputs to `versions`; those that have none begin empty, and so do those of `forgotten` whose
    /// state is of another kind or shape.
    ///
    /// # Errors
    /// `Config` where the program lacks an operator whose state is there, or has it with another shape.
    pub(super) async fn open(
        settings: Option<&StateSettings>,
        checkpoint: &Checkpoint,
        outputs: &[Output],
        versions: &StateVersions,
        forgotten: &[String],
    ) -> Result<Self> {
        let operators = operators(outputs);
        refuse_gone(&operators, versions, forgotten)?;
        if operators.is_empty() {
            return Ok(Self::default());
        }
        let settings = settings.ok_or_else(|| {
            Error::new(
                Kind::Config,
                "a stateful stream needs a checkpoint: give the program a checkpoint directory",
            )
        })?;
        let mut store = StateStore::open(settings.clone(), checkpoint.store()).await?;
        for operator in operators.values() {
            let Err(error) = store.restore(operator, versions.get(&operator.id)).await else {
                continue;
            };
            // What fits is kept: an order that stays in a program or a start script must not be followed at every start.
            if error.kind() != Kind::Config || !forgotten.contains(&operator.id) {
                return Err(error);
            }
            tracing::warn!(operator = operator.id, error = error.chain(), "its state is given up");
            store.restore(operator, None).await?;
        }
        Ok(Self {
            store: Some(store),
            operators: operators.into_values().collect(),
        })
    }

    /// What each operator holds before the batch in hand.
    pub(super) fn readers(&self) -> Result<StateReaders> {
        let Some(store) = &self.store else {
            return Ok(StateReaders::new());
        };
        let reader = |operator: &OperatorSpec| Ok((operator.id.clone(), store.reader(&operator.id)?));
        self.operators.iter().map(reader).collect()
    }

    /// True where an operator holds nothing before the batch in hand.
    pub(super) fn is_empty(&self, operator: &str) -> Result<bool> {
        match &self.store {
            Some(store) => store.reader(operator)?.is_empty(),
            None => Ok(true),
        }
    }

    /// Makes the changes durable and notes their versions in `decided`: where there are any, and no other output of the
    /// batch has decided the operator's version.
    pub(super) async fn stage(
        &self,
        claim: &Claim,
        batch_id: BatchId,
        attempt: u32,
        changes: BTreeMap<String, Changes>,
        decided: &mut StateVersions,
    ) -> Result<()> {
        for (operator, changes) in changes {
            if changes.is_empty() || decided.contains_key(&operator) {
                continue;
            }
            let Some(store) = &self.store else {
                return Err(Error::new(Kind::Bug, format!("state of {operator} without a store")));
            };
            let at = StageName {
                batch_id,
                epoch: claim.epoch,
                attempt,
            };
            failpoint::pass("state.before-stage");
            let version = store.stage(&operator, at, changes).await?;
            failpoint::pass("state.after-stage");
            decided.insert(operator, version);
        }
        Ok(())
    }

    /// Goes on from `versions`, which every sink has passed.
    pub(super) async fn settled(&mut self, batch: BatchId, versions: &StateVersions) -> Result<()> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        for (operator, version) in versions {
            if version.batch_id == batch {
                store.advance(operator, version).await?;
            }
        }
        if batch.is_multiple_of(TIDIED_EVERY)
            && let Err(error) = store.tidy(std::slice::from_ref(versions)).await
        {
            tracing::warn!(error = error.chain(), "old versions of state were not removed");
        }
        Ok(())
    }
}
