//! Windows of queries: a batch comes where one ends.

use std::collections::BTreeMap;

use tidemill_core::next_batch;

use super::{Driver, Running};
use crate::error::Result;

impl Driver {
    /// When the first window after the last batch ends that holds anything, up to `until_ms`. The next batch must be of that time: a
    /// window is neither stepped over, however late it is, nor does it wait for records.
    pub(super) async fn window_end(&mut self, running: &mut Running, until_ms: i64) -> Result<Option<i64>> {
        let last_ms = running.last.plan.batch_time_ms;
        let slides = self.outputs.iter().flat_map(|output| output.job.slides());
        let ended: BTreeMap<String, i64> = slides
            .map(|(operator, slide_ms)| (operator, next_batch::window_end_after(last_ms, slide_ms)))
            .filter(|(_, end_ms)| *end_ms <= until_ms)
            .collect();
        if ended.is_empty() {
            return Ok(None);
        }
        // Until then the state is that of the batch before.
        self.settle(running).await?;
        let mut first = None;
        for (operator, end_ms) in ended {
            if first.is_none_or(|first| end_ms < first) && !self.states.is_empty(&operator)? {
                first = Some(end_ms);
            }
        }
        Ok(first)
    }
}
