//! The state of all operators: bases to read, versions to write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_core::{BatchId, StateVersion, StateVersions};

use super::cache::{Cache, Table};
use super::changes::Changes;
use super::name::{StageName, folder, path};
use super::reader::StateReader;
use super::version::{BucketSnapshot, Content, Head, Link, SectionsWriter, VersionFile, VersionSummary};
use super::{BUCKETS, OperatorSpec, policy};
use crate::error::{Error, Kind, Result};
use crate::store::{Store, blocking};

/// Where state is kept on this machine, and how much memory it may take.
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// A local folder of this application alone; made when it is missing. It may be removed while nothing runs.
    pub cache: PathBuf,
    /// Bytes of memory for what was read and what is not yet written to the folder.
    pub memory_bytes_max: u64,
}

/// What is known of an operator's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSummary {
    /// The operator's id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// What keys and values hold.
    pub shape: String,
    /// The base; none where the state is empty.
    pub version: Option<StateVersion>,
    /// Keys at most: one that changed lately counts once per file.
    pub keys: u64,
    /// Bytes of keys and values at most, and eight more per key.
    pub bytes: u64,
}

/// The state of all operators of an application. See the [module](super).
#[derive(Debug)]
pub struct StateStore {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    operators: BTreeMap<String, Operator>,
    /// Per version's file the files it is made of, where that was read already. A leaf: held for a look-up.
    needs: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// An operator and its base.
#[derive(Debug)]
struct Operator {
    spec: OperatorSpec,
    table: Table,
    base: Option<Base>,
    /// What was staged last: read no second time when it becomes the base. A leaf: held to put and to take it.
    staged: Mutex<Option<Staged>>,
}

/// The version that is read.
#[derive(Debug, Clone)]
struct Base {
    version: StateVersion,
    head: Head,
}

/// Where the changes stand that lead to a version.
#[derive(Debug)]
enum Step {
    Staged(Arc<Changes>),
    Read(Arc<VersionFile>),
    Nothing,
}

#[derive(Debug, Clone)]
struct Staged {
    version: StateVersion,
    head: Head,
    changes: Arc<Changes>,
}

impl StateStore {
    /// The state in the checkpoint `store`; nothing of it is read yet. A cache that can't be used is thrown away.
    ///
    /// # Errors
    /// `Config` where another process has the cache open; where its folder can't be made or used.
    pub async fn open(settings: StateSettings, store: Arc<dyn Store>) -> Result<Self> {
        let cache = blocking(move || Cache::open(&settings)).await?;
        Ok(Self {
            store,
            cache: Arc::new(cache),
            operators: BTreeMap::new(),
            needs: Mutex::default(),
        })
    }

    /// Looks whether an operator could go on from `version`, touching nothing.
    ///
    /// # Errors
    /// As [`restore`](Self::restore), as far as the version's own file tells.
    pub async fn check(store: &dyn Store, operator: &OperatorSpec, version: &StateVersion) -> Result<()> {
        operator.check()?;
        let file = read_file(store, &operator.id, version, &version.name).await?;
        check_spec(operator, version, &file.head)
    }

    /// What the own file of an operator's `version` says, touching nothing.
    ///
    /// # Errors
    /// `Loss` where it is missing or damaged, with operator and batch named; any other where it can't be read.
    pub async fn summary(store: &dyn Store, operator: &str, version: &StateVersion) -> Result<VersionSummary> {
        let file = read_file(store, operator, version, &version.name).await?;
        Ok(VersionSummary::from(&file))
    }

    /// Makes `version` the base of an operator; `None` is the empty state. What the cache holds is used, where the version is
    /// that or came of it; otherwise all of it is read from the checkpoint.
    ///
    /// # Errors
    /// `Config` where the version is of another operator, kind or shape; `Loss` where a file of it is missing or damaged, with
    /// operator and batch named; any other where the checkpoint can't be read or the cache can't be written. After an error the
    /// operator can't be read.
    pub async fn restore(&mut self, operator: &OperatorSpec, version: Option<&StateVersion>) -> Result<()> {
        operator.check()?;
        let id = operator.id.as_str();
        // Until this ends well nobody may read the table, which may be on the way to another version.
        self.operators.remove(id);
        let (table, base) = match version {
            None => (self.cache.create(id)?, None),
            Some(version) => {
                let file = self.read(id, version).await?;
                check_spec(operator, version, &file.head)?;
                let head = file.head.clone();
                let table = self.bring_to(id, version, file).await?;
                let version = version.clone();
                (table, Some(Base { version, head }))
            }
        };
        if let Some(base) = &base {
            self.remember(&base.version.name, &base.head);
        }
        let restored = Operator {
            spec: operator.clone(),
            table,
            base,
            staged: Mutex::new(None),
        };
        self.operators.insert(operator.id.clone(), restored);
        Ok(())
    }

    /// A table of the cache that holds `version`.
    async fn bring_to(&self, operator: &str, version: &StateVersion, file: VersionFile) -> Result<Table> {
        let Some((held, table)) = self.cache.held(operator) else {
            return self.rebuild(operator, version, file).await;
        };
        if held.version == *version && held.head == file.head {
            return Ok(table);
        }
        let Some(missing) = links_after(&held.version, &file.head) else {
            let rebuilt = self.rebuild(operator, version, file).await?;
            self.cache.delete(table)?;
            return Ok(rebuilt);
        };
        for link in missing {
            let file = self.read_link(operator, version, link).await?;
            let reached = Base {
                version: StateVersion {
                    batch_id: link.batch_id,
                    name: link.name.clone(),
                },
                head: file.head.clone(),
            };
            self.write(operator, &table, reached, Step::Read(Arc::new(file)))
                .await?;
        }
        let base = Base {
            version: version.clone(),
            head: file.head.clone(),
        };
        self.write(operator, &table, base, Step::Read(Arc::new(file))).await?;
        Ok(table)
    }

    /// A new table with `version` from the checkpoint alone: the snapshots, over them the chain.
    async fn rebuild(&self, operator: &str, version: &StateVersion, last: VersionFile) -> Result<Table> {
        let table = self.cache.create(operator)?;
        let head = last.head.clone();
        let last = Arc::new(last);
        let mut whole: BTreeMap<&String, BTreeSet<u16>> = BTreeMap::new();
        for snapshot in &head.snapshots {
            if let Some(name) = &snapshot.name {
                whole.entry(name).or_default().insert(snapshot.bucket);
            }
        }
        for (name, buckets) in whole {
            let file = if *name == version.name {
                Arc::clone(&last)
            } else {
                Arc::new(self.read_file(operator, version, name).await?)
            };
            if let Some(bucket) = buckets.iter().find(|bucket| !file.holds_snapshot(**bucket)) {
                return Err(lost(operator, version, name, &format!("it lacks bucket {bucket}")));
            }
            self.fill(&table, file, Content::Snapshot, buckets).await?;
        }
        for link in &head.chain {
            let file = self.read_link(operator, version, link).await?;
            let older = buckets_before(&head, link.batch_id);
            self.fill(&table, Arc::new(file), Content::Changes, older).await?;
        }
        let older = buckets_before(&head, version.batch_id);
        self.fill(&table, Arc::clone(&last), Content::Changes, older).await?;
        let version = version.clone();
        self.write(operator, &table, Base { version, head }, Step::Nothing)
            .await?;
        Ok(table)
    }

    async fn fill(
        &self,
        table: &Table,
        file: Arc<VersionFile>,
        content: Content,
        buckets: BTreeSet<u16>,
    ) -> Result<()> {
        let (cache, table) = (Arc::clone(&self.cache), table.clone());
        blocking(move || {
            cache.fill(
                &table,
                file.bytes(),
                file.entries(content, &|bucket| buckets.contains(&bucket)),
            )
        })
        .await
    }

    /// Writes what leads to `base` into the cache, and that it holds it.
    async fn write(&self, operator: &str, table: &Table, base: Base, what: Step) -> Result<()> {
        let (cache, table, operator) = (Arc::clone(&self.cache), table.clone(), operator.to_owned());
        blocking(move || match what {
            Step::Staged(changes) => cache.advance(&operator, &table, changes.entries(), base.version, base.head),
            Step::Read(file) => cache.advance(&operator, &table, file.changes(), base.version, base.head),
            Step::Nothing => cache.advance(&operator, &table, std::iter::empty(), base.version, base.head),
        })
        .await
    }

    /// A reader of an operator's base.
    ///
    /// # Errors
    /// `Bug` where the operator was not restored.
    pub fn reader(&self, operator: &str) -> Result<StateReader> {
        Ok(StateReader::new(self.cache.view(&self.operator(operator)?.table)))
    }

    /// Writes the version that `changes` make of an operator's base, durable on return. Nothing is visible by it; a version that
    /// no ledger came to name is removed by [`tidy`](Self::tidy).
    ///
    /// # Errors
    /// `Config` where a key or value is too large; `Bug` where `at` is not after the base, or the operator was not restored;
    /// `Loss` where a file that is to be folded is missing or damaged; `Unavailable` where there is no room.
    pub async fn stage(&self, operator: &str, at: StageName, changes: Changes) -> Result<StateVersion> {
        let this = self.operator(operator)?;
        let mut head = this.next_head(at)?;
        let changes = Arc::new(changes);
        let folded = policy::folded(&head.chain, changes.bytes());
        let folded = head.chain.split_off(head.chain.len() - folded);
        let all = self.fold(operator, this, &folded, &changes).await?;
        let version = StateVersion {
            batch_id: at.batch_id,
            name: at.file_name(),
        };
        let (base, own, name) = (self.reader(operator)?, Arc::clone(&changes), version.name.clone());
        let (head, bytes) = blocking(move || compose(head, &name, &all, &own, &base)).await?;
        // A name that is taken is our own put, whose answer was lost: nobody else has its nonce.
        self.store.put_new(&path(operator, &version.name), bytes).await?;
        self.remember(&version.name, &head);
        let staged = Staged {
            version: version.clone(),
            head,
            changes,
        };
        *this.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(staged);
        Ok(version)
    }

    /// The changes of `links`, oldest first, and over them `changes`.
    async fn fold(
        &self,
        operator: &str,
        this: &Operator,
        links: &[Link],
        changes: &Arc<Changes>,
    ) -> Result<Arc<Changes>> {
        let Some(base) = this.base.as_ref().filter(|_| !links.is_empty()) else {
            return Ok(Arc::clone(changes));
        };
        let mut all = Changes::default();
        for link in links {
            let file = self.read_link(operator, &base.version, link).await?;
            for (bucket, key, value) in file.changes() {
                all.set(bucket, key.to_vec(), value.map(<[u8]>::to_vec));
            }
        }
        all.merge(Changes::clone(changes));
        Ok(Arc::new(all))
    }

    /// Makes `version`, which was staged on the present base, the base. The base itself is taken as it is.
    ///
    /// # Errors
    /// `Bug` where it was staged on another version; as [`restore`](Self::restore). Where the cache can't be written the operator
    /// must be restored before it is read again.
    pub async fn advance(&mut self, operator: &str, version: &StateVersion) -> Result<()> {
        let this = self.operator(operator)?;
        if this.base.as_ref().is_some_and(|base| base.version == *version) {
            return Ok(());
        }
        let staged = this.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let staged = staged.filter(|staged| staged.version == *version);
        let (head, what) = match staged {
            Some(staged) => (staged.head, Step::Staged(staged.changes)),
            None => {
                let file = self.read(operator, version).await?;
                check_spec(&this.spec, version, &file.head)?;
                (file.head.clone(), Step::Read(Arc::new(file)))
            }
        };
        this.check_parent(version, &head)?;
        // A write that fails may have been done in part: then nobody may read the table.
        let mut this = self.operators.remove(operator).ok_or_else(|| unknown(operator))?;
        let base = Base {
            version: version.clone(),
            head,
        };
        self.write(operator, &this.table, base.clone(), what).await?;
        self.remember(&version.name, &base.head);
        this.base = Some(base);
        self.operators.insert(operator.to_owned(), this);
        Ok(())
    }

    /// Removes files that no version in `keep` needs. Of an operator that `keep` does not name nothing is removed.
    ///
    /// # Errors
    /// As [`restore`](Self::restore), where a version in `keep` can't be read; where a file can't be removed.
    pub async fn tidy(&self, keep: &[StateVersions]) -> Result<()> {
        let operators: BTreeSet<&String> = keep.iter().flat_map(BTreeMap::keys).collect();
        for operator in operators {
            let kept: BTreeSet<&StateVersion> = keep.iter().filter_map(|versions| versions.get(operator)).collect();
            self.tidy_operator(operator, &kept).await?;
        }
        Ok(())
    }

    async fn tidy_operator(&self, operator: &str, kept: &BTreeSet<&StateVersion>) -> Result<()> {
        let mut needed = BTreeSet::new();
        let (mut batch, mut epoch) = (0, 0);
        for version in kept {
            needed.extend(self.needs(operator, version).await?);
            batch = batch.max(version.batch_id);
            epoch = epoch.max(StageName::parse(&version.name).map_or(0, |name| name.epoch));
        }
        for name in self.store.list(&folder(operator)).await? {
            // What is newer may be a version that no ledger names yet, or one of a driver that took over.
            let done = StageName::parse(&name).is_some_and(|stage| stage.batch_id <= batch && stage.epoch <= epoch);
            if done && !needed.contains(&name) {
                self.store.delete(&path(operator, &name)).await?;
                self.remembered().remove(&name);
            }
        }
        Ok(())
    }

    /// The names of all files that a version is made of.
    async fn needs(&self, operator: &str, version: &StateVersion) -> Result<BTreeSet<String>> {
        let known = self.remembered().get(&version.name).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let head = self.read(operator, version).await?.head;
        self.remember(&version.name, &head);
        Ok(needs(&version.name, &head))
    }

    fn remember(&self, name: &str, head: &Head) {
        self.remembered().insert(name.to_owned(), needs(name, head));
    }

    fn remembered(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each operator that was restored.
    pub fn describe(&self) -> Vec<OperatorSummary> {
        self.operators.values().map(Operator::summary).collect()
    }

    fn operator(&self, id: &str) -> Result<&Operator> {
        self.operators.get(id).ok_or_else(|| unknown(id))
    }

    async fn read(&self, operator: &str, version: &StateVersion) -> Result<VersionFile> {
        let file = self.read_file(operator, version, &version.name).await?;
        if file.head.batch_id != version.batch_id || file.head.operator != operator {
            let text = format!("it is of operator {}, batch {}", file.head.operator, file.head.batch_id);
            return Err(lost(operator, version, &version.name, &text));
        }
        Ok(file)
    }

    async fn read_link(&self, operator: &str, version: &StateVersion, link: &Link) -> Result<VersionFile> {
        let file = self.read_file(operator, version, &link.name).await?;
        if file.head.batch_id == link.batch_id && file.head.operator == operator {
            return Ok(file);
        }
        let text = format!("it is of operator {}, batch {}", file.head.operator, file.head.batch_id);
        Err(lost(operator, version, &link.name, &text))
    }

    async fn read_file(&self, operator: &str, version: &StateVersion, name: &str) -> Result<VersionFile> {
        read_file(self.store.as_ref(), operator, version, name).await
    }
}

/// A file that `version` is made of.
async fn read_file(store: &dyn Store, operator: &str, version: &StateVersion, name: &str) -> Result<VersionFile> {
    let Some(bytes) = store.read(&path(operator, name)).await? else {
        return Err(lost(operator, version, name, "it is missing"));
    };
    VersionFile::decode(bytes).map_err(|what| lost(operator, version, name, &what))
}

impl Operator {
    /// The head of a version on the base, without sections.
    fn next_head(&self, at: StageName) -> Result<Head> {
        let mut head = Head {
            operator: self.spec.id.clone(),
            kind: self.spec.kind.clone(),
            shape: self.spec.shape.clone(),
            buckets: BUCKETS,
            batch_id: at.batch_id,
            parent: None,
            chain: Vec::new(),
            snapshots: Vec::new(),
            sections: Vec::new(),
        };
        let Some(base) = &self.base else {
            return Ok(head);
        };
        if base.version.batch_id >= at.batch_id {
            let text = format!(
                "state of operator {}: batch {} on batch {}",
                self.spec.id, at.batch_id, base.version.batch_id
            );
            return Err(Error::new(Kind::Bug, text));
        }
        let (entries, bytes) = base.head.changed();
        head.parent = Some(base.version.name.clone());
        head.snapshots.clone_from(&base.head.snapshots);
        head.chain.clone_from(&base.head.chain);
        head.chain.push(Link {
            name: base.version.name.clone(),
            batch_id: base.version.batch_id,
            entries,
            bytes,
        });
        policy::prune(&mut head);
        Ok(head)
    }

    fn check_parent(&self, version: &StateVersion, head: &Head) -> Result<()> {
        let base = self.base.as_ref().map(|base| &base.version.name);
        if head.parent.as_ref() == base {
            return Ok(());
        }
        let text = format!(
            "state of operator {}: {} was made on {}, the base is {}",
            self.spec.id,
            version.name,
            head.parent.as_deref().unwrap_or("the empty state"),
            base.map_or("the empty state", String::as_str)
        );
        Err(Error::new(Kind::Bug, text))
    }

    fn summary(&self) -> OperatorSummary {
        let (mut keys, mut bytes) = (0, 0);
        if let Some(base) = &self.base {
            let snapshots = base
                .head
                .snapshots
                .iter()
                .map(|snapshot| (snapshot.entries, snapshot.bytes));
            let links = base.head.chain.iter().map(|link| (link.entries, link.bytes));
            for (more_keys, more_bytes) in snapshots.chain(links).chain([base.head.changed()]) {
                keys += more_keys;
                bytes += more_bytes;
            }
        }
        OperatorSummary {
            id: self.spec.id.clone(),
            kind: self.spec.kind.clone(),
            shape: self.spec.shape.clone(),
            version: self.base.as_ref().map(|base| base.version.clone()),
            keys,
            bytes,
        }
    }
}

fn unknown(operator: &str) -> Error {
    Error::new(Kind::Bug, format!("state of operator {operator} was not restored"))
}

fn lost(operator: &str, version: &StateVersion, name: &str, what: &str) -> Error {
    let text = format!(
        "state of operator {operator} after batch {} can't be restored: {}: {what}. Restore the checkpoint from a copy, or \
         rewind to a batch whose state is whole; nothing was changed",
        version.batch_id,
        path(operator, name)
    );
    Error::new(Kind::Loss, text)
}

fn check_spec(spec: &OperatorSpec, version: &StateVersion, head: &Head) -> Result<()> {
    for (what, is, was) in [("kind", &spec.kind, &head.kind), ("shape", &spec.shape, &head.shape)] {
        if is != was {
            let text = format!(
                "state of operator {} after batch {} has {what} {was:?}, the pipeline wants {is:?}: it can't go on from it. \
                 Change the pipeline back, or let its state go: `tidemill run FILE --forget-state {}`, in a program .forget_state({:?})",
                spec.id, version.batch_id, spec.id, spec.id
            );
            return Err(Error::new(Kind::Config, text));
        }
    }
    Ok(())
}

/// The links that lead from a held version to that of `head`, its own left out; `None` where it did not come of it.
fn links_after<'a>(held: &StateVersion, head: &'a Head) -> Option<&'a [Link]> {
    if head.parent.as_ref() == Some(&held.name) {
        return Some(&[]);
    }
    let at = head.chain.iter().position(|link| link.name == held.name)?;
    head.chain.get(at + 1..)
}

/// Buckets whose snapshot does not hold the changes of this batch.
fn buckets_before(head: &Head, batch_id: BatchId) -> BTreeSet<u16> {
    (0..BUCKETS)
        .filter(|bucket| head.snapshot_batch(*bucket) < Some(batch_id))
        .collect()
}

fn needs(name: &str, head: &Head) -> BTreeSet<String> {
    head.builds_on().cloned().chain([name.to_owned()]).collect()
}

/// The file of a version: `changes`, which may be older ones too, and buckets that are due as they are after `own` on `base`.
fn compose(
    mut head: Head,
    name: &str,
    changes: &Changes,
    own: &Changes,
    base: &StateReader,
) -> Result<(Head, Vec<u8>)> {
    let mut sections = SectionsWriter::default();
    for (bucket, entries) in changes.buckets() {
        sections.add_changes(bucket, entries)?;
    }
    let bytes_max = policy::snapshot_bytes(own.bytes());
    let mut written = 0;
    for bucket in policy::due(&head, changes.bytes()) {
        if written > bytes_max {
            break;
        }
        let (entries, bytes) = sections.add_snapshot(bucket, own.range_on(base, bucket, b"", None))?;
        written += bytes;
        head.snapshots.retain(|snapshot| snapshot.bucket != bucket);
        head.snapshots.push(BucketSnapshot {
            bucket,
            batch_id: head.batch_id,
            name: (entries > 0).then(|| name.to_owned()),
            entries,
            bytes,
        });
    }
    policy::prune(&mut head);
    let bytes = sections.finish(&mut head)?;
    Ok((head, bytes))
}
