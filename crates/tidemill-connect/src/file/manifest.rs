//! The records below `_tidemill/` in a file sink's path, and how the newest of them is found.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchId, Epoch};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::failpoint;
use tidemill_engine::sink::{Claim, Predecessor};
use tidemill_engine::store::{Put, Store, numbered, numbers};

/// The version of the records that this build writes and reads.
const VERSION: u32 = 1;

/// A data file of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the sink's path.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// `_tidemill/<batch, 20 digits>.json`: the rows of a batch are visible because this names their files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this record.
    pub version: u32,
    /// The batch.
    pub batch: BatchId,
    /// Its data files; none where it had no rows.
    pub files: Vec<FileEntry>,
    /// Random, tells our own record from another's (X1).
    pub nonce: String,
    /// The sink's ledger record.
    pub ledger: LedgerRecord,
}

impl Manifest {
    /// A manifest of `files` with a nonce of its own.
    pub(super) fn new(files: Vec<FileEntry>, ledger: LedgerRecord) -> Self {
        Self {
            version: VERSION,
            batch: ledger.batch_id,
            files,
            nonce: nonce(),
            ledger,
        }
    }
}

/// `_tidemill/owner.json`: whose sink this is. `_tidemill/owners/<epoch, 20 digits>.json`: who took it over from that one;
/// the newest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    version: u32,
    app: String,
    pub(super) app_uuid: String,
    sink: String,
    /// Names that this application gave it before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    was: Vec<String>,
}

/// `_tidemill/epochs/<epoch, 20 digits>.json`: a driver took the sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EpochMarker {
    version: u32,
    epoch: Epoch,
    incarnation: String,
}

/// Only to read the version before the rest.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// What came of putting a manifest.
#[derive(Debug)]
pub(super) enum ManifestPut {
    /// Ours is there.
    Ours,
    /// The batch has another's manifest.
    Theirs(Box<Manifest>),
}

/// The records of one sink.
#[derive(Debug, Clone)]
pub(super) struct Records {
    store: Arc<dyn Store>,
    sink: String,
}

const OWNER: &str = "_tidemill/owner.json";
const OWNERS: &str = "_tidemill/owners";
const MANIFESTS: &str = "_tidemill";
// A folder of their own: it is listed before and after every manifest, and holds one name, not one per batch.
const EPOCHS: &str = "_tidemill/epochs";

fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

impl Records {
    /// The records of the sink named `sink` in `store`.
    pub(super) fn new(store: Arc<dyn Store>, sink: &str) -> Self {
        Self {
            store,
            sink: sink.to_owned(),
        }
    }

    /// Looks whether the folder can be written; see [`Store::probe`].
    pub(super) async fn probe(&self) -> Result<()> {
        self.store.probe().await
    }

    /// True where a manifest whose put failed may still come to be.
    pub(super) fn failed_put_may_come_late(&self) -> bool {
        self.store.failed_put_may_come_late()
    }

    /// Where they are, for messages.
    pub(super) fn location(&self) -> String {
        self.store.location()
    }

    /// Who owns the sink.
    pub(super) async fn owner(&self) -> Result<Option<Owner>> {
        match self.store.newest(OWNERS).await? {
            0 => self.get(OWNER).await,
            newest => self.get(&numbered(OWNERS, newest)).await,
        }
    }

    /// Writes the owner where there is none; refuses another one than `from` (X8, X26). Gives the names that the sink had
    /// before.
    pub(super) async fn own(&self, claim: &Claim, from: Option<&Predecessor>) -> Result<Vec<String>> {
        let mut ours = Owner {
            was: Vec::new(),
            version: VERSION,
            app: claim.app.clone(),
            app_uuid: claim.app_uuid.clone(),
            sink: self.sink.clone(),
        };
        // Whatever the put says, what stands there decides (X1).
        self.put(OWNER, &ours).await?;
        let theirs = self.owner().await?.ok_or_else(|| self.vanished(OWNER))?;
        if theirs.app_uuid == ours.app_uuid && theirs.sink == ours.sink {
            return Ok(theirs.was);
        }
        if theirs.app_uuid == ours.app_uuid && theirs.was.contains(&ours.sink) {
            // Renamed since, and the file has the old name again: one folder, one ledger, whatever the name.
            let mut names = theirs.was;
            names.push(theirs.sink);
            return Ok(names);
        }
        if let Some(from) = from
            && from.app_uuid == theirs.app_uuid
            && (theirs.app_uuid != ours.app_uuid || from.sink == theirs.sink)
        {
            if theirs.app_uuid == ours.app_uuid {
                ours.was = theirs.was;
                ours.was.push(theirs.sink);
            }
            self.look_for_newer(claim).await?;
            // Create-if-absent under the epoch, which is this driver's alone.
            self.put(&numbered(OWNERS, claim.epoch), &ours).await?;
            return Ok(ours.was);
        }
        Err(Error::new(
            Kind::Config,
            format!(
                "sink {}: {} belongs to sink {} of application {} ({}), this is sink {} of {} ({}). Choose another path; if the \
                 checkpoint was lost or moved, point `checkpoint` to it again",
                self.sink,
                self.store.location(),
                theirs.sink,
                theirs.app,
                theirs.app_uuid,
                ours.sink,
                ours.app,
                ours.app_uuid
            ),
        ))
    }

    /// The newest epoch that took the sink, 0 where none did.
    pub(super) async fn newest_epoch(&self) -> Result<Epoch> {
        self.store.newest(EPOCHS).await
    }

    /// Fails where an epoch beyond the claim's took the sink (X4).
    pub(super) async fn look_for_newer(&self, claim: &Claim) -> Result<()> {
        let newest = self.newest_epoch().await?;
        if newest > claim.epoch {
            return Err(self.fenced(claim, newest));
        }
        Ok(())
    }

    /// Takes the sink for the claim's epoch. A repeated call is no error.
    pub(super) async fn take(&self, claim: &Claim) -> Result<()> {
        self.look_for_newer(claim).await?;
        let ours = EpochMarker {
            version: VERSION,
            epoch: claim.epoch,
            incarnation: claim.incarnation.clone(),
        };
        let path = numbered(EPOCHS, claim.epoch);
        self.put(&path, &ours).await?;
        let found = self.get::<EpochMarker>(&path).await?;
        self.look_for_newer(claim).await?;
        match found {
            Some(marker) if marker == ours => {}
            Some(marker) => {
                return Err(Error::new(
                    Kind::Fenced,
                    format!(
                        "fenced: sink {} was taken for epoch {} by instance {}, this is instance {}; it wrote nothing more",
                        self.sink, claim.epoch, marker.incarnation, claim.incarnation
                    ),
                ));
            }
            None => return Err(self.vanished(&path)),
        }
        for old in numbers(&self.store.list(EPOCHS).await?).filter(|old| *old < claim.epoch) {
            self.store.delete(&numbered(EPOCHS, old)).await?;
        }
        Ok(())
    }

    /// The step that decides: whose manifest stands under the batch's name.
    pub(super) async fn put_manifest(&self, manifest: &Manifest) -> Result<ManifestPut> {
        let path = numbered(MANIFESTS, manifest.batch);
        failpoint::pass("file.before-manifest");
        let put = self.put(&path, manifest).await?;
        failpoint::pass("file.after-manifest");
        if put == Put::Created {
            return Ok(ManifestPut::Ours);
        }
        let theirs = self.get::<Manifest>(&path).await?.ok_or_else(|| self.vanished(&path))?;
        if theirs.nonce == manifest.nonce {
            return Ok(ManifestPut::Ours);
        }
        Ok(ManifestPut::Theirs(Box::new(theirs)))
    }

    /// The manifest of a batch.
    pub(super) async fn manifest(&self, batch: BatchId) -> Result<Option<Manifest>> {
        self.get(&numbered(MANIFESTS, batch)).await
    }

    /// The newest manifest. The listing is a hint, what follows it is read (X2).
    pub(super) async fn newest_manifest(&self) -> Result<Option<Manifest>> {
        let listed = numbers(&self.store.list(MANIFESTS).await?).max();
        let mut newest = match listed {
            Some(batch) => Some(
                self.manifest(batch)
                    .await?
                    .ok_or_else(|| self.vanished(&numbered(MANIFESTS, batch)))?,
            ),
            None => self.manifest(0).await?,
        };
        loop {
            let next = newest.as_ref().map_or(1, |manifest| manifest.batch + 1);
            match self.manifest(next).await? {
                Some(manifest) => newest = Some(manifest),
                None => return Ok(newest),
            }
        }
    }

    async fn put<T: Serialize>(&self, path: &str, record: &T) -> Result<Put> {
        let mut bytes = serde_json::to_vec(record)
            .map_err(|error| Error::with_source(Kind::Bug, format!("sink {}: encode {path}", self.sink), error))?;
        bytes.push(b'\n');
        self.store.put_new(path, bytes).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(bytes) = self.store.read(path).await? else {
            return Ok(None);
        };
        let place = || format!("sink {}: {}/{path}", self.sink, self.store.location());
        let unreadable = |error| {
            let text = format!("{} can't be read; restore it from a copy, nothing was changed", place());
            Error::with_source(Kind::Refused, text, error)
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        if version > VERSION {
            let text = format!("{} has version {version}, this build reads up to {VERSION}", place());
            return Err(Error::new(Kind::Refused, text));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(unreadable)
    }

    fn fenced(&self, claim: &Claim, newest: Epoch) -> Error {
        Error::new(
            Kind::Fenced,
            format!(
                "fenced: epoch {newest} took sink {} over from this instance (epoch {}); it writes nothing more",
                self.sink, claim.epoch
            ),
        )
    }

    fn vanished(&self, path: &str) -> Error {
        let text = format!(
            "sink {}: {}/{path} vanished while it was in use",
            self.sink,
            self.store.location()
        );
        Error::new(Kind::Refused, text)
    }
}
