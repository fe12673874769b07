//! Tables that do not change while a pipeline runs, for joins with what streams by.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::MemTable;
use datafusion::common::{Result as DfResult, TableReference};
use datafusion::prelude::SessionContext;
use tidemill_core::plan::TableIdentity;

/// A table held in memory, read at the start.
#[derive(Debug, Clone)]
pub struct ReferenceTable {
    /// Its name, and what tells it from another state of itself; stands in every plan (X11).
    pub identity: TableIdentity,
    /// Columns.
    pub schema: SchemaRef,
    /// Rows, all of `schema`.
    pub rows: Vec<RecordBatch>,
}

impl ReferenceTable {
    pub(super) fn register(&self, session: &SessionContext) -> DfResult<()> {
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![self.rows.clone()])?;
        session.register_table(TableReference::bare(self.identity.name.as_str()), Arc::new(table))?;
        Ok(())
    }
}
