//! The binary and the sinks against real servers. `scripts/test integration` and `scripts/test crash` run these.
//!
//! A server that is missing is a failed test: `scripts/servers start` prints the variables that name them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails where it stands")]

mod crash;
mod hard_topics;
mod kafka_server;
mod kafka_sink;
mod lost_answers;
mod postgres_sink;
mod storm;
mod two_drivers;
mod typed;
