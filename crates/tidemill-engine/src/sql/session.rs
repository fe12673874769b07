//! The session that queries run in: the same answers in every run of a batch (X12).

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::{Result as DfResult, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::functions::{BatchCell, functions};
use super::octet_length::octet_length;
use crate::error::{Error, Kind, Result};

/// A session without tables, whose clock and kin answer for the batch in `cell`. `slices` are those after a shuffle; sorts, joins and
/// aggregates may hold `memory_bytes_max` bytes before they spill.
pub(super) fn session(slices: usize, memory_bytes_max: usize, cell: &Arc<BatchCell>) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(slices);
    let options = config.options_mut();
    options.optimizer.enable_round_robin_repartition = false;
    // A filter learnt in one batch must not outlive it in the template.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // Columns keep their case, so that JSON's camelCase names need no quotes.
    options.sql_parser.enable_ident_normalization = false;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(memory_bytes_max, 1.0)
        .build_arc()
        .map_err(|error| Error::with_source(Kind::Refused, "start the query engine", error))?;
    let session = SessionContext::new_with_config_rt(config, runtime);
    session.register_udf(octet_length());
    for function in functions(cell) {
        session.register_udf(function);
    }
    Ok(session)
}

/// What a query may be: one that changes nothing.
pub(super) fn reading() -> SQLOptions {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}

/// A query over the tables of the session, refused where it changes anything.
pub(super) async fn read_only(session: &SessionContext, sql: &str) -> DfResult<DataFrame> {
    session.sql_with_options(sql, reading()).await
}

/// Makes a table known by this name, its case and dots included, in place of one that had it.
pub(super) fn register(session: &SessionContext, name: &str, table: Arc<dyn TableProvider>) -> DfResult<()> {
    let name = TableReference::bare(name);
    let _before = session.deregister_table(name.clone())?;
    session.register_table(name, table)?;
    Ok(())
}
