//! The right answers, computed from the generator and not from what was read.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Deserialize;
use tidemill_kafka::embedded::ad_events::{AdEvents, RandomBytes};

/// The seed of every stream of the bench.
const SEED: u64 = 20_240_101;

/// The ad events of the bench.
pub(crate) fn ad_events() -> AdEvents {
    AdEvents::new(SEED)
}

/// The random bytes of the bench.
pub(crate) fn random_bytes() -> RandomBytes {
    RandomBytes::new(SEED)
}

/// One ad event, as its JSON has it.
#[derive(Debug, Deserialize)]
pub(crate) struct AdEvent<'a> {
    /// A uuid.
    pub(crate) user_id: &'a str,
    /// A uuid.
    pub(crate) page_id: &'a str,
    /// `ad-0000` to `ad-0999`.
    pub(crate) ad_id: &'a str,
    /// One of five.
    pub(crate) ad_type: &'a str,
    /// View, click or purchase.
    pub(crate) event_type: &'a str,
    /// Milliseconds since 1970 UTC.
    pub(crate) event_time: i64,
    /// Dotted.
    pub(crate) ip_address: &'a str,
}

/// What a set of events comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Records.
    pub(crate) records: u64,
    /// Records by the ad's id.
    pub(crate) by_ad: BTreeMap<String, u64>,
    /// Sum of the event times in milliseconds.
    pub(crate) time_ms: i128,
}

impl Sums {
    /// Counts a record about an ad.
    pub(crate) fn count(&mut self, ad: &str) {
        self.records += 1;
        match self.by_ad.get_mut(ad) {
            Some(count) => *count += 1,
            None => {
                self.by_ad.insert(ad.to_owned(), 1);
            }
        }
    }

    /// Compares with what was found.
    ///
    /// # Errors
    /// Where they differ, with the first difference.
    pub(crate) fn compare(&self, found: &Self) -> Result<()> {
        if self.records != found.records {
            bail!("wrong: expected {} records, found {}", self.records, found.records);
        }
        for ad in self.by_ad.keys().chain(found.by_ad.keys()) {
            let (expected, found) = (self.by_ad.get(ad), found.by_ad.get(ad));
            if expected != found {
                bail!("wrong: {ad}: expected {expected:?}, found {found:?}");
            }
        }
        if self.time_ms != found.time_ms {
            bail!(
                "wrong: the event times come to {} ms, expected {}",
                found.time_ms,
                self.time_ms
            );
        }
        Ok(())
    }
}

/// What the first events of the stream come to.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// All of them.
    pub(crate) all: Sums,
    /// The views.
    pub(crate) views: Sums,
    /// Bytes of all values.
    pub(crate) value_bytes: u64,
}

impl Expected {
    /// Of the first `records` ad events.
    pub(crate) fn of(records: u64) -> Self {
        let events = ad_events();
        let mut by_ad = vec![(0_u64, 0_u64); usize::from(AdEvents::ads())];
        let (mut time_ms, mut views_time_ms) = (0_i128, 0_i128);
        let mut value_bytes = 0;
        let mut value = Vec::new();
        for n in 0..records {
            value.clear();
            events.write_value(n, &mut value);
            value_bytes += value.len() as u64;
            let of_ad = &mut by_ad[usize::from(events.ad(n))];
            of_ad.0 += 1;
            time_ms += i128::from(events.time_ms(n));
            if events.is_view(n) {
                of_ad.1 += 1;
                views_time_ms += i128::from(events.time_ms(n));
            }
        }
        let sums = |count: fn(&(u64, u64)) -> u64, time_ms| Sums {
            records: by_ad.iter().map(count).sum(),
            by_ad: (0_u16..)
                .zip(&by_ad)
                .map(|(ad, counts)| (String::from_utf8_lossy(&AdEvents::key(ad)).into_owned(), count(counts)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            time_ms,
        };
        Self {
            all: sums(|counts| counts.0, time_ms),
            views: sums(|counts| counts.1, views_time_ms),
            value_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_json() {
        let mut all = Sums::default();
        let mut views = Sums::default();
        let mut bytes = 0;
        let mut value = Vec::new();
        for n in 0..5_000 {
            value.clear();
            ad_events().write_value(n, &mut value);
            bytes += value.len() as u64;
            let event: AdEvent<'_> = serde_json::from_slice(&value).unwrap();
            let sums = if event.event_type == "view" {
                vec![&mut all, &mut views]
            } else {
                vec![&mut all]
            };
            for sums in sums {
                sums.records += 1;
                *sums.by_ad.entry(event.ad_id.to_owned()).or_default() += 1;
                sums.time_ms += i128::from(event.event_time);
            }
        }
        let expected = Expected::of(5_000);
        expected.all.compare(&all).unwrap();
        expected.views.compare(&views).unwrap();
        assert_eq!(expected.value_bytes, bytes);
    }

    #[test]
    fn each_kind_of_difference_is_told() {
        let right = Expected::of(100).all;
        let mut wrong = right.clone();
        wrong.records = 99;
        assert!(
            right
                .compare(&wrong)
                .unwrap_err()
                .to_string()
                .contains("expected 100 records, found 99")
        );
        let mut wrong = right.clone();
        let (ad, _) = wrong.by_ad.pop_last().unwrap();
        assert!(right.compare(&wrong).unwrap_err().to_string().contains(&ad));
        let mut wrong = right.clone();
        wrong.time_ms += 1;
        assert!(right.compare(&wrong).unwrap_err().to_string().contains("event times"));
    }
}
