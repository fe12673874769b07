//! An S3 gateway that keeps each bucket as a folder, so that what is in it can be read beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::servers;

/// Where a gateway is, and who may use it.
#[derive(Debug, Clone)]
pub struct S3 {
    /// Its URL.
    pub address: String,
    /// The secret of the access key `tidemill`.
    pub secret: String,
    /// The folder of its buckets.
    pub folder: PathBuf,
}

impl S3 {
    /// The one that all tests share, from `TIDEMILL_TEST_S3`.
    ///
    /// # Panics
    /// Where it isn't set.
    pub fn shared() -> Self {
        Self {
            address: servers::s3("TIDEMILL_TEST_S3"),
            secret: servers::s3("TIDEMILL_TEST_S3_SECRET"),
            folder: PathBuf::from(servers::s3("TIDEMILL_TEST_S3_FOLDER")),
        }
    }

    /// Makes a bucket and gives its name.
    ///
    /// # Errors
    /// Where its folder can't be made.
    pub fn bucket(&self) -> Result<String> {
        let name = servers::unique("lake");
        fs::create_dir(self.folder.join(&name))?;
        Ok(name)
    }

    /// The options of a pipeline file that lead here, as an inline table.
    pub fn options(&self) -> String {
        self.options_with(&self.secret, "")
    }

    /// The same with another secret, and with `more` behind it.
    pub fn options_with(&self, secret: &str, more: &str) -> String {
        format!(
            "{{ endpoint = \"{}\", region = \"us-east-1\", access_key_id = \"tidemill\", secret_access_key = \"{secret}\"{more} }}",
            self.address
        )
    }

    /// The folder that holds the objects below `s3://…`.
    pub fn folder_of(&self, url: &str) -> PathBuf {
        self.folder.join(Path::new(url.trim_start_matches("s3://")))
    }
}
