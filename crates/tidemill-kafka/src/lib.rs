//! Everything of Tidemill that speaks Kafka.

mod config;
mod fetch;

pub use config::{Isolation, KafkaConfig};
