//! Files in a folder.

use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;
use tidemill_connect::file::{Compression, Encoding, FileSink};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::Sink;

use super::{SinkSettings, unfit_columns};

/// Where [`DStream::to_files`](crate::DStream::to_files) writes: a folder on local disk, made at the first start.
///
/// ```
/// use tidemill::Files;
/// let _views = Files::new("out/views").columns("day DATE, ad_id VARCHAR, views BIGINT").json().partition_by(["day"]);
/// ```
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    columns: String,
    encoding: Encoding,
    partition_by: Option<Vec<String>>,
}

impl Files {
    /// Parquet files, compressed with Snappy, in this folder. A relative one is looked for in the working directory.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").json();
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            columns: String::new(),
            encoding: Encoding::Parquet(Compression::Snappy),
            partition_by: None,
        }
    }

    /// The columns, as a pipeline file declares them: `"ad_id VARCHAR, views BIGINT NOT NULL"`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").json();
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn columns(mut self, columns: impl Into<String>) -> Self {
        self.columns = columns.into();
        self
    }

    /// One JSON object per line instead of Parquet.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").json();
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn json(mut self) -> Self {
        self.encoding = Encoding::Json;
        self
    }

    /// CSV with a line of names instead of Parquet.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").csv();
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn csv(mut self) -> Self {
        self.encoding = Encoding::Csv;
        self
    }

    /// Parquet compressed in another way.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").parquet(tidemill::ParquetCompression::Zstd);
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn parquet(mut self, compression: Compression) -> Self {
        self.encoding = Encoding::Parquet(compression);
        self
    }

    /// Files in folders `column=value/…` by the values of these columns, which are left out of the files. Default = all in one
    /// folder.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let counts = Input::of([[("a", 1)]]);
    /// let folder = harness.folder().join("counts");
    /// # let run = harness.start(|context| {
    /// let files = tidemill::Files::new(&folder).columns("word VARCHAR, count BIGINT").partition_by(["word"]);
    /// counts.stream(context).to_files(files);
    /// #     Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert!(folder.join("_tidemill").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn partition_by<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.partition_by = Some(columns.into_iter().map(Into::into).collect());
        self
    }
}

impl SinkSettings for Files {
    fn columns(&self) -> &str {
        &self.columns
    }

    fn problems(&self, schema: &Schema) -> Vec<String> {
        let Some(columns) = &self.partition_by else {
            return Vec::new();
        };
        let mut problems = unfit_columns("partition_by", columns, schema);
        if columns.is_empty() {
            problems.push("partition_by names no column: leave it out".to_owned());
        }
        if problems.is_empty() && columns.len() == schema.fields().len() {
            problems.push("partition_by names every column, and nothing is left for the files".to_owned());
        }
        problems
    }

    fn open(&self, _app: &str, name: &str) -> Result<Box<dyn Sink>> {
        let folder = if is_local(&self.folder) {
            std::path::absolute(&self.folder)
                .map_err(|error| Error::with_source(Kind::Config, format!("folder {}", self.folder.display()), error))?
        } else {
            self.folder.clone()
        };
        let sink = FileSink::new(name, &folder.display().to_string(), self.encoding)?;
        Ok(Box::new(
            sink.partitioned_by(self.partition_by.as_deref().unwrap_or_default()),
        ))
    }
}

/// What names another system, or nothing, the sink itself refuses.
fn is_local(folder: &Path) -> bool {
    !folder.as_os_str().is_empty() && !folder.to_string_lossy().contains("://")
}
