//! What a batch costs beside its records.
//!
//! A controller that makes batches smaller until they fit into the interval must not be told of time that smaller batches
//! take as well: where records, fsyncs and answers of servers alone take longer than the interval, it would shrink them to
//! nothing, and what comes in would pile up behind.

/// Of a batch's time, at most this part is taken for fixed.
const PART_MAX: f64 = 0.75;
/// What a batch weighs in comparison with the one after it.
const DECAY: f64 = 0.95;
/// Batches must differ this much in size, by their standard deviation over their mean, to tell anything.
const SPREAD_MIN: f64 = 0.1;

/// The fixed part of the time of batches: where the line through their sizes and times meets a batch without records. Old
/// batches count less and less.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FixedCost {
    weight: f64,
    records: f64,
    millis: f64,
    records_squared: f64,
    records_millis: f64,
    /// The estimate, while nothing contradicts it.
    fixed: f64,
}

impl FixedCost {
    /// Takes a batch in; gives the milliseconds of it that its records took.
    pub fn without(&mut self, records: f64, millis: f64) -> f64 {
        for (sum, of_this) in [
            (&mut self.weight, 1.0),
            (&mut self.records, records),
            (&mut self.millis, millis),
            (&mut self.records_squared, records * records),
            (&mut self.records_millis, records * millis),
        ] {
            *sum = *sum * DECAY + of_this;
        }
        let (mean_records, mean_millis) = (self.records / self.weight, self.millis / self.weight);
        let variance = self.records_squared / self.weight - mean_records * mean_records;
        if variance.max(0.0).sqrt() > SPREAD_MIN * mean_records {
            let covariance = self.records_millis / self.weight - mean_records * mean_millis;
            let of_one = (covariance / variance).max(0.0);
            self.fixed = (mean_millis - of_one * mean_records).max(0.0);
        }
        millis - self.fixed.min(PART_MAX * millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::{Completed, PartitionBound, PidEstimator, PidSettings, partition_records};

    const INTERVAL_MS: f64 = 5.0;

    /// What is known beside the time of a batch.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Known {
        Nothing,
        Fixed,
        FixedAndLeast,
    }

    /// Records that came in and those that were done, after 2,000 batches of `fixed + each * records` ms, where `per_ms` come
    /// in, on a machine that wavers by `noise`, a part of the time. Overdue ticks become one.
    fn in_and_done(fixed: f64, each: f64, per_ms: f64, noise: f64, known: Known) -> (f64, f64) {
        let settings = PidSettings::new(INTERVAL_MS as u64);
        let mut estimator = PidEstimator::new(settings).expect("the defaults");
        let mut cost = FixedCost::default();
        let (mut now, mut tick, mut came, mut done, mut rate) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64, None);
        for batch in 0..2_000_u32 {
            let begun = now.max(tick);
            tick += ((begun - tick) / INTERVAL_MS).floor() * INTERVAL_MS + INTERVAL_MS;
            // Loads waver, as all do.
            came += per_ms * (1.0 + 0.3 * f64::from(batch % 7) / 7.0) * (begun - now);
            let lag = came - done;
            let most = partition_records(&[(lag as u64, PartitionBound::default())], rate, INTERVAL_MS / 1_000.0);
            let records = most.map_or(lag, |most| lag.min(most[0] as f64)).floor();
            let wavers = f64::from(batch.wrapping_mul(7_919) % 101) / 101.0;
            let took = (fixed + each * records) * (1.0 + noise * wavers);
            now = begun + took;
            came += per_ms * took;
            done += records;
            if records > 0.0 {
                let of_records = match known {
                    Known::Nothing => took,
                    Known::Fixed | Known::FixedAndLeast => cost.without(records, took),
                };
                let least = match known {
                    Known::FixedAndLeast => settings.least_rate(),
                    Known::Nothing | Known::Fixed => 0.0,
                };
                let estimate = estimator.rate(&Completed {
                    ended_ms: now.ceil() as i64,
                    records: records as i64,
                    processing_ms: of_records.ceil() as i64,
                    waited_ms: 0,
                });
                rate = estimate.map(|rate| rate.max(least) as u64).or(rate);
            }
        }
        (came, done)
    }

    #[test]
    fn batches_whose_fixed_part_is_longer_than_the_interval_keep_up() {
        let (came, done) = in_and_done(6.0, 0.001, 2.0, 0.0, Known::Nothing);
        assert!(done < 0.6 * came, "what this is here for: {done} of {came}");
        let (came, done) = in_and_done(6.0, 0.001, 2.0, 0.0, Known::Fixed);
        assert!(came - done < 100.0, "{done} of {came}");
    }

    #[test]
    fn batches_whose_time_wavers_more_than_their_records_take_keep_up() {
        let (came, done) = in_and_done(5.0, 0.001, 1.0, 4.0, Known::Fixed);
        assert!(done < 0.1 * came, "what the least rate is here for: {done} of {came}");
        let (came, done) = in_and_done(5.0, 0.001, 1.0, 4.0, Known::FixedAndLeast);
        assert!(came - done < 100.0, "{done} of {came}");
    }

    #[test]
    fn batches_that_are_slow_by_their_records_are_held_back_to_about_the_interval() {
        // Twice as much comes in as can be done, so that all of the time goes into 2,000 batches.
        let records_each = |known| in_and_done(0.5, 0.1, 20.0, 0.0, known).1 / 2_000.0;
        let (told, untold) = (records_each(Known::Fixed), records_each(Known::Nothing));
        assert!((45.0..55.0).contains(&told), "{told} in 5 ms");
        assert!(
            (35.0..45.0).contains(&untold),
            "less than there is time for: {untold} in 5 ms"
        );
    }

    #[test]
    fn batches_of_one_size_tell_nothing() {
        let mut cost = FixedCost::default();
        for _ in 0..10 {
            assert_eq!(cost.without(1_000.0, 50.0), 50.0);
        }
    }

    #[test]
    fn a_line_through_batches_is_found_and_most_of_a_batch_is_never_fixed() {
        let mut cost = FixedCost::default();
        let left: Vec<f64> = [100.0, 200.0, 300.0, 0.0]
            .into_iter()
            .map(|records| cost.without(records, 40.0 + 0.1 * records))
            .collect();
        assert_eq!(left[0], 50.0, "one batch tells nothing");
        assert!(
            (left[1] - 20.0).abs() < 0.01 && (left[2] - 30.0).abs() < 0.01,
            "{left:?}"
        );
        assert!(
            (left[3] - 10.0).abs() < 0.01,
            "a quarter of 40 ms is the least: {left:?}"
        );
    }
}
