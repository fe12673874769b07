//! An operator by itself.

use std::time::Duration;

use tidemill_engine::error::Result;

use super::{Harness, Input, Output};
use crate::dstream::DStream;

/// What an operator gives for each list: a batch every second, its values sorted, since the order in which they come is nobody's
/// promise where keys were brought together.
///
/// # Errors
/// What ended the program, if it did not end well.
///
/// ```
/// use tidemill::testing::batches_of;
///
/// let even = batches_of([vec![1, 2, 3, 4], vec![5]], |numbers| numbers.filter(|number| number % 2 == 0))?;
/// assert_eq!(even, [vec![2, 4], vec![]]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub fn batches_of<T, U, L>(
    lists: impl IntoIterator<Item = L>,
    operator: impl FnOnce(DStream<T>) -> DStream<U>,
) -> Result<Vec<Vec<U>>>
where
    T: Clone + Send + Sync + 'static,
    U: Clone + Ord + Send + 'static,
    L: IntoIterator<Item = T>,
{
    let lists: Vec<L> = lists.into_iter().collect();
    let batches = u32::try_from(lists.len()).unwrap_or(u32::MAX);
    let harness = Harness::new(Duration::from_secs(1));
    let (input, output) = (Input::of(lists), Output::sorted());
    let run = harness.start(|context| {
        operator(input.stream(context)).foreach_batch(output.keep());
        Ok(())
    })?;
    run.batches(batches)?;
    run.stop()?;
    Ok(output.batches())
}
