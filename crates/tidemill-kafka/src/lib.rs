//! Everything of Tidemill that speaks Kafka.

mod config;
#[cfg(test)]
mod fake_cluster;
mod fetch;
mod source;
mod wire;

pub use config::{Isolation, KafkaConfig};
pub use source::KafkaSource;
