//! Data files that may be orphans, found by their names in the sink's folder and those below it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tidemill_core::plan::BatchId;
use tidemill_engine::error::Result;
use tidemill_engine::store::failed;

use super::staged::attempt_of;

/// Removes files of the sink and gives their names.
///
/// # Errors
/// Where one can't be removed.
pub(super) fn remove_all(folder: &Path, files: Vec<String>) -> Result<Vec<String>> {
    for file in &files {
        let path = folder.join(file);
        fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
    }
    Ok(files)
}

/// Data files of settled batches that more than one attempt wrote files for, last written more than `age` ago. Attempts at a
/// batch write the same rows, so that one alone is the one that was committed.
pub(super) fn old_data_files(folder: &Path, settled: BatchId, age: Duration) -> Result<BTreeMap<BatchId, Vec<String>>> {
    let mut attempts: BTreeMap<BatchId, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(below) = folders.pop() {
        let here = folder.join(&below);
        for entry in fs::read_dir(&here).map_err(|error| failed("list", &here, error))? {
            let entry = entry.map_err(|error| failed("list", &here, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((batch, attempt)) = attempt_of(&name) {
                if batch <= settled {
                    let of_batch = attempts.entry(batch).or_default();
                    of_batch
                        .entry(attempt.to_owned())
                        .or_default()
                        .push(format!("{below}{name}"));
                }
            } else if name.contains('=') && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(format!("{below}{name}/"));
            }
        }
    }
    attempts.retain(|_, of_batch| of_batch.len() > 1);
    let mut old: BTreeMap<BatchId, Vec<String>> = BTreeMap::new();
    for (batch, of_batch) in attempts {
        for name in of_batch.into_values().flatten() {
            if is_old(&folder.join(&name), age)? {
                old.entry(batch).or_default().push(name);
            }
        }
    }
    Ok(old)
}

fn is_old(file: &Path, age: Duration) -> Result<bool> {
    let written = fs::metadata(file)
        .and_then(|data| data.modified())
        .map_err(|error| failed("stat", file, error))?;
    // A clock that ran backwards makes a file young.
    Ok(SystemTime::now()
        .duration_since(written)
        .is_ok_and(|since| since >= age))
}
