//! Everything of Tidemill that speaks Kafka.

mod compression;
mod config;
pub mod embedded;
#[cfg(test)]
mod fake_cluster;
mod fetch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod librdkafka;
mod murmur2;
pub mod security;
pub mod sink;
mod source;
mod token_endpoint;
mod wire;

pub use compression::Compression;
pub use config::{Isolation, KafkaConfig, Reader, Topics};
pub use librdkafka::refused_by_librdkafka;
pub use source::KafkaSource;
