//! Where the data files of a sink lie. Everything here blocks.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tidemill_engine::error::Result;
use tidemill_engine::failpoint;
use tidemill_engine::store::{create_folder, failed, fsync_failed, sync_folder};

use super::spread::many_at_a_time;
use super::staged::attempt_of;

/// A place for data files. Names are relative, with `/`.
pub(super) trait Folder: Debug + Send + Sync {
    /// Makes the place ready to be written to.
    fn prepare(&self) -> Result<()>;
    /// A file to write `name` into; a name that is taken is an error.
    fn create(&self, name: &str) -> Result<File>;
    /// Makes the bytes of a written file durable, and gives their number. Its name is durable after [`Self::settle`].
    fn finish(&self, name: &str, file: File) -> Result<u64>;
    /// Makes the names of finished files durable.
    fn settle(&self, names: &[&str]) -> Result<()>;
    /// Removes files that nothing names, without waiting for it; what stays is an orphan (X28).
    fn discard(&self, names: &[String]);
    /// The names of all data files of ours.
    fn data_files(&self) -> Result<Vec<String>>;
    /// When a file was last written.
    fn written(&self, name: &str) -> Result<SystemTime>;
    /// Removes a file.
    fn remove(&self, name: &str) -> Result<()>;
}

/// A folder on local disk.
#[derive(Debug)]
pub(super) struct LocalFolder(PathBuf);

impl LocalFolder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self(root)
    }
}

impl Folder for LocalFolder {
    fn prepare(&self) -> Result<()> {
        create_folder(&self.0)
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.0.join(name);
        if let Some((folder, _)) = name.rsplit_once('/') {
            let folder = self.0.join(folder);
            fs::create_dir_all(&folder).map_err(|error| failed("make folder", &folder, error))?;
        }
        File::create_new(&path).map_err(|error| failed("create", &path, error))
    }

    fn finish(&self, name: &str, file: File) -> Result<u64> {
        let path = self.0.join(name);
        failpoint::pass("file.before-data-sync");
        file.sync_all().map_err(|error| fsync_failed(&path, error))?;
        failpoint::pass("file.after-data-sync");
        let data = file.metadata().map_err(|error| failed("stat", &path, error))?;
        Ok(data.len())
    }

    fn settle(&self, names: &[&str]) -> Result<()> {
        let folders: Vec<&Path> = folders_of(names).into_iter().collect();
        many_at_a_time(folders, |folder| sync_folder(&self.0.join(folder))).map(drop)
    }

    fn discard(&self, names: &[String]) {
        for name in names {
            let _gone = fs::remove_file(self.0.join(name));
        }
    }

    fn data_files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(below) = folders.pop() {
            let here = self.0.join(&below);
            for entry in fs::read_dir(&here).map_err(|error| failed("list", &here, error))? {
                let entry = entry.map_err(|error| failed("list", &here, error))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if attempt_of(&name).is_some() {
                    found.push(format!("{below}{name}"));
                } else if name.contains('=') && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(format!("{below}{name}/"));
                }
            }
        }
        Ok(found)
    }

    fn written(&self, name: &str) -> Result<SystemTime> {
        let path = self.0.join(name);
        let modified = fs::metadata(&path).and_then(|data| data.modified());
        modified.map_err(|error| failed("stat", &path, error))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::remove_file(&path).map_err(|error| failed("remove", &path, error))
    }
}

/// All folders between the sink's and its files, the sink's own among them. A name is durable once the folder that holds it was
/// synced, whoever made it: an attempt before this one may have ended between making a folder and syncing what holds it.
fn folders_of<'a>(names: &[&'a str]) -> BTreeSet<&'a Path> {
    names
        .iter()
        .flat_map(|name: &&'a str| Path::new(*name).ancestors().skip(1))
        .collect()
}
