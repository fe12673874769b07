//! A fresh sink of each exactly-once kind, and what an outside reader sees in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::s3::S3;
use crate::{java, servers};

/// The kinds of sinks that promise exactly-once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON files, listed through manifests.
    File,
    /// A table.
    Postgres,
    /// A topic.
    Kafka,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::File, Self::Postgres, Self::Kafka];

    /// The word for it in a pipeline file.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
        }
    }
}

/// Where one sink of one test writes.
#[derive(Debug)]
pub struct Target {
    kind: Kind,
    /// Folder inside the pipeline's, table or topic.
    place: String,
    /// What the pipeline file says beyond the place.
    more: String,
    /// The checkpoint that goes with it, as the pipeline file has it.
    checkpoint: String,
    /// Where the files are read, where that is not the pipeline's folder.
    read_in: Option<PathBuf>,
    /// Where a topic is read.
    brokers: String,
}

impl Target {
    /// Makes the table (`columns` in SQL; null for every column that a query doesn't give) or the topic (two partitions).
    /// A folder is left to the sink.
    ///
    /// The table has one more column, `arrival`, which the database fills: it tells the order in which rows were written.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn create(kind: Kind, columns: &str) -> Result<Self> {
        let place = match kind {
            Kind::File => "out".to_owned(),
            Kind::Postgres => servers::unique("sink").replace('-', "_"),
            Kind::Kafka => servers::unique("sink"),
        };
        match kind {
            Kind::File => {}
            Kind::Postgres => {
                let create = format!("CREATE TABLE {place} (arrival BIGINT GENERATED ALWAYS AS IDENTITY, {columns})");
                with_database(async |database| Ok(database.batch_execute(&create).await?))?;
            }
            Kind::Kafka => java::create_topic(&place, 2, &[])?,
        }
        Ok(match kind {
            Kind::File => Self::of(kind, place, "format = \"json\"\n".to_owned()),
            Kind::Postgres => {
                let more = "url = \"${DATABASE_URL}\"\nmode = \"append\"\n".to_owned();
                Self::of(kind, place, more)
            }
            Kind::Kafka => Self::topic(&servers::kafka(), &place),
        })
    }

    /// A topic that is there, on other brokers.
    pub fn topic(brokers: &str, topic: &str) -> Self {
        let more = format!("brokers = \"{brokers}\"\nformat = \"json\"\n");
        Self {
            brokers: brokers.to_owned(),
            ..Self::of(Kind::Kafka, topic.to_owned(), more)
        }
    }

    fn of(kind: Kind, place: String, more: String) -> Self {
        Self {
            kind,
            place,
            more,
            checkpoint: "\"checkpoint\"".to_owned(),
            read_in: None,
            brokers: String::new(),
        }
    }

    /// A new bucket of `s3` for JSON files, and for the checkpoint that goes with them.
    ///
    /// # Errors
    /// Where the bucket can't be made.
    pub fn bucket(s3: &S3) -> Result<Self> {
        let bucket = s3.bucket()?;
        let place = format!("s3://{bucket}/rows/out");
        let options = s3.options();
        Ok(Self {
            more: format!("format = \"json\"\noptions = {options}\n"),
            checkpoint: format!("{{ path = \"s3://{bucket}/checkpoint\", options = {options} }}"),
            read_in: Some(s3.folder_of(&place)),
            ..Self::of(Kind::File, place, String::new())
        })
    }

    /// The checkpoint that goes with it, as the value of `checkpoint` in a pipeline file.
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// A folder of JSON files in folders by the values of `columns`.
    ///
    /// # Errors
    /// None so far.
    pub fn folders(columns: &[&str]) -> Result<Self> {
        let more = format!("format = \"json\"\npartition_by = {columns:?}\n");
        Ok(Self {
            more,
            ..Self::create(Kind::File, "")?
        })
    }

    /// Makes a topic that is written through a proxy at `address`, by a client that waits `socket_timeout` for an answer.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub fn topic_behind(address: &str, socket_timeout: Duration) -> Result<Self> {
        let timeout = socket_timeout.as_millis();
        let more = format!(
            "brokers = \"{address}\"\nformat = \"json\"\nproperties = {{ \"socket.timeout.ms\" = \"{timeout}\" }}\n"
        );
        Ok(Self {
            more,
            ..Self::create(Kind::Kafka, "")?
        })
    }

    /// The sink's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The folder, table or topic.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The lines of a pipeline file that say where to write. The database's URL is taken from `DATABASE_URL`.
    pub fn toml(&self) -> String {
        let name = match self.kind {
            Kind::File => "path",
            Kind::Postgres => "table",
            Kind::Kafka => "topic",
        };
        format!(
            "kind = \"{}\"\n{name} = \"{}\"\n{}",
            self.kind.name(),
            self.place,
            self.more
        )
    }

    /// The visible rows in the order the sink keeps. `folder` is the pipeline's.
    ///
    /// # Errors
    /// Where the sink can't be read or contradicts itself: a manifest that names a missing, shorter or longer file.
    pub fn rows(&self, folder: &Path) -> Result<Vec<Value>> {
        match self.kind {
            Kind::File => match &self.read_in {
                Some(bucket) => rows_of_files(bucket),
                None => rows_of_files(&folder.join(&self.place)),
            },
            Kind::Postgres => rows_of_table(&self.place),
            Kind::Kafka => rows_of_topic(&self.brokers, &self.place),
        }
    }
}

/// Runs `work` on a connection of its own, as an outside reader does.
///
/// # Errors
/// Where the database can't be reached, and those of `work`.
pub fn with_database<T>(work: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    with_database_at(&servers::postgres(), work)
}

/// The same at `url`.
///
/// # Errors
/// As [`with_database`].
pub fn with_database_at<T>(url: &str, work: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(connection);
        let result = work(&client).await;
        drop(client);
        connection.await??;
        result
    })
}

fn rows_of_table(table: &str) -> Result<Vec<Value>> {
    let select = format!("SELECT row_to_json(t)::text FROM {table} t ORDER BY arrival");
    with_database(async |database| {
        database
            .query(&select, &[])
            .await?
            .iter()
            .map(|row| Ok(serde_json::from_str(row.try_get(0)?)?))
            .collect()
    })
}

fn rows_of_topic(brokers: &str, topic: &str) -> Result<Vec<Value>> {
    java::dump_at(brokers, topic)?
        .iter()
        .map(|record| {
            let text = record["value"]
                .as_str()
                .with_context(|| format!("{topic}: no value in {record}"))?;
            serde_json::from_str(text).with_context(|| format!("{topic}: no JSON in {record}"))
        })
        .collect()
}

/// The manifests of a file sink in batch order. A folder that isn't there holds none.
///
/// # Errors
/// Where one can't be read or isn't named by its batch.
pub fn manifests(sink: &Path) -> Result<Vec<Value>> {
    let folder = sink.join("_tidemill");
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.retain(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_manifest_name)
    });
    names.sort();
    names
        .iter()
        .map(|path| {
            let manifest: Value =
                serde_json::from_slice(&fs::read(path)?).with_context(|| format!("{} is no JSON", path.display()))?;
            let batch = manifest["batch"]
                .as_u64()
                .with_context(|| format!("{} has no batch", path.display()))?;
            ensure!(
                path.file_stem()
                    .is_some_and(|stem| stem == format!("{batch:020}").as_str()),
                "{} says batch {batch}",
                path.display()
            );
            Ok(manifest)
        })
        .collect()
}

fn is_manifest_name(name: &str) -> bool {
    name.strip_suffix(".json")
        .is_some_and(|stem| stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The rows of a folder of JSON lines, through its manifests.
///
/// # Errors
/// As [`Target::rows`].
pub fn rows_of_files(sink: &Path) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for manifest in manifests(sink)? {
        // A birth record has no files.
        for file in manifest["files"].as_array().unwrap_or(&Vec::new()) {
            let name = file["path"]
                .as_str()
                .with_context(|| format!("a file without a path in {manifest}"))?;
            let path = sink.join(name);
            let bytes = fs::read(&path).with_context(|| format!("batch {}: {}", manifest["batch"], path.display()))?;
            let of_file: Vec<Value> = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| {
                    let mut row: Value = serde_json::from_slice(line)
                        .with_context(|| format!("{} holds no JSON line", path.display()))?;
                    add_folders(&mut row, name)?;
                    Ok(row)
                })
                .collect::<Result<_>>()?;
            for (what, is) in [("rows", of_file.len()), ("bytes", bytes.len())] {
                if file[what] != json!(is) {
                    bail!(
                        "batch {}: {name} has {is} {what}, its manifest says {}",
                        manifest["batch"],
                        file[what]
                    );
                }
            }
            rows.extend(of_file);
        }
    }
    Ok(rows)
}

/// Adds the columns that the folders of a file name, as Hive reads them: texts, or NULL.
fn add_folders(row: &mut Value, file: &str) -> Result<()> {
    let (folders, _) = file.rsplit_once('/').unwrap_or_default();
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        let (column, value) = folder
            .split_once('=')
            .with_context(|| format!("{file}: no value in {folder}"))?;
        let value = match value {
            "__HIVE_DEFAULT_PARTITION__" => Value::Null,
            value => Value::String(unescaped(value).with_context(|| format!("{file}: {value} is not escaped"))?),
        };
        let row = row.as_object_mut().context("a row that is no object")?;
        let double = row.insert(unescaped(column).context("not escaped")?, value);
        ensure!(double.is_none(), "{file}: {column} is in the file and in its folder");
    }
    Ok(())
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_columns() {
        let mut row = json!({"n": 1});
        add_folders(&mut row, "of=a%2Fb%3D/day=__HIVE_DEFAULT_PARTITION__/part-1").expect("read");
        assert_eq!(row, json!({"n": 1, "of": "a/b=", "day": null}));
        add_folders(&mut row, "part-1").expect("no folder");
        for wrong in ["n=1/part-1", "day/part-1", "x=%2/part-1"] {
            assert!(add_folders(&mut row, wrong).is_err(), "{wrong}");
        }
    }

    fn sink(manifests: &[(&str, Value)], files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("_tidemill")).expect("a folder");
        for (name, manifest) in manifests {
            fs::write(folder.path().join("_tidemill").join(name), manifest.to_string()).expect("written");
        }
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        folder
    }

    fn file(path: &str, rows: u64, bytes: u64) -> Value {
        json!({"path": path, "rows": rows, "bytes": bytes})
    }

    #[test]
    fn files_are_read_through_manifests_in_batch_order_and_nothing_else_is() {
        let folder = sink(
            &[
                (
                    "00000000000000000010.json",
                    json!({"batch": 10, "files": [file("a", 1, 8)]}),
                ),
                (
                    "00000000000000000009.json",
                    json!({"batch": 9, "files": [file("b", 1, 8), file("c", 0, 0)]}),
                ),
                ("00000000000000000000.json", json!({"batch": 0})),
                ("owner.json", json!({"app": "x"})),
                (
                    ".tmp-00000000000000000011.json",
                    json!({"batch": 11, "files": [file("orphan", 1, 8)]}),
                ),
            ],
            &[
                ("a", "{\"n\":1}\n"),
                ("b", "{\"n\":2}\n"),
                ("c", ""),
                ("orphan", "{\"n\":3}\n"),
            ],
        );
        assert_eq!(
            rows_of_files(folder.path()).expect("rows"),
            [json!({"n": 2}), json!({"n": 1})]
        );
        assert_eq!(
            rows_of_files(&folder.path().join("absent")).expect("rows"),
            Vec::<Value>::new()
        );
    }

    #[test]
    fn a_manifest_that_its_files_contradict_is_an_error() {
        for (wrong, text) in [
            (file("a", 1, 8), "{\"n\":"),
            (file("a", 2, 8), "{\"n\":1}\n"),
            (file("b", 1, 8), ""),
        ] {
            let folder = sink(
                &[("00000000000000000001.json", json!({"batch": 1, "files": [wrong]}))],
                &[("a", text)],
            );
            assert!(rows_of_files(folder.path()).is_err(), "{text}");
        }
        let misnamed = sink(&[("00000000000000000002.json", json!({"batch": 1, "files": []}))], &[]);
        assert!(rows_of_files(misnamed.path()).is_err());
    }
}
