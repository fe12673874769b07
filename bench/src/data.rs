//! The topics that `load` fills.

use clap::ValueEnum;
use tidemill_kafka::Compression;
use tidemill_kafka::embedded::feed::Records;

use crate::expected;

/// A topic of the bench, by what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Data {
    /// Ad events in JSON, lz4
    Events,
    /// The same in Avro
    Avro,
    /// The same in JSON, zstd
    Zstd,
    /// The same, gzip
    Gzip,
    /// The same, uncompressed
    Uncompressed,
    /// The same, lz4, in two partitions
    Lag,
    /// 100 random bytes each, uncompressed
    Raw,
}

impl Data {
    /// The topic's name.
    pub(crate) fn topic(self) -> &'static str {
        match self {
            Self::Events => "bench-events",
            Self::Avro => "bench-events-avro",
            Self::Zstd => "bench-events-zstd",
            Self::Gzip => "bench-events-gzip",
            Self::Uncompressed => "bench-events-uncompressed",
            Self::Lag => "bench-lag",
            Self::Raw => "bench-raw",
        }
    }

    /// How many partitions it has.
    pub(crate) fn partitions(self) -> i32 {
        match self {
            Self::Lag => 2,
            _ => 8,
        }
    }

    /// What is written to it.
    pub(crate) fn stream(self) -> Records {
        match self {
            Self::Avro => Records::AvroAdEvents(expected::ad_events()),
            Self::Raw => Records::RandomBytes(expected::random_bytes()),
            _ => Records::AdEvents(expected::ad_events()),
        }
    }

    /// How its batches are compressed.
    pub(crate) fn compression(self) -> Compression {
        match self {
            Self::Events | Self::Avro | Self::Lag => Compression::Lz4,
            Self::Zstd => Compression::Zstd,
            Self::Gzip => Compression::Gzip,
            Self::Uncompressed | Self::Raw => Compression::None,
        }
    }
}
