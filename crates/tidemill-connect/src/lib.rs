//! The systems around Kafka that Tidemill writes to.

pub mod console;
