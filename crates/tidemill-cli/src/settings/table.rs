//! `[tables.x]`

use std::path::{Path, PathBuf};

use super::document::Section;
use super::place::local_path;

/// One reference table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableSettings {
    /// The table's name.
    pub name: String,
    /// Its file, or a folder of files.
    pub path: PathBuf,
    /// `parquet`, `json` or `csv`.
    pub format: &'static str,
}

pub(super) fn read(name: &str, section: Section<'_, '_>, folder: &Path) -> Option<TableSettings> {
    if !section.has("format") {
        section.wrong("format", "is missing; for example format = \"parquet\"");
    }
    let format = section.one_of("format", &["parquet", "json", "csv"], &["avro"], "parquet");
    let path = local_path(
        &section,
        "path",
        section.required("path", "\"campaigns.parquet\""),
        folder,
    );
    section.finish();
    Some(TableSettings {
        name: name.to_owned(),
        path: path?,
        format,
    })
}
