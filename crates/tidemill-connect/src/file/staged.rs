//! Data files on their way: written and synced, named by no manifest yet.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::plan::{BatchId, BatchPlan};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::SliceWriter;

use super::encoding::{DataFile, Encoding};
use super::folder::Folder;
use super::manifest::FileEntry;

const PREFIX: &str = "part-";
/// Bytes of rows that one slice keeps in memory before it makes a file of its own.
const HELD_SLICE_BYTES_MAX: usize = 512 << 10;
/// The same for all slices of a batch together.
const HELD_BYTES_MAX: usize = 8 << 20;

/// The batch that a data file was written for and the attempt that wrote it, by its path in the sink; `None` where it is no
/// data file of ours.
pub(super) fn attempt_of(path: &str) -> Option<(BatchId, &str)> {
    let name = path.rsplit('/').next()?;
    let (batch, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (_slice, rest) = rest.split_once('-')?;
    let (attempt, _extension) = rest.split_once('.')?;
    if batch.len() == 20 {
        Some((batch.parse().ok()?, attempt))
    } else {
        None
    }
}

/// The data files of one attempt at one batch. They are removed when it is dropped, unless they were kept.
#[derive(Debug)]
pub(super) struct Staged {
    folder: Arc<dyn Folder>,
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
    /// Rows of slices that ended small, by slice.
    small: Vec<(usize, Vec<RecordBatch>)>,
    /// Bytes of rows in memory, of slices that ended small and of those that may.
    held_bytes: usize,
    slices_finished: usize,
    kept: bool,
}

impl Staged {
    pub(super) fn new(folder: Arc<dyn Folder>, encoding: Encoding, plan: &BatchPlan, epoch: u64, attempt: u32) -> Self {
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

    /// How many slices have ended.
    pub(super) fn slices_finished(&self) -> usize {
        self.lock().slices_finished
    }

    /// Writes the rows of all small slices into one file, slice after slice, and makes the names of all files durable.
    /// Gives the files in the order of their names. Blocking.
    ///
    /// # Errors
    /// Where there is no room, or a file can't be written or synced.
    pub(super) fn close(&self) -> Result<Vec<FileEntry>> {
        let mut small = std::mem::take(&mut self.lock().small);
        small.sort_by_key(|(slice, _)| *slice);
        let mut together = None;
        for (slice, rows) in &small {
            for rows in rows {
                let file = match &mut together {
                    Some(file) => file,
                    None => together.insert(self.create(*slice, rows)?),
                };
                file.write(rows)?;
            }
        }
        let together = together.map(DataFile::close).transpose()?;
        let mut closed = self.lock().closed.clone();
        closed.extend(together);
        closed.sort_by(|a, b| a.path.cmp(&b.path));
        let names: Vec<&str> = closed.iter().map(|file| file.path.as_str()).collect();
        self.folder.settle(&names)?;
        Ok(closed)
    }

    /// Creates a file in a folder below the sink's; its name is made durable by [`Self::close`].
    pub(super) fn create_in(&self, folder: &str, rows: &RecordBatch) -> Result<DataFile> {
        let number = self.lock().created.len();
        self.create_named(format!("{folder}/{}", self.name_for(number)), rows)
    }

    /// Counts finished files as the attempt's.
    pub(super) fn closed(&self, files: Vec<FileEntry>) {
        self.lock().closed.extend(files);
    }

    /// Counts a slice whose rows are with the sink.
    pub(super) fn slice_finished(&self) {
        self.lock().slices_finished += 1;
    }

    fn create(&self, slice: usize, rows: &RecordBatch) -> Result<DataFile> {
        self.create_named(self.name_for(slice), rows)
    }

    fn create_named(&self, name: String, rows: &RecordBatch) -> Result<DataFile> {
        self.lock().created.push(name.clone());
        DataFile::create(Arc::clone(&self.folder), name, self.encoding, &rows.schema())
    }

    /// True where `bytes` more may be kept in memory; they are counted then.
    fn hold(&self, bytes: usize) -> bool {
        let mut files = self.lock();
        let fits = files.held_bytes + bytes <= HELD_BYTES_MAX;
        if fits {
            files.held_bytes += bytes;
        }
        fits
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
            self.folder.discard(&files.created);
        }
    }
}

/// Takes the rows of one slice: a few are kept for the file that all small slices of the batch share, more get a file of
/// their own.
pub(super) struct SliceFile {
    staged: Arc<Staged>,
    slice: usize,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    file: Option<DataFile>,
    /// Set while the file is away on a blocking thread, so that a write that was given up is not followed by another.
    broken: bool,
}

impl SliceFile {
    pub(super) fn new(staged: Arc<Staged>, slice: usize) -> Self {
        Self {
            staged,
            slice,
            held: Vec::new(),
            held_bytes: 0,
            file: None,
            broken: false,
        }
    }

    /// Keeps the rows in memory where the slice is small so far.
    fn hold(&mut self, rows: &RecordBatch) -> bool {
        let bytes = rows.get_array_memory_size();
        let small = self.file.is_none() && self.held_bytes + bytes <= HELD_SLICE_BYTES_MAX && self.staged.hold(bytes);
        if small {
            self.held_bytes += bytes;
            self.held.push(rows.clone());
        }
        small
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
        if !self.broken && self.hold(&rows) {
            return Ok(());
        }
        let slice = self.slice;
        let held = std::mem::take(&mut self.held);
        let held_bytes = std::mem::take(&mut self.held_bytes);
        let write = move |staged: &Staged, file: Option<DataFile>| {
            let mut file = match file {
                Some(file) => file,
                None => staged.create(slice, &rows)?,
            };
            for rows in held.iter().chain([&rows]) {
                file.write(rows)?;
            }
            staged.lock().held_bytes -= held_bytes;
            Ok(file)
        };
        self.file = Some(self.blocking(write).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        if self.file.is_none() && !self.broken {
            let held = std::mem::take(&mut self.held);
            let mut files = self.staged.lock();
            files.small.push((self.slice, held));
            files.slices_finished += 1;
            return Ok(());
        }
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
    fn names_tell_their_batch_and_attempt() {
        assert_eq!(
            attempt_of("part-00000000000000000017-00003-e2-a1-ff.parquet"),
            Some((17, "e2-a1-ff"))
        );
        for name in [
            "part-17-00003-e2-a1-ff.parquet",
            "00000000000000000017.json",
            "part-",
            "other.parquet",
        ] {
            assert_eq!(attempt_of(name), None, "{name}");
        }
    }
}
