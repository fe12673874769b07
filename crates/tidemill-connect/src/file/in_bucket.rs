//! Data files in a bucket: written to an unnamed file in the system's temporary folder (`TMPDIR`), then put whole. An object
//! is there, durable, under its whole name, or not at all.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::SystemTime;

use tidemill_engine::error::Result;
use tidemill_engine::failpoint;
use tidemill_engine::store::{Store, failed};
use tokio::runtime::Handle;

use super::folder::Folder;
use super::staged::attempt_of;
use crate::bucket::Bucket;

/// The objects of a sink.
#[derive(Debug)]
pub(super) struct InBucket {
    bucket: Bucket,
    /// Waits for the bucket on threads that may block.
    runtime: Handle,
}

impl InBucket {
    /// To be made on a runtime.
    pub(super) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            runtime: Handle::current(),
        }
    }
}

impl Folder for InBucket {
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn create(&self, _name: &str) -> Result<File> {
        tempfile::tempfile().map_err(|error| failed("create a file in", &std::env::temp_dir(), error))
    }

    fn finish(&self, name: &str, mut file: File) -> Result<u64> {
        let rewound = file.seek(SeekFrom::Start(0));
        rewound.map_err(|error| failed("read back a file in", &std::env::temp_dir(), error))?;
        failpoint::pass("file.before-data-sync");
        let size = self.runtime.block_on(self.bucket.upload(name, file))?;
        failpoint::pass("file.after-data-sync");
        Ok(size)
    }

    fn settle(&self, _names: &[&str]) -> Result<()> {
        Ok(())
    }

    fn discard(&self, names: &[String]) {
        let (bucket, names) = (self.bucket.clone(), names.to_vec());
        self.runtime.spawn(async move {
            for name in names {
                let _gone = bucket.delete(&name).await;
            }
        });
    }

    fn data_files(&self) -> Result<Vec<String>> {
        let mut names = self.runtime.block_on(self.bucket.names())?;
        names.retain(|name| attempt_of(name).is_some());
        Ok(names)
    }

    fn written(&self, name: &str) -> Result<SystemTime> {
        self.runtime.block_on(self.bucket.written(name))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.runtime.block_on(self.bucket.delete(name))
    }
}
