//! Where a bucket is and who asks for it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use tidemill_engine::error::{Error, Kind, Result};

/// A bucket, a prefix in it, and what is needed to reach them. What is `None` is taken from the environment, as other
/// programs do: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, or the
/// credentials that the machine or container was given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BucketSettings {
    /// `s3://bucket/prefix`
    pub url: String,
    /// Address of the store, `https://host:port`; absent: Amazon's, of the region.
    pub endpoint: Option<String>,
    /// Region, default `us-east-1`.
    pub region: Option<String>,
    /// Name of the access key.
    pub access_key_id: Option<String>,
    /// The key itself.
    pub secret_access_key: Option<String>,
    /// Token of temporary credentials.
    pub session_token: Option<String>,
    /// PEM file with the CA of the store's certificate; absent: those that the system trusts.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for BucketSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketSettings")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl BucketSettings {
    /// The client and the prefix.
    pub(super) fn client(&self) -> Result<(AmazonS3, String)> {
        let refused = |text: String| Error::new(Kind::Config, format!("{}: {text}", self.url));
        let address = self.url.strip_prefix("s3://");
        let address = address.ok_or_else(|| refused("expected s3://bucket/prefix".to_owned()))?;
        let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
        if bucket.is_empty() {
            return Err(refused("the bucket's name is missing".to_owned()));
        }
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 3,
                retry_timeout: Duration::from_secs(20),
            });
        let of_environment = || {
            ["AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
                .into_iter()
                .find_map(|name| std::env::var(name).ok())
        };
        let endpoint = self.endpoint.clone().or_else(of_environment);
        let plain = endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut options = ClientOptions::new()
            .with_allow_http(plain)
            .with_connect_timeout(Duration::from_secs(5))
            .with_timeout(Duration::from_secs(30));
        if let Some(ca) = &self.ca {
            let unreadable = |cause: String| refused(format!("ca {}: {cause}", ca.display()));
            let pem = std::fs::read(ca).map_err(|error| unreadable(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
            if certificates.is_empty() {
                return Err(unreadable("holds no certificate in PEM".to_owned()));
            }
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        builder = builder.with_client_options(options);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(id) = &self.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(key) = &self.secret_access_key {
            builder = builder.with_secret_access_key(key);
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        let built = builder.build();
        let client = built.map_err(|error| Error::with_source(Kind::Config, self.url.clone(), error))?;
        Ok((client, prefix.trim_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_bucket_and_a_prefix() {
        let of = |url: &str| {
            let settings = BucketSettings {
                url: url.to_owned(),
                ..BucketSettings::default()
            };
            settings.client().map(|(_, prefix)| prefix)
        };
        assert_eq!(of("s3://lake/views/").expect("fine"), "views");
        assert_eq!(of("s3://lake").expect("fine"), "");
        for wrong in ["s3://", "s3:///x", "gs://lake/x"] {
            assert_eq!(of(wrong).expect_err(wrong).kind(), Kind::Config, "{wrong}");
        }
    }

    #[test]
    fn a_ca_that_is_none_is_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, "nothing").expect("write");
        let settings = BucketSettings {
            url: "s3://lake/x".to_owned(),
            ca: Some(ca),
            ..BucketSettings::default()
        };
        let error = settings.client().expect_err("no certificate").chain();
        assert!(error.contains("ca.pem"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = BucketSettings {
            secret_access_key: Some("hunter2".to_owned()),
            session_token: Some("hunter3".to_owned()),
            ..BucketSettings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter"));
    }
}
