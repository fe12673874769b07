//! The binary and the sinks against real servers. `scripts/test integration` and `scripts/test crash` run these.
//!
//! A server that is missing is a failed test: `scripts/servers start` prints the variables that name them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails where it stands")]

mod bad_records;
mod check;
mod cluster;
mod conformance;
mod crash;
mod dead_letters;
mod disk_full;
mod drills;
mod durable;
mod examples;
mod formats;
#[cfg(feature = "gssapi")]
mod gssapi;
mod hard_topics;
mod kafka_server;
mod kafka_sink;
mod lost_answers;
mod offsets;
mod old_broker;
mod outages;
mod partitioned;
mod postgres_sink;
mod postgres_tls;
mod queries;
mod quotas;
mod read_back;
mod rebuild;
mod reference_tables;
mod refusals;
mod replay;
mod rewind;
mod running;
mod s3;
mod secure;
mod several_sinks;
mod sheet;
mod slow_sinks;
mod start;
mod storm;
mod time_limits;
mod ttl;
mod two_drivers;
mod two_readers;
mod typed;
mod types;
mod ways_out;
mod windows;
