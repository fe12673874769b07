//! Everything of Tidemill that speaks Kafka.

mod compression;
mod config;
pub mod embedded;
#[cfg(test)]
mod fake_cluster;
mod fetch;
mod murmur2;
pub mod security;
pub mod sink;
mod source;
mod wire;

pub use compression::Compression;
pub use config::{Isolation, KafkaConfig, Topics};
pub use source::KafkaSource;
