//! Data files on their way: written and synced, named by no manifest yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::plan::{BatchId, BatchPlan};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::SliceWriter;

use super::encoding::{DataFile, Encoding};
use super::manifest::FileEntry;

const PREFIX: &str = "part-";

/// The batch that a data file was written for, by its name; `None` where it is no data file of ours.
pub(super) fn batch_of(name: &str) -> Option<BatchId> {
    let digits = name.strip_prefix(PREFIX)?.split('-').next()?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// The data files of one attempt at one batch. They are removed when it is dropped, unless they were kept.
#[derive(Debug)]
pub(super) struct Staged {
    folder: PathBuf,
    encoding: Encoding,
    batch: BatchId,
    /// Epoch and attempt and something random: no other attempt, of whatever driver, writes the same name.
    attempt: String,
    // A leaf: locked for a push or a copy, shared by the slices of one batch.
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    created: Vec<String>,
    closed: Vec<FileEntry>,
    slices_finished: usize,
    kept: bool,
}

impl Staged {
    pub(super) fn new(folder: PathBuf, encoding: Encoding, plan: &BatchPlan, epoch: u64, attempt: u32) -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let attempt = format!("e{epoch}-a{attempt}-{random}");
        Self {
            folder,
            encoding,
            batch: plan.batch_id,
            attempt,
            files: Mutex::default(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The closed files in the order of their names, and how many slices have ended.
    pub(super) fn closed(&self) -> (Vec<FileEntry>, usize) {
        let files = self.lock();
        let mut closed = files.closed.clone();
        closed.sort_by(|a, b| a.path.cmp(&b.path));
        (closed, files.slices_finished)
    }

    /// From here on a manifest may name the files: they stay, whatever happens.
    pub(super) fn keep(&self) {
        self.lock().kept = true;
    }

    /// No manifest names the files, nor ever will.
    pub(super) fn give_up(&self) {
        self.lock().kept = false;
    }

    fn name_for(&self, slice: usize) -> String {
        let (batch, attempt, extension) = (self.batch, &self.attempt, self.encoding.extension());
        format!("{PREFIX}{batch:020}-{slice:05}-{attempt}.{extension}")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Files> {
        // What is pushed is pushed whole: a panic elsewhere leaves nothing half done.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let files = self.files.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !files.kept {
            for name in &files.created {
                // What stays is an orphan and only takes room (X28).
                let _gone = fs::remove_file(self.folder.join(name));
            }
        }
    }
}

/// Writes the rows of one slice into one file, which is made for the first of them.
pub(super) struct SliceFile {
    staged: Arc<Staged>,
    slice: usize,
    file: Option<DataFile>,
    /// Set while the file is away on a blocking thread, so that a write that was given up is not followed by another.
    broken: bool,
}

impl SliceFile {
    pub(super) fn new(staged: Arc<Staged>, slice: usize) -> Self {
        Self {
            staged,
            slice,
            file: None,
            broken: false,
        }
    }

    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Staged, Option<DataFile>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if std::mem::replace(&mut self.broken, true) {
            let text = format!(
                "batch {}, slice {}: written to after an error",
                self.staged.batch, self.slice
            );
            return Err(Error::new(Kind::Bug, text));
        }
        let (staged, file) = (Arc::clone(&self.staged), self.file.take());
        // The attempt goes along, so that its files are removed after the last of them was written to.
        let done = tokio::task::spawn_blocking(move || work(&staged, file)).await;
        let done = done.map_err(|error| Error::with_source(Kind::Bug, "writing a data file panicked", error))??;
        self.broken = false;
        Ok(done)
    }
}

impl std::fmt::Debug for SliceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SliceFile")
            .field("slice", &self.slice)
            .field("attempt", &self.staged.attempt)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SliceWriter for SliceFile {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let slice = self.slice;
        let write = move |staged: &Staged, file: Option<DataFile>| {
            let mut file = match file {
                Some(file) => file,
                None => {
                    let name = staged.name_for(slice);
                    staged.lock().created.push(name.clone());
                    DataFile::create(&staged.folder, &name, staged.encoding, &rows.schema())?
                }
            };
            file.write(&rows)?;
            Ok(file)
        };
        self.file = Some(self.blocking(write).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let close = |staged: &Staged, file: Option<DataFile>| {
            let closed = file.map(DataFile::close).transpose()?;
            let mut files = staged.lock();
            files.closed.extend(closed);
            files.slices_finished += 1;
            Ok(())
        };
        self.blocking(close).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_batch() {
        assert_eq!(batch_of("part-00000000000000000017-00003-e2-a1-ff.parquet"), Some(17));
        for name in [
            "part-17-00003-e2-a1-ff.parquet",
            "00000000000000000017.json",
            "part-",
            "other.parquet",
        ] {
            assert_eq!(batch_of(name), None, "{name}");
        }
    }
}
