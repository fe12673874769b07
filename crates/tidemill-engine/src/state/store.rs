//! The state of all operators: bases to read, versions to write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_core::{StateVersion, StateVersions};

use super::changes::Changes;
use super::name::{StageName, folder, path};
use super::reader::{Base, StateReader};
use super::version::{Head, Link, SectionsWriter, VersionFile, borrowed};
use super::{BUCKETS, OperatorSpec};
use crate::error::{Error, Kind, Result};
use crate::store::Store;

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
    /// Keys, about.
    pub keys: u64,
    /// Bytes of keys and values, about.
    pub bytes: u64,
}

/// The state of all operators of an application. See the [module](super).
#[derive(Debug)]
pub struct StateStore {
    store: Arc<dyn Store>,
    operators: BTreeMap<String, Operator>,
}

/// An operator and its base.
#[derive(Debug)]
struct Operator {
    spec: OperatorSpec,
    base: Arc<Base>,
    version: Option<StateVersion>,
    /// Files that the base is made of, its own the last.
    chain: Vec<Link>,
}

impl StateStore {
    /// The state in the checkpoint `store`; nothing is read yet.
    ///
    /// # Errors
    /// Where the local folder can't be made or used.
    pub async fn open(_settings: StateSettings, store: Arc<dyn Store>) -> Result<Self> {
        Ok(Self {
            store,
            operators: BTreeMap::new(),
        })
    }

    /// Makes `version` the base of an operator; `None` is the empty state.
    ///
    /// # Errors
    /// `Config` where the version is of another operator, kind or shape; `Loss` where a file of it is missing or damaged, with
    /// operator and batch named; any other where the checkpoint can't be read.
    pub async fn restore(&mut self, operator: &OperatorSpec, version: Option<&StateVersion>) -> Result<()> {
        operator.check()?;
        let mut base = Base::new();
        let mut chain = Vec::new();
        if let Some(version) = version {
            let last = self.read(&operator.id, version).await?;
            check_spec(operator, version, &last.head)?;
            chain.clone_from(&last.head.chain);
            for link in &chain {
                let file = self.read_file(&operator.id, version, &link.name).await?;
                apply(&mut base, &file);
            }
            apply(&mut base, &last);
            chain.push(own_link(version, &last.head));
        }
        let restored = Operator {
            spec: operator.clone(),
            base: Arc::new(base),
            version: version.cloned(),
            chain,
        };
        self.operators.insert(operator.id.clone(), restored);
        Ok(())
    }

    /// A reader of an operator's base.
    ///
    /// # Errors
    /// `Bug` where the operator was not restored.
    pub fn reader(&self, operator: &str) -> Result<StateReader> {
        Ok(StateReader::new(Arc::clone(&self.operator(operator)?.base)))
    }

    /// Writes the version that `changes` make of an operator's base, durable on return. Nothing is visible by it; a version that
    /// no ledger came to name is removed by [`tidy`](Self::tidy).
    ///
    /// # Errors
    /// `Config` where a key or value is too large; `Bug` where `at` is not after the base, or the operator was not restored;
    /// `Unavailable` where there is no room.
    pub async fn stage(&self, operator: &str, at: StageName, changes: Changes) -> Result<StateVersion> {
        let this = self.operator(operator)?;
        if let Some(base) = &this.version
            && base.batch_id >= at.batch_id
        {
            let text = format!(
                "state of operator {operator}: batch {} on batch {}",
                at.batch_id, base.batch_id
            );
            return Err(Error::new(Kind::Bug, text));
        }
        let mut sections = SectionsWriter::default();
        for (bucket, entries) in changes.buckets() {
            sections.add(bucket, entries.iter().map(borrowed))?;
        }
        let head = Head {
            operator: operator.to_owned(),
            kind: this.spec.kind.clone(),
            shape: this.spec.shape.clone(),
            buckets: BUCKETS,
            batch_id: at.batch_id,
            parent: this.version.as_ref().map(|version| version.name.clone()),
            chain: this.chain.clone(),
            sections: Vec::new(),
        };
        let name = at.file_name();
        let bytes = sections.finish(head)?;
        // A name that is taken is our own put, whose answer was lost: nobody else has its nonce.
        self.store.put_new(&path(operator, &name), bytes).await?;
        Ok(StateVersion {
            batch_id: at.batch_id,
            name,
        })
    }

    /// Makes `version`, which was staged on the present base, the base. The base itself is taken as it is.
    ///
    /// # Errors
    /// `Bug` where it was staged on another version; as [`restore`](Self::restore).
    pub async fn advance(&mut self, operator: &str, version: &StateVersion) -> Result<()> {
        if self.operator(operator)?.version.as_ref() == Some(version) {
            return Ok(());
        }
        let file = self.read(operator, version).await?;
        let this = self.operators.get_mut(operator).ok_or_else(|| unknown(operator))?;
        check_spec(&this.spec, version, &file.head)?;
        let base = this.version.as_ref().map(|version| &version.name);
        if file.head.parent.as_ref() != base {
            let text = format!(
                "state of operator {operator}: {} was made on {}, the base is {}",
                version.name,
                file.head.parent.as_deref().unwrap_or("the empty state"),
                base.map_or("the empty state", String::as_str)
            );
            return Err(Error::new(Kind::Bug, text));
        }
        apply(Arc::make_mut(&mut this.base), &file);
        this.version = Some(version.clone());
        this.chain.push(own_link(version, &file.head));
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
            let head = self.read(operator, version).await?.head;
            needed.extend(head.chain.into_iter().map(|link| link.name));
            needed.insert(version.name.clone());
            batch = batch.max(version.batch_id);
            epoch = epoch.max(StageName::parse(&version.name).map_or(0, |name| name.epoch));
        }
        for name in self.store.list(&folder(operator)).await? {
            // What is newer may be a version that no ledger names yet, or one of a driver that took over.
            let done = StageName::parse(&name).is_some_and(|stage| stage.batch_id <= batch && stage.epoch <= epoch);
            if done && !needed.contains(&name) {
                self.store.delete(&path(operator, &name)).await?;
            }
        }
        Ok(())
    }

    /// What is known of each operator that was restored.
    pub fn describe(&self) -> Vec<OperatorSummary> {
        let summary = |operator: &Operator| {
            let bytes = operator.base.iter().map(|((_, key), value)| key.len() + value.len());
            OperatorSummary {
                id: operator.spec.id.clone(),
                kind: operator.spec.kind.clone(),
                shape: operator.spec.shape.clone(),
                version: operator.version.clone(),
                keys: operator.base.len() as u64,
                bytes: bytes.sum::<usize>() as u64,
            }
        };
        self.operators.values().map(summary).collect()
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

    /// A file that `version` is made of.
    async fn read_file(&self, operator: &str, version: &StateVersion, name: &str) -> Result<VersionFile> {
        let Some(bytes) = self.store.read(&path(operator, name)).await? else {
            return Err(lost(operator, version, name, "it is missing"));
        };
        VersionFile::decode(bytes).map_err(|what| lost(operator, version, name, &what))
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

fn own_link(version: &StateVersion, head: &Head) -> Link {
    Link {
        name: version.name.clone(),
        bytes: head.sections.iter().map(|section| section.bytes).sum(),
    }
}

fn apply(base: &mut Base, file: &VersionFile) {
    for (section, entries) in file.sections() {
        for (key, value) in entries {
            let key = (section.bucket, key.to_vec());
            match value {
                Some(value) => drop(base.insert(key, value.to_vec())),
                None => drop(base.remove(&key)),
            }
        }
    }
}
