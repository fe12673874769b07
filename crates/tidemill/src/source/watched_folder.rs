//! The lines of files that come into a folder: each file is a partition, each line stands at the offset of its first byte.
//!
//! A file belongs in the folder whole, by a rename: one that changes after it was seen stops the stream, as a topic that was made anew
//! does. Which files were read is in the positions; those of files that are gone are kept too.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{BinaryViewArray, BinaryViewBuilder, Int64Array, TimestampMillisecondArray};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use tidemill_core::plan::RangePlan;
use tidemill_core::position::TopicPartition;
use tidemill_core::start::{OnNewPartition, StartPolicy};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{PartitionEnds, RangeStream, RawColumns, RawRows, Scan, Source};

use super::memory::no_headers;
use super::{Opens, SourceLimits};

/// Bytes that are read of a file at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of a line.
const LINE_BYTES_MAX: usize = 64 << 20;

type Accepts = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A folder that files come into, for [`StreamingContext::file_stream`](crate::StreamingContext::file_stream).
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// # let kept = Output::default();
/// std::fs::write(harness.folder().join("words.txt"), "a\n").unwrap();
/// # let run = harness.start(|context| {
/// let files = tidemill::WatchedFolder::at(harness.folder()).with_old().accepting(|name| name.ends_with(".txt"));
/// context.file_stream(files).foreach_batch(kept.keep());
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// assert_eq!(kept.at(1_000), ["a"]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone)]
pub struct WatchedFolder {
    folder: PathBuf,
    with_old: bool,
    accepts: Accepts,
}

impl std::fmt::Debug for WatchedFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedFolder")
            .field("folder", &self.folder)
            .field("with_old", &self.with_old)
            .finish_non_exhaustive()
    }
}

impl WatchedFolder {
    /// Files that come into `folder` after the first start; names that begin with a dot are left out.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let kept = Output::default();
    /// std::fs::write(harness.folder().join("words.txt"), "a\n").unwrap();
    /// # let run = harness.start(|context| {
    /// let files = tidemill::WatchedFolder::at(harness.folder()).with_old().accepting(|name| name == "words.txt");
    /// context.file_stream(files).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            with_old: false,
            accepts: Arc::new(|name| !name.starts_with('.')),
        }
    }

    /// Reads the files too that are there on the first start.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let kept = Output::default();
    /// std::fs::write(harness.folder().join("words.txt"), "a\n").unwrap();
    /// # let run = harness.start(|context| {
    /// let files = tidemill::WatchedFolder::at(harness.folder()).accepting(|name| name == "words.txt").with_old();
    /// context.file_stream(files).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn with_old(mut self) -> Self {
        self.with_old = true;
        self
    }

    /// Reads the files whose name is accepted, instead of those whose name begins with no dot.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// # let kept = Output::default();
    /// std::fs::write(harness.folder().join("words.txt"), "a\n").unwrap();
    /// # let run = harness.start(|context| {
    /// let files = tidemill::WatchedFolder::at(harness.folder()).with_old().accepting(|name| name.ends_with(".txt"));
    /// context.file_stream(files).foreach_batch(kept.keep());
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(kept.at(1_000), ["a"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn accepting(mut self, name: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.accepts = Arc::new(name);
        self
    }

    pub(crate) fn limits(&self) -> SourceLimits {
        SourceLimits {
            start: if self.with_old {
                StartPolicy::Earliest
            } else {
                StartPolicy::Latest
            },
            on_new_partition: OnNewPartition::Earliest,
            ..SourceLimits::none()
        }
    }
}

impl Opens for WatchedFolder {
    fn open(&self, _app: &str) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(FileSource(self.clone())))
    }
}

#[derive(Debug)]
struct FileSource(WatchedFolder);

/// What tells a file from another of its name, and from itself after a change.
fn identity(of: &fs::Metadata) -> String {
    format!("{}-{}-{}.{}", of.ino(), of.len(), of.mtime(), of.mtime_nsec())
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::with_source(Kind::Unavailable, format!("read {}", path.display()), error)
}

impl FileSource {
    fn look(&self) -> Result<Vec<PartitionEnds>> {
        let folder = &self.0.folder;
        let mut ends = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
            let entry = entry.map_err(|error| unreadable(folder, error))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| (self.0.accepts)(name)) else {
                continue;
            };
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                // It was renamed or removed since the folder was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&entry.path(), error)),
            };
            if metadata.is_file() {
                ends.push(PartitionEnds {
                    partition: TopicPartition::new(name, 0),
                    topic_id: Some(identity(&metadata)),
                    leader_epoch: -1,
                    earliest: 0,
                    end: i64::try_from(metadata.len()).unwrap_or(i64::MAX),
                });
            }
        }
        ends.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(ends)
    }
}

#[async_trait]
impl Source for FileSource {
    async fn ends(&self, _with_earliest: bool) -> Result<Vec<PartitionEnds>> {
        self.look()
    }

    async fn since(&self, _millis: i64) -> Result<Vec<(TopicPartition, Option<i64>)>> {
        Ok(self.look()?.into_iter().map(|file| (file.partition, None)).collect())
    }

    async fn high_watermarks(&self) -> Result<Vec<(TopicPartition, i64)>> {
        Ok(self
            .look()?
            .into_iter()
            .map(|file| (file.partition, file.end))
            .collect())
    }

    async fn epoch_ends(&self, _epochs: &[(TopicPartition, i32)]) -> Result<Vec<(TopicPartition, i64)>> {
        Ok(Vec::new())
    }

    fn scan(&self, ranges: Vec<RangePlan>, columns: RawColumns) -> Arc<dyn Scan> {
        Arc::new(FileScan {
            folder: self.0.folder.clone(),
            ranges,
            columns,
        })
    }

    async fn publish(&self, _positions: &[(TopicPartition, i64)]) -> Result<()> {
        Ok(())
    }

    async fn published(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        Ok(vec![None; partitions.len()])
    }
}

#[derive(Debug)]
struct FileScan {
    folder: PathBuf,
    ranges: Vec<RangePlan>,
    columns: RawColumns,
}

impl Scan for FileScan {
    fn stream(&self, range: usize) -> RangeStream {
        let range = self.ranges[range].clone();
        let (path, columns) = (self.folder.join(&range.partition.topic), self.columns);
        let lines = Lines::open(path, &range);
        stream::unfold(Some(lines), move |lines| async move {
            let mut lines = match lines? {
                Ok(lines) => lines,
                Err(error) => return Some((Err(error), None)),
            };
            match lines.next_rows(columns) {
                Ok(Some(rows)) => Some((Ok(rows), Some(Ok(lines)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

/// The lines that begin in a range of a file.
struct Lines {
    file: File,
    path: PathBuf,
    /// Where what is held begins.
    at: u64,
    held: Vec<u8>,
    until: u64,
    end: u64,
    begun: bool,
    ended: bool,
}

impl Lines {
    fn open(path: PathBuf, range: &RangePlan) -> Result<Self> {
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let text = format!("{} is gone before it was read", path.display());
                Error::with_source(Kind::Loss, text, error)
            }
            _ => unreadable(&path, error),
        })?;
        let metadata = file.metadata().map_err(|error| unreadable(&path, error))?;
        if range
            .topic_id
            .as_ref()
            .is_some_and(|planned| *planned != identity(&metadata))
        {
            let text = format!(
                "{} changed after it was planned: files belong in the folder whole, by a rename",
                path.display()
            );
            return Err(Error::new(Kind::Loss, text));
        }
        let offset = |of: i64| u64::try_from(of).unwrap_or(0);
        Ok(Self {
            file,
            path,
            // A line that begins at the range's first byte follows a line's end: that is looked for from one byte before.
            at: offset(range.from).saturating_sub(1),
            held: Vec::new(),
            until: offset(range.until),
            end: metadata.len(),
            begun: range.from == 0,
            ended: false,
        })
    }

    /// Reads on behind what is held; false at the end of the file.
    fn read_on(&mut self) -> Result<bool> {
        let from = self.at + self.held.len() as u64;
        let more = usize::try_from(self.end - from).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let held = self.held.len();
        if held > LINE_BYTES_MAX {
            let text = format!(
                "{}: the line at byte {} is longer than {LINE_BYTES_MAX} bytes",
                self.path.display(),
                self.at
            );
            return Err(Error::new(Kind::Data, text));
        }
        self.held.resize(held + more, 0);
        let read = self.file.read_exact_at(&mut self.held[held..], from);
        read.map_err(|error| unreadable(&self.path, error))?;
        Ok(more > 0)
    }

    /// Some lines; `None` where all were given.
    fn next_rows(&mut self, columns: RawColumns) -> Result<Option<RawRows>> {
        if self.ended {
            return Ok(None);
        }
        let (mut offsets, mut values) = (Vec::new(), BinaryViewBuilder::new());
        while offsets.is_empty() && !self.ended {
            let more = self.read_on()?;
            let mut from = 0;
            while let Some(length) = self.held[from..].iter().position(|byte| *byte == b'\n') {
                self.line(from, from + length, &mut offsets, &mut values);
                from += length + 1;
                if self.at + from as u64 >= self.until {
                    self.ended = true;
                    break;
                }
            }
            if !more && !self.ended {
                if from < self.held.len() {
                    self.line(from, self.held.len(), &mut offsets, &mut values);
                }
                self.ended = true;
            }
            self.held.drain(..from);
            self.at += from as u64;
        }
        let position = if self.ended {
            self.until
        } else {
            self.at.min(self.until)
        };
        let values: BinaryViewArray = values.finish();
        let count = offsets.len();
        Ok(Some(RawRows {
            offsets: Int64Array::from(offsets),
            keys: columns.key.then(|| BinaryViewArray::new_null(count)),
            bytes: position,
            values: columns.value.then_some(values),
            timestamps: columns
                .timestamp
                .then(|| TimestampMillisecondArray::from(vec![0; count])),
            headers: columns.headers.then(|| no_headers(count)),
            position: i64::try_from(position).unwrap_or(i64::MAX),
        }))
    }

    /// A line between two places of what is held, where it begins in the range.
    fn line(&mut self, from: usize, until: usize, offsets: &mut Vec<i64>, values: &mut BinaryViewBuilder) {
        let begun = std::mem::replace(&mut self.begun, true);
        let at = self.at + from as u64;
        if !begun || at >= self.until {
            return;
        }
        let line = &self.held[from..until];
        offsets.push(i64::try_from(at).unwrap_or(i64::MAX));
        values.append_value(line.strip_suffix(b"\r").unwrap_or(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, cuts: &[i64]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), text).unwrap();
        let source = FileSource(WatchedFolder::at(folder.path()));
        let end = source.ends(true).await.unwrap().remove(0);
        let mut places = vec![0];
        places.extend(cuts);
        places.push(end.end);
        let ranges: Vec<RangePlan> = places
            .windows(2)
            .map(|two| RangePlan {
                source: "s".to_owned(),
                partition: end.partition.clone(),
                topic_id: end.topic_id.clone(),
                from: two[0],
                until: two[1],
                leader_epoch: -1,
            })
            .collect();
        let columns = RawColumns {
            value: true,
            ..RawColumns::default()
        };
        let scan = source.scan(ranges.clone(), columns);
        let mut lines = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            let mut rows = scan.stream(number);
            let mut position = range.from;
            while let Some(rows) = rows.next().await {
                let rows = rows.unwrap();
                position = rows.position;
                let values = rows.values.unwrap();
                lines.extend(
                    values
                        .iter()
                        .map(|value| String::from_utf8(value.unwrap().to_vec()).unwrap()),
                );
            }
            assert!(position >= range.until, "{range:?} ended at {position}");
        }
        lines
    }

    #[tokio::test]
    async fn a_line_is_read_once_wherever_the_file_is_cut() {
        let text = "one\n\nthree\r\nfour";
        for cut in 1..text.len() as i64 {
            assert_eq!(read(text, &[cut]).await, ["one", "", "three", "four"], "cut at {cut}");
        }
        assert_eq!(read("a\nb\n", &[]).await, ["a", "b"]);
        let long = "x".repeat(3 << 20);
        assert_eq!(
            read(&format!("{long}\ny\n"), &[5, 1 << 20, (3 << 20) + 1]).await,
            [long.as_str(), "y"]
        );
    }
}
