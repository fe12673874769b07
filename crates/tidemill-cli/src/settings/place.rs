//! Where files are kept: a folder on local disk, or a bucket.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::document::Section;
use super::secret::Secret;

/// A place for a checkpoint or the files of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder on local disk.
    Folder(PathBuf),
    /// A prefix in a bucket.
    Bucket(Bucket),
}

/// A bucket and how it is reached; what is `None` comes from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// `s3://bucket/prefix`
    pub url: String,
    /// The store's address.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Name of the access key.
    pub access_key_id: Option<Secret>,
    /// The key.
    pub secret_access_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// PEM file of the CA.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket(bucket) => f.write_str(&bucket.url),
        }
    }
}

/// The place that `key` of a section names; `options` stands beside it.
pub(super) fn place(section: &Section<'_, '_>, key: &'static str, example: &str, folder: &Path) -> Option<Place> {
    let text = section.required(key, example);
    let options = section.sub("options");
    let has_options = options.is_some();
    let bucket = options
        .map(|options| bucket_options(options, folder))
        .unwrap_or_default();
    let text = text?;
    if text.starts_with("s3://") {
        return bucket_at(section, key, text, bucket).map(Place::Bucket);
    }
    if has_options {
        section.wrong("options", "belongs to a path that begins with s3://");
    }
    local_path(section, key, Some(text), folder).map(Place::Folder)
}

/// `checkpoint = "…"`, or `checkpoint = { path = "…", options = { … } }`.
pub(super) fn checkpoint(top: &Section<'_, '_>, folder: &Path) -> Option<Place> {
    const EXAMPLE: &str = "\"checkpoint/ad-views\"";
    if let Some(DeValue::Table(_)) = top.raw("checkpoint") {
        let section = top.sub("checkpoint")?;
        let place = place(&section, "path", EXAMPLE, folder);
        section.finish();
        return place;
    }
    let text = top.required("checkpoint", EXAMPLE)?;
    place_of_text(top, "checkpoint", text, folder)
}

/// A place without options.
pub(super) fn place_of_text(
    section: &Section<'_, '_>,
    key: &'static str,
    text: String,
    folder: &Path,
) -> Option<Place> {
    if text.starts_with("s3://") {
        return bucket_at(section, key, text, Bucket::default()).map(Place::Bucket);
    }
    local_path(section, key, Some(text), folder).map(Place::Folder)
}

fn bucket_at(section: &Section<'_, '_>, key: &'static str, url: String, options: Bucket) -> Option<Bucket> {
    let bucket = url.strip_prefix("s3://").unwrap_or_default();
    if bucket.split('/').next().is_none_or(str::is_empty) {
        section.wrong(key, "lacks the bucket's name; for example s3://lake/ad-views");
        return None;
    }
    Some(Bucket { url, ..options })
}

fn bucket_options(section: Section<'_, '_>, folder: &Path) -> Bucket {
    let secret = |key| section.text(key).map(Secret::new);
    let endpoint = section.text("endpoint");
    let has_scheme = |endpoint: &String| endpoint.starts_with("http://") || endpoint.starts_with("https://");
    if endpoint.as_ref().is_some_and(|endpoint| !has_scheme(endpoint)) {
        section.wrong("endpoint", "must begin with https:// or http://");
    }
    let bucket = Bucket {
        url: String::new(),
        endpoint,
        region: section.text("region"),
        access_key_id: secret("access_key_id"),
        secret_access_key: secret("secret_access_key"),
        session_token: secret("session_token"),
        ca: section.text("ca").map(|path| folder.join(path)),
    };
    if bucket.access_key_id.is_some() != bucket.secret_access_key.is_some() {
        section.wrong(
            if bucket.access_key_id.is_some() {
                "secret_access_key"
            } else {
                "access_key_id"
            },
            "is missing; access_key_id and secret_access_key go together",
        );
    }
    section.finish();
    bucket
}

/// A path on local disk, relative to the file's folder.
pub(super) fn local_path(
    section: &Section<'_, '_>,
    key: &'static str,
    text: Option<String>,
    folder: &Path,
) -> Option<PathBuf> {
    let text = text?;
    if let Some(path) = text.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        section.wrong(
            key,
            format!("{scheme}:// is not in this version; give a folder on local disk"),
        );
        return None;
    }
    if text.is_empty() {
        section.wrong(key, "is empty");
        return None;
    }
    Some(folder.join(text))
}
