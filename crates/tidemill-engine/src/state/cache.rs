//! The local copy of every base: a database that may vanish at any time.
//!
//! It knows itself which version it holds: what a version changes and the note that it is held become visible in one atomic
//! write. Nothing waits for the disk. After the end of the process, however sudden, the operating system still writes
//! what was written; after the end of the machine it may not have. So a mark tells the boot of the machine in which the
//! database was opened, and goes when it is closed and on disk: a database with the mark of another boot is thrown away.
//!
//! A process has its folder for itself, by a lock that ends with it. One that takes an application over while its predecessor is
//! still there, frozen maybe, makes its copy in a folder beside that; it is emptied by the next one that has the first folder.

use std::fmt::{self, Debug, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::config::{BlockSizePolicy, PartitioningPolicy, PinningPolicy, RestartIntervalPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Snapshot};
use serde::{Deserialize, Serialize};
use tidemill_core::StateVersion;

use super::changes::Entry;
use super::store::StateSettings;
use super::version::Head;
use crate::error::{Error, Kind, Result};
use crate::store::{failed, fsync_failed};

/// Bytes that are written in one atomic act; more is written in parts, and nothing is held until the last.
const PART_BYTES: usize = 32 << 20;
/// Bytes from which sorted entries go past the database's log.
const INGEST_BYTES: u64 = 4 << 20;
/// Bytes of the database's log on disk; reading it back is most of what an opening takes.
const LOG_BYTES: u64 = 64 << 20;
/// Bytes that are read at once. Keys are asked for in their order: of many in a batch several lie in one block.
const BLOCK_BYTES: u32 = 16 << 10;
/// Keys of a block that share a beginning, which are gone through one by one to find one of them.
const KEYS_PER_BEGINNING: u8 = 4;
/// Folders beside each other: processes that hold one each, all but the newest about to find that they are fenced.
const PLACES_MAX: u32 = 8;
/// The table that says what is held.
const HELD: &str = "held";

/// What the cache holds of an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Held {
    /// The table with its keys and values.
    pub table: String,
    /// The version.
    pub version: StateVersion,
    /// What the version says of itself.
    pub head: Head,
}

/// The database. Closed, on disk and without its mark when it is dropped.
pub(super) struct Cache {
    folder: PathBuf,
    memory_bytes: u64,
    database: Database,
    held: Keyspace,
    /// Says that the folder is ours, until the database is closed.
    _lock: Arc<fs::File>,
}

/// Keys and values of one operator at one version and those that come after it.
#[derive(Clone)]
pub(super) struct Table {
    name: String,
    keyspace: Keyspace,
    folder: Arc<Path>,
}

/// A table as it is at one moment.
#[derive(Clone)]
pub(super) struct View {
    table: Table,
    snapshot: Snapshot,
}

impl Cache {
    /// Opens the cache, in the first folder that no other process has; what can't be used is thrown away.
    ///
    /// # Errors
    /// Where other processes have all of them, or the folder can't be used.
    pub(super) fn open(settings: &StateSettings) -> Result<Self> {
        let memory_bytes = settings.memory_bytes_max.max(16 << 20);
        for number in 1..=PLACES_MAX {
            let folder = place(&settings.cache, number);
            let Some(cache) = Self::open_in(&folder, memory_bytes)? else {
                tracing::warn!(folder = %folder.display(), "the state cache is open in another process; another copy is made beside it");
                continue;
            };
            for left in number + 1..=PLACES_MAX {
                empty_unless_in_use(&place(&settings.cache, left))?;
            }
            return Ok(cache);
        }
        Err(all_in_use(&settings.cache))
    }

    /// `None` where another process has the folder.
    fn open_in(folder: &Path, memory_bytes: u64) -> Result<Option<Self>> {
        fs::create_dir_all(folder).map_err(|error| failed("make folder", folder, error))?;
        let Some(lock) = lock(folder)?.map(Arc::new) else {
            return Ok(None);
        };
        if !usable(folder) {
            remove(folder)?;
        }
        mark(folder)?;
        match Self::open_database(folder, memory_bytes, &lock) {
            Ok(cache) => Ok(Some(cache)),
            // This process itself has a reader of it yet.
            Err(fjall::Error::Locked) => Ok(None),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the state cache can't be opened; it is made anew from the checkpoint");
                remove(folder)?;
                mark(folder)?;
                let cache = Self::open_database(folder, memory_bytes, &lock);
                cache.map(Some).map_err(|error| broken(folder, error))
            }
        }
    }

    fn open_database(folder: &Path, memory_bytes: u64, lock: &Arc<fs::File>) -> Result<Self, fjall::Error> {
        // Reads take a quarter of the memory; a table has up to five memtables of an eighth each.
        let database = Database::builder(folder.join("database"))
            .cache_size(memory_bytes / 4)
            .max_journaling_size(LOG_BYTES)
            .worker_threads(1)
            .open()?;
        let held = database.keyspace(HELD, || KeyspaceCreateOptions::default().max_memtable_size(1 << 20))?;
        let this = Self {
            folder: folder.to_owned(),
            memory_bytes,
            database,
            held,
            _lock: Arc::clone(lock),
        };
        this.drop_unheld()?;
        Ok(this)
    }

    /// Removes tables that nothing names: an operator was being restored when the process ended.
    fn drop_unheld(&self) -> Result<(), fjall::Error> {
        let mut named = vec![HELD.to_owned()];
        for entry in self.held.iter() {
            let value = entry.value()?;
            named.extend(serde_json::from_slice::<Held>(&value).ok().map(|held| held.table));
        }
        for name in self.database.list_keyspace_names() {
            if !named.iter().any(|held| **held == *name) {
                let table = self.database.keyspace(&name, || self.options())?;
                self.database.delete_keyspace(table)?;
            }
        }
        Ok(())
    }

    fn options(&self) -> KeyspaceCreateOptions {
        let memtable_bytes = (self.memory_bytes / 8).max(1 << 20);
        // Most keys that are asked for are there: the last level, which has nearly all, does without filters, and those of the
        // others come and go in parts with the memory there is. Indexes stay in memory: a block's entry is a three hundredth
        // of the block, and looking for it in parts costs more than reading the block.
        KeyspaceCreateOptions::default()
            .max_memtable_size(memtable_bytes)
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            .data_block_restart_interval_policy(RestartIntervalPolicy::all(KEYS_PER_BEGINNING))
            .expect_point_read_hits(true)
            .index_block_partitioning_policy(PartitioningPolicy::all(false))
            .filter_block_partitioning_policy(PartitioningPolicy::all(true))
            .index_block_pinning_policy(PinningPolicy::all(true))
            .filter_block_pinning_policy(PinningPolicy::all(false))
    }

    /// What is held of an operator; `None` where that is nothing, or nothing that this build understands.
    pub(super) fn held(&self, operator: &str) -> Option<(Held, Table)> {
        let value = self.held.get(operator).ok()??;
        let held: Held = serde_json::from_slice(&value).ok()?;
        if !self.database.keyspace_exists(&held.table) {
            return None;
        }
        let table = self.table(held.table.clone()).ok()?;
        Some((held, table))
    }

    /// A new, empty table. It is gone at the next opening unless something is held in it.
    ///
    /// # Errors
    /// Where it can't be made.
    pub(super) fn create(&self, operator: &str) -> Result<Table> {
        self.table(format!("{operator}.{}", uuid::Uuid::new_v4().simple()))
    }

    fn table(&self, name: String) -> Result<Table> {
        let keyspace = self.database.keyspace(&name, || self.options());
        Ok(Table {
            keyspace: keyspace.map_err(|error| broken(&self.folder, error))?,
            name,
            folder: self.folder.as_path().into(),
        })
    }

    /// Removes a table that nothing is held in. Whoever still reads it goes on.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub(super) fn delete(&self, table: Table) -> Result<()> {
        let deleted = self.database.delete_keyspace(table.keyspace);
        deleted.map_err(|error| broken(&self.folder, error))
    }

    /// Writes entries in ascending order into a table that nothing is held in.
    ///
    /// # Errors
    /// Where they can't be written.
    pub(super) fn fill<'a>(&self, table: &Table, bytes: u64, entries: impl Iterator<Item = Entry<'a>>) -> Result<()> {
        let filled = if bytes < INGEST_BYTES {
            self.write_parts(table, entries, None)
        } else {
            ingest(table, entries)
        };
        filled.map_err(|error| broken(&self.folder, error))
    }

    /// Writes what a version changes, and that it is held from now on.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(super) fn advance<'a>(
        &self,
        operator: &str,
        table: &Table,
        entries: impl Iterator<Item = Entry<'a>>,
        version: StateVersion,
        head: Head,
    ) -> Result<()> {
        let held = Held {
            table: table.name.clone(),
            version,
            head,
        };
        let note = serde_json::to_vec(&held);
        let note = note.map_err(|error| Error::with_source(Kind::Bug, "encode what the state cache holds", error))?;
        let written = self.write_parts(table, entries, Some((operator, note)));
        written.map_err(|error| broken(&self.folder, error))
    }

    fn write_parts<'a>(
        &self,
        table: &Table,
        entries: impl Iterator<Item = Entry<'a>>,
        held: Option<(&str, Vec<u8>)>,
    ) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch();
        let mut bytes = 0;
        for (bucket, key, value) in entries {
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            match value {
                Some(value) => batch.insert(&table.keyspace, whole_key(bucket, key), value),
                None => batch.remove(&table.keyspace, whole_key(bucket, key)),
            }
            if bytes >= PART_BYTES {
                if let Some((operator, _)) = &held {
                    batch.remove(&self.held, *operator);
                }
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
                bytes = 0;
            }
        }
        if let Some((operator, note)) = held {
            batch.insert(&self.held, operator, note);
        }
        batch.commit()
    }

    /// A table as it is now.
    pub(super) fn view(&self, table: &Table) -> View {
        View {
            table: table.clone(),
            snapshot: self.database.snapshot(),
        }
    }
}

impl Debug for Cache {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let unmarked =
            self.database.persist(PersistMode::SyncAll).is_ok() && fs::remove_file(mark_path(&self.folder)).is_ok();
        if !unmarked {
            tracing::warn!(folder = %self.folder.display(), "the state cache was not closed; it is made anew after the machine's next boot");
        }
    }
}

impl View {
    /// The value of a key.
    ///
    /// # Errors
    /// Where the database is damaged; it is thrown away at the next opening.
    pub(super) fn get(&self, bucket: u16, key: &[u8]) -> Result<Option<Vec<u8>>> {
        use fjall::Readable;
        let found = self.snapshot.get(&self.table.keyspace, whole_key(bucket, key));
        let found = found.map_err(|error| unreadable(&self.table.folder, error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Entries of a bucket with `from <= key < until`, in key order.
    pub(super) fn range(&self, bucket: u16, from: &[u8], until: Option<&[u8]>) -> ViewRange {
        use fjall::Readable;
        let from = whole_key(bucket, from);
        let until = until.map_or_else(|| whole_key(bucket + 1, b""), |until| whole_key(bucket, until));
        // A range that ends before it begins would panic.
        let until = until.max(from.clone());
        ViewRange {
            entries: self.snapshot.range(&self.table.keyspace, from..until),
            folder: Arc::clone(&self.table.folder),
        }
    }
}

impl Debug for View {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("table", &self.table.name)
            .finish_non_exhaustive()
    }
}

impl Debug for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Entries in key order.
pub(super) struct ViewRange {
    entries: fjall::Iter,
    folder: Arc<Path>,
}

impl Iterator for ViewRange {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?.into_inner();
        let owned = entry.map(|(key, value)| (key.get(2..).unwrap_or_default().to_vec(), value.to_vec()));
        Some(owned.map_err(|error| unreadable(&self.folder, error)))
    }
}

fn ingest<'a>(table: &Table, entries: impl Iterator<Item = Entry<'a>>) -> Result<(), fjall::Error> {
    let mut ingestion = table.keyspace.start_ingestion()?;
    for (bucket, key, value) in entries {
        match value {
            Some(value) => ingestion.write(whole_key(bucket, key), value)?,
            None => ingestion.write_tombstone(whole_key(bucket, key))?,
        }
    }
    ingestion.finish()
}

/// The key in the database: entries of a bucket stand together, in key order.
fn whole_key(bucket: u16, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(2 + key.len());
    whole.extend_from_slice(&bucket.to_be_bytes());
    whole.extend_from_slice(key);
    whole
}

fn mark_path(folder: &Path) -> PathBuf {
    folder.join("open-in-boot")
}

fn damage_path(folder: &Path) -> PathBuf {
    folder.join("damaged")
}

/// The boot of this machine; none where it can't be told.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// True where what stands in the folder can be trusted.
fn usable(folder: &Path) -> bool {
    if damage_path(folder).exists() {
        return false;
    }
    match fs::read_to_string(mark_path(folder)) {
        Ok(marked) => boot().is_some_and(|boot| boot == marked),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Says, on disk, that the database is open in this boot.
fn mark(folder: &Path) -> Result<()> {
    let path = mark_path(folder);
    fs::write(&path, boot().unwrap_or_default()).map_err(|error| failed("write", &path, error))?;
    let file = fs::File::open(&path).map_err(|error| failed("open", &path, error))?;
    file.sync_all().map_err(|error| fsync_failed(&path, error))?;
    crate::store::sync_folder(folder)
}

/// Throws a cache away: only what a cache has, should the folder be another's.
fn remove(folder: &Path) -> Result<()> {
    let database = folder.join("database");
    match fs::remove_dir_all(&database) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &database, error)),
        _ => {}
    }
    for path in [mark_path(folder), damage_path(folder)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// The folder of the cache, or one beside it.
fn place(cache: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return cache.to_owned();
    }
    let mut beside = cache.as_os_str().to_owned();
    beside.push(format!("-{number}"));
    beside.into()
}

/// Locks a folder for as long as the file is open; `None` where another process has it.
fn lock(folder: &Path) -> Result<Option<fs::File>> {
    let path = folder.join("lock");
    let file = fs::File::create(&path).map_err(|error| failed("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", &path, error)),
    }
}

/// What a process left behind that had to go beside another one.
fn empty_unless_in_use(folder: &Path) -> Result<()> {
    if folder.join("database").exists()
        && let Some(_lock) = lock(folder)?
    {
        remove(folder)?;
    }
    Ok(())
}

fn all_in_use(cache: &Path) -> Error {
    let text = format!(
        "the state cache {} and the {} folders beside it are all open in other processes; give each application a folder of its \
         own, or end those that hang",
        cache.display(),
        PLACES_MAX - 1
    );
    Error::new(Kind::Config, text)
}

fn broken(folder: &Path, error: fjall::Error) -> Error {
    let full = matches!(&error, fjall::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull);
    let kind = if full { Kind::Unavailable } else { Kind::Refused };
    let text = format!(
        "state cache {}: it may be removed, it is made anew at the next start",
        folder.display()
    );
    Error::with_source(kind, text, error)
}

/// A read that failed: what the database holds is not trusted again.
fn unreadable(folder: &Path, error: fjall::Error) -> Error {
    let noted = fs::write(damage_path(folder), error.to_string());
    let what = if noted.is_ok() {
        "is made anew"
    } else {
        "must be removed before"
    };
    let text = format!(
        "the state cache {} can't be read; it {what} at the next start",
        folder.display()
    );
    Error::with_source(Kind::Refused, text, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_in(folder: &Path) -> StateSettings {
        StateSettings {
            cache: folder.join("cache"),
            memory_bytes_max: 16 << 20,
        }
    }

    fn head() -> Head {
        Head {
            operator: "counts".to_owned(),
            kind: "k".to_owned(),
            shape: "s".to_owned(),
            buckets: super::super::BUCKETS,
            batch_id: 1,
            parent: None,
            chain: Vec::new(),
            snapshots: Vec::new(),
            sections: Vec::new(),
        }
    }

    fn hold(cache: &Cache) {
        let table = cache.create("counts").expect("table");
        let version = StateVersion {
            batch_id: 1,
            name: "one".to_owned(),
        };
        let entries = [(3_u16, b"a".as_slice(), Some(b"1".as_slice()))];
        cache
            .advance("counts", &table, entries.into_iter(), version, head())
            .expect("held");
    }

    fn held(settings: &StateSettings) -> bool {
        let cache = Cache::open(settings).expect("opened");
        let Some((held, table)) = cache.held("counts") else {
            return false;
        };
        let value = cache.view(&table).get(3, b"a").expect("read");
        assert_eq!(
            (held.version.name.as_str(), value.as_deref()),
            ("one", Some(b"1".as_slice()))
        );
        true
    }

    #[test]
    fn a_process_goes_beside_one_that_is_still_there_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let settings = settings_in(folder.path());
        let first = Cache::open(&settings).expect("opened");
        hold(&first);
        // It is the first one's to throw away.
        fs::write(damage_path(&settings.cache), "").expect("written");
        let second = Cache::open(&settings).expect("opened beside it");
        assert!(second.held("counts").is_none());
        fs::remove_file(damage_path(&settings.cache)).expect("it is there yet");
        hold(&second);
        assert!(!held(&settings), "a third one goes beside both");
        drop((first, second));
        assert!(held(&settings));
        let left = |number| place(&settings.cache, number).join("database").exists();
        assert_eq!([left(1), left(2), left(3)], [true, false, false]);
    }

    /// The folder as the operating system has it at this moment: what a killed process leaves.
    fn killed(settings: &StateSettings, to: &Path) -> StateSettings {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).expect("folder");
            for entry in fs::read_dir(from).expect("list") {
                let path = entry.expect("entry").path();
                let target = to.join(path.file_name().expect("name"));
                if path.is_dir() {
                    copy(&path, &target);
                } else {
                    fs::copy(&path, &target).expect("copy");
                }
            }
        }
        let left = settings_in(to);
        copy(&settings.cache, &left.cache);
        left
    }

    #[test]
    fn what_a_closed_or_killed_process_held_is_held() {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = settings_in(folder.path());
        let cache = Cache::open(&settings).expect("opened");
        hold(&cache);
        let left = killed(&settings, &folder.path().join("killed"));
        assert!(held(&left));
        drop(cache);
        assert!(!mark_path(&settings.cache).exists());
        assert!(held(&settings));
    }

    #[test]
    fn a_cache_that_was_open_when_the_machine_ended_is_thrown_away() {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = settings_in(folder.path());
        let cache = Cache::open(&settings).expect("opened");
        hold(&cache);
        let left = killed(&settings, &folder.path().join("killed"));
        fs::write(mark_path(&left.cache), "another boot").expect("written");
        assert!(!held(&left));
    }

    #[test]
    fn nothing_is_held_while_a_version_is_written_in_parts() {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = settings_in(folder.path());
        let cache = Cache::open(&settings).expect("opened");
        hold(&cache);
        let (_, table) = cache.held("counts").expect("held");
        let value = vec![0; 1 << 20];
        let count = u16::try_from(PART_BYTES >> 20).expect("few") + 2;
        let to = folder.path().join("killed");
        let keys: Vec<[u8; 2]> = (0..count).map(u16::to_be_bytes).collect();
        let entries = keys.iter().enumerate().map(|(number, key)| {
            if number + 1 == keys.len() {
                killed(&settings, &to);
            }
            (0, key.as_slice(), Some(value.as_slice()))
        });
        let version = StateVersion {
            batch_id: 2,
            name: "two".to_owned(),
        };
        cache.advance("counts", &table, entries, version, head()).expect("held");
        assert_eq!(cache.held("counts").expect("held").0.version.name, "two");
        assert!(!held(&settings_in(&to)));
    }

    #[test]
    fn a_damaged_cache_is_thrown_away() {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = settings_in(folder.path());
        hold(&Cache::open(&settings).expect("opened"));
        fs::write(damage_path(&settings.cache), "").expect("written");
        assert!(!held(&settings));
        hold(&Cache::open(&settings).expect("opened"));
        assert!(held(&settings));
        for entry in fs::read_dir(settings.cache.join("database")).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_file() {
                fs::write(&path, b"nonsense").expect("written");
            }
        }
        assert!(!held(&settings));
    }

    #[test]
    fn more_processes_than_there_are_places_are_refused() {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = settings_in(folder.path());
        let open: Vec<Cache> = (0..PLACES_MAX)
            .map(|_| Cache::open(&settings).expect("opened"))
            .collect();
        let error = Cache::open(&settings).expect_err("in use");
        assert_eq!(error.kind(), Kind::Config);
        drop(open);
    }
}
