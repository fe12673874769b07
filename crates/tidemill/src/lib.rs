//! Micro-batch stream processing for Apache Kafka, in the manner of Spark Streaming's direct stream.
//!
//! A program declares streams and what becomes of them; every interval one batch of offset ranges is planned, logged and
//! run. The closures run again at every start: the checkpoint holds positions, never code.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemill::prelude::*;
//!
//! let context = StreamingContext::builder("ad-views", Duration::from_secs(1))
//!     .checkpoint("checkpoint/ad-views")
//!     .get_or_create(|context| {
//!         let events = context.kafka_direct_stream(DirectKafka::new("localhost:9092").topics(["events"]))?;
//!         events
//!             .filter(|record| !record.value().is_empty())
//!             .map(|record| record.value().len())
//!             .foreach_partition(|lengths, task| println!("{}: {}", task.unique_id(), lengths.count()));
//!         Ok(())
//!     })?;
//! context.start()?;
//! context.await_termination()?;
//! # Ok::<(), tidemill::Error>(())
//! ```
//!
//! Callbacks run at least once: after a crash a batch runs again with the same ranges, the same time and the same
//! [`unique_id`](TaskContext::unique_id). Store the id together with the rows, in one transaction, and skip what is there:
//! that makes the effect exactly once. Rows that [`to_files`](DStream::to_files), [`to_postgres`](DStream::to_postgres) and
//! [`to_kafka`](DStream::to_kafka) write are there exactly once without that: their ledger lies with them.

mod batch;
mod callback;
mod codec;
#[cfg(test)]
mod conformance;
mod context;
mod dstream;
mod graph;
mod listener;
mod outcome;
mod output;
mod progress;
mod record;
mod remembered;
mod row;
mod running;
mod scope;
pub mod shown;
mod sink;
mod source;
mod task;
pub mod testing;
mod time;

pub use batch::Batch;
pub use batch::keyed::{BothSides, EitherSide};
pub use codec::{Data, Key};
pub use context::{Builder, ContextState, StreamingContext};
pub use datafusion;
pub use dstream::{DStream, IntoBatch, MapWithState, Rows, State, StateSpec, Table};
pub use listener::{StatsReportListener, StreamingListener};
pub use outcome::{IntoOutcome, UserResult};
pub use progress::Progress;
pub use record::Record;
#[cfg(feature = "file")]
pub use sink::Files;
pub use sink::KafkaTopic;
#[cfg(feature = "postgres")]
pub use sink::PostgresTable;
pub use source::kafka::DirectKafka;
pub use source::queue::Queue;
pub use source::rate::Rate;
pub use source::watched_folder::WatchedFolder;
pub use task::{BatchContext, OffsetRange, TaskContext};
#[cfg(feature = "file")]
pub use tidemill_connect::file::Compression as ParquetCompression;
pub use tidemill_engine::driver::{BatchInfo, OutputInfo, Summary};
pub use tidemill_engine::error::{Error, Kind, Result};
pub use tidemill_kafka::Compression as KafkaCompression;
pub use tidemill_kafka::security::Security;

/// Arms the failpoints of `TIDEMILL_FAILPOINTS`; call it once, first thing in `main`, in builds for crash tests.
///
/// # Errors
/// `Config` where a point does not exist.
#[cfg(feature = "fault-injection")]
pub fn arm_failpoints() -> Result<()> {
    tidemill_engine::failpoint::arm_from_env().map_err(|error| Error::new(Kind::Config, error))
}

/// Everything a program names.
pub mod prelude {
    pub use crate::{
        Batch, BatchContext, DStream, DirectKafka, Queue, Rate, Record, State, StateSpec, StreamingContext,
        TaskContext, WatchedFolder,
    };
}
