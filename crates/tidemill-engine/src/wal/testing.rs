//! A log in memory that fails on demand, and a gate that is shut by hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::error::{Error, Kind, Result};
use crate::time::hand::HandClock;

/// Whose log all of these are.
pub(super) const LOG: Uuid = Uuid::from_u128(0x7469_6465);

/// Nothing that is waited for takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Files in memory. What was not synced goes with [`MemoryStorage::cut_power`].
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryStorage {
    disk: Arc<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DiskState {
    files: BTreeMap<String, MemoryFile>,
    /// Bytes that may still be written; `None`: any number.
    room: Option<usize>,
    sync_fails: bool,
    syncs_lost: bool,
    names_sync_fails: bool,
    held: bool,
    appends: u64,
    syncs: u64,
    reads_open: usize,
    reads_open_most: usize,
    /// So many must be open at once before any goes on.
    readers_meet: usize,
}

#[derive(Debug, Clone, Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    synced: usize,
    name_synced: bool,
}

impl MemoryStorage {
    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.disk.state.lock().unwrap()
    }

    /// Leaves so much room.
    pub(super) fn set_room(&self, bytes: Option<usize>) {
        self.lock().room = bytes;
    }

    /// Lets every fsync of a file fail, or none.
    pub(super) fn set_sync_fails(&self, fails: bool) {
        self.lock().sync_fails = fails;
    }

    /// Lets every fsync of a file do nothing: as of a driver that did not come so far.
    pub(super) fn lose_syncs(&self) {
        self.lock().syncs_lost = true;
    }

    /// Lets every fsync of the folder fail.
    pub(super) fn set_names_sync_fails(&self) {
        self.lock().names_sync_fails = true;
    }

    /// Holds every append until it is let go.
    pub(super) fn hold(&self, hold: bool) {
        self.lock().held = hold;
        self.disk.changed.notify_all();
    }

    /// Appends begun.
    pub(super) fn appends(&self) -> u64 {
        self.lock().appends
    }

    pub(super) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The most files that were open to read at once.
    pub(super) fn reads_open_most(&self) -> usize {
        self.lock().reads_open_most
    }

    /// Lets readers wait for each other until so many have files open.
    pub(super) fn let_readers_meet(&self, count: usize) {
        let mut state = self.lock();
        (state.readers_meet, state.reads_open_most) = (count, 0);
    }

    pub(super) fn file(&self, name: &str) -> Vec<u8> {
        self.lock().files[name].bytes.clone()
    }

    /// Puts a file in place, durable, in whatever state.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        let synced = bytes.len();
        let file = MemoryFile {
            bytes,
            synced,
            name_synced: true,
        };
        self.lock().files.insert(name.to_owned(), file);
    }

    /// The segments, oldest first.
    pub(super) fn segments(&self) -> Vec<SegmentName> {
        let state = self.lock();
        let mut names: Vec<SegmentName> = state.files.keys().filter_map(|name| name.parse().ok()).collect();
        names.sort_unstable();
        names
    }

    /// A copy in which only what is durable is left.
    pub(super) fn cut_power(&self) -> Self {
        let state = self.lock();
        let durable = |(name, file): (&String, &MemoryFile)| {
            let bytes = file.bytes[..file.synced].to_vec();
            file.name_synced.then(|| (name.clone(), bytes))
        };
        let copy = Self::default();
        for (name, bytes) in state.files.iter().filter_map(durable) {
            copy.put(&name, bytes);
        }
        copy
    }

    /// A copy of all that was written.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        for (name, file) in &self.lock().files {
            copy.put(name, file.bytes.clone());
        }
        copy
    }
}

impl Storage for MemoryStorage {
    fn create(&self, name: &str) -> Result<Box<dyn Appending>> {
        let mut state = self.lock();
        if state.files.contains_key(name) {
            return Err(Error::new(Kind::Refused, format!("{name} is there already")));
        }
        state.files.insert(name.to_owned(), MemoryFile::default());
        Ok(Box::new(Handle {
            storage: self.clone(),
            name: name.to_owned(),
            reads: false,
        }))
    }

    fn sync_names(&self) -> Result<()> {
        let mut state = self.lock();
        if state.names_sync_fails {
            return Err(Error::new(Kind::Refused, "fsync of the folder"));
        }
        state.files.values_mut().for_each(|file| file.name_synced = true);
        Ok(())
    }

    fn settle(&self, name: &str) -> Result<()> {
        let mut state = self.lock();
        let file = state.files.get_mut(name).unwrap();
        file.synced = file.bytes.len();
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn Reading>>> {
        let mut state = self.lock();
        if !state.files.contains_key(name) {
            return Ok(None);
        }
        state.reads_open += 1;
        state.reads_open_most = state.reads_open_most.max(state.reads_open);
        self.disk.changed.notify_all();
        let alone = |state: &mut DiskState| state.reads_open_most < state.readers_meet;
        let (_state, waited) = self.disk.changed.wait_timeout_while(state, DEADLINE, alone).unwrap();
        assert!(!waited.timed_out(), "a reader waited in vain for others");
        Ok(Some(Box::new(Handle {
            storage: self.clone(),
            name: name.to_owned(),
            reads: true,
        })))
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.lock().files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let removed = self.lock().files.remove(name);
        if let Some((file, room)) = removed.zip(self.lock().room.as_mut()) {
            *room += file.bytes.len();
        }
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

#[derive(Debug)]
struct Handle {
    storage: MemoryStorage,
    name: String,
    reads: bool,
}

impl Appending for Handle {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut state = self.storage.lock();
        state.appends += 1;
        self.storage.disk.changed.notify_all();
        while state.held {
            state = self.storage.disk.changed.wait(state).unwrap();
        }
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if let Some(room) = &mut state.room {
            *room -= fits;
        }
        // Whoever removed it meanwhile keeps nobody from writing.
        if let Some(file) = state.files.get_mut(&self.name) {
            file.bytes.extend_from_slice(&bytes[..fits]);
        }
        match fits == bytes.len() {
            true => Ok(()),
            false => Err(Error::new(Kind::Unavailable, "no room on the device")),
        }
    }

    fn sync(&mut self) -> Result<()> {
        let mut state = self.storage.lock();
        if state.sync_fails {
            return Err(Error::new(Kind::Refused, "fsync: what was written may be lost"));
        }
        state.syncs += 1;
        if state.syncs_lost {
            return Ok(());
        }
        if let Some(file) = state.files.get_mut(&self.name) {
            file.synced = file.bytes.len();
        }
        Ok(())
    }
}

impl Reading for Handle {
    fn length(&self) -> Result<u64> {
        Ok(self.storage.lock().files[&self.name].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let state = self.storage.lock();
        let from = usize::try_from(offset).unwrap();
        let bytes = state.files[&self.name].bytes.get(from..from + into.len());
        into.copy_from_slice(bytes.ok_or_else(|| Error::new(Kind::Refused, "the file ends before"))?);
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.reads {
            self.storage.lock().reads_open -= 1;
        }
    }
}

/// A gate that says what it is told to.
#[derive(Debug, Default)]
pub(super) struct HandGate {
    pub(super) fenced: AtomicBool,
    pub(super) unavailable: AtomicBool,
    /// Frozen: who looks does not come back.
    pub(super) frozen: AtomicBool,
    pub(super) looks: AtomicU64,
}

#[async_trait]
impl Gate for HandGate {
    async fn pass(&self) -> Result<()> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        while self.frozen.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if self.fenced.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Fenced, "a newer epoch"));
        }
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "no answer"));
        }
        Ok(())
    }
}

/// A log's surroundings.
#[derive(Debug, Clone)]
pub(super) struct Place<S> {
    pub(super) storage: S,
    pub(super) gate: Arc<HandGate>,
    pub(super) clock: Arc<HandClock>,
    pub(super) settings: LogSettings,
}

impl<S: Storage + Clone + 'static> Place<S> {
    pub(super) fn on(storage: S) -> Self {
        Self {
            storage,
            gate: Arc::default(),
            clock: Arc::new(HandClock::at(10_000)),
            settings: LogSettings::default(),
        }
    }

    pub(super) fn takeover(&self, epoch: u64) -> Takeover {
        Takeover {
            storage: Arc::new(self.storage.clone()),
            log: LOG,
            epoch,
            needed_from: 0,
            on_damage: OnDamage::Stop,
        }
    }

    /// A log of this epoch behind all that is there.
    pub(super) fn start(&self, epoch: u64) -> Log {
        let taken = self.takeover(epoch).run(&mut |_| Ok(())).unwrap();
        self.start_on(taken)
    }

    pub(super) fn start_on(&self, taken: Taken) -> Log {
        let (gate, clock) = (Arc::clone(&self.gate), Arc::clone(&self.clock));
        Log::start(taken, self.settings.clone(), gate, clock).unwrap()
    }

    /// What a takeover by this epoch finds.
    pub(super) fn found(&self, epoch: u64) -> Result<Vec<Vec<u8>>> {
        all(&self.takeover(epoch)).map(|(bodies, _)| bodies)
    }
}

/// All bodies, and what the takeover came to.
pub(super) fn all(takeover: &Takeover) -> Result<(Vec<Vec<u8>>, Report)> {
    let mut bodies = Vec::new();
    let taken = takeover.run(&mut |found| {
        bodies.push(found.body.to_vec());
        Ok(())
    })?;
    Ok((bodies, taken.report))
}

/// Appends one record and waits until it is acknowledged.
pub(super) async fn put(log: &Log, body: impl AsRef<[u8]>) -> Result<LogRange> {
    log.append(body.as_ref()).await?.acknowledged().await
}

/// The texts of these numbers.
pub(super) fn texts(numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    numbers
        .into_iter()
        .map(|number| number.to_string().into_bytes())
        .collect()
}

/// Waits until something holds.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

/// Waits for a state of the log.
pub(super) async fn until_state(log: &Log, is: fn(&State) -> bool) {
    let mut state = log.state();
    let waited = tokio::time::timeout(DEADLINE, state.wait_for(is)).await;
    assert!(waited.is_ok_and(|seen| seen.is_ok()), "waited in vain for a state");
}
