//! One past batch run again for looking: nothing is committed, nothing is touched.

use std::collections::BTreeMap;

use tidemill_core::plan::BatchId;

use super::Driver;
use super::batch::show_output;
use crate::error::{Error, Kind, Result};
use crate::sink::Sink;

/// A sink whose batch is about to be shown.
#[derive(Debug)]
pub struct Replayed {
    /// The sink.
    pub sink: String,
    /// True where the sink is given other rows now than when the batch was planned; `None` where the plan doesn't tell.
    pub changed: Option<bool>,
}

impl Driver {
    /// Runs a batch again as it was planned, without what was lost of it, with the queries of now. The rows go to what
    /// `show` gives for each sink, not to the sink.
    ///
    /// # Errors
    /// `Config` where its plan is not kept, or rows follow from state; those of reading and of the queries.
    pub async fn replay(
        mut self,
        batch: BatchId,
        mut show: impl FnMut(&Replayed) -> Result<Box<dyn Sink>>,
    ) -> Result<()> {
        let kept = self.checkpoint.planned().await?;
        let Some(logged) = self.checkpoint.plan(batch).await? else {
            let text = match (kept.first(), kept.last()) {
                (Some(first), Some(last)) => {
                    format!(
                        "the plan of batch {batch} is not kept; the oldest one is of batch {first}, the last of {last}"
                    )
                }
                _ => format!("there is no plan in {}", self.checkpoint.location()),
            };
            return Err(Error::new(Kind::Config, text));
        };
        let mut losses = Vec::new();
        for record in self.checkpoint.losses(batch).await? {
            losses.extend(record.losses);
        }
        let tables = &self.settings.tables;
        let other_tables = logged.plan.tables.iter().any(|table| !tables.contains(table));
        let mut record_bytes = BTreeMap::new();
        for output in &mut self.outputs {
            if let Some(operator) = output.job.operators().first() {
                let text = format!(
                    "sink {}: its rows follow from the state of operator {}, and only that of the last batch is kept: a past batch can't \
                     be shown again",
                    output.name, operator.id
                );
                return Err(Error::new(Kind::Config, text));
            }
            let changed = match logged.plan.query_hashes.get(&output.name) {
                _ if other_tables => Some(true),
                Some(planned) => Some(*planned != output.query_hash),
                None if logged.plan.pipeline_hash == self.settings.pipeline_hash => Some(false),
                None => None,
            };
            output.sink = show(&Replayed {
                sink: output.name.clone(),
                changed,
            })?;
            if !logged.plan.is_birth() {
                show_output(output, &logged, &losses, &mut record_bytes).await?;
            }
        }
        Ok(())
    }
}
