//! Looks whether the rights that a sink needs are there, as far as brokers tell without being asked to write.

use tidemill_engine::error::{Error, Kind, Result};

use super::clients::Clients;
use crate::wire::allowed::{Operation, missing};
use crate::wire::cluster::Cluster;
use crate::wire::fault::{self, Answer, Fault};
use crate::wire::group::{Coordinates, find_coordinator};
use crate::wire::metadata::Topic;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// The rights of one sink.
#[derive(Debug)]
pub(super) struct Rights<'a> {
    pub(super) clients: &'a Clients,
    pub(super) ledger_topic: &'a str,
    pub(super) transactional_id: &'a str,
}

impl Rights<'_> {
    /// Refuses where a right is missing; gives what a person should know, one sentence each. The right to write under the
    /// transactional id can't be asked for: the broker tells of the right to see it only.
    ///
    /// # Errors
    /// `Refused`, naming the right and how to grant it; `Unavailable` where no broker answers.
    pub(super) async fn check(&self) -> Result<Vec<String>> {
        let cluster = self
            .clients
            .cluster([self.clients.config.topic.as_str(), self.ledger_topic]);
        cluster.until_answered("looking at rights", || self.ask(&cluster)).await
    }

    async fn ask(&self, cluster: &Cluster) -> Answer<Vec<String>> {
        let metadata = cluster.metadata(cluster.config().metadata_age_max).await?;
        let known = |name: &str| {
            metadata
                .topics
                .get(name)
                .filter(|topic| topic.code != UNKNOWN_TOPIC_OR_PARTITION)
        };
        let mut said = Vec::new();
        if let Some(topic) = known(&self.clients.config.topic) {
            self.need(&self.clients.config.topic, topic, &[Operation::Write])?;
        }
        match known(self.ledger_topic) {
            Some(topic) => {
                let ledger = [Operation::Write, Operation::Read, Operation::DescribeConfigs];
                self.need(self.ledger_topic, topic, &ledger)?;
            }
            None => said.push(format!("ledger topic {} is made at the first start", self.ledger_topic)),
        }
        find_coordinator(cluster, Coordinates::Transactions, self.transactional_id).await?;
        Ok(said)
    }

    fn need(&self, name: &str, topic: &Topic, operations: &[Operation]) -> Answer<()> {
        fault::check(topic.code, || format!("topic {name}"))?;
        match operations.iter().find(|operation| topic.allowed.lacks(**operation)) {
            None => Ok(()),
            Some(operation) => {
                let missing = missing(*operation, &format!("--topic {name}"), &self.clients.config.brokers);
                let text = format!("topic {name}: {missing}");
                Err(Fault::Final(Error::new(Kind::Refused, text)))
            }
        }
    }
}
