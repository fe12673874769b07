//! The running application: driver loop, checkpoint, SQL lowering, and the traits that sources and sinks implement.
//!
//! Knows no Kafka and no database. See `docs/architecture.md`.

pub mod checkpoint;
pub mod driver;
pub mod error;
pub mod failpoint;
pub mod format;
pub mod job;
pub mod receiver;
pub mod sink;
pub mod source;
pub mod sql;
pub mod state;
pub mod store;
pub mod time;
pub mod tls;
pub mod wal;
