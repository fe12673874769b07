//! Micro-batch stream processing for Apache Kafka.
