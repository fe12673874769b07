//! The running application: driver loop, checkpoint, SQL lowering, and the traits that sources and sinks implement.
//!
//! Knows no Kafka and no database. See `docs/architecture.md`.

pub mod error;
pub mod format;
pub mod sink;
pub mod source;
