//! The file sink: data files under names of their own, made visible by one manifest per batch.
//!
//! ```text
//! <path>/part-<batch>-<slice>-e<epoch>-a<attempt>-<random>.parquet   data, never moved (X27); with `partition_by` in
//!                                                                    folders `column=value/…`, numbered by file
//! <path>/_tidemill/owner.json                                        whose sink this is (X8, X26)
//! <path>/_tidemill/owners/<epoch>.json                               who took it over from that owner, by a person's order
//! <path>/_tidemill/epochs/<epoch>.json                               who took it
//! <path>/_tidemill/<batch>.json                                      manifest: the batch's files and its ledger record
//! ```
//! Batches and epochs have 20 digits. Readers list the manifests and read the files they name; a file that no manifest
//! names does not exist for them.
//!
//! # Why each batch is visible once
//!
//! A folder has no compare-and-swap of its contents, and a driver can freeze between any two steps and go on hours later beside its
//! successor. So nothing here rests on having looked; looking (X4) only makes a driver that was left behind stop early and
//! say why. What decides is that a name can be created once:
//!
//! 1. *At most one manifest per batch.* A manifest is put with create-if-absent, whole and durable (X3), under a name that
//!    is the batch's and holds nothing of epoch or attempt. Manifests are never replaced or removed. Whoever put it, its
//!    files were synced before, and their names before that, so what it names is there.
//! 2. *All that could be put for a batch mean the same rows.* A driver runs batch N only from the plan log, where plan N too
//!    is created once: one that finds it there adopts it unchanged or stops (X1). So the frozen driver and its successor
//!    run one plan. The plan's hash is in the ledger record, and is compared rather than trusted.
//! 3. *The successor can't decide against a manifest that comes late.* It leaves its marker, then reads the ledger. A
//!    manifest of N put before that reading is found, and N is not run again. Put after it, the successor believes N to be
//!    missing, runs plan N and comes to put its own manifest: the name is taken, it reads back what stands there, finds the
//!    same plan hash and counts N as committed. Its own files are garbage, the rows are there once. In the other order the
//!    frozen driver finds the name taken; the manifest has a newer epoch, so it stops with `Fenced`.
//!    In a bucket a put whose answer was lost may come that late too: its files are kept, since its manifest would name them.
//! 4. *Another plan under the same number* needs a plan log that was lost and rebuilt from ledgers (X7) while the frozen
//!    driver held the last plan. Then the hashes differ, one of the two is refused, and the batch still has one manifest.
//!    If it is the successor that is refused, its next start finds that manifest in the ledger and goes on after it.
//!
//! A frozen driver can't reach N + 1 either: that needs a plan N + 1 in the plan log, which is (2) again. And folding the plan
//! log (X5) opens no gap: a driver looks for a newer epoch between logging a plan and putting its manifest, so one that
//! gets as far as the manifest had logged its plan before the successor's marker, and thus before the successor read the log.
//!
//! Memory: one open row group per slice at work, of at most 32 MiB and 1,048,576 rows; before that, rows of small slices, of
//! at most 512 KiB each and 8 MiB together, which share one file; in a bucket 64 MiB of uploads more. With `partition_by`: see `spread.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_core::commit::CommitPermit;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchId, BatchPlan, SinkIdentity};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::{
    Again, BatchCommit, Claim, Committed, Predecessor, Sink, SinkBatch, SinkInput, SinkState, SliceWriter,
};
use tidemill_engine::store::{LocalStore, Store};
use tokio::sync::Mutex;

mod csv;
mod encoding;
mod folder;
#[cfg(feature = "s3")]
mod in_bucket;
mod manifest;
mod orphans;
mod partition;
mod reference;
mod spread;
mod staged;

pub use encoding::{Compression, Encoding};
pub use manifest::{FileEntry, Manifest};
pub use reference::{ReferenceFormat, read_reference};

#[cfg(feature = "s3")]
use crate::bucket::Bucket;
use folder::{Folder, LocalFolder};
#[cfg(feature = "s3")]
use in_bucket::InBucket;
use manifest::{ManifestPut, Records};
use partition::Layout;
use spread::{Spread, SpreadSlice};
use staged::{SliceFile, Staged};

/// How long ago a file that no manifest names must have been written to be removed (X28).
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// Writes the rows of batches into files of a folder on local disk, or of a bucket.
#[derive(Debug)]
pub struct FileSink {
    name: String,
    folder: Arc<dyn Folder>,
    encoding: Encoding,
    /// Columns whose values name folders; none: all files lie in the one folder.
    partition_by: Arc<[String]>,
    records: Records,
    /// Whom it is to be taken over from.
    from: Option<Predecessor>,
    /// Names that this application gave it before, known after `fence`: their manifests are its own.
    was: Vec<String>,
    /// Set by `fence`, dropped when it fails.
    claim: Option<Claim>,
}

impl FileSink {
    /// The sink `name` that writes below `path`, a folder on local disk, which is made when the sink is first taken.
    ///
    /// # Errors
    /// `Config` where `path` is empty or names another system.
    pub fn new(name: &str, path: &str, encoding: Encoding) -> Result<Self> {
        let local = path.strip_prefix("file://").unwrap_or(path);
        if let Some((scheme, _)) = local.split_once("://") {
            let text = format!("sink {name}: path {path}: {scheme} is not in this version; a folder on local disk is");
            return Err(Error::new(Kind::Config, text));
        }
        if local.is_empty() {
            return Err(Error::new(
                Kind::Config,
                format!("sink {name}: path is empty, wanted a folder"),
            ));
        }
        let root = PathBuf::from(local);
        let store = Arc::new(LocalStore::new(root.clone()));
        Ok(Self::over(name, store, Arc::new(LocalFolder::new(root)), encoding))
    }

    /// The sink `name` that writes into a bucket. To be made on a runtime.
    #[cfg(feature = "s3")]
    pub fn in_bucket(name: &str, bucket: Bucket, encoding: Encoding) -> Self {
        let folder = Arc::new(InBucket::new(bucket.clone()));
        Self::over(name, Arc::new(bucket), folder, encoding)
    }

    fn over(name: &str, store: Arc<dyn Store>, folder: Arc<dyn Folder>, encoding: Encoding) -> Self {
        Self {
            name: name.to_owned(),
            folder,
            encoding,
            partition_by: Arc::default(),
            records: Records::new(store, name),
            from: None,
            was: Vec::new(),
            claim: None,
        }
    }

    /// The same with the files in folders `column=value/…` by the values of these columns, which are left out of the files.
    #[must_use]
    pub fn partitioned_by(mut self, columns: &[String]) -> Self {
        self.partition_by = columns.into();
        self
    }

    /// Removes data files that no reader will ever see: of batches up to `settled`, not named by their manifest, and last
    /// written more than `age` ago (X28). Returns their names. `settled` is the last batch that all sinks have committed.
    ///
    /// # Errors
    /// Where the folder or a manifest can't be read.
    async fn remove_orphans(&self, settled: BatchId, age: Duration) -> Result<Vec<String>> {
        let folder = Arc::clone(&self.folder);
        let old = blocking(move || orphans::old_data_files(folder.as_ref(), settled, age)).await?;
        let mut removed = Vec::new();
        for (batch, files) in old {
            let manifest = self.records.manifest(batch).await?;
            let files_of = |manifest: Manifest| manifest.files.into_iter().map(|file| file.path);
            let named: BTreeSet<String> = manifest.into_iter().flat_map(files_of).collect();
            let orphans: Vec<String> = files.into_iter().filter(|file| !named.contains(file)).collect();
            let folder = Arc::clone(&self.folder);
            removed.extend(blocking(move || orphans::remove_all(folder.as_ref(), orphans)).await?);
        }
        Ok(removed)
    }

    fn claim(&self) -> Result<&Claim> {
        self.claim
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Bug, format!("sink {} is used before it was taken", self.name)))
    }

    /// X26: what was found is ours, or nobody goes on.
    fn ours(&self, record: &LedgerRecord) -> Result<()> {
        let claim = self.claim()?;
        let renamed = || self.was.contains(&record.sink);
        if record.app_uuid == claim.app_uuid && (record.sink == self.name || renamed()) {
            return Ok(());
        }
        // To be left behind: what comes next is a birth above it.
        if self.from.as_ref().is_some_and(|from| from.app_uuid == record.app_uuid) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!(
                "sink {}: the manifest of batch {} in {} belongs to sink {} of application {} ({}), this is {} ({}). Choose \
                 another path",
                self.name,
                record.batch_id,
                self.records.location(),
                record.sink,
                record.app,
                record.app_uuid,
                claim.app,
                claim.app_uuid
            ),
        ))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::with_source(Kind::Bug, "a file operation panicked", error))?
}

#[async_trait]
impl Sink for FileSink {
    fn identity(&self) -> SinkIdentity {
        SinkIdentity {
            name: self.name.clone(),
            kind: "file".to_owned(),
            target: self.records.location(),
        }
    }

    fn exactly_once(&self) -> bool {
        true
    }

    async fn check(&mut self, input: &SinkInput) -> Result<()> {
        let checked = if self.partition_by.is_empty() {
            self.encoding.check(&input.schema)
        } else {
            Layout::of(&input.schema, &self.partition_by).and_then(|layout| self.encoding.check(layout.file_schema()))
        };
        checked.map_err(|problem| Error::new(Kind::Config, format!("sink {}: {problem}", self.name)))?;
        let probed = self.records.probe().await;
        probed.map_err(|error| Error::with_source(error.kind(), format!("sink {}", self.name), error))
    }

    async fn inspect(&mut self, _app: &str) -> Result<SinkState> {
        let owner = self.records.owner().await?;
        let ledger = self.records.newest_manifest().await?.map(|manifest| manifest.ledger);
        let marked = self.records.newest_epoch().await?;
        let epoch = ledger.as_ref().map_or(marked, |record| record.epoch.max(marked));
        let app_uuid = owner
            .map(|owner| owner.app_uuid)
            .or(ledger.as_ref().map(|record| record.app_uuid.clone()));
        Ok(SinkState {
            app_uuid,
            epoch,
            ledger,
        })
    }

    fn take_over(&mut self, from: Predecessor) {
        self.from = Some(from);
    }

    fn again(&self) -> Again {
        Again::TwiceByManifest
    }

    async fn fence(&mut self, claim: &Claim) -> Result<()> {
        self.claim = None;
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.prepare()).await?;
        self.was = self.records.own(claim, self.from.as_ref()).await?;
        self.records.take(claim).await?;
        self.claim = Some(claim.clone());
        Ok(())
    }

    async fn ledger(&mut self) -> Result<Option<LedgerRecord>> {
        self.claim()?;
        let Some(newest) = self.records.newest_manifest().await? else {
            return Ok(None);
        };
        self.ours(&newest.ledger)?;
        Ok(Some(newest.ledger))
    }

    async fn birth(&mut self, record: &LedgerRecord) -> Result<()> {
        let manifest = Manifest::new(Vec::new(), record.clone());
        self.records.look_for_newer(self.claim()?).await?;
        let ManifestPut::Theirs(found) = self.records.put_manifest(&manifest).await? else {
            return Ok(());
        };
        self.ours(&found.ledger)?;
        // The batch that it is born after may stand there under the name it had then.
        let before = found.ledger.birth || found.ledger.sink != self.name;
        if before && found.ledger.plan_hash == record.plan_hash {
            return Ok(());
        }
        let text = format!(
            "sink {}: to be born after batch {}, but {} has another record of that batch",
            self.name,
            record.batch_id,
            self.records.location()
        );
        Err(Error::new(Kind::Refused, text))
    }

    async fn tidy(&mut self, settled: BatchId) -> Result<()> {
        let removed = self.remove_orphans(settled, ORPHAN_AGE).await?;
        if !removed.is_empty() {
            tracing::info!(
                sink = self.name,
                files = removed.len(),
                "removed files that no manifest names"
            );
        }
        Ok(())
    }

    async fn begin(&mut self, plan: &BatchPlan, slices: usize, attempt: u32) -> Result<SinkBatch> {
        let claim = self.claim()?.clone();
        let staged = Arc::new(Staged::new(
            Arc::clone(&self.folder),
            self.encoding,
            plan,
            claim.epoch,
            attempt,
        ));
        let spread = (!self.partition_by.is_empty()).then(|| {
            let spread = Spread::new(Arc::clone(&staged), Arc::clone(&self.partition_by));
            Arc::new(Mutex::new(spread))
        });
        let writer = |slice| -> Box<dyn SliceWriter> {
            let staged = Arc::clone(&staged);
            match &spread {
                Some(spread) => Box::new(SpreadSlice::new(Arc::clone(spread), staged)),
                None => Box::new(SliceFile::new(staged, slice)),
            }
        };
        let writers = (0..slices).map(writer).collect();
        let commit = FileCommit {
            sink: self.name.clone(),
            records: self.records.clone(),
            claim,
            staged,
            spread,
            slices,
        };
        Ok(SinkBatch {
            writers,
            commit: Box::new(commit),
        })
    }
}

/// Puts the manifest of one batch.
struct FileCommit {
    sink: String,
    records: Records,
    claim: Claim,
    staged: Arc<Staged>,
    /// With `partition_by`: the rows of all slices.
    spread: Option<Arc<Mutex<Spread>>>,
    slices: usize,
}

impl std::fmt::Debug for FileCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCommit")
            .field("sink", &self.sink)
            .field("staged", &self.staged)
            .finish_non_exhaustive()
    }
}

impl FileCommit {
    /// The batch's manifest is another's: it counts if it means the same rows, else nobody may go on.
    fn adopt(&self, ours: &Manifest, theirs: Manifest) -> Result<Committed> {
        let (ours, batch) = (&ours.ledger, ours.batch);
        if theirs.ledger.epoch > ours.epoch {
            return Err(Error::new(
                Kind::Fenced,
                format!(
                    "fenced: epoch {} committed batch {batch} to sink {} already; this instance (epoch {}) writes nothing more",
                    theirs.ledger.epoch, self.sink, ours.epoch
                ),
            ));
        }
        let same = theirs.ledger.app_uuid == ours.app_uuid
            && theirs.ledger.sink == ours.sink
            && theirs.ledger.plan_hash == ours.plan_hash
            && !theirs.ledger.birth;
        if !same {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "sink {}: batch {batch} was committed already by epoch {} of application {}, from another plan ({}, this one \
                     is {}); nothing was written. Start again to go on after it",
                    self.sink, theirs.ledger.epoch, theirs.ledger.app_uuid, theirs.ledger.plan_hash, ours.plan_hash
                ),
            ));
        }
        Ok(committed(&theirs))
    }
}

fn committed(manifest: &Manifest) -> Committed {
    Committed {
        rows: manifest.ledger.rows,
        files: manifest.files.iter().map(|entry| entry.path.clone()).collect(),
    }
}

#[async_trait]
impl BatchCommit for FileCommit {
    async fn commit(self: Box<Self>, permit: &CommitPermit, mut record: LedgerRecord) -> Result<Committed> {
        let finished = self.staged.slices_finished();
        if permit.batch_id() != record.batch_id || finished != self.slices {
            let text = format!(
                "sink {}: commit of batch {} with a permit for batch {} and {finished} of {} slices finished",
                self.sink,
                record.batch_id,
                permit.batch_id(),
                self.slices
            );
            return Err(Error::new(Kind::Bug, text));
        }
        if let Some(spread) = &self.spread {
            spread::close(Arc::clone(spread)).await?;
        }
        let staged = Arc::clone(&self.staged);
        let files = blocking(move || staged.close()).await?;
        record.rows = files.iter().map(|entry| entry.rows).sum();
        let manifest = Manifest::new(files, record);
        self.records.look_for_newer(&self.claim).await?;
        // Kept from before the put: until its outcome is known, a manifest may name them.
        self.staged.keep();
        match self.records.put_manifest(&manifest).await {
            // No room: no manifest names the files, and the next attempt needs theirs.
            Err(error) if error.is_transient() && !self.records.failed_put_may_come_late() => {
                self.staged.give_up();
                Err(error)
            }
            Err(error) => Err(error),
            Ok(ManifestPut::Ours) => Ok(committed(&manifest)),
            Ok(ManifestPut::Theirs(theirs)) => {
                self.staged.give_up();
                self.adopt(&manifest, *theirs)
            }
        }
    }
}

#[cfg(test)]
mod tests;
