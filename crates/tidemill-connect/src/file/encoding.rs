//! How data files are written.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::file::properties::WriterProperties;
use tidemill_engine::error::{Error, Kind, Result};

use super::csv::{self, CsvWriter};
use super::folder::Folder;
use super::manifest::FileEntry;

/// What a row group of a Parquet file holds at most; it is in memory until it is written.
const ROW_GROUP_BYTES_MAX: usize = 32 << 20;
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

/// Format and compression of data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Apache Parquet.
    Parquet(Compression),
    /// One JSON object per line, nulls written out.
    Json,
    /// One line per row, the columns' names in the first.
    Csv,
}

/// Compression of Parquet pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// Snappy, the default: every reader has it.
    Snappy,
    /// Zstandard at its default level.
    Zstd,
    /// LZ4 without frames (`LZ4_RAW`).
    Lz4,
}

impl Encoding {
    /// Reads `format` and `compression` of a pipeline file.
    ///
    /// # Errors
    /// `Config`, naming what is known.
    pub fn parse(format: &str, compression: Option<&str>) -> Result<Self> {
        let refused = |text: String| Err(Error::new(Kind::Config, text));
        match (format, compression) {
            ("parquet", None | Some("snappy")) => Ok(Self::Parquet(Compression::Snappy)),
            ("parquet", Some("none")) => Ok(Self::Parquet(Compression::None)),
            ("parquet", Some("zstd")) => Ok(Self::Parquet(Compression::Zstd)),
            ("parquet", Some("lz4")) => Ok(Self::Parquet(Compression::Lz4)),
            ("parquet", Some(other)) => refused(format!("compression {other} is not known; none, snappy, zstd or lz4")),
            ("json", None | Some("none")) => Ok(Self::Json),
            ("csv", None | Some("none")) => Ok(Self::Csv),
            ("json" | "csv", Some(other)) => refused(format!(
                "compression {other}: {format} files are not compressed; none or parquet"
            )),
            (other, _) => refused(format!("format {other} is not known; parquet, json or csv")),
        }
    }

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Parquet(_) => "parquet",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    /// Looks whether every column can be written.
    pub(super) fn check(self, schema: &Schema) -> Result<(), String> {
        if self == Self::Csv {
            csv::check(schema)?;
        }
        for field in schema.fields() {
            let one = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
            let row = RecordBatch::try_new(Arc::clone(&one), vec![new_null_array(field.data_type(), 1)]);
            let written = row.map_err(Cause::from).and_then(|row| {
                let mut encoder = Encoder::new(self, io::sink(), &one)?;
                encoder.write(&row)?;
                encoder.into_inner().map(drop)
            });
            if let Err(problem) = written {
                return Err(format!(
                    "column {} of type {} can't be written as {}: {problem}. Cast it in the query",
                    field.name(),
                    field.data_type(),
                    self.extension()
                ));
            }
        }
        Ok(())
    }
}

/// What an encoder says.
type Cause = Box<dyn StdError + Send + Sync>;

/// Rows in, bytes out.
enum Encoder<W: Write + Send> {
    Parquet {
        writer: Box<ArrowWriter<W>>,
        schema: SchemaRef,
    },
    Json(arrow::json::Writer<BufWriter<W>, LineDelimited>),
    Csv(CsvWriter<W>),
}

impl<W: Write + Send> Encoder<W> {
    fn new(encoding: Encoding, out: W, schema: &SchemaRef) -> Result<Self, Cause> {
        match encoding {
            Encoding::Parquet(compression) => {
                let schema = without_seconds(schema);
                let writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties(compression)))?;
                Ok(Self::Parquet {
                    writer: Box::new(writer),
                    schema,
                })
            }
            Encoding::Json => Ok(Self::Json(
                WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build(BufWriter::new(out)),
            )),
            Encoding::Csv => Ok(Self::Csv(CsvWriter::new(out, schema)?)),
        }
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), Cause> {
        match self {
            Self::Parquet { writer, schema } => {
                let columns: Result<Vec<ArrayRef>, _> = rows
                    .columns()
                    .iter()
                    .zip(schema.fields())
                    .map(|(column, field)| cast_if_needed(column, field))
                    .collect();
                let rows = columns.and_then(|columns| RecordBatch::try_new(Arc::clone(schema), columns));
                Ok(writer.write(&rows?)?)
            }
            Self::Json(writer) => Ok(writer.write(rows)?),
            Self::Csv(writer) => Ok(writer.write(rows)?),
        }
    }

    /// Bytes of rows that are not handed on yet.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Parquet { writer, .. } => writer.memory_size(),
            Self::Json(_) | Self::Csv(_) => 0,
        }
    }

    /// Hands them on.
    fn end_row_group(&mut self) -> Result<(), Cause> {
        match self {
            Self::Parquet { writer, .. } => Ok(writer.flush()?),
            Self::Json(_) | Self::Csv(_) => Ok(()),
        }
    }

    fn into_inner(self) -> Result<W, Cause> {
        match self {
            Self::Parquet { writer, .. } => Ok(writer.into_inner()?),
            Self::Json(mut writer) => {
                writer.finish()?;
                Ok(writer
                    .into_inner()
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)?)
            }
            Self::Csv(writer) => Ok(writer.into_inner()?),
        }
    }
}

fn properties(compression: Compression) -> WriterProperties {
    let compression = match compression {
        Compression::None => parquet::basic::Compression::UNCOMPRESSED,
        Compression::Snappy => parquet::basic::Compression::SNAPPY,
        Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
        Compression::Lz4 => parquet::basic::Compression::LZ4_RAW,
    };
    WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .build()
}

/// Parquet has no timestamps in seconds: other readers would see plain numbers.
fn without_seconds(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            let millis = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
            Arc::new(field.as_ref().clone().with_data_type(millis))
        }
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

fn cast_if_needed(column: &ArrayRef, field: &Field) -> Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == field.data_type() {
        Ok(Arc::clone(column))
    } else {
        cast(column, field.data_type())
    }
}

/// A data file that is being written. Blocking.
pub(super) struct DataFile {
    folder: Arc<dyn Folder>,
    name: String,
    encoder: Encoder<File>,
    rows: u64,
}

impl DataFile {
    /// Creates the file; a name that is taken is an error.
    pub(super) fn create(
        folder: Arc<dyn Folder>,
        name: String,
        encoding: Encoding,
        schema: &SchemaRef,
    ) -> Result<Self> {
        let file = folder.create(&name)?;
        let encoder = Encoder::new(encoding, file, schema).map_err(|cause| unwritable(&name, cause))?;
        Ok(Self {
            folder,
            name,
            encoder,
            rows: 0,
        })
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.encoder
            .write(rows)
            .map_err(|cause| unwritable(&self.name, cause))?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// Rows written so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of rows that it keeps in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.encoder.held_bytes()
    }

    /// Writes them out, at the cost of a row group that is smaller than it might be.
    pub(super) fn end_row_group(&mut self) -> Result<()> {
        let ended = self.encoder.end_row_group();
        ended.map_err(|cause| unwritable(&self.name, cause))
    }

    /// Writes the rest and makes the bytes durable; the name is durable once the folder is settled.
    pub(super) fn close(self) -> Result<FileEntry> {
        let file = self.encoder.into_inner();
        let file = file.map_err(|cause| unwritable(&self.name, cause))?;
        Ok(FileEntry {
            bytes: self.folder.finish(&self.name, file)?,
            path: self.name,
            rows: self.rows,
        })
    }
}

/// A full disk passes by itself; anything else needs a person.
fn unwritable(name: &str, cause: Cause) -> Error {
    let mut innermost: Option<&(dyn StdError + 'static)> = Some(cause.as_ref());
    let mut kind = Kind::Refused;
    while let Some(error) = innermost {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if error.downcast_ref::<io::Error>().is_some_and(full) {
            kind = Kind::Unavailable;
        }
        innermost = error.source();
    }
    Error::with_source(kind, format!("write {name}"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_compressions_are_known_by_name() {
        assert_eq!(
            Encoding::parse("parquet", None).unwrap(),
            Encoding::Parquet(Compression::Snappy)
        );
        assert_eq!(
            Encoding::parse("parquet", Some("zstd")).unwrap(),
            Encoding::Parquet(Compression::Zstd)
        );
        assert_eq!(Encoding::parse("json", None).unwrap(), Encoding::Json);
        assert_eq!(Encoding::parse("csv", None).unwrap(), Encoding::Csv);
        for (format, compression) in [
            ("orc", None),
            ("csv", Some("gzip")),
            ("json", Some("zstd")),
            ("parquet", Some("gzip")),
        ] {
            assert_eq!(
                Encoding::parse(format, compression).unwrap_err().kind(),
                Kind::Config,
                "{format} {compression:?}"
            );
        }
    }

    #[test]
    fn a_column_that_a_format_has_no_type_for_is_named() {
        let duration = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("gap", duration, true),
        ]);
        let problem = Encoding::Parquet(Compression::Snappy).check(&schema).unwrap_err();
        assert!(problem.contains("column gap"), "{problem}");
        let fine = Schema::new(vec![
            Field::new("a", DataType::Utf8View, false),
            Field::new("b", DataType::BinaryView, true),
            Field::new("c", DataType::Decimal128(10, 2), true),
            Field::new("d", DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), true),
            Field::new("e", DataType::Date32, true),
        ]);
        Encoding::Parquet(Compression::Zstd).check(&fine).unwrap();
        Encoding::Json.check(&fine).unwrap();
    }
}
