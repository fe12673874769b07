//! Data files that may be orphans, found by their names in the sink's folder and those below it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tidemill_core::plan::BatchId;
use tidemill_engine::error::Result;

use super::folder::Folder;
use super::staged::attempt_of;

/// Removes files of the sink and gives their names. Blocking.
///
/// # Errors
/// Where one can't be removed.
pub(super) fn remove_all(folder: &dyn Folder, files: Vec<String>) -> Result<Vec<String>> {
    files.iter().try_for_each(|file| folder.remove(file))?;
    Ok(files)
}

/// Data files of settled batches that more than one attempt wrote files for, last written more than `age` ago. Attempts at a
/// batch write the same rows, so that one alone is the one that was committed. Blocking.
pub(super) fn old_data_files(
    folder: &dyn Folder,
    settled: BatchId,
    age: Duration,
) -> Result<BTreeMap<BatchId, Vec<String>>> {
    let mut attempts: BTreeMap<BatchId, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for name in folder.data_files()? {
        if let Some((batch, attempt)) = attempt_of(&name)
            && batch <= settled
        {
            let of_batch = attempts.entry(batch).or_default();
            of_batch.entry(attempt.to_owned()).or_default().push(name);
        }
    }
    attempts.retain(|_, of_batch| of_batch.len() > 1);
    let mut old: BTreeMap<BatchId, Vec<String>> = BTreeMap::new();
    for (batch, of_batch) in attempts {
        for name in of_batch.into_values().flatten() {
            if is_old(folder.written(&name)?, age) {
                old.entry(batch).or_default().push(name);
            }
        }
    }
    Ok(old)
}

/// A clock that ran backwards makes a file young.
fn is_old(written: SystemTime, age: Duration) -> bool {
    SystemTime::now()
        .duration_since(written)
        .is_ok_and(|since| since >= age)
}
