//! Programs run batch by batch on a clock that is moved by hand, without a broker.
//!
//! A [`Harness`] keeps a checkpoint and a clock that begins at 0. What a program reads are [`Input`]s, a list of values per batch;
//! what it gives is kept by [`Output`]s, batch by batch. A run is moved on by so many batches, killed between two of them at any time,
//! and started again.
//!
//! ```
//! use std::time::Duration;
//! use tidemill::testing::{Harness, Input, Output};
//!
//! let harness = Harness::new(Duration::from_secs(1));
//! let words = Input::of([vec!["a", "b", "a"], vec!["b"]]);
//! let counts = Output::sorted();
//! let run = harness.start(|context| {
//!     words.stream(context).map(|word| (word.to_owned(), 1u64)).reduce_by_key(|a, b| a + b).foreach_batch(counts.keep());
//!     Ok(())
//! })?;
//! run.batches(2)?;
//! assert_eq!(counts.at(1_000), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
//! assert_eq!(counts.at(2_000), [("b".to_owned(), 1)]);
//! # Ok::<(), tidemill::Error>(())
//! ```

mod clock;
mod harness;
mod input;
mod operator;
mod output;
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) mod process;

pub use harness::{Harness, Run};
pub use input::Input;
pub use operator::batches_of;
pub use output::Output;
