//! Everything of Tidemill that speaks Kafka.

mod client_error;
mod compression;
pub mod embedded;
mod murmur2;
pub mod sink;

pub use compression::Compression;
