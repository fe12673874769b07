//! What a user's closure gives back.

use std::fmt::Display;

/// Nothing, or a result whose error stops the batch: it is run again a bounded number of times, then the stream stops.
pub trait IntoOutcome {
    /// The error's text, if it is one.
    ///
    /// # Errors
    /// The closure's own error, as text.
    fn into_outcome(self) -> Result<(), String>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), String> {
        // The alternate form carries the causes where an error type has them.
        self.map_err(|error| format!("{error:#}"))
    }
}
