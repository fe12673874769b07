//! Tests against real servers. A server that is missing is a failed test: `TIDEMILL_TEST_KAFKA=host:port` names the
//! Kafka broker.

mod kafka_server;
mod kafka_sink;
