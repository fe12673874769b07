//! Back-pressure: the rate that a source's batches have shown to be possible, and what each partition gets of it.
//!
//! The estimator and the split are those of Spark Streaming (`PIDRateEstimator`, `DirectKafkaInputDStream`), so that
//! settings carry over; the tests are named after the rows of its behaviour that they keep.

/// Parameters of the estimator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PidSettings {
    /// Milliseconds between batches.
    pub interval_ms: u64,
    /// Weight of the difference between the last rate and the one just seen. Default 1.
    pub proportional: f64,
    /// Weight of what has piled up, by the time that batches wait. Default 0.2.
    pub integral: f64,
    /// Weight of the difference's change. Default 0.
    pub derivative: f64,
    /// The lowest rate that the estimator gives, in records per second. Default 100. See [`PidSettings::least_rate`].
    pub min_rate: f64,
}

impl PidSettings {
    /// The defaults for batches of this interval.
    pub fn new(interval_ms: u64) -> Self {
        Self {
            interval_ms,
            proportional: 1.0,
            integral: 0.2,
            derivative: 0.0,
            min_rate: 100.0,
        }
    }

    /// The rate below which no batch is held: `min_rate` records per second, and per batch where batches come more often.
    ///
    /// How long a batch of a few records takes says nothing of its records. Held to a fraction of the lowest rate it would
    /// take as long and do less, and look slower still.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds between batches")]
    pub fn least_rate(&self) -> f64 {
        let batches_per_second = 1_000.0 / self.interval_ms.max(1) as f64;
        self.min_rate * batches_per_second.max(1.0)
    }
}

/// Parameters that no estimator can work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {bound}")]
pub struct InvalidPid {
    /// The parameter.
    pub name: &'static str,
    /// What it must be.
    pub bound: &'static str,
}

/// One settled batch of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// When it ended, in milliseconds of any clock that does not go back.
    pub ended_ms: i64,
    /// Records of the source in it.
    pub records: i64,
    /// How long it took.
    pub processing_ms: i64,
    /// How long it waited beyond its tick.
    pub waited_ms: i64,
}

/// A controller with a proportional, an integral and a derivative part.
#[derive(Debug, Clone, PartialEq)]
pub struct PidEstimator {
    settings: PidSettings,
    latest: Option<Latest>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Latest {
    ended_ms: i64,
    rate: f64,
    error: f64,
}

impl PidEstimator {
    /// An estimator that has seen nothing.
    ///
    /// # Errors
    /// The first parameter that it can't work with.
    pub fn new(settings: PidSettings) -> Result<Self, InvalidPid> {
        let refuse = |name, bound| Err(InvalidPid { name, bound });
        if settings.interval_ms == 0 {
            return refuse("interval", "above 0");
        }
        for (name, weight) in [
            ("proportional", settings.proportional),
            ("integral", settings.integral),
            ("derivative", settings.derivative),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return refuse(name, "0 or more");
            }
        }
        if !(settings.min_rate > 0.0 && settings.min_rate.is_finite()) {
            return refuse("min_rate", "above 0");
        }
        Ok(Self { settings, latest: None })
    }

    /// The rate for batches to come, in records per second. `None` after the first batch, and after one that tells nothing:
    /// without records or time, or older than the last.
    #[expect(clippy::cast_precision_loss, reason = "records and milliseconds of one batch")]
    pub fn rate(&mut self, batch: &Completed) -> Option<f64> {
        let is_new = self.latest.is_none_or(|latest| batch.ended_ms > latest.ended_ms);
        if !is_new || batch.records <= 0 || batch.processing_ms <= 0 {
            return None;
        }
        let seen = batch.records as f64 / batch.processing_ms as f64 * 1_000.0;
        let Some(before) = self.latest else {
            self.latest = Some(Latest {
                ended_ms: batch.ended_ms,
                rate: seen,
                error: 0.0,
            });
            return None;
        };
        let PidSettings {
            interval_ms,
            proportional,
            integral,
            derivative,
            min_rate,
        } = self.settings;
        let error = before.rate - seen;
        let piled_up = batch.waited_ms as f64 * seen / interval_ms as f64;
        let since_seconds = (batch.ended_ms - before.ended_ms) as f64 / 1_000.0;
        let change = (error - before.error) / since_seconds;
        let rate = (before.rate - proportional * error - integral * piled_up - derivative * change).max(min_rate);
        self.latest = Some(Latest {
            ended_ms: batch.ended_ms,
            rate,
            error,
        });
        Some(rate)
    }
}

/// What bounds a source's partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionBound {
    /// Records per second, 0 = no bound.
    pub max_rate: u64,
    /// Records per *batch*, granted wherever any bound is in force.
    pub min_records: u64,
}

/// Records of each partition in a batch of `seconds`: the source's `rate`, where there is one, split by lag. `None` where
/// nothing is bounded.
///
/// Arithmetic is in doubles and truncated at the end, so that the parts may come to less than the rate.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the rule is given in doubles, truncated"
)]
pub fn partition_records(partitions: &[(u64, PartitionBound)], rate: Option<u64>, seconds: f64) -> Option<Vec<u64>> {
    let lag: u64 = partitions.iter().map(|(lag, _)| lag).sum();
    let rate = rate.filter(|rate| *rate > 0);
    let rates: Vec<f64> = partitions
        .iter()
        .map(|(of_this, bound)| match rate {
            Some(rate) => {
                let part = *of_this as f64 / lag as f64 * rate as f64;
                if bound.max_rate > 0 {
                    part.min(bound.max_rate as f64)
                } else {
                    part
                }
            }
            None => bound.max_rate as f64,
        })
        .collect();
    // No lag makes no numbers of them; then nothing is bounded.
    if rates.iter().sum::<f64>() > 0.0 {
        let records = rates.iter().zip(partitions);
        return Some(
            records
                .map(|(rate, (_, bound))| ((seconds * rate) as u64).max(bound.min_records))
                .collect(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimator(interval_ms: u64, p: f64, i: f64, d: f64, min_rate: f64) -> Result<PidEstimator, InvalidPid> {
        PidEstimator::new(PidSettings {
            interval_ms,
            proportional: p,
            integral: i,
            derivative: d,
            min_rate,
        })
    }

    /// Calls are (time, records, processing, scheduling).
    fn rates(mut estimator: PidEstimator, calls: &[(i64, i64, i64, i64)]) -> Vec<Option<f64>> {
        let rate = |(ended_ms, records, processing_ms, waited_ms): &(i64, i64, i64, i64)| {
            estimator.rate(&Completed {
                ended_ms: *ended_ms,
                records: *records,
                processing_ms: *processing_ms,
                waited_ms: *waited_ms,
            })
        };
        calls.iter().map(rate).collect()
    }

    #[test]
    fn pid_01_what_can_not_work_is_refused_by_name() {
        let refused = |interval, p, i, d, min| estimator(interval, p, i, d, min).expect_err("refused").name;
        assert_eq!(refused(0, 1.0, 0.0, 0.0, 10.0), "interval");
        assert_eq!(refused(20, -1.0, 0.0, 0.0, 10.0), "proportional");
        assert_eq!(refused(20, 0.0, -1.0, 0.0, 10.0), "integral");
        assert_eq!(refused(20, 0.0, 0.0, -1.0, 10.0), "derivative");
        assert_eq!(refused(20, 0.0, 0.0, 0.0, 0.0), "min_rate");
        assert_eq!(refused(20, 0.0, 0.0, 0.0, -10.0), "min_rate");
        assert_eq!(refused(20, f64::NAN, 0.0, 0.0, 10.0), "proportional");
    }

    #[test]
    fn pid_06_what_tells_nothing_gives_no_rate() {
        let default = estimator(20, 1.0, 0.0, 0.0, 10.0).expect("works");
        let calls = [(0, 10, 10, 0), (10, 0, 10, 0), (20, -10, 10, 0)];
        assert_eq!(rates(default, &calls), [None, None, None]);
    }

    #[test]
    fn pid_10_the_rate_follows_what_was_processed() {
        let calls: Vec<_> = (0..50).map(|x| (20 * x, 20 * (50 - x), 20, 0)).collect();
        let expected: Vec<Option<f64>> = std::iter::once(None)
            .chain((1..50).map(|x| Some(f64::from(50 - x) * 1_000.0)))
            .collect();
        let found = rates(estimator(20, 1.0, 1.0, 0.0, 10.0).expect("works"), &calls);
        assert_eq!(found, expected);
    }

    #[test]
    fn pid_11_waiting_lowers_the_rate_and_never_below_the_least() {
        let calls: Vec<(i64, i64, i64, i64)> = (0..50)
            .map(|x| (20 * x, rand_in(x, 1_000, 1_999), 20, rand_in(x + 50, 1, 19)))
            .collect();
        let found = rates(estimator(20, 1.0, 0.01, 0.0, 10.0).expect("works"), &calls);
        assert_eq!(found[0], None);
        for (rate, (_, records, ..)) in found.iter().zip(&calls).skip(1) {
            let rate = rate.expect("a rate");
            #[expect(clippy::cast_precision_loss, reason = "below 2,000")]
            let processed = *records as f64 / 20.0 * 1_000.0;
            assert!((10.0..processed).contains(&rate), "{rate} of {processed}");
        }
    }

    /// Any numbers will do, the same in every run.
    fn rand_in(seed: i64, from: i64, to: i64) -> i64 {
        from + (seed * 7_919 + 104_729) % (to - from + 1)
    }

    #[test]
    fn pid_13_integral_and_derivative_count() {
        let calls = [(1000, 1000, 500, 0), (2000, 1500, 1000, 0), (3000, 1500, 1000, 0)];
        let found = rates(estimator(1000, 1.0, 0.2, 0.5, 100.0).expect("works"), &calls);
        assert_eq!(found, [None, Some(1250.0), Some(1875.0)]);
    }

    #[test]
    fn pid_14_half_the_weight_goes_half_the_way() {
        let calls = [(1000, 1000, 1000, 0), (2000, 2000, 1000, 0), (3000, 2000, 1000, 0)];
        let found = rates(estimator(1000, 0.5, 0.0, 0.0, 100.0).expect("works"), &calls);
        assert_eq!(found, [None, Some(1500.0), Some(1750.0)]);
    }

    /// Lags and bounds per partition, the source's rate, seconds, and what is expected.
    type KafkaRow = (
        &'static str,
        &'static [(u64, u64, u64)],
        Option<u64>,
        f64,
        Option<&'static [u64]>,
    );

    const KAFKA_ROWS: &[KafkaRow] = &[
        ("KRATE-01", &[(50, 100, 1), (50, 100, 1)], None, 0.1, Some(&[10, 10])),
        ("KRATE-02", &[(0, 0, 1), (0, 0, 1)], Some(100), 0.1, None),
        (
            "KRATE-03",
            &[(1000, 50, 1), (1000, 100, 1)],
            Some(1000),
            0.1,
            Some(&[5, 10]),
        ),
        ("KRATE-05", &[(1000, 1000, 1)], Some(500), 0.5, Some(&[250])),
        ("KRATE-06", &[(1000, 300, 1)], Some(1000), 0.5, Some(&[150])),
        (
            "KRATE-07",
            &[(0, 100, 5), (100, 100, 5), (200, 100, 5), (300, 100, 5)],
            Some(1),
            60.0,
            Some(&[5, 10, 20, 30]),
        ),
        (
            "KRATE-08",
            &[(0, 100, 1), (100, 100, 1), (200, 100, 1), (300, 100, 1)],
            Some(1),
            60.0,
            Some(&[1, 10, 20, 30]),
        ),
        ("KRATE-13", &[(500, 0, 1), (500, 100, 1)], None, 1.0, Some(&[1, 100])),
        ("KRATE-14", &[(500, 0, 1), (500, 0, 1)], None, 1.0, None),
    ];

    #[test]
    fn krate_rows_are_kept() {
        for (row, partitions, rate, seconds, expected) in KAFKA_ROWS {
            let partitions: Vec<(u64, PartitionBound)> = partitions
                .iter()
                .map(|&(lag, max_rate, min_records)| (lag, PartitionBound { max_rate, min_records }))
                .collect();
            let found = partition_records(&partitions, *rate, *seconds);
            assert_eq!(found.as_deref(), *expected, "{row}");
        }
    }
}
