//! The outermost step of a query that ranges over more than the batch, and what can't go on.

use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

/// The GROUP BY that a query ends with: above it stands only what SELECT and HAVING say.
///
/// # Errors
/// Why it can't run, in words that go after `scope = …: `.
pub(super) fn outermost(plan: &LogicalPlan) -> Result<&Aggregate, String> {
    let what = match plan {
        LogicalPlan::Projection(above) => return outermost(&above.input),
        LogicalPlan::Filter(above) => return outermost(&above.input),
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => "an aggregate without GROUP BY is",
        LogicalPlan::Aggregate(aggregate) => return can_run(aggregate).map(|()| aggregate),
        LogicalPlan::Sort(_) => "ORDER BY is",
        LogicalPlan::Limit(_) => "LIMIT is",
        LogicalPlan::Distinct(_) => "DISTINCT is",
        LogicalPlan::Window(_) => "a window function is",
        LogicalPlan::Join(_) => "a join is",
        LogicalPlan::Union(_) => "UNION is",
        _ => "no GROUP BY is",
    };
    Err(format!(
        "the outermost step of the query must be a GROUP BY, {what}. Put what comes after the aggregates into a query of its own that reads this one"
    ))
}

fn can_run(aggregate: &Aggregate) -> Result<(), String> {
    if aggregate
        .group_expr
        .iter()
        .any(|group| matches!(group, Expr::GroupingSet(_)))
    {
        return Err("ROLLUP, CUBE and GROUPING SETS are not in this version; write a query for each set".to_owned());
    }
    aggregate.aggr_expr.iter().try_for_each(aggregate_can_run)
}

fn aggregate_can_run(expr: &Expr) -> Result<(), String> {
    let Expr::AggregateFunction(called) = expr.clone().unalias() else {
        return Err(format!("{expr} is no aggregate that can be kept"));
    };
    let name = called.func.name();
    if called.params.distinct {
        return Err(format!(
            "{name}(DISTINCT …) would have to keep every value there was; approx_distinct keeps an estimate"
        ));
    }
    if !called.params.order_by.is_empty() {
        return Err(format!(
            "{name}(…) with an ORDER BY would have to keep every value there was"
        ));
    }
    Ok(())
}
