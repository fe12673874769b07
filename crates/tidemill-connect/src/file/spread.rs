//! The rows of a batch spread over the folders of a sink with `partition_by`.
//!
//! A batch may have rows for thousands of folders, in any order, so a file per folder can't stay open from its first row to its
//! last. Rows of all slices are gathered, sorted by folder and written folder by folder, those with an open file first. Files stay
//! open for the rows that may follow; where too many are, those with the fewest rows are finished, and later rows of their
//! folders go to a second file.
//!
//! Memory: the gathered rows twice (as they came and sorted), and what open files hold back for their row groups.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::SliceWriter;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::encoding::DataFile;
use super::partition::{Folders, Layout};
use super::staged::Staged;

/// Files that are open at a time, for all slices of a batch together.
const OPEN_FILES_MAX: usize = 128;
/// How many are finished where one too many is wanted: together, since the disk takes many syncs in little more time than one.
const FINISHED_TOGETHER: usize = 32;
/// Bytes of rows that are gathered before they are sorted and written, for all slices together.
const GATHERED_BYTES_MAX: usize = 32 << 20;
/// Bytes that open files hold back, together.
const OPEN_BYTES_MAX: usize = 64 << 20;
/// Files or folders that are synced at a time.
const SYNCS_MAX: usize = 16;

/// The rows of one attempt at a batch.
pub(super) struct Spread {
    staged: Arc<Staged>,
    partition_by: Arc<[String]>,
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    /// Known from the first rows on.
    known: Option<(Layout, Folders)>,
    open: HashMap<usize, DataFile>,
    /// Set while rows are being written, so that a write that was given up is not followed by another.
    broken: bool,
}

impl Spread {
    pub(super) fn new(staged: Arc<Staged>, partition_by: Arc<[String]>) -> Self {
        Self {
            staged,
            partition_by,
            gathered: Vec::new(),
            gathered_bytes: 0,
            known: None,
            open: HashMap::new(),
            broken: false,
        }
    }

    fn gather(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = without_shared_buffers(rows)?;
        self.gathered_bytes += rows.get_array_memory_size();
        self.gathered.push(rows);
        Ok(())
    }

    /// Writes what is left and finishes all files. Blocking.
    ///
    /// # Errors
    /// Those of [`Self::write_out`].
    pub(super) fn close(&mut self) -> Result<()> {
        self.write_out()?;
        let open = self.open.drain().map(|(_, file)| file).collect();
        self.finish(open)
    }

    /// Sorts the gathered rows by folder and writes them. Blocking.
    ///
    /// # Errors
    /// Where a value can't name a folder, there is no room, or a file can't be written or synced.
    fn write_out(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(Error::new(
                Kind::Bug,
                "a partitioned batch was written to after an error",
            ));
        }
        self.gathered_bytes = 0;
        let gathered = std::mem::take(&mut self.gathered);
        if let Some(first) = gathered.first() {
            let (layout, mut folders) = match self.known.take() {
                Some(known) => known,
                None => {
                    let schema = first.schema_ref();
                    let layout =
                        Layout::of(schema, &self.partition_by).map_err(|text| Error::new(Kind::Config, text))?;
                    let folders = Folders::new(schema, &layout)?;
                    (layout, folders)
                }
            };
            let (sorted, runs) = sort(&gathered, &layout, &mut folders)?;
            drop(gathered);
            let (follow, begin): (Vec<Run>, Vec<Run>) =
                runs.into_iter().partition(|run| self.open.contains_key(&run.folder));
            for run in follow.iter().chain(&begin) {
                self.write_run(run.folder, folders.name(run.folder), &sorted.slice(run.from, run.rows))?;
            }
            self.known = Some((layout, folders));
        }
        self.broken = false;
        Ok(())
    }

    fn write_run(&mut self, folder: usize, name: &str, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&folder) && self.open.len() == OPEN_FILES_MAX {
            self.finish_the_smallest()?;
        }
        let file = match self.open.entry(folder) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(self.staged.create_in(name, rows)?),
        };
        file.write(rows)?;
        let held: usize = self.open.values().map(DataFile::held_bytes).sum();
        if held > OPEN_BYTES_MAX
            && let Some(largest) = self.open.values_mut().max_by_key(|file| file.held_bytes())
        {
            largest.end_row_group()?;
        }
        Ok(())
    }

    /// A folder that gets many rows keeps its one file; of those with a few rows most get no more.
    fn finish_the_smallest(&mut self) -> Result<()> {
        let mut by_rows: Vec<(u64, usize)> = self.open.iter().map(|(folder, file)| (file.rows(), *folder)).collect();
        by_rows.sort_unstable();
        by_rows.truncate(FINISHED_TOGETHER);
        let smallest = by_rows.iter().filter_map(|(_, folder)| self.open.remove(folder));
        let smallest = smallest.collect();
        self.finish(smallest)
    }

    fn finish(&self, files: Vec<DataFile>) -> Result<()> {
        let closed = many_at_a_time(files, DataFile::close)?;
        self.staged.closed(closed);
        Ok(())
    }
}

/// Rows of one folder among the sorted.
struct Run {
    folder: usize,
    from: usize,
    rows: usize,
}

/// The columns of the files, sorted by folder; rows of a folder stay in their order.
fn sort(gathered: &[RecordBatch], layout: &Layout, folders: &mut Folders) -> Result<(RecordBatch, Vec<Run>)> {
    let mut places: Vec<(usize, (usize, usize))> = Vec::new();
    for (batch, rows) in gathered.iter().enumerate() {
        let of_rows = folders.of(rows, layout)?;
        places.extend(
            of_rows
                .into_iter()
                .enumerate()
                .map(|(row, folder)| (folder, (batch, row))),
        );
    }
    places.sort_by_key(|(folder, _)| *folder);
    let mut runs: Vec<Run> = Vec::new();
    for (at, (folder, _)) in places.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.folder == *folder => run.rows += 1,
            _ => runs.push(Run {
                folder: *folder,
                from: at,
                rows: 1,
            }),
        }
    }
    let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
    let for_files: Vec<RecordBatch> = gathered
        .iter()
        .map(|rows| layout.for_files(rows))
        .collect::<Result<_>>()?;
    let sorted = interleave_record_batch(&for_files.iter().collect::<Vec<_>>(), &places)
        .map_err(|error| Error::with_source(Kind::Bug, "sort rows by folder", error))?;
    Ok((sorted, runs))
}

/// Texts that are views keep whole fetched buffers alive, whose memory the source waits for: they are copied.
fn without_shared_buffers(rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    });
    RecordBatch::try_new(rows.schema(), columns.collect())
        .map_err(|error| Error::with_source(Kind::Bug, "copy texts", error))
}

/// Does `work` on all of `things`, [`SYNCS_MAX`] at a time, and gives the results in no order; the first error, if any.
/// All are done on return.
///
/// # Errors
/// The first of `work`.
pub(super) fn many_at_a_time<T: Send, R: Send>(things: Vec<T>, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let each = things.len().div_ceil(SYNCS_MAX).max(1);
    let mut things = things.into_iter();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        loop {
            let some: Vec<T> = things.by_ref().take(each).collect();
            if some.is_empty() {
                break;
            }
            let work = &work;
            threads.push(scope.spawn(move || some.into_iter().map(work).collect::<Result<Vec<R>>>()));
        }
        let mut all = Ok(Vec::new());
        for thread in threads {
            let some = thread
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Bug, "a thread that finishes files panicked")));
            all = match (all, some) {
                (Ok(mut all), Ok(some)) => {
                    all.extend(some);
                    Ok(all)
                }
                (Err(first), _) | (_, Err(first)) => Err(first),
            };
        }
        all
    })
}

/// Takes the rows of one slice for the folders of all.
pub(super) struct SpreadSlice {
    // Held while the rows of all slices are sorted and written; the others wait without a thread.
    spread: Arc<Mutex<Spread>>,
    staged: Arc<Staged>,
}

impl SpreadSlice {
    pub(super) fn new(spread: Arc<Mutex<Spread>>, staged: Arc<Staged>) -> Self {
        Self { spread, staged }
    }
}

impl std::fmt::Debug for SpreadSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpreadSlice").finish_non_exhaustive()
    }
}

#[async_trait]
impl SliceWriter for SpreadSlice {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut spread = Arc::clone(&self.spread).lock_owned().await;
        spread.gather(&rows)?;
        if spread.gathered_bytes >= GATHERED_BYTES_MAX {
            blocking(spread, Spread::write_out).await?;
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.staged.slice_finished();
        Ok(())
    }
}

/// Ends the rows of all slices.
///
/// # Errors
/// Those of [`Spread::close`].
pub(super) async fn close(spread: Arc<Mutex<Spread>>) -> Result<()> {
    blocking(spread.lock_owned().await, Spread::close).await
}

async fn blocking(mut spread: OwnedMutexGuard<Spread>, work: fn(&mut Spread) -> Result<()>) -> Result<()> {
    let done = tokio::task::spawn_blocking(move || work(&mut spread)).await;
    done.map_err(|error| Error::with_source(Kind::Bug, "writing data files panicked", error))?
}
