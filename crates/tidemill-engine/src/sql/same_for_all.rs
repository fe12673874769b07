//! Bad records that are the same for all outputs of a pipeline, where a source has dead letters (X17).

use std::sync::Arc;

use super::table::{OnBadRecord, SourceTable};
use super::template::{Catalog, Template};
use crate::error::Result;

/// The catalog with all sources' bad records made the same for all `outputs`, (name, SQL) each: what any of them reads of a
/// source that has dead letters is read for every one.
///
/// # Errors
/// As [`Template::plan`].
pub async fn same_for_all(catalog: Catalog, outputs: &[(String, String)]) -> Result<Catalog> {
    let has_dead_letters = |table: &Arc<SourceTable>| table.on_bad_record == OnBadRecord::DeadLetter;
    if !catalog.tables.iter().any(has_dead_letters) {
        return Ok(catalog);
    }
    let mut templates = Vec::with_capacity(outputs.len());
    for (name, sql) in outputs {
        templates.push(Template::plan(&catalog, name, sql).await?);
    }
    let of_all = |table: &SourceTable| {
        let mut checked: Vec<usize> = templates
            .iter()
            .flat_map(|template| template.columns_of(&table.name))
            .collect();
        checked.sort_unstable();
        checked.dedup();
        checked
    };
    let tables = catalog
        .tables
        .iter()
        .map(|table| match has_dead_letters(table) {
            false => Arc::clone(table),
            true => Arc::new(SourceTable {
                checked: of_all(table),
                ..SourceTable::clone(table)
            }),
        })
        .collect();
    Ok(Catalog { tables, ..catalog })
}
