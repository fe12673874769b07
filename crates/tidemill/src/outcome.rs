//! What a user's closure gives back, and how it fails.

use std::any::Any;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tidemill_engine::error::{Error, Kind, Result};

/// Nothing, or a result whose error stops the batch: it is run again a bounded number of times, then the stream stops.
///
/// ```
/// # use std::time::Duration;
/// # use tidemill::testing::{Harness, Input, Output};
/// # let harness = Harness::new(Duration::from_secs(1));
/// let numbers = Input::of([["1", "2"]]);
/// # let run = harness.start(|context| {
/// numbers.stream(context).foreach_batch(|texts, _batch| -> Result<(), std::num::ParseIntError> {
///     texts.iter().try_for_each(|text| text.parse::<i32>().map(drop))
/// });
/// #     Ok(())
/// # })?;
/// # run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait IntoOutcome {
    /// The error's text, if it is one.
    ///
    /// # Errors
    /// The closure's own error, as text.
    fn into_outcome(self) -> std::result::Result<(), String>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: Display> IntoOutcome for std::result::Result<(), E> {
    fn into_outcome(self) -> std::result::Result<(), String> {
        self.map_err(text)
    }
}

/// A value, or an error that stops the batch as that of an [`IntoOutcome`] does.
///
/// ```
/// # use tidemill::testing::batches_of;
/// let error = batches_of([["one"]], |texts| texts.try_map(|text| text.parse::<i32>())).unwrap_err();
/// assert_eq!(error.kind(), tidemill::Kind::UserCode);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait UserResult<T> {
    /// The value.
    ///
    /// # Errors
    /// `UserCode` with the closure's own error as text.
    fn into_result(self) -> Result<T>;
}

impl<T, E: Display> UserResult<T> for std::result::Result<T, E> {
    fn into_result(self) -> Result<T> {
        self.map_err(|error| Error::new(Kind::UserCode, text(error)))
    }
}

/// The alternate form carries the causes where an error type has them.
fn text(error: impl Display) -> String {
    format!("{error:#}")
}

/// Runs user code; a panic becomes [`Kind::UserCode`] with its text.
pub(crate) async fn guarded<T>(code: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(code).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => Err(panicked(&*panic)),
    }
}

/// The same for code that is no future.
pub(crate) fn guarded_call<T>(code: impl FnOnce() -> Result<T>) -> Result<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(code)) {
        Ok(done) => done,
        Err(panic) => Err(panicked(&*panic)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned());
    Error::new(Kind::UserCode, format!("the closure panicked: {text}"))
}
