//! Durable records under names, put in place once and never changed (X1–X3).

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::error::{Error, Kind, Result};
use crate::failpoint;

/// What came of putting a record in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now, durable.
    Created,
    /// The name was taken; nothing was changed.
    Exists,
}

/// A folder of records. Paths are relative, with `/`.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Puts a record in place, durable on return, unless the name is taken.
    ///
    /// # Errors
    /// `Unavailable` where there is no room or no answer: a later attempt may succeed, and may find that this one did, or
    /// will. Any other failure, a failed fsync above all, is final.
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put>;
    /// The record, or `None` where there is none.
    ///
    /// # Errors
    /// Where it can't be read.
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;
    /// The names in a folder, sorted; empty where the folder is missing. A hint only (X2).
    ///
    /// # Errors
    /// Where it can't be read.
    async fn list(&self, folder: &str) -> Result<Vec<String>>;
    /// The highest number of the records `<20 digits>.json` in a folder, 0 where there is none. A listing is a hint: names
    /// beyond it are tried until one is absent (X2).
    ///
    /// # Errors
    /// Where it can't be read.
    async fn newest(&self, folder: &str) -> Result<u64> {
        let mut newest = highest(&self.list(folder).await?);
        while self.read(&numbered(folder, newest + 1)).await?.is_some() {
            newest += 1;
        }
        Ok(newest)
    }
    /// Removes a record; a missing one is no error.
    ///
    /// # Errors
    /// Where it can't be removed.
    async fn delete(&self, path: &str) -> Result<()>;
    /// Writes, syncs and removes a probe, in the folder or in the nearest one above it that exists. Makes nothing.
    ///
    /// # Errors
    /// Where that is not possible.
    async fn probe(&self) -> Result<()>;
    /// True where a put that failed may still come to be.
    fn failed_put_may_come_late(&self) -> bool {
        false
    }
    /// Where this is, for messages.
    fn location(&self) -> String;
}

/// The name of the record with this number in a folder.
pub fn numbered(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}.json")
}

/// The numbers among the names of a folder.
pub fn numbers(names: &[String]) -> impl Iterator<Item = u64> {
    names.iter().filter_map(|name| {
        name.strip_suffix(".json")
            .filter(|number| number.len() == 20)?
            .parse()
            .ok()
    })
}

fn highest(names: &[String]) -> u64 {
    numbers(names).max().unwrap_or(0)
}

/// A folder on local disk.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Records below `root`, which is made when the first record is put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
        let target = self.root.join(path);
        blocking(move || put_new(&target, &bytes)).await
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let target = self.root.join(path);
        blocking(move || match fs::read(&target) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &target, error)),
        })
        .await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let target = self.root.join(folder);
        blocking(move || list(&target)).await
    }

    // In place: it comes before every plan and every commit, and to wake a thread takes longer than to look at a folder of
    // one name.
    async fn newest(&self, folder: &str) -> Result<u64> {
        let mut newest = highest(&list(&self.root.join(folder))?);
        while self.root.join(numbered(folder, newest + 1)).exists() {
            newest += 1;
        }
        Ok(newest)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let target = self.root.join(path);
        blocking(move || match fs::remove_file(&target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &target, error)),
        })
        .await
    }

    async fn probe(&self) -> Result<()> {
        let folder = self.root.clone();
        blocking(move || probe(&folder)).await
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

/// Does what waits for a disk on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::with_source(Kind::Bug, "a file operation panicked", error)),
    }
}

fn probe(folder: &Path) -> Result<()> {
    let exists = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
    let nearest = folder.ancestors().find(exists).unwrap_or(Path::new("."));
    let nearest = if nearest.as_os_str().is_empty() {
        Path::new(".")
    } else {
        nearest
    };
    let path = nearest.join(format!(".tidemill-probe-{}", uuid::Uuid::new_v4().simple()));
    let mut file = File::create_new(&path).map_err(|error| failed("create", &path, error))?;
    let written = file.write_all(b"probe").map_err(|error| failed("write", &path, error));
    let synced = file.sync_all().map_err(|error| fsync_failed(&path, error));
    fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
    written.and(synced)
}

fn put_new(target: &Path, bytes: &[u8]) -> Result<Put> {
    let folder = target.parent().unwrap_or(Path::new("."));
    create_folder(folder)?;
    let temporary = folder.join(format!(".tmp-{}", uuid::Uuid::new_v4().simple()));
    let put = write_and_link(&temporary, target, bytes);
    // The link is the record; the temporary name only takes room, also when it stays after a crash.
    let _gone = fs::remove_file(&temporary);
    let put = put?;
    sync_folder(folder)?;
    Ok(put)
}

fn write_and_link(temporary: &Path, target: &Path, bytes: &[u8]) -> Result<Put> {
    let mut file = File::create_new(temporary).map_err(|error| failed("create", temporary, error))?;
    file.write_all(bytes)
        .map_err(|error| failed("write", temporary, error))?;
    file.sync_all().map_err(|error| fsync_failed(temporary, error))?;
    failpoint::pass("store.after-temp");
    match fs::hard_link(temporary, target) {
        Ok(()) => {
            failpoint::pass("store.after-link");
            Ok(Put::Created)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Put::Exists),
        Err(error) => Err(failed("put in place", target, error)),
    }
}

/// Makes a folder and its missing parents, durable.
///
/// # Errors
/// Where one can't be made or synced.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("make folder", folder, error)),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// A failed fsync: final, never tried again.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let open = File::open(folder).map_err(|error| failed("open", folder, error))?;
    open.sync_all().map_err(|error| fsync_failed(folder, error))
}

fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The error of a file operation: a full disk passes by itself, anything else needs a person.
pub fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::Unavailable,
        _ => Kind::Refused,
    };
    Error::with_source(kind, format!("{what} {}", path.display()), error)
}

/// A failed fsync: the pages may be lost although a later fsync would succeed, so nobody may try again.
pub fn fsync_failed(path: &Path, error: std::io::Error) -> Error {
    Error::with_source(
        Kind::Refused,
        format!("fsync {}: what was written may be lost", path.display()),
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn x01_a_taken_name_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("temp dir");
        let store = LocalStore::new(folder.path().join("a/b"));
        assert_eq!(
            store.put_new("plans/1.json", b"one".to_vec()).await.expect("put"),
            Put::Created
        );
        assert_eq!(
            store.put_new("plans/1.json", b"two".to_vec()).await.expect("put"),
            Put::Exists
        );
        assert_eq!(
            store.read("plans/1.json").await.expect("read").as_deref(),
            Some(b"one".as_slice())
        );
        assert_eq!(store.list("plans").await.expect("list"), ["1.json"]);
    }

    #[tokio::test]
    async fn missing_things_are_told_apart_from_empty_ones() {
        let folder = tempfile::tempdir().expect("temp dir");
        let store = LocalStore::new(folder.path());
        assert_eq!(store.read("nothing").await.expect("read"), None);
        assert!(store.list("nothing").await.expect("list").is_empty());
        store.delete("nothing").await.expect("delete");
    }
}
