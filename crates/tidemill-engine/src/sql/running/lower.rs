//! The physical plan of a query that ranges over more than the batch.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::dataframe::DataFrame;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use super::kept_groups::KeptGroups;
use super::outermost::outermost;
use super::row_bytes::type_name;
use super::state_exec::{Role, StateExec};
use super::table::expand;
use super::{Emit, Scope, last_record};
use crate::checkpoint::record::hash;
use crate::error::{Error, Kind, Result};
use crate::state::OperatorSpec;

/// Steps that may stand above the outermost aggregate.
const ABOVE: &[&str] = &["ProjectionExec", "FilterExec", "CoalesceBatchesExec", "CooperativeExec"];
/// Steps between the two halves of an aggregate.
const BETWEEN: &[&str] = &["RepartitionExec", "CoalescePartitionsExec", "CoalesceBatchesExec"];
/// Characters of a hash in a name.
const SHORT: usize = 8;

/// A running query, planned.
#[derive(Debug)]
pub(in crate::sql) struct RunningQuery {
    /// Its plan, which knows no state yet.
    pub(super) plan: Arc<dyn ExecutionPlan>,
}

/// Takes the outermost aggregate of a query apart. `text` is all that the query is made of, as it is written.
///
/// # Errors
/// `Config` where its outermost step is no GROUP BY, or an aggregate of it can't be kept.
pub(in crate::sql) async fn lower(frame: DataFrame, name: &str, text: &str, scope: Scope) -> Result<RunningQuery> {
    let what = format!("queries.{name}");
    let (key, kind) = match scope {
        Scope::Windowed(_) => ("scope = { window = … }", "windowed-aggregate"),
        Scope::Batch | Scope::Running { .. } => ("scope = \"running\"", "running-aggregate"),
    };
    let refused = |why: String| Error::new(Kind::Config, format!("{what}: {key}: {why}"));
    outermost(frame.logical_plan()).map_err(refused)?;
    let slices = frame.task_ctx().session_config().target_partitions();
    let planned = |error| Error::with_source(Kind::Config, what.clone(), error);
    let plan = frame.create_physical_plan().await.map_err(planned)?;
    let aggregate = aggregate_of(&plan).ok_or_else(|| {
        refused("its GROUP BY is planned below other steps; write them as a query of its own".to_owned())
    })?;
    aggregate.aggr_expr().iter().try_for_each(merges).map_err(refused)?;
    let partial = partial_of(aggregate)
        .map_err(planned)?
        .ok_or_else(|| Error::new(Kind::Bug, format!("{what}: an aggregate without its first half")))?;
    let operator = OperatorSpec {
        id: operator_id(name),
        kind: kind.to_owned(),
        shape: shape(&partial, text, scope).map_err(planned)?,
    };
    let merged = merged(&partial, operator, scope, slices).map_err(planned)?;
    let plan = in_place_of_aggregate(&plan, &merged)
        .and_then(expand)
        .map_err(planned)?;
    Ok(RunningQuery { plan })
}

fn aggregate_of(plan: &Arc<dyn ExecutionPlan>) -> Option<&AggregateExec> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return Some(aggregate);
    }
    match plan.children().as_slice() {
        [below] if ABOVE.contains(&plan.name()) => aggregate_of(below),
        _ => None,
    }
}

fn in_place_of_aggregate(
    plan: &Arc<dyn ExecutionPlan>,
    merged: &Arc<dyn ExecutionPlan>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    match plan.children().as_slice() {
        [below] if plan.downcast_ref::<AggregateExec>().is_none() => {
            let below = in_place_of_aggregate(below, merged)?;
            let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Arc::clone(plan).replace_children(vec![below], recomputed)
        }
        _ => Ok(Arc::clone(merged)),
    }
}

/// The half of an aggregate that sees the records.
fn partial_of(aggregate: &AggregateExec) -> DfResult<Option<AggregateExec>> {
    match aggregate.mode() {
        AggregateMode::Single | AggregateMode::SinglePartitioned => AggregateExec::try_new(
            AggregateMode::Partial,
            aggregate.group_expr().clone(),
            aggregate.aggr_expr().to_vec(),
            aggregate.filter_expr().to_vec(),
            Arc::clone(aggregate.input()),
            aggregate.input_schema(),
        )
        .map(Some),
        _ => Ok(first_half(aggregate.input()).cloned()),
    }
}

fn first_half(plan: &Arc<dyn ExecutionPlan>) -> Option<&AggregateExec> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return (*aggregate.mode() == AggregateMode::Partial).then_some(aggregate);
    }
    match plan.children().as_slice() {
        [below] if BETWEEN.contains(&plan.name()) => first_half(below),
        _ => None,
    }
}

/// The plans that are drawn in the module's documentation.
fn merged(
    partial: &AggregateExec,
    operator: OperatorSpec,
    scope: Scope,
    slices: usize,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let group_columns = partial.group_expr().num_group_exprs();
    let groups = Arc::new(KeptGroups::new(operator, partial.schema(), group_columns, scope));
    let state =
        |role, input| -> Arc<dyn ExecutionPlan> { Arc::new(StateExec::template(role, Arc::clone(&groups), input)) };
    let by_group = partial.group_expr().as_final();
    let half = |mode, aggregates: Vec<_>, input| -> DfResult<Arc<dyn ExecutionPlan>> {
        // What a FILTER leaves out was left out of the partial aggregates.
        let filters = vec![None; aggregates.len()];
        let half = AggregateExec::try_new(
            mode,
            by_group.clone(),
            aggregates,
            filters,
            input,
            partial.input_schema(),
        )?;
        Ok(Arc::new(half))
    };
    let brought_together = |input| -> DfResult<Arc<dyn ExecutionPlan>> {
        let by_hash = Partitioning::Hash(by_group.input_exprs(), slices);
        Ok(Arc::new(RepartitionExec::try_new(input, by_hash)?))
    };
    let mut plan: Arc<dyn ExecutionPlan> = Arc::new(partial.clone());
    if matches!(scope, Scope::Running { emit: Emit::All, .. }) {
        plan = brought_together(state(Role::AddAll, plan))?;
    } else {
        plan = state(Role::AddTouched, brought_together(plan)?);
    }
    let aggregates = partial.aggr_expr().to_vec();
    let mut merged = aggregates.clone();
    if scope.ttl().is_some() {
        merged.push(last_record::latest()?);
    }
    plan = state(Role::Note, half(AggregateMode::PartialReduce, merged, plan)?);
    if scope.window().is_some() {
        plan = brought_together(state(Role::AddAll, plan))?;
    }
    half(AggregateMode::FinalPartitioned, aggregates, plan)
}

/// Fails, in words, where an aggregate can't take over what another run of it has left.
fn merges(aggregate: &Arc<AggregateFunctionExpr>) -> Result<(), String> {
    let tried = || -> DfResult<()> {
        let mut accumulator = aggregate.create_accumulator()?;
        let state = accumulator.state()?;
        let columns = state
            .iter()
            .map(|value| value.to_array_of_size(1))
            .collect::<DfResult<Vec<_>>>()?;
        accumulator.merge_batch(&columns)
    };
    let name = aggregate.fun().name();
    tried().map_err(|error| format!("{name}(…) can't go on from what it has counted so far: {error}"))
}

/// The state belongs to the query: all outputs that read it share it.
fn operator_id(name: &str) -> String {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.chars().all(fits) {
        return format!("query-{name}");
    }
    let fitting: String = name
        .chars()
        .map(|letter| {
            Some(letter.to_ascii_lowercase())
                .filter(|letter| fits(*letter))
                .unwrap_or('-')
        })
        .collect();
    format!("query-{fitting}-{}", &hash(name.as_bytes())[..SHORT])
}

/// What is kept: types of the groups, the aggregates with the types of what they take and leave, the window, and which text they
/// come of. A count over other records is another count.
fn shape(partial: &AggregateExec, text: &str, scope: Scope) -> DfResult<String> {
    let input = partial.input_schema();
    let groups: Vec<String> = partial.schema().fields()[..partial.group_expr().num_group_exprs()]
        .iter()
        .map(|field| type_name(field.data_type()))
        .collect();
    let mut parts = vec![format!("by {}", groups.join(", "))];
    for aggregate in partial.aggr_expr() {
        let takes = aggregate.expressions();
        let takes = takes
            .iter()
            .map(|expr| expr.data_type(&input).map(|taken| type_name(&taken)));
        let leaves = aggregate.state_fields()?;
        let leaves: Vec<String> = leaves.iter().map(|field| type_name(field.data_type())).collect();
        parts.push(format!(
            "{}({}): {}",
            aggregate.fun().name(),
            takes.collect::<DfResult<Vec<_>>>()?.join(", "),
            leaves.join(", ")
        ));
    }
    if let Some(window) = scope.window() {
        parts.push(format!(
            "window of {} ms every {} ms",
            window.length_ms, window.slide_ms
        ));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    parts.push(format!("of query {}", &hash(words.join(" ").as_bytes())[..SHORT]));
    Ok(parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_named_after_its_query() {
        assert_eq!(operator_id("views"), "query-views");
        assert_eq!(operator_id("ad-views2"), "query-ad-views2");
        let other = operator_id("ad_views");
        assert!(other.starts_with("query-ad-views-"), "{other}");
        assert_ne!(other, operator_id("ad views"));
    }
}
