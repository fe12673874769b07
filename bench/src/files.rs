//! What a file sink holds, read through its manifests.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::expected::Sums;

/// The manifest of a batch in the sink's folder `out`.
pub(crate) fn manifest(out: &Path, batch: u64) -> PathBuf {
    out.join("_tidemill").join(format!("{batch:020}.json"))
}

/// A data file and the rows that its manifest gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFile {
    path: PathBuf,
    rows: u64,
}

/// All files that the manifests below `out` list.
///
/// # Errors
/// A manifest that is missing or can't be read.
pub(crate) fn committed(out: &Path) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    let folder = out.join("_tidemill");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        if stem.len() != 20 || !stem.bytes().all(|digit| digit.is_ascii_digit()) {
            continue;
        }
        let what = || format!("read {}", path.display());
        let manifest: Value = serde_json::from_slice(&std::fs::read(&path).with_context(what)?).with_context(what)?;
        for file in manifest["files"].as_array().with_context(what)? {
            let relative = file["path"].as_str().with_context(what)?;
            let rows = file["rows"].as_u64().with_context(what)?;
            files.push(DataFile {
                path: out.join(relative),
                rows,
            });
        }
    }
    Ok(files)
}

/// Rows as the manifests count them.
pub(crate) fn rows(files: &[DataFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

/// Adds up the column `count` by `ad_id` over JSON files. Times are not summed.
///
/// # Errors
/// A file that is missing, can't be read or has other rows than its manifest says.
pub(crate) fn counts_by_ad(files: &[DataFile], count: &str) -> Result<Sums> {
    let mut sums = Sums::default();
    for file in files {
        let text = std::fs::read_to_string(&file.path).with_context(|| format!("read {}", file.path.display()))?;
        let mut rows = 0;
        for line in text.lines() {
            let row: Value = serde_json::from_str(line)?;
            let ad = row["ad_id"].as_str().with_context(|| format!("no ad_id: {line}"))?;
            let count = row[count].as_u64().with_context(|| format!("no {count}: {line}"))?;
            *sums.by_ad.entry(ad.to_owned()).or_default() += count;
            sums.records += count;
            rows += 1;
        }
        file.holds(rows)?;
    }
    Ok(sums)
}

/// What the ad events in Parquet files come to.
///
/// # Errors
/// A file that is missing, can't be read, lacks a column or a value, or has other rows than its manifest says.
pub(crate) fn parquet_sums(files: &[DataFile]) -> Result<Sums> {
    let mut sums = Sums::default();
    for file in files {
        let what = || format!("read {}", file.path.display());
        let opened = File::open(&file.path).with_context(what)?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(opened)
            .with_context(what)?
            .build()
            .with_context(what)?;
        let before = sums.records;
        for batch in reader {
            add(&mut sums, &batch.with_context(what)?).with_context(what)?;
        }
        file.holds(sums.records - before)?;
    }
    Ok(sums)
}

fn add(sums: &mut Sums, batch: &RecordBatch) -> Result<()> {
    if batch.num_columns() != 7 {
        bail!("wrong: {} columns instead of 7", batch.num_columns());
    }
    for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
        if column.null_count() > 0 {
            bail!("wrong: {} NULLs in {}", column.null_count(), field.name());
        }
    }
    let ads = cast(
        batch.column_by_name("ad_id").context("no column ad_id")?,
        &DataType::Utf8,
    )?;
    for ad in ads.as_string::<i32>().iter().flatten() {
        match sums.by_ad.get_mut(ad) {
            Some(count) => *count += 1,
            None => {
                sums.by_ad.insert(ad.to_owned(), 1);
            }
        }
    }
    let times = cast(
        batch.column_by_name("event_time").context("no column event_time")?,
        &DataType::Int64,
    )?;
    sums.time_ms += times
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|time| i128::from(*time))
        .sum::<i128>();
    sums.records += batch.num_rows() as u64;
    Ok(())
}

impl DataFile {
    fn holds(&self, rows: u64) -> Result<()> {
        if rows != self.rows {
            bail!(
                "wrong: {} holds {rows} rows, its manifest says {}",
                self.path.display(),
                self.rows
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(manifest_rows: u64) -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        std::fs::create_dir(out.path().join("_tidemill")).unwrap();
        std::fs::write(out.path().join("_tidemill/owner.json"), "{}").unwrap();
        let listed = format!(r#"{{"batch":1,"files":[{{"path":"a.json","rows":{manifest_rows},"bytes":1}}]}}"#);
        std::fs::write(manifest(out.path(), 1), listed).unwrap();
        let rows = "{\"ad_id\":\"ad-0001\",\"views\":3}\n{\"ad_id\":\"ad-0002\",\"views\":4}\n";
        std::fs::write(out.path().join("a.json"), rows).unwrap();
        std::fs::write(out.path().join("left-over.json"), rows).unwrap();
        out
    }

    #[test]
    fn only_listed_files_count() {
        let out = sink(2);
        let files = committed(out.path()).unwrap();
        assert_eq!(rows(&files), 2);
        let sums = counts_by_ad(&files, "views").unwrap();
        assert_eq!((sums.records, sums.by_ad["ad-0001"], sums.by_ad["ad-0002"]), (7, 3, 4));
    }

    #[test]
    fn a_manifest_that_does_not_fit_its_file_is_noticed() {
        let out = sink(3);
        let error = counts_by_ad(&committed(out.path()).unwrap(), "views")
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds 2 rows, its manifest says 3"), "{error}");
    }
}
