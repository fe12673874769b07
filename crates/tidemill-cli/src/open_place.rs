//! From a place in the settings to what keeps records there.

use std::sync::Arc;

use tidemill_engine::error::Result;
#[cfg(not(feature = "s3"))]
use tidemill_engine::error::{Error, Kind};
use tidemill_engine::store::{LocalStore, Store};

use crate::settings::place::{Bucket, Place};
#[cfg(feature = "s3")]
use crate::settings::secret::Secret;

/// The records in a place; nothing is connected yet.
///
/// # Errors
/// A bucket whose options do not fit together, or that this binary was built without.
pub(crate) fn open_store(place: &Place) -> Result<Arc<dyn Store>> {
    Ok(match place {
        Place::Folder(path) => Arc::new(LocalStore::new(path.clone())),
        #[cfg(feature = "s3")]
        Place::Bucket(bucket) => Arc::new(open_bucket(bucket)?),
        #[cfg(not(feature = "s3"))]
        Place::Bucket(bucket) => return Err(without_buckets(bucket)),
    })
}

/// The bucket of these settings.
///
/// # Errors
/// Options that do not fit together.
#[cfg(feature = "s3")]
pub(crate) fn open_bucket(bucket: &Bucket) -> Result<tidemill_connect::bucket::Bucket> {
    let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    tidemill_connect::bucket::Bucket::new(&tidemill_connect::bucket::BucketSettings {
        url: bucket.url.clone(),
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        access_key_id: exposed(&bucket.access_key_id),
        secret_access_key: exposed(&bucket.secret_access_key),
        session_token: exposed(&bucket.session_token),
        ca: bucket.ca.clone(),
    })
}

/// What is said of a bucket by a binary that has none.
#[cfg(not(feature = "s3"))]
pub(crate) fn without_buckets(bucket: &Bucket) -> Error {
    let text = format!(
        "{}: this binary was built without the feature `s3`; build it with its default features",
        bucket.url
    );
    Error::new(Kind::Config, text)
}
