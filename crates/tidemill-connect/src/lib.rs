//! The systems around Kafka that Tidemill writes to.
//!
//! Each implements [`tidemill_engine::sink::Sink`]; the engine knows none of them. One feature each, all on by default.

#[cfg(feature = "s3")]
pub mod bucket;
pub mod console;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "postgres")]
pub mod postgres;
