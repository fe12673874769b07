//! The operator that brings what is kept of groups among the rows of a batch, and notes what becomes of it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};

use super::kept_groups::{KeptGroups, ours};
use super::noted::Noted;
use super::reach::Reach;
use super::window::Window;
use crate::job::StateReaders;
use crate::state::{BUCKETS, OperatorSpec, StateReader};

/// Kept groups that become rows at once.
const ROWS_AT_ONCE: usize = 8192;
/// What remembering a key costs beside its bytes.
const KEY_OVERHEAD: usize = 48;

/// What the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Adds, to the groups of the batch, what is kept of them. Stands where all rows of a group come to one slice.
    AddTouched,
    /// Adds all that is kept and in the window, where one ends with the batch; where none does, nothing passes. Stands before rows
    /// are brought together by group.
    AddAll,
    /// Notes the merged groups that pass.
    Note,
}

/// Passes rows of partial aggregates on.
///
/// In a template it knows no state; [`StateExec::for_batch`] gives it what a batch begins with.
#[derive(Debug)]
pub(in crate::sql) struct StateExec {
    role: Role,
    groups: Arc<KeptGroups>,
    input: Arc<dyn ExecutionPlan>,
    batch: Option<InBatch>,
    properties: Arc<PlanProperties>,
}

/// A node for one batch, and where it notes changes.
type OfBatch = (Arc<dyn ExecutionPlan>, Option<Arc<Noted>>);

#[derive(Debug, Clone)]
struct InBatch {
    before: Option<StateReader>,
    reach: Arc<Reach>,
    noted: Option<Arc<Noted>>,
}

impl StateExec {
    pub(super) fn template(role: Role, groups: Arc<KeptGroups>, input: Arc<dyn ExecutionPlan>) -> Self {
        Self::over(role, groups, input, None)
    }

    fn over(role: Role, groups: Arc<KeptGroups>, input: Arc<dyn ExecutionPlan>, batch: Option<InBatch>) -> Self {
        let schema = match role {
            Role::AddTouched | Role::AddAll => &groups.timed_schema,
            Role::Note => &groups.schema,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(schema)),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            role,
            groups,
            input,
            batch,
            properties: Arc::new(properties),
        }
    }

    /// The operator whose state a plan with this node changes.
    pub(in crate::sql) fn changes(&self) -> Option<&OperatorSpec> {
        (self.role == Role::Note).then_some(&self.groups.operator)
    }

    /// The window of the groups, where there is one.
    pub(in crate::sql) fn window(&self) -> Option<Window> {
        self.groups.scope.window()
    }

    /// The node for the batch of this time, and where it notes changes. A missing reader stands for an empty state.
    ///
    /// # Errors
    /// Where the state can't be read.
    pub(in crate::sql) fn for_batch(&self, time_ms: i64, before: &StateReaders) -> DfResult<OfBatch> {
        let before = before.get(&self.groups.operator.id).cloned();
        let reach = Arc::new(Reach::of(self.groups.scope, time_ms, before.as_ref()).map_err(ours)?);
        let noted = (self.role == Role::Note).then(|| {
            let (groups, input) = (Arc::clone(&self.groups), Arc::clone(&self.input));
            Arc::new(Noted::new(groups, before.clone(), Arc::clone(&reach), input))
        });
        let batch = InBatch {
            before,
            reach,
            noted: noted.clone(),
        };
        let exec = Self::over(
            self.role,
            Arc::clone(&self.groups),
            Arc::clone(&self.input),
            Some(batch),
        );
        Ok((Arc::new(exec), noted))
    }

    /// The rows of a slice, and behind them what is given of the kept groups in its share of the buckets.
    fn with_all(
        &self,
        slice: usize,
        input: SendableRecordBatchStream,
        before: Option<StateReader>,
        reach: &Arc<Reach>,
    ) -> SendableRecordBatchStream {
        let Some(from) = reach.given_from.clone() else {
            // Read all the same: what passes below is noted.
            return self.rows(input.try_filter(|_rows| future::ready(false)));
        };
        let Some(before) = before else {
            return input;
        };
        let (groups, reach) = (Arc::clone(&self.groups), Arc::clone(reach));
        let slices = self.input.output_partitioning().partition_count();
        let kept = (0..BUCKETS)
            .filter(move |bucket| usize::from(*bucket) % slices == slice)
            .flat_map(move |bucket| of_bucket(Arc::clone(&groups), &before, Arc::clone(&reach), bucket, &from));
        self.rows(input.chain(stream::iter(kept)))
    }

    fn rows(&self, rows: impl Stream<Item = DfResult<RecordBatch>> + Send + 'static) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows))
    }

    /// The rows of a slice of the batch, as they stand beside what is kept.
    fn of_batch(
        &self,
        slice: usize,
        context: Arc<TaskContext>,
        reach: &Arc<Reach>,
    ) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(slice, context)?;
        if reach.expiry.is_none() {
            return Ok(input);
        }
        let (groups, reach) = (Arc::clone(&self.groups), Arc::clone(reach));
        Ok(self.rows(input.map(move |rows| groups.rows_of_batch(rows?, &reach))))
    }
}

impl DisplayAs for StateExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateExec: {:?} operator={}", self.role, self.groups.operator.id)
    }
}

impl ExecutionPlan for StateExec {
    fn name(&self) -> &str {
        "StateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        Ok(Arc::new(Self::over(
            self.role,
            Arc::clone(&self.groups),
            input,
            self.batch.clone(),
        )))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, slice: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let Some(InBatch { before, reach, noted }) = self.batch.clone() else {
            return Err(DataFusionError::Internal(
                "a template was executed without the state before a batch".into(),
            ));
        };
        if let Some(noted) = noted {
            return Ok(self.rows(noted.rows(slice, context)?));
        }
        let input = self.of_batch(slice, Arc::clone(&context), &reach)?;
        if self.role == Role::AddAll {
            return Ok(self.with_all(slice, input, before, &reach));
        }
        let Some(before) = before else {
            return Ok(input);
        };
        let mut touched = Touched {
            groups: Arc::clone(&self.groups),
            before,
            reach,
            seen: HashSet::new(),
            reservation: MemoryConsumer::new("groups of the batch").register(context.memory_pool()),
        };
        let with_kept = input
            .map_ok(move |rows| {
                let kept = touched.kept(&rows).transpose();
                stream::iter([Some(Ok(rows)), kept].into_iter().flatten())
            })
            .try_flatten();
        Ok(self.rows(with_kept))
    }
}

/// All groups that are kept in a bucket, from this key on.
fn of_bucket(
    groups: Arc<KeptGroups>,
    before: &StateReader,
    reach: Arc<Reach>,
    bucket: u16,
    from: &[u8],
) -> impl Iterator<Item = DfResult<RecordBatch>> + Send + use<> {
    let goes_on = move |entry: &Result<(_, Vec<u8>), _>| match entry {
        Ok((_, kept)) => reach.goes_on_from(kept),
        Err(_) => true,
    };
    let mut entries = groups.range(before, bucket, from).filter(goes_on);
    std::iter::from_fn(move || {
        let next: Result<Vec<_>, _> = entries.by_ref().take(ROWS_AT_ONCE).collect();
        match next {
            Ok(entries) if entries.is_empty() => None,
            Ok(entries) => Some(groups.rows(&entries)),
            Err(error) => Some(Err(ours(error))),
        }
    })
}

/// The groups of a batch that came by, each of which needs what is kept of it once.
#[derive(Debug)]
struct Touched {
    groups: Arc<KeptGroups>,
    before: StateReader,
    reach: Arc<Reach>,
    seen: HashSet<Vec<u8>>,
    reservation: MemoryReservation,
}

impl Touched {
    /// What is kept of the groups that come by for the first time.
    fn kept(&mut self, rows: &RecordBatch) -> DfResult<Option<RecordBatch>> {
        let mut kept = Vec::new();
        for group in self.groups.groups(rows, &self.reach)? {
            if self.seen.contains(&group.key) {
                continue;
            }
            self.reservation.try_grow(group.key.len() + KEY_OVERHEAD)?;
            let value = self.groups.get(&self.before, &group)?;
            if let Some(value) = value.filter(|kept| self.reach.goes_on_from(kept)) {
                kept.push((group.key.clone(), value));
            }
            self.seen.insert(group.key);
        }
        if kept.is_empty() {
            return Ok(None);
        }
        self.groups.rows(&kept).map(Some)
    }
}
