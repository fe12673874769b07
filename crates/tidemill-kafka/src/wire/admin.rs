//! Topics made, settings read.

use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, DescribeConfigsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use tidemill_engine::error::{Error, Kind};

use super::cluster::Cluster;
use super::fault::{Answer, Fault, check, check_write};
use super::response::{Body, Fields, Malformed};

const TOPIC_ALREADY_EXISTS: i16 = 36;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The first version of CreateTopics that leaves the replication to the broker, and is in the compact encoding.
const WITH_DEFAULTS: i16 = 5;

/// Makes a topic of one partition with the broker's replication. One that is there is no error.
///
/// # Errors
/// In the broker's words.
pub(crate) async fn create_topic(cluster: &Cluster, name: &str, settings: &[(&str, &str)]) -> Answer<()> {
    let settings = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    });
    let metadata = cluster.metadata(cluster.config().metadata_age_max).await?;
    let mut connection = match metadata.brokers.get(&metadata.controller) {
        Some(address) => cluster.connection(address).await?,
        None => cluster.any_connection().await?,
    };
    let version = connection.version(ApiKey::CreateTopics, 3, 7)?;
    let replicas = if version >= WITH_DEFAULTS {
        -1
    } else {
        default_replicas(cluster, metadata.controller).await?
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(1)
        .with_replication_factor(replicas)
        .with_configs(settings.collect());
    let timeout = cluster.config().request_timeout.min(Duration::from_secs(30));
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, words) = read_created(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if code == TOPIC_ALREADY_EXISTS {
        return Ok(());
    }
    let words = words.map_or_else(String::new, |words| format!(" ({words})"));
    check_write(code, || format!("topic {name} can't be made{words}"))
}

pub(super) fn read_created(body: &Body) -> Result<(i16, Option<String>), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= WITH_DEFAULTS);
    fields.int32()?;
    if fields.count(6)?.unwrap_or(0) == 0 {
        return Err(Malformed("it leaves out the topic"));
    }
    fields.text()?;
    if body.version >= 7 {
        fields.uuid()?;
    }
    // What follows only repeats what was asked for.
    Ok((fields.int16()?, fields.text()?.map(str::to_owned)))
}

/// How many replicas a topic gets for which nobody says it.
async fn default_replicas(cluster: &Cluster, broker: i32) -> Answer<i16> {
    const NAME: &str = "default.replication.factor";
    let set = setting(cluster, Resource::Broker(broker), NAME).await?;
    set.as_deref().and_then(|set| set.parse().ok()).ok_or_else(|| {
        let text = format!("broker {broker} does not tell its {NAME}");
        Fault::Final(Error::new(Kind::Refused, text))
    })
}

/// What has settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// A topic by its name.
    Topic(&'a str),
    /// A broker by its node id.
    Broker(i32),
}

/// The value of one setting; nothing where the broker does not know it.
///
/// # Errors
/// In the broker's words.
pub(crate) async fn setting(cluster: &Cluster, resource: Resource<'_>, setting: &str) -> Answer<Option<String>> {
    let (kind, name) = match resource {
        Resource::Topic(name) => (2, name.to_owned()),
        Resource::Broker(node) => (4, node.to_string()),
    };
    let asked = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(&name))
        .with_configuration_keys(Some(vec![text(setting)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![asked]);
    let mut connection = match resource {
        Resource::Topic(_) => cluster.any_connection().await?,
        Resource::Broker(node) => {
            let metadata = cluster.metadata(cluster.config().metadata_age_max).await?;
            let Some(address) = metadata.brokers.get(&node) else {
                return Err(Fault::Passing(format!("broker {node} is gone")));
            };
            cluster.connection(address).await?
        }
    };
    let version = connection.version(ApiKey::DescribeConfigs, 1, 4)?;
    let body = connection.call(&request, version).await?;
    cluster.put_back(connection);
    let (code, settings) = read_settings(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    check(code, || format!("{setting} of {name} can't be read"))?;
    Ok(settings
        .into_iter()
        .find(|(name, _)| name == setting)
        .and_then(|(_, value)| value))
}

type Settings = Vec<(String, Option<String>)>;

pub(super) fn read_settings(body: &Body) -> Result<(i16, Settings), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 4);
    fields.int32()?;
    let resources = fields.list(8, |fields| {
        let code = fields.int16()?;
        fields.text()?;
        fields.take(1)?;
        fields.text()?;
        let settings = fields.list(6, |fields| {
            let name = fields.required_text()?.to_owned();
            let value = fields.text()?.map(str::to_owned);
            // Read-only, where it comes from, sensitive.
            fields.take(3)?;
            fields.list(3, |fields| {
                fields.text()?;
                fields.text()?;
                fields.take(1)?;
                fields.tags()
            })?;
            if body.version >= 3 {
                fields.take(1)?;
                fields.text()?;
            }
            fields.tags()?;
            Ok((name, value))
        })?;
        fields.tags()?;
        Ok((code, settings))
    })?;
    resources.into_iter().next().ok_or(Malformed("it describes nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    #[test]
    fn a_made_topic_is_read_in_all_versions() {
        for version in 3..=7 {
            let answer = Writer::old(version < WITH_DEFAULTS)
                .int32(0)
                .list(["t"], |writer, name| {
                    let writer = writer.text(Some(name));
                    let writer = if version >= 7 { writer.uuid(None) } else { writer };
                    let writer = writer.int16(36).text(Some("it is there"));
                    if version < WITH_DEFAULTS {
                        return writer;
                    }
                    writer.int32(1).int16(1).list([(); 0], |writer, ()| writer).tags()
                });
            let body = Body {
                bytes: answer.bytes.into(),
                version,
                broker: "b".into(),
            };
            let expected = Ok((36, Some("it is there".to_owned())));
            assert_eq!(read_created(&body), expected, "version {version}");
        }
    }

    #[test]
    fn a_setting_is_read_and_a_cut_off_answer_refused() {
        let synonym = |writer: Writer, name| writer.text(Some(name)).text(Some("delete")).int8(5).tags();
        let setting = |writer: Writer, (name, value)| {
            let fixed = writer.text(Some(name)).text(value).int8(0).int8(1).int8(0);
            fixed.list(["log.cleanup.policy"], synonym).int8(7).text(None).tags()
        };
        let answer = Writer::default().int32(0).list([0], |writer, code| {
            let head = writer.int16(code).text(None).int8(2).text(Some("t"));
            let settings = [("cleanup.policy", Some("compact")), ("secret", None)];
            head.list(settings, setting).tags()
        });
        let of = |bytes: &[u8]| Body {
            bytes: bytes.to_vec().into(),
            version: 4,
            broker: "b".into(),
        };
        let expected = vec![
            ("cleanup.policy".to_owned(), Some("compact".to_owned())),
            ("secret".to_owned(), None),
        ];
        assert_eq!(read_settings(&of(&answer.bytes)), Ok((0, expected)));
        for length in 0..answer.bytes.len() {
            assert!(read_settings(&of(&answer.bytes[..length])).is_err(), "{length} bytes");
        }
    }
}
