//! The systems around Kafka that Tidemill writes to.
//!
//! Each implements [`tidemill_engine::sink::Sink`]; the engine knows none of them.

pub mod console;
pub mod file;
pub mod postgres;
