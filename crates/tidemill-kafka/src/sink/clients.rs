//! The clients of a sink's cluster.

use std::sync::Arc;
use std::time::Duration;

use super::config::KafkaSinkConfig;
use crate::config::{Isolation, KafkaConfig};
use crate::security::Security;
use crate::wire::cluster::Cluster;

/// How long one request may take; what takes longer has no outcome until the ledger is read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes clients from what a sink is told; they share their tokens.
#[derive(Debug)]
pub(super) struct Clients {
    /// What the sink is told.
    pub(super) config: KafkaSinkConfig,
    security: Security,
}

impl Clients {
    /// Clients as this says. What of its security can't be honoured is refused by `check_properties`.
    pub(super) fn new(config: KafkaSinkConfig) -> Self {
        Self {
            security: Security::of(&config.properties).unwrap_or_default(),
            config,
        }
    }

    /// A client of the sink's cluster that knows these topics.
    pub(super) fn cluster<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> Cluster {
        self.cluster_reading(topics, Isolation::default())
    }

    /// The same, for reading with this isolation.
    pub(super) fn cluster_reading<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a str>,
        isolation: Isolation,
    ) -> Cluster {
        let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
        let mut config = KafkaConfig::new(&self.config.brokers, topics);
        config.isolation = isolation;
        config.security = self.security.clone();
        let timeout = self.config.milliseconds("socket.timeout.ms");
        config.request_timeout = timeout
            .or_else(|| self.config.milliseconds("request.timeout.ms"))
            .unwrap_or(REQUEST_TIMEOUT);
        if let Some(timeout) = self.config.milliseconds("socket.connection.setup.timeout.ms") {
            config.connect_timeout = timeout;
        }
        if let Some(name) = self.config.properties.get("client.id") {
            config.client_id.clone_from(name);
        }
        Cluster::new(Arc::new(config))
    }
}
