//! Back-pressure: what the last batches of each source have shown to be possible.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_core::fixed_cost::FixedCost;
use tidemill_core::plan::BatchPlan;
use tidemill_core::rate::{Completed, InvalidPid, PidEstimator, PidSettings};

use super::DriverSource;

/// The rates of all sources; none where back-pressure is off.
#[derive(Debug, Default)]
pub(super) struct Pace {
    of_source: BTreeMap<String, OfSource>,
    /// How long the batch in hand waited beyond its tick.
    waited: Duration,
}

#[derive(Debug)]
struct OfSource {
    estimator: PidEstimator,
    fixed: FixedCost,
    /// No estimate below this is believed.
    least: f64,
    /// Records per second, once there is an estimate.
    rate: Option<u64>,
}

impl Pace {
    /// An estimator for each source, where there are settings.
    ///
    /// # Errors
    /// Settings that no estimator can work with.
    pub(super) fn new(sources: &[DriverSource], settings: Option<PidSettings>) -> Result<Self, InvalidPid> {
        let Some(settings) = settings else {
            return Ok(Self::default());
        };
        let of_source = |source: &DriverSource| {
            let estimator = PidEstimator::new(settings)?;
            let of = OfSource {
                estimator,
                fixed: FixedCost::default(),
                least: settings.least_rate(),
                rate: None,
            };
            Ok((source.name.clone(), of))
        };
        Ok(Self {
            of_source: sources.iter().map(of_source).collect::<Result<_, _>>()?,
            waited: Duration::ZERO,
        })
    }

    /// Records per second of a source that a batch may be planned for: the last estimate, or the initial rate before there
    /// is one.
    pub(super) fn rate(&self, source: &DriverSource) -> Option<u64> {
        self.of_source.get(&source.name)?.rate.or(source.initial_rate)
    }

    /// The next batch begins so long after its tick.
    pub(super) fn waited(&mut self, beyond_tick: Duration) {
        self.waited = beyond_tick;
    }

    /// A batch took `took` and ended at `now`.
    pub(super) fn completed(&mut self, plan: &BatchPlan, took: Duration, now: Duration) {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        for (name, of) in &mut self.of_source {
            let offsets: u64 = plan
                .ranges
                .iter()
                .filter(|range| range.source == *name)
                .map(|range| range.offsets())
                .sum();
            if offsets == 0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "the records of one batch")]
            let of_records = of.fixed.without(offsets as f64, took.as_secs_f64() * 1_000.0);
            let estimate = of.estimator.rate(&Completed {
                ended_ms: millis(now),
                records: i64::try_from(offsets).unwrap_or(i64::MAX),
                processing_ms: millis(Duration::from_secs_f64(of_records / 1_000.0)).max(1),
                waited_ms: millis(self.waited),
            });
            if let Some(rate) = estimate {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "RATE-09: truncated"
                )]
                let rate = rate.max(of.least) as u64;
                of.rate = Some(rate);
            }
        }
    }
}
