//! A log on local disk.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::storage::{Appending, Reading, Storage};
use crate::error::Result;
use crate::store::{create_folder, failed, fsync_failed, sync_folder};

/// A folder on local disk, made with the first file.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    folder: PathBuf,
}

#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    file: File,
}

impl LocalStorage {
    /// A log in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn open_file(&self, name: &str) -> Result<Option<LocalFile>> {
        let path = self.folder.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(LocalFile { path, file })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &path, error)),
        }
    }
}

impl Storage for LocalStorage {
    fn create(&self, name: &str) -> Result<Box<dyn Appending>> {
        create_folder(&self.folder)?;
        let path = self.folder.join(name);
        let created = File::options().append(true).create_new(true).open(&path);
        let file = created.map_err(|error| failed("create", &path, error))?;
        Ok(Box::new(LocalFile { path, file }))
    }

    fn sync_names(&self) -> Result<()> {
        sync_folder(&self.folder)
    }

    fn settle(&self, name: &str) -> Result<()> {
        let Some(mut opened) = self.open_file(name)? else {
            return Ok(());
        };
        opened.sync()?;
        // After a failed fsync of its writer the cache may hold what the disk does not: what is read next comes from the disk.
        let from_disk = rustix::fs::fadvise(&opened.file, 0, None, rustix::fs::Advice::DontNeed);
        from_disk.map_err(|error| failed("drop the cache of", &opened.path, error.into()))
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn Reading>>> {
        let opened = self.open_file(name)?;
        Ok(opened.map(|opened| Box::new(opened) as Box<dyn Reading>))
    }

    fn list(&self) -> Result<Vec<String>> {
        names(&self.folder)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &path, error)),
            _ => Ok(()),
        }
    }

    fn location(&self) -> String {
        self.folder.display().to_string()
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

impl Appending for LocalFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed("write", &self.path, error))
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| fsync_failed(&self.path, error))
    }
}

impl Reading for LocalFile {
    fn length(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|error| failed("read", &self.path, error))?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let read = self.file.read_exact_at(into, offset);
        read.map_err(|error| failed("read", &self.path, error))
    }
}
