//! The thread that reads what brokers send.
//!
//! Workers of the runtime look at sockets when they have nothing else to do. While one decodes a chunk for milliseconds the
//! other may sleep, since nobody has told it of the bytes that wait: fetching and decoding would take turns on one core. With
//! a thread of its own for the sockets, each chunk that is handed over wakes a worker.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// Where the sessions of long scans run; the caller's own runtime where no thread is to be had.
pub(crate) fn handle() -> Handle {
    static READER: OnceLock<Option<Runtime>> = OnceLock::new();
    let reader = READER.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidemill-fetch")
            .enable_all()
            .build()
            .inspect_err(|error| tracing::warn!(%error, "no thread for reading from brokers; the others read"))
            .ok()
    });
    reader
        .as_ref()
        .map_or_else(Handle::current, |reader| reader.handle().clone())
}
