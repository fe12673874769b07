//! The one public error, by what its reader should do.

use std::error::Error as StdError;

/// What the person who reads the error should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mend the pipeline file, the arguments or the checkpoint it points to. Exit 2.
    Config,
    /// Nothing, or start the server: it may pass by itself. Exit 1 if it does not.
    Unavailable,
    /// Raise the time limit that the message names, or make batches smaller: the sink's server ended the batch by it. Exit 1
    /// where the same batch meets it twice.
    TimeLimit,
    /// A newer instance runs. Exit 3; do not restart.
    Fenced,
    /// Look at the input: a bad record, a damaged batch. Exit 1.
    Data,
    /// Look at the sink or its rights: it refused for good. Exit 1.
    Refused,
    /// A user's closure failed or panicked. Exit 1 after bounded retries.
    UserCode,
    /// Input was lost, or a sink fell behind its checkpoint. Exit 4.
    Loss,
    /// Report it. Exit 1.
    Bug,
}

/// An error of the engine, its sources or its sinks.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that stands by itself.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error with its cause; `message` does not repeat the cause.
    pub fn with_source(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source.into()),
        }
    }

    /// What the reader should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True where a later attempt may succeed without a person's help.
    pub fn is_transient(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// The message and all its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            let one = error.to_string();
            // Some libraries repeat the cause in their own text.
            if !text.contains(&one) {
                text.push_str(": ");
                text.push_str(&one);
            }
            cause = error.source();
        }
        text
    }
}
