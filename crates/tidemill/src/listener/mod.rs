//! Who hears of what a program does.

mod bus;
mod stats;

use tidemill_engine::driver::{BatchInfo, OutputInfo};

pub(crate) use bus::ListenerBus;
pub use stats::StatsReportListener;

/// Hears of what a program does, one event after another on a thread of its own, a little after it happened. Per batch in this
/// order: submitted, started, each output started and completed, completed. A listener that is more than 10,000 events behind misses
/// some; after the stream has ended it hears nothing more. A panic in it is logged.
///
/// ```
/// use std::time::Duration;
/// use tidemill::testing::{Harness, Input};
/// use tidemill::{BatchInfo, StreamingListener};
///
/// struct Slow;
///
/// impl StreamingListener for Slow {
///     fn batch_completed(&self, batch: &BatchInfo) {
///         if batch.processing_delay() > Some(Duration::from_secs(1)) {
///             eprintln!("batch {} was slow", batch.batch_time_ms);
///         }
///     }
/// }
///
/// let harness = Harness::new(Duration::from_secs(1));
/// let run = harness.start(|context| {
///     context.add_listener(Slow);
///     Input::of([vec![1]]).stream(context).print(10);
///     Ok(())
/// })?;
/// run.batches(1)?;
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait StreamingListener: Send + Sync + 'static {
    /// The program has recovered and goes on; when, in milliseconds since 1970 UTC.
    fn streaming_started(&self, _at_ms: i64) {}

    /// A batch is planned: it has no delays yet.
    fn batch_submitted(&self, _batch: &BatchInfo) {}

    /// Its first output is about to run: it has a scheduling delay.
    fn batch_started(&self, _batch: &BatchInfo) {}

    /// All its outputs ended, well or not: it has all delays.
    fn batch_completed(&self, _batch: &BatchInfo) {}

    /// An output is about to run.
    fn output_started(&self, _output: &OutputInfo) {}

    /// An output was committed, or failed.
    fn output_completed(&self, _output: &OutputInfo) {}
}
