//! The same records without and with TLS.

use anyhow::Result;

use super::Bench;
use super::throughput::{Place, counted};
use crate::data::Data;
use crate::own_server::OwnServer;
use crate::process::Finished;
use crate::report::{Run, rounded};
use crate::topics::{Fill, Topics};

pub(super) fn without_and_with(bench: &Bench) -> Result<Run> {
    let (records, expected) = bench.events()?;
    let server = OwnServer::start("secure")?;
    let topics = Topics::connect(server.brokers()?)?;
    let data = Data::Events;
    let fill = Fill {
        topic: data.topic(),
        partitions: data.partitions(),
        stream: data.stream(),
        records,
        compression: data.compression(),
    };
    topics.fill(fill, |_| ())?;
    let count = |name, brokers: &str, properties: &[(&str, String)]| {
        let place = Place {
            brokers,
            topic: data.topic(),
            properties,
        };
        counted(bench, name, place, records, expected.value_bytes)
    };
    let plain = count("tls-without", topics.brokers(), &[])?;
    let brokers = format!("127.0.0.1:{}", server.value("TIDEMILL_TEST_MTLS_PORT")?);
    let encrypted = count(
        "tls",
        &brokers,
        &properties(server.value("TIDEMILL_TEST_CERTIFICATES")?),
    )?;
    let cpu = |finished: &Finished| (finished.usage.user + finished.usage.system).as_secs_f64();
    Ok(Run::new("tls")
        .with_throughput(records, &encrypted)
        .with("plain_cpu_s", rounded(cpu(&plain), 4))
        .with("of_plain", rounded(cpu(&encrypted) / cpu(&plain).max(1e-9), 4)))
}

fn properties(certificates: &str) -> [(&'static str, String); 4] {
    let file = |name| format!("{certificates}/{name}");
    [
        ("security.protocol", "SSL".to_owned()),
        ("ssl.ca.location", file("ca.pem")),
        ("ssl.certificate.location", file("client.pem")),
        ("ssl.key.location", file("client.key")),
    ]
}
