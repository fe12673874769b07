//! The same log for the driver's own events: which block was received, which batch it was given to.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Sequence;
use super::log::Log;
use super::takeover::Found;
use super::ticket::Ticket;
use crate::error::{Error, Kind, Result};

/// A log whose records are values.
pub struct EventLog<T> {
    log: Log,
    events: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for EventLog<T> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("EventLog").field("log", &self.log).finish()
    }
}

impl<T: Serialize> EventLog<T> {
    /// Events into `log`.
    pub fn new(log: Log) -> Self {
        Self {
            log,
            events: PhantomData,
        }
    }

    /// Hands an event in; as [`Log::append`].
    ///
    /// # Errors
    /// As there; `Bug` where the event can't be written as JSON.
    pub async fn append(&self, event: &T) -> Result<Ticket> {
        let text = serde_json::to_vec(event);
        let text = text.map_err(|error| Error::with_source(Kind::Bug, "encode an event of the log", error))?;
        self.log.append(&text).await
    }

    /// Removes what lies below `position`; as [`Log::forget_before`].
    ///
    /// # Errors
    /// As there.
    pub async fn forget_before(&self, position: Sequence) -> Result<()> {
        self.log.forget_before(position).await
    }

    /// As [`Log::close`].
    ///
    /// # Errors
    /// As there.
    pub async fn close(&self) -> Result<()> {
        self.log.close().await
    }
}

impl<T: DeserializeOwned> EventLog<T> {
    /// The event in a record that a takeover found.
    ///
    /// # Errors
    /// `Data` where it is another kind of event; its checksums fit.
    pub fn decode(found: &Found<'_>) -> Result<T> {
        serde_json::from_slice(found.body).map_err(|error| {
            let text = format!("record {} of the log is no event", found.range.sequence);
            Error::with_source(Kind::Data, text, error)
        })
    }
}
