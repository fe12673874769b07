//! From a sink's settings to the sink. Each system has a feature of the same name; the binary that users get has all of them.

use tidemill_connect::console::ConsoleSink;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::sink::Sink;
use tidemill_kafka::sink::{KafkaSink, KafkaSinkConfig, ValueFormat};

#[cfg(feature = "s3")]
use crate::open_place::open_bucket;
#[cfg(feature = "file")]
use crate::settings::place::Place;
use crate::settings::sink::{SinkKind, SinkSettings};

/// The sink of the pipeline `app`; it is connected to nothing yet.
///
/// # Errors
/// Settings that do not fit together, and a system that this binary was built without.
pub(crate) fn open_sink(app: &str, sink: &SinkSettings) -> Result<Box<dyn Sink>> {
    match &sink.kind {
        SinkKind::Console { limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            Ok(Box::new(ConsoleSink::new(&sink.name, limit)))
        }
        #[cfg(feature = "file")]
        SinkKind::File {
            path,
            format,
            compression,
            partition_by,
        } => file(&sink.name, path, format, compression, partition_by),
        #[cfg(not(feature = "file"))]
        SinkKind::File { .. } => Err(left_out(sink, "file")),
        #[cfg(feature = "postgres")]
        SinkKind::Postgres {
            url,
            table,
            create_table,
            key,
        } => {
            let config = tidemill_connect::postgres::PostgresConfig {
                url: url.expose().to_owned(),
                table: table.clone(),
                create_table: *create_table,
                key: key.clone(),
            };
            let sink = tidemill_connect::postgres::PostgresSink::new(sink.name.clone(), config)?;
            Ok(Box::new(sink))
        }
        #[cfg(not(feature = "postgres"))]
        SinkKind::Postgres { .. } => Err(left_out(sink, "postgres")),
        SinkKind::Kafka {
            brokers,
            topic,
            format,
            key,
            headers,
            compression,
            properties,
        } => {
            let mut config = KafkaSinkConfig::new(brokers, topic);
            config.format = match *format {
                "raw" => ValueFormat::Raw,
                "avro" => ValueFormat::Avro,
                _ => ValueFormat::Json,
            };
            config.key.clone_from(key);
            config.headers.clone_from(headers);
            config.compression = compression
                .parse()
                .map_err(|unknown: String| Error::new(Kind::Config, unknown))?;
            config.properties.clone_from(&properties.0);
            Ok(Box::new(KafkaSink::new(&sink.name, app, config)))
        }
    }
}

#[cfg(feature = "file")]
fn file(name: &str, path: &Place, format: &str, compression: &str, partition_by: &[String]) -> Result<Box<dyn Sink>> {
    use tidemill_connect::file::{Encoding, FileSink};
    let compression = (!compression.is_empty()).then_some(compression);
    let encoding = Encoding::parse(format, compression)?;
    let sink = match path {
        Place::Folder(path) => FileSink::new(name, &path.display().to_string(), encoding)?,
        #[cfg(feature = "s3")]
        Place::Bucket(bucket) => FileSink::in_bucket(name, open_bucket(bucket)?, encoding),
        #[cfg(not(feature = "s3"))]
        Place::Bucket(bucket) => return Err(crate::open_place::without_buckets(bucket)),
    };
    Ok(Box::new(sink.partitioned_by(partition_by)))
}

#[cfg(not(all(feature = "file", feature = "postgres")))]
fn left_out(sink: &SinkSettings, feature: &str) -> tidemill_engine::error::Error {
    tidemill_engine::error::Error::new(
        tidemill_engine::error::Kind::Config,
        format!(
            "sink {}: this binary was built without the feature `{feature}`; build it with its default features",
            sink.name
        ),
    )
}
