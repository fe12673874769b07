//! A log that is written to.

use std::sync::Arc;

use crc_fast::crc32_iscsi;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Sequence;
use super::gate::Gate;
use super::kept::Kept;
use super::record::RECORD_BYTES_MAX;
use super::settings::LogSettings;
use super::staging::Staging;
use super::storage::Storage;
use super::takeover::Taken;
use super::ticket::Ticket;
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::store::blocking;
use crate::time::Clock;

/// Whether a log takes records.
#[derive(Debug, Clone)]
pub enum State {
    /// It does.
    Open,
    /// It waits for what passes by itself, a full disk above all, and takes no more than its bound of waiting bytes. A
    /// receiver that can tell its source to come back later does so now.
    Waiting(Arc<Error>),
    /// It never will again. `Fenced`: a newer driver runs. Any other kind: what was written may be lost, the process must end.
    Ended(Arc<Error>),
    /// It was closed, and all that was handed in is acknowledged.
    Closed,
}

/// A log of this epoch. Closed when it is dropped; [`Log::close`] waits for the end.
#[derive(Debug)]
pub struct Log {
    storage: Arc<dyn Storage>,
    staging: Arc<Staging>,
    kept: Arc<Kept>,
    state: watch::Receiver<State>,
    closing: watch::Sender<bool>,
}

impl Log {
    /// Starts the thread that writes, on a log whose past was taken over. Makes no file before the first record. The gate and
    /// the clock run on the runtime that this is called in.
    ///
    /// # Errors
    /// `Config` where the settings can't be; `Unavailable` where the system gives no thread.
    pub fn start(taken: Taken, settings: LogSettings, gate: Arc<dyn Gate>, clock: Arc<dyn Clock>) -> Result<Self> {
        settings.check()?;
        let (storage, past) = (taken.storage, taken.report);
        let staging = Staging::new(settings.group_bytes_max, settings.waiting_bytes_max, past.next_sequence);
        let staging = Arc::new(staging);
        let kept = Arc::new(Kept::new(taken.segments, past.strays, past.next_sequence));
        let (state_sender, state) = watch::channel(State::Open);
        let (closing, closing_seen) = watch::channel(false);
        let writer = Writer {
            storage: Arc::clone(&storage),
            log: taken.log,
            epoch: taken.epoch,
            settings,
            gate,
            clock,
            staging: Arc::clone(&staging),
            kept: Arc::clone(&kept),
            state: state_sender,
            closing: closing_seen,
            runtime: Handle::current(),
            segment: None,
            made: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("log".to_owned());
        let spawned = thread.spawn(move || writer.run());
        spawned.map_err(|error| Error::with_source(Kind::Unavailable, "start the log's thread", error))?;
        Ok(Self {
            storage,
            staging,
            kept,
            state,
            closing,
        })
    }

    /// Hands a record in, behind all that were handed in before; waits while too many bytes wait. The ticket tells when it is
    /// acknowledged. Where this future is dropped before it is done, nothing was handed in.
    ///
    /// # Errors
    /// Where the log has ended or is closed; `Data` where the record is larger than [`RECORD_BYTES_MAX`].
    pub async fn append(&self, body: &[u8]) -> Result<Ticket> {
        if body.len() > RECORD_BYTES_MAX {
            let text = format!("a record of {} bytes; a log takes up to {RECORD_BYTES_MAX}", body.len());
            return Err(Error::new(Kind::Data, text));
        }
        self.staging.hand_in(body, crc32_iscsi(body)).await
    }

    /// Whether it takes records; for receivers that tell their sources, and for people.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Removes the segments all of whose records lie below `position`, oldest first, never the newest. What is below must no
    /// longer be needed by any batch that may run again.
    ///
    /// # Errors
    /// Where one can't be removed; it is tried again with the next call.
    pub async fn forget_before(&self, position: Sequence) -> Result<()> {
        let (storage, kept) = (Arc::clone(&self.storage), Arc::clone(&self.kept));
        blocking(move || {
            for segment in kept.below(position) {
                storage.remove(&segment.to_string())?;
                failpoint::pass("log.after-remove");
                kept.removed(segment);
            }
            Ok(())
        })
        .await
    }

    /// Takes no more records, and waits until all that were handed in are acknowledged. May be called again. A log that waits
    /// for room gives up what it could not write: that was not acknowledged.
    ///
    /// # Errors
    /// Why the log ended before.
    pub async fn close(&self) -> Result<()> {
        self.staging.close();
        self.closing.send_replace(true);
        let mut state = self.state.clone();
        let ended = state
            .wait_for(|state| matches!(state, State::Closed | State::Ended(_)))
            .await;
        match ended.as_deref() {
            Ok(State::Ended(error)) => Err(Error::with_source(error.kind(), "the log has ended", Arc::clone(error))),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Bug, "the log's thread is gone")),
        }
    }

    #[cfg(test)]
    pub(super) fn records_waiting(&self) -> u64 {
        self.staging.records_waiting()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.staging.close();
        self.closing.send_replace(true);
    }
}
