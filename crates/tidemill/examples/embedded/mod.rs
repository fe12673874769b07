//! What the examples share: a broker in the process with ad events in it, and a checkpoint that goes with it.

use std::path::PathBuf;

use anyhow::Result;
use serde::Deserialize;
use tidemill_kafka::embedded::ad_events::AdEvents;
use tidemill_kafka::embedded::broker::{EmbeddedBroker, partitions_for};
use tidemill_kafka::embedded::feed::{FeedOptions, Records, feed};

/// The topic that the events are in.
pub(crate) const TOPIC: &str = "events";
const SEED: u64 = 7;

/// What the examples read of an event.
#[derive(Debug, Clone, Deserialize)]
#[allow(dead_code, reason = "each example reads some of it")]
pub(crate) struct AdEvent {
    /// Who saw the ad.
    pub(crate) user_id: String,
    /// The ad.
    pub(crate) ad_id: String,
    /// `view`, `click` or `purchase`.
    pub(crate) event_type: String,
    /// Milliseconds since 1970 UTC.
    pub(crate) event_time: i64,
}

/// A broker with events, and a folder for a checkpoint; both are gone with it.
pub(crate) struct Embedded {
    broker: EmbeddedBroker,
    folder: tempfile::TempDir,
    events: u64,
}

impl Embedded {
    /// Starts the broker and writes the first `events` events.
    pub(crate) fn with(events: u64) -> Result<Self> {
        let partitions = partitions_for(events);
        let broker = EmbeddedBroker::start(&[(TOPIC, partitions)])?;
        let records = Records::AdEvents(AdEvents::new(SEED));
        let options = FeedOptions::default();
        feed(
            broker.bootstrap_servers(),
            TOPIC,
            partitions,
            records,
            0..events,
            &options,
            |_| (),
        )?;
        Ok(Self {
            broker,
            folder: tempfile::tempdir()?,
            events,
        })
    }

    /// The broker's address.
    pub(crate) fn brokers(&self) -> &str {
        self.broker.bootstrap_servers()
    }

    /// A folder for the program's checkpoint.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    /// The events once more, from the generator: what a program must come to can be counted without it.
    #[allow(dead_code, reason = "not every example counts again")]
    pub(crate) fn again(&self) -> impl Iterator<Item = AdEvent> {
        let generator = AdEvents::new(SEED);
        (0..self.events).map(move |number| {
            let mut value = Vec::new();
            generator.write_value(number, &mut value);
            serde_json::from_slice(&value).expect("the generator writes JSON")
        })
    }
}
