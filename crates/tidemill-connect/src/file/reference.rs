//! Reference tables: files that are read once, at the start, and joined with what streams by.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};
use tidemill_core::plan::TableIdentity;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sql::reference::ReferenceTable;

/// How the files of a reference table are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceFormat {
    /// Parquet.
    Parquet,
    /// A JSON object per line; the types of columns are inferred from all lines.
    Json,
    /// Comma-separated values below a line of names; types are inferred from all lines.
    Csv,
}

/// Reads a file, or all files of a folder in the order of their names but those that begin with `.` or `_`.
///
/// # Errors
/// `Config` where nothing is there, `Refused` where it can't be read, is larger than `bytes_max`, or holds another format.
pub fn read_reference(name: &str, path: &Path, format: ReferenceFormat, bytes_max: u64) -> Result<ReferenceTable> {
    let place = format!("table {name}: {}", path.display());
    let io = |error: std::io::Error| Error::with_source(Kind::Refused, place.clone(), error);
    let files = files(path).map_err(|error| Error::with_source(Kind::Config, place.clone(), error))?;
    let mut bytes = 0_u64;
    let mut digest = Sha256::new();
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        let mut open = File::open(&file).map_err(io)?;
        bytes += open.metadata().map_err(io)?.len();
        if bytes > bytes_max {
            return Err(Error::new(
                Kind::Refused,
                format!("{place}: larger than memory_limit, {bytes_max} bytes; a reference table is held in memory"),
            ));
        }
        let mut content = Vec::new();
        open.read_to_end(&mut content).map_err(io)?;
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(&content);
        contents.push((file, Bytes::from(content)));
    }
    let read = |error: ArrowError| Error::with_source(Kind::Refused, place.clone(), error);
    let schemas = contents
        .iter()
        .map(|(_, content)| format.schema(content))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(read)?;
    let schema = Arc::new(Schema::try_merge(schemas).map_err(read)?);
    let mut rows = Vec::new();
    for (file, content) in contents {
        let of_file =
            |error: ArrowError| Error::with_source(Kind::Refused, format!("table {name}: {}", file.display()), error);
        rows.extend(format.rows(content, &schema).map_err(of_file)?);
    }
    Ok(ReferenceTable {
        identity: TableIdentity {
            name: name.to_owned(),
            bytes,
            sha256: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        },
        schema,
        rows,
    })
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let is_hidden = |name: &str| name.starts_with(['.', '_']);
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !is_hidden(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(std::io::Error::other("the folder holds no file"));
    }
    Ok(files)
}

impl ReferenceFormat {
    fn schema(self, content: &Bytes) -> std::result::Result<Schema, ArrowError> {
        match self {
            Self::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(content.clone())?;
                Ok(Schema::new(builder.schema().fields().clone()))
            }
            Self::Json => arrow::json::reader::infer_json_schema(Cursor::new(content), None).map(|(schema, _)| schema),
            Self::Csv => csv().infer_schema(Cursor::new(content), None).map(|(schema, _)| schema),
        }
    }

    fn rows(self, content: Bytes, schema: &SchemaRef) -> std::result::Result<Vec<RecordBatch>, ArrowError> {
        match self {
            Self::Parquet => {
                let rows = ParquetRecordBatchReaderBuilder::try_new(content)?.build()?;
                // Metadata apart, the columns must be those of the other files, in their order.
                rows.map(|rows| RecordBatch::try_new(Arc::clone(schema), rows?.columns().to_vec()))
                    .collect()
            }
            Self::Json => arrow::json::ReaderBuilder::new(Arc::clone(schema))
                .build(Cursor::new(content))?
                .collect(),
            Self::Csv => arrow_csv::ReaderBuilder::new(Arc::clone(schema))
                .with_format(csv())
                .build(Cursor::new(content))?
                .collect(),
        }
    }
}

fn csv() -> arrow_csv::reader::Format {
    arrow_csv::reader::Format::default().with_header(true)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Int64Type};

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn parquet_of(numbers: &[i64]) -> Vec<u8> {
        let column: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(numbers.to_vec()));
        let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut file = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        file
    }

    fn sum(table: &ReferenceTable) -> i64 {
        let of = |rows: &RecordBatch| rows.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        table.rows.iter().map(of).sum()
    }

    #[test]
    fn every_format_is_read_from_a_file_or_a_folder() {
        let json = folder(&[
            ("a.json", b"{\"n\":1}\n{\"n\":2}\n"),
            ("b.json", b"{\"n\":3,\"more\":\"x\"}\n"),
            ("_manifest", b"no json"),
            (".hidden", b"no json"),
        ]);
        let csv = folder(&[("a.csv", b"n,word\n1,x\n5,\"y,z\"\n")]);
        let parquet = folder(&[("a", &parquet_of(&[1, 2])), ("b", &parquet_of(&[4]))]);
        for (path, format, total, columns) in [
            (json.path().to_owned(), ReferenceFormat::Json, 6, 2),
            (json.path().join("a.json"), ReferenceFormat::Json, 3, 1),
            (csv.path().join("a.csv"), ReferenceFormat::Csv, 6, 2),
            (parquet.path().to_owned(), ReferenceFormat::Parquet, 7, 1),
        ] {
            let table = read_reference("t", &path, format, 1 << 20).unwrap();
            assert_eq!(
                (sum(&table), table.schema.fields().len()),
                (total, columns),
                "{format:?}"
            );
            assert_eq!(table.schema.field(0).data_type(), &DataType::Int64);
        }
    }

    #[test]
    fn the_identity_is_that_of_the_content() {
        let of = |content: &[u8]| {
            let folder = folder(&[("a.csv", content)]);
            read_reference("t", folder.path(), ReferenceFormat::Csv, 1 << 20)
                .unwrap()
                .identity
        };
        assert_eq!(of(b"n\n1\n"), of(b"n\n1\n"));
        assert_ne!(of(b"n\n1\n"), of(b"n\n2\n"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let files = folder(&[("a.json", b"{\"n\":"), ("a.parquet", b"PAR0")]);
        let empty = tempfile::tempdir().unwrap();
        let huge = folder(&[("a.json", b"{\"n\":1}\n")]);
        for (path, format, kind, said) in [
            (files.path().join("none"), ReferenceFormat::Csv, Kind::Config, "none"),
            (
                empty.path().to_owned(),
                ReferenceFormat::Csv,
                Kind::Config,
                "holds no file",
            ),
            (
                files.path().join("a.json"),
                ReferenceFormat::Json,
                Kind::Refused,
                "a.json",
            ),
            (
                files.path().join("a.parquet"),
                ReferenceFormat::Parquet,
                Kind::Refused,
                "a.parquet",
            ),
            (
                huge.path().join("a.json"),
                ReferenceFormat::Json,
                Kind::Refused,
                "memory_limit",
            ),
        ] {
            let error = read_reference("t", &path, format, 7).unwrap_err();
            assert_eq!(error.kind(), kind, "{}", error.chain());
            assert!(error.chain().contains(said), "{}", error.chain());
        }
    }
}
