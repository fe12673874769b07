//! A bucket of an S3-compatible object store: records put once, and data files.
//!
//! Exactly-once rests on one promise of the store: a put with `If-None-Match: *` creates an object or fails, whoever else puts
//! it at the same time. [`Store::probe`] looks whether the store keeps it, since some ignore the header. Listings and reads
//! after a put must show it, as those of S3 do.
//!
//! A put without an answer may still come to be. Its repetition finds the name taken, and what stands there tells whose it is.

mod settings;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Error as S3Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::store::{Put, Store};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};

pub use settings::BucketSettings;

/// A file up to this size is put at once, a larger one in parts of it.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at a time, of all files together.
const PARTS_MAX: usize = 8;
/// How often a put is repeated that was refused because of another one at the same time.
const CONFLICTS_MAX: u32 = 20;
/// How often a store may put an object over another before that counts: one that ignores the condition does so each time, one in which
/// a driver that starts beside us tidies the same folder may once.
const PROBES: u32 = 3;

/// The objects below a prefix. Memory: at most 64 MiB of parts on their way.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Arc<AmazonS3>,
    prefix: String,
    location: String,
    parts: Arc<Semaphore>,
}

impl Bucket {
    /// The bucket and prefix of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` where the address is none, or the CA's file can't be read.
    pub fn new(settings: &BucketSettings) -> Result<Self> {
        let (client, prefix) = settings.client()?;
        Ok(Self {
            client: Arc::new(client),
            prefix,
            location: settings.url.trim_end_matches('/').to_owned(),
            parts: Arc::new(Semaphore::new(PARTS_MAX)),
        })
    }

    fn path(&self, name: &str) -> Result<Path> {
        let whole = [self.prefix.as_str(), name].into_iter().filter(|part| !part.is_empty());
        let whole: Vec<&str> = whole.collect();
        Path::parse(whole.join("/")).map_err(|error| {
            let text = format!("{}/{name} can't be the name of an object", self.location);
            Error::with_source(Kind::Data, text, error)
        })
    }

    /// Puts a file under a name that is nobody else's, durable on return. Gives its size.
    pub(crate) async fn upload(&self, name: &str, mut file: File) -> Result<u64> {
        let path = self.path(name)?;
        let (first, rest) = self.next_part(&mut file, name).await?;
        let size = first.len() as u64;
        if size < PART_BYTES as u64 {
            let put = self.client.put(&path, PutPayload::from_bytes(first)).await;
            put.map_err(|error| self.failed("put", name, error))?;
            return Ok(size);
        }
        drop(rest);
        let begun = self.client.put_multipart(&path).await;
        let mut upload = begun.map_err(|error| self.failed("put", name, error))?;
        let uploaded = self.upload_parts(upload.as_mut(), name, first, file).await;
        if uploaded.is_err() {
            // Parts that stay take room until the bucket's own rule for unfinished uploads removes them.
            let _aborted = upload.abort().await;
        }
        uploaded
    }

    async fn upload_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &str,
        first: Bytes,
        mut file: File,
    ) -> Result<u64> {
        let failed = |error| self.failed("put", name, error);
        let mut size = first.len() as u64;
        let mut under_way = FuturesUnordered::new();
        under_way.push(with_permit(upload.put_part(PutPayload::from_bytes(first)), None));
        loop {
            // While waiting for a permit, parts must go on: the permit may be one that they hold.
            let (part, permit) = loop {
                tokio::select! {
                    biased;
                    Some(done) = under_way.next() => done.map_err(failed)?,
                    part = self.next_part(&mut file, name) => break part?,
                }
            };
            if part.is_empty() {
                break;
            }
            size += part.len() as u64;
            under_way.push(with_permit(upload.put_part(PutPayload::from_bytes(part)), Some(permit)));
        }
        while let Some(done) = under_way.next().await {
            done.map_err(failed)?;
        }
        drop(under_way);
        upload.complete().await.map_err(failed)?;
        Ok(size)
    }

    /// The next bytes of a file, with the permit to send them; none at its end.
    async fn next_part(&self, file: &mut File, name: &str) -> Result<(Bytes, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.parts).acquire_owned().await;
        let permit = permit.map_err(|error| Error::with_source(Kind::Bug, "uploads are closed", error))?;
        let mut part = Vec::new();
        let read = file.take(PART_BYTES as u64).read_to_end(&mut part);
        read.map_err(|error| Error::with_source(Kind::Refused, format!("read {name} back for its upload"), error))?;
        Ok((part.into(), permit))
    }

    /// The names of all objects, `_tidemill/` left out.
    pub(crate) async fn names(&self) -> Result<Vec<String>> {
        let prefix = (!self.prefix.is_empty()).then(|| self.path("")).transpose()?;
        let below = |path: &Path| {
            let rest = path.as_ref().strip_prefix(self.prefix.as_str())?;
            Some(rest.trim_start_matches('/').to_owned())
        };
        let all: Vec<_> = self
            .client
            .list(prefix.as_ref())
            .try_collect()
            .await
            .map_err(|error| self.failed("list", "", error))?;
        let names = all.iter().filter_map(|object| below(&object.location));
        Ok(names.filter(|name| !name.starts_with("_tidemill/")).collect())
    }

    /// When an object was last written, by the store's clock.
    pub(crate) async fn written(&self, name: &str) -> Result<SystemTime> {
        let head = self.client.head(&self.path(name)?).await;
        let head = head.map_err(|error| self.failed("look at", name, error))?;
        Ok(head.last_modified.into())
    }

    /// One attempt to create an object.
    async fn create(&self, path: &str, bytes: &Bytes) -> Result<Put> {
        let options = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from_bytes(bytes.clone());
        match self.client.put_opts(&self.path(path)?, payload, options).await {
            Ok(_) => Ok(Put::Created),
            Err(S3Error::AlreadyExists { .. } | S3Error::Precondition { .. }) => Ok(Put::Exists),
            Err(error) => Err(self.failed("put", path, error)),
        }
    }

    /// True where a second put of an object of ours is refused; then it leaves nothing.
    async fn keeps_what_is_there(&self) -> Result<bool> {
        let name = format!(".tidemill-probe-{}", uuid::Uuid::new_v4().simple());
        let bytes = b"probe".to_vec();
        self.put_new(&name, bytes.clone()).await?;
        let again = self.create(&name, &Bytes::from(bytes)).await;
        let removed = self.delete(&name).await;
        if again? == Put::Created {
            return Ok(false);
        }
        removed.map(|()| true)
    }

    fn failed(&self, what: &str, name: &str, error: S3Error) -> Error {
        let (kind, hint) = match &error {
            S3Error::PermissionDenied { .. } | S3Error::Unauthenticated { .. } => (
                Kind::Refused,
                ": the store refuses the access key, or it lacks a right (s3:ListBucket, s3:GetObject, s3:PutObject, \
                 s3:DeleteObject, s3:AbortMultipartUpload)",
            ),
            S3Error::NotFound { .. } => (Kind::Refused, ": the bucket or object is not there"),
            S3Error::NotSupported { .. } | S3Error::NotImplemented { .. } => (Kind::Refused, ""),
            _ => (Kind::Unavailable, ""),
        };
        let slash = if name.is_empty() { "" } else { "/" };
        Error::with_source(kind, format!("{what} {}{slash}{name}{hint}", self.location), error)
    }
}

async fn with_permit<T>(work: impl Future<Output = T>, permit: Option<tokio::sync::OwnedSemaphorePermit>) -> T {
    let done = work.await;
    drop(permit);
    done
}

#[async_trait]
impl Store for Bucket {
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
        let bytes = Bytes::from(bytes);
        for _ in 0..CONFLICTS_MAX {
            if self.create(path, &bytes).await? == Put::Created {
                return Ok(Put::Created);
            }
            // The same answer is given where another put is under way, which may yet fail.
            if self.read(path).await?.is_some() {
                return Ok(Put::Exists);
            }
            sleep(Duration::from_millis(50)).await;
        }
        let text = format!("put {}/{path}: taken by a put that does not end", self.location);
        Err(Error::new(Kind::Unavailable, text))
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let found = match self.client.get(&self.path(path)?).await {
            Ok(found) => found,
            // A missing bucket is told apart by its listing, which comes first everywhere.
            Err(S3Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", path, error)),
        };
        let bytes = found.bytes().await.map_err(|error| self.failed("read", path, error))?;
        Ok(Some(bytes.to_vec()))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let listed = self.client.list_with_delimiter(Some(&self.path(folder)?)).await;
        let listed = listed.map_err(|error| self.failed("list", folder, error))?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        match self.client.delete(&self.path(path)?).await {
            Ok(()) | Err(S3Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", path, error)),
        }
    }

    async fn probe(&self) -> Result<()> {
        for _ in 0..PROBES {
            if self.keeps_what_is_there().await? {
                return Ok(());
            }
        }
        let text = format!(
            "{}: the store put an object that was there already, so it ignores `If-None-Match: *` and two drivers could \
             both commit; use a store with conditional puts",
            self.location
        );
        Err(Error::new(Kind::Refused, text))
    }

    fn failed_put_may_come_late(&self) -> bool {
        true
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
