//! Publishes positions for monitors (X18), beside the batches: a monitor that is slow or gone holds no batch up.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::position::{Positions, TopicPartition};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::DriverSource;
use crate::failpoint;
use crate::source::Source;
use crate::time::Clock;

/// How long the last positions may take when a run ends.
const LAST_MAX: Duration = Duration::from_secs(5);

type Offsets = Vec<(TopicPartition, i64)>;

/// One task per source; each publishes the newest positions it was given, older ones are passed over.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    newest: Vec<(String, watch::Sender<Offsets>)>,
    tasks: JoinSet<()>,
}

impl Publisher {
    pub(super) fn start(sources: &[DriverSource]) -> Self {
        let mut publisher = Self::default();
        for source in sources {
            let (newest, given) = watch::channel(Offsets::new());
            publisher.newest.push((source.name.clone(), newest));
            let task = publish(source.name.clone(), Arc::clone(&source.source), given);
            publisher.tasks.spawn(task);
        }
        publisher
    }

    /// Hands on the positions after a settled batch.
    pub(super) fn settled(&self, positions: &Positions) {
        for (source, newest) in &self.newest {
            let offsets = positions.of_source(source);
            newest.send_replace(
                offsets
                    .map(|position| (position.partition.clone(), position.offset))
                    .collect(),
            );
        }
    }

    /// Waits a little until the last positions are published.
    pub(super) async fn finish(mut self, clock: &dyn Clock) {
        self.newest.clear();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = clock.sleep(LAST_MAX) => tracing::warn!("the last group offsets were not published in time; monitors see old ones"),
        }
    }
}

async fn publish(name: String, source: Arc<dyn Source>, mut given: watch::Receiver<Offsets>) {
    while given.changed().await.is_ok() {
        let offsets = given.borrow_and_update().clone();
        failpoint::pass("group.before-publish");
        if let Err(error) = source.publish(&offsets).await {
            tracing::warn!(
                source = name,
                error = error.chain(),
                "group offsets were not published; monitors see old ones"
            );
        }
        failpoint::pass("group.after-publish");
    }
}
