//! The second reader: ranges through librdkafka, for what the native one can't do on some cluster, and to tell whose fault it is
//! where records look wrong. It reads what the native one reads, several times slower: each record is copied, and a batch
//! begins with new connections. Offsets, ends and topic ids are asked by our own wire all the same, so the cluster must be
//! one that it can talk to; but for GSSAPI, which librdkafka alone speaks: there it is asked for these too ([`lookups`]).
//!
//! Memory: of each range at most its part of `fetch_budget_bytes`, 64 KiB at least, and one response.

mod feed;
pub(crate) mod lookups;
pub(crate) mod progress;
mod range;
mod rows;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;

use lookups::Lookups;
use rdkafka::ClientConfig;
pub(crate) use scan::LibrdkafkaScan;

use crate::config::{Isolation, KafkaConfig, Reader};
use crate::security::{Refused, is_security};

/// Properties that decide what is read or where reading begins: the plan and the pipeline file do that.
const OURS: &[&str] = &[
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "statistics.interval.ms",
];

/// What of these properties librdkafka can't honour as a reader.
///
/// # Errors
/// All of them, by name.
pub fn refused_by_librdkafka(properties: &BTreeMap<String, String>) -> Result<(), Vec<Refused>> {
    let is_gssapi = speaks_gssapi(properties);
    let mut refused: Vec<Refused> = properties
        .iter()
        .filter_map(|(name, value)| {
            let why = if is_security(name) && !is_gssapi {
                Some("librdkafka is built in for SASL by GSSAPI alone; use reader = \"native\"".to_owned())
            } else {
                refused_property(name, value)
            };
            Some(Refused {
                name: name.clone(),
                why: why?,
            })
        })
        .collect();
    if is_gssapi && !GSSAPI_BUILT_IN {
        refused.retain(|refused| !is_security(&refused.name));
        let name = MECHANISMS.into_iter().find(|name| properties.contains_key(*name));
        refused.push(Refused {
            name: name.unwrap_or_default().to_owned(),
            why: "GSSAPI: this tidemill was built without gssapi; build it with --features gssapi".to_owned(),
        });
    }
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

/// Whether librdkafka was built with what GSSAPI needs.
const GSSAPI_BUILT_IN: bool = cfg!(feature = "gssapi");
const MECHANISMS: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

/// True where the brokers ask for GSSAPI, which our own wire does not speak.
fn speaks_gssapi(properties: &BTreeMap<String, String>) -> bool {
    let mut given = MECHANISMS.into_iter().filter_map(|name| properties.get(name));
    given.any(|mechanism| mechanism == "GSSAPI")
}

/// Who answers in place of our own wire, where that is not let in.
pub(crate) fn lookups(config: &KafkaConfig) -> Option<Arc<Lookups>> {
    match &config.reader {
        Reader::Librdkafka(properties) if speaks_gssapi(properties) => {
            let client = client_config(config, properties, 1);
            Some(Arc::new(Lookups::new(config, client)))
        }
        _ => None,
    }
}

fn refused_property(name: &str, value: &str) -> Option<String> {
    if OURS.contains(&name) {
        return Some("the plan of a batch decides this; leave it out".to_owned());
    }
    let tried = ClientConfig::new().set(name, value).create_native_config();
    // The value is left out: it may be a password.
    tried
        .err()
        .map(|_| "librdkafka does not know it, or does not take this value".to_owned())
}

/// How often the statistics say how far reading has come. A range that ends in records that nobody may see waits for it.
const STATISTICS_MS: &str = "50";
const QUEUED_KIB_MIN: u32 = 64;

/// The settings of a consumer that reads `ranges` ranges at a time.
fn client_config(config: &KafkaConfig, properties: &BTreeMap<String, String>, ranges: usize) -> ClientConfig {
    let queued = config.fetch_budget_bytes / 1024 / u32::try_from(ranges.max(1)).unwrap_or(u32::MAX);
    // Bounds that librdkafka wants: the largest message, an answer, a frame, each below the next.
    let response = config.response_bytes_max.max(1_000_000);
    let frame = config.frame_bytes_max.max(response + 512);
    let partition = config.partition_fetch_bytes.min(1_000_000_000);
    let mut client = ClientConfig::new();
    client
        .set("client.id", &config.client_id)
        .set("fetch.max.bytes", response.to_string())
        .set("fetch.message.max.bytes", partition.to_string())
        .set("receive.message.max.bytes", frame.to_string())
        .set("queued.max.messages.kbytes", queued.max(QUEUED_KIB_MIN).to_string())
        .set("fetch.wait.max.ms", "100")
        .set("topic.metadata.propagation.max.ms", "10000");
    for (name, value) in properties {
        client.set(name, value);
    }
    client
        .set("bootstrap.servers", config.brokers.join(","))
        // Without a group nothing is committed or read back; librdkafka wants a name all the same.
        .set("group.id", "tidemill-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", isolation_level(config.isolation))
        .set("check.crcs", "true")
        .set("statistics.interval.ms", STATISTICS_MS);
    client
}

fn isolation_level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        let given = given.iter();
        given
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_the_plan_decides_and_what_is_unknown_is_refused() {
        assert_eq!(
            refused_by_librdkafka(&properties(&[("socket.timeout.ms", "5000")])),
            Ok(())
        );
        for (name, value) in [
            ("group.id", "x"),
            ("isolation.level", "read_uncommitted"),
            ("sasl.password", "hunter2"),
            ("no.such.thing", "1"),
            ("socket.timeout.ms", "hunter2"),
        ] {
            let refused = refused_by_librdkafka(&properties(&[(name, value)])).unwrap_err();
            assert_eq!(refused[0].name, name);
            assert!(!refused[0].why.contains("hunter2"), "{refused:?}");
        }
    }

    #[test]
    fn gssapi_is_taken_where_it_is_built_in() {
        let given = properties(&[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "GSSAPI"),
            ("sasl.kerberos.service.name", "kafka"),
        ]);
        let asked = refused_by_librdkafka(&given);
        if GSSAPI_BUILT_IN {
            assert_eq!(asked, Ok(()));
        } else {
            let refused = asked.unwrap_err();
            assert_eq!(refused.len(), 1);
            assert_eq!(refused[0].name, "sasl.mechanism");
            assert!(refused[0].why.contains("built without gssapi"), "{refused:?}");
        }
    }

    #[test]
    fn the_bounds_fit_together_whatever_they_are() {
        let mut config = KafkaConfig::new("localhost:1", ["t"]);
        for (partition, response, frame) in [
            (1 << 20, 16 << 20, 128 << 20),
            (2000, 2000, 2000),
            (1 << 30, 1 << 30, 1 << 30),
        ] {
            config.partition_fetch_bytes = partition;
            config.response_bytes_max = response;
            config.frame_bytes_max = frame;
            let client = client_config(&config, &BTreeMap::new(), 1000);
            client.create_native_config().expect("each by itself");
            let consumer: Result<rdkafka::consumer::BaseConsumer, _> = client.create();
            consumer.expect("and together");
        }
    }
}
