//! The topic that holds an application's ledger, and reading it back (X23).

use std::time::{Duration, Instant};

use arrow::array::Array;
use futures::StreamExt;
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{Epoch, RangePlan};
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::source::{PartitionEnds, RawColumns, RawRows, Source};
use tokio::time::sleep;

use super::clients::Clients;
use crate::config::Isolation;
use crate::source::KafkaSource;
use crate::wire::admin::{Resource, create_topic, setting};
use crate::wire::cluster::Cluster;
use crate::wire::fault::{Answer, Fault, check};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// How long a topic that was made may take to appear.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an open transaction in the ledger is left alone before it is looked at again.
const STABLE_PAUSE: Duration = Duration::from_millis(50);
/// How often a wait is named in the log.
const NAME_WAIT_EVERY: Duration = Duration::from_secs(10);
/// How many of the ledger's last offsets are read first; the whole ledger only where they don't hold the sink's record.
const TAIL_OFFSETS: i64 = 64;

/// The ledger topic of an application.
pub(super) fn ledger_topic(app: &str) -> String {
    format!("tidemill-ledger-{app}")
}

/// What was read of a ledger.
#[derive(Debug, Default)]
pub(super) struct LedgerRead {
    /// The newest record of the sink.
    pub(super) record: Option<LedgerRecord>,
    /// The application's uuid in the newest record of any sink that was read.
    pub(super) app_uuid: Option<String>,
    /// The highest epoch in any record that was read.
    pub(super) epoch: Epoch,
}

/// How far a ledger is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// To what is settled now: what an open transaction holds back is not waited for. Where nothing is settled, the
    /// application is told by what is not.
    Settled,
    /// To the high watermark of now: everything that was ever sent before is decided then. Waits as long as it takes.
    HighWatermark,
}

/// Reads and makes the ledger topic of one application.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    pub(super) sink: &'a str,
    pub(super) topic: &'a str,
    pub(super) clients: &'a Clients,
}

impl Ledger<'_> {
    fn named(&self, what: &str, error: Error) -> Error {
        let text = format!("sink {}: {what} {}", self.sink, self.topic);
        Error::with_source(error.kind(), text, error)
    }

    /// The sink's newest record; nothing where the topic is missing.
    pub(super) async fn read(&self, until: Until) -> Result<LedgerRead> {
        let cluster = self.clients.cluster([self.topic]);
        let Some(partitions) = partition_count(&cluster, self.topic)
            .await
            .map_err(|error| self.named("looking for its ledger topic", error))?
        else {
            return Ok(LedgerRead::default());
        };
        self.check_partitions(partitions)?;
        let named = |error| self.named("reading its ledger topic", error);
        let mut read = self.read_back(KafkaSource::over(cluster), until).await.map_err(named)?;
        if until == Until::Settled && read.app_uuid.is_none() {
            read.app_uuid = self.undecided_owner().await.map_err(named)?;
        }
        Ok(read)
    }

    /// The application behind records that nothing has settled yet: one that has only begun, or whose first commit was
    /// answered before its marker was written. It may be foreign, and must then not be fenced (X8).
    async fn undecided_owner(&self) -> Result<Option<String>> {
        let source = |isolation| KafkaSource::over(self.clients.cluster_reading([self.topic], isolation));
        let settled = self.ends(&source(Isolation::ReadCommitted)).await?.end;
        let everything = source(Isolation::ReadUncommitted);
        let ends = self.ends(&everything).await?;
        if ends.end <= settled {
            return Ok(None);
        }
        Ok(self.scan(&everything, &ends, settled).await?.app_uuid)
    }

    async fn read_back(&self, source: KafkaSource, until: Until) -> Result<LedgerRead> {
        let mut ends = self.ends(&source).await?;
        if until == Until::HighWatermark {
            let high = self.high_watermark(&source).await?;
            self.wait_until_stable(&source, high).await?;
            ends.end = high;
        }
        let (low, high) = (ends.earliest, ends.end);
        if low >= high {
            return Ok(LedgerRead::default());
        }
        let tail = low.max(high - TAIL_OFFSETS);
        let read = self.scan(&source, &ends, tail).await?;
        if read.record.is_some() || tail == low {
            return Ok(read);
        }
        self.scan(&source, &ends, low).await
    }

    async fn ends(&self, source: &KafkaSource) -> Result<PartitionEnds> {
        let ends = source.ends(true).await?;
        let gone = || Error::new(Kind::Unavailable, format!("{} is gone", self.topic));
        ends.into_iter().next().ok_or_else(gone)
    }

    async fn high_watermark(&self, source: &KafkaSource) -> Result<i64> {
        let marks = source.high_watermarks().await?;
        let gone = || Error::new(Kind::Unavailable, format!("{} is gone", self.topic));
        marks.first().map(|(_, high)| *high).ok_or_else(gone)
    }

    /// Waits until the last stable offset has reached `high`.
    async fn wait_until_stable(&self, source: &KafkaSource, high: i64) -> Result<()> {
        let started = Instant::now();
        let mut named = started;
        loop {
            let stable = self.ends(source).await?.end;
            if stable >= high {
                return Ok(());
            }
            if named.elapsed() >= NAME_WAIT_EVERY {
                named = Instant::now();
                tracing::warn!(
                    sink = self.sink,
                    topic = self.topic,
                    stable,
                    high,
                    waited_s = started.elapsed().as_secs(),
                    "waiting for an open transaction in the ledger to be settled"
                );
            }
            sleep(STABLE_PAUSE).await;
        }
    }

    /// Reads committed records from `from` to the end.
    async fn scan(&self, source: &KafkaSource, ends: &PartitionEnds, from: i64) -> Result<LedgerRead> {
        let range = RangePlan {
            source: self.sink.to_owned(),
            partition: ends.partition.clone(),
            topic_id: ends.topic_id.clone(),
            from,
            until: ends.end,
            leader_epoch: ends.leader_epoch,
        };
        let columns = RawColumns {
            key: true,
            value: true,
            ..RawColumns::default()
        };
        let mut stream = source.scan(vec![range], columns).stream(0);
        let mut read = LedgerRead::default();
        while let Some(rows) = stream.next().await {
            self.take(&mut read, &rows?)?;
        }
        Ok(read)
    }

    fn take(&self, read: &mut LedgerRead, rows: &RawRows) -> Result<()> {
        let (Some(keys), Some(values)) = (&rows.keys, &rows.values) else {
            return Err(Error::new(
                Kind::Bug,
                "a scan left out keys or values that were asked for",
            ));
        };
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let record: LedgerRecord = serde_json::from_slice(values.value(row)).map_err(|error| {
                let text = format!(
                    "{}/0 offset {} holds no ledger record",
                    self.topic,
                    rows.offsets.value(row)
                );
                Error::with_source(Kind::Data, text, error)
            })?;
            read.epoch = read.epoch.max(record.epoch);
            read.app_uuid = Some(record.app_uuid.clone());
            if keys.is_valid(row) && keys.value(row) == self.sink.as_bytes() {
                read.record = Some(record);
            }
        }
        Ok(())
    }

    /// Makes the topic where it is missing, then checks that it has one partition and is compacted.
    pub(super) async fn ensure(&self) -> Result<()> {
        let cluster = self.clients.cluster([self.topic]);
        let partitions = match partition_count(&cluster, self.topic).await {
            Ok(Some(partitions)) => partitions,
            Ok(None) => {
                self.create(&cluster)
                    .await
                    .map_err(|error| self.named("making its ledger topic", error))?;
                1
            }
            Err(error) => return Err(self.named("looking for its ledger topic", error)),
        };
        self.check_partitions(partitions)?;
        self.check_compacted(&cluster).await
    }

    async fn create(&self, cluster: &Cluster) -> Result<()> {
        // Small segments let compaction reach all but the newest records.
        let settings = [("cleanup.policy", "compact"), ("segment.bytes", "16777216")];
        let make = || create_topic(cluster, self.topic, &settings);
        cluster.until_answered("it", make).await?;
        // The answer may come before every broker knows the topic.
        let appeared = || async {
            match leaderless(cluster, self.topic).await? {
                false => Ok(()),
                true => Err(Fault::Passing("it has not appeared".to_owned())),
            }
        };
        cluster
            .until_answered_within(APPEAR_TIMEOUT, "finding it after it was made", appeared)
            .await?;
        tracing::info!(sink = self.sink, topic = self.topic, "made the ledger topic");
        Ok(())
    }

    fn check_partitions(&self, partitions: usize) -> Result<()> {
        if partitions == 1 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "sink {}: ledger topic {} has {partitions} partitions and needs exactly one; \
                 if nothing of the application is in it, delete it and start again",
                self.sink, self.topic
            ),
        ))
    }

    async fn check_compacted(&self, cluster: &Cluster) -> Result<()> {
        let ask = || setting(cluster, Resource::Topic(self.topic), "cleanup.policy");
        let policy = match cluster.until_answered("looking at its settings", ask).await {
            Ok(policy) => policy,
            Err(error) => {
                tracing::warn!(
                    sink = self.sink,
                    topic = self.topic,
                    "can't see whether the ledger topic is compacted: {}; it must be, or its records are deleted in time",
                    error.chain()
                );
                return Ok(());
            }
        };
        match policy.as_deref() {
            None | Some("compact") => Ok(()),
            Some(policy) => Err(Error::new(
                Kind::Refused,
                format!(
                    "sink {sink}: ledger topic {topic} has cleanup.policy={policy} and would forget what was committed; \
                     set it: kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
                     --add-config cleanup.policy=compact",
                    sink = self.sink,
                    topic = self.topic,
                ),
            )),
        }
    }
}

/// The number of partitions of `topic`, nothing where it does not exist.
///
/// # Errors
/// `Unavailable` where no broker answers, `Refused` where it must not be seen.
pub(super) async fn partition_count(cluster: &Cluster, topic: &str) -> Result<Option<usize>> {
    let ask = || async {
        let metadata = cluster.metadata(Duration::ZERO).await?;
        match metadata.topics.get(topic) {
            None => Ok(None),
            Some(described) if described.code == UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
            Some(described) => {
                check(described.code, || format!("topic {topic}"))?;
                Ok(Some(described.partitions.len()))
            }
        }
    };
    cluster.until_answered("asking for its partitions", ask).await
}

async fn leaderless(cluster: &Cluster, topic: &str) -> Answer<bool> {
    let metadata = cluster.metadata(Duration::ZERO).await?;
    let leaders = metadata.topics.get(topic).map(|topic| &topic.partitions);
    let led = |node: i32| metadata.brokers.contains_key(&node);
    Ok(leaders.is_none_or(|leaders| leaders.is_empty() || !leaders.values().all(|leader| led(leader.node))))
}
