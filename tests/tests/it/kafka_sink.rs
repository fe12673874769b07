//! The Kafka sink's promise, against a real broker: X7, X8, X14, X16, X22–X25.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill_core::commit::{CommitPermit, SliceReport, decide};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, LimitsInForce, RangePlan};
use tidemill_core::position::{Positions, TopicPartition};
use tidemill_core::state::StateVersions;
use tidemill_engine::error::{Kind, Result};
use tidemill_engine::sink::{Claim, Sink, SinkBatch, SinkInput};
use tidemill_kafka::sink::{KafkaSink, KafkaSinkConfig};

use crate::kafka_server::{brokers, create_topic, eventually, read_all, unique};

const WAIT: Duration = Duration::from_secs(30);

/// One application with one output topic; instances of its driver come and go.
struct App {
    name: String,
    uuid: String,
    topic: String,
    partitions: i32,
}

impl App {
    async fn new(test: &str, partitions: i32) -> Self {
        let name = unique(test);
        let topic = format!("{name}-out");
        create_topic(&topic, partitions, &[]).await;
        Self {
            uuid: unique("uuid"),
            topic,
            partitions,
            name,
        }
    }

    fn config(&self) -> KafkaSinkConfig {
        KafkaSinkConfig::new(brokers(), &self.topic)
    }

    fn claim(&self, epoch: u64) -> Claim {
        Claim {
            app: self.name.clone(),
            app_uuid: self.uuid.clone(),
            epoch,
            incarnation: format!("incarnation-{epoch}"),
        }
    }

    /// A sink that is checked and fenced, with what its ledger holds.
    async fn instance(&self, epoch: u64) -> (KafkaSink, Option<LedgerRecord>) {
        self.instance_of("out", self.config(), epoch, true).await.unwrap()
    }

    async fn instance_of(
        &self,
        sink: &str,
        config: KafkaSinkConfig,
        epoch: u64,
        ordered: bool,
    ) -> Result<(KafkaSink, Option<LedgerRecord>)> {
        let mut sink = KafkaSink::new(sink, &self.name, config);
        sink.check(&SinkInput {
            schema: schema(),
            ordered,
        })
        .await?;
        sink.inspect(&self.name).await?;
        sink.fence(&self.claim(epoch)).await?;
        let ledger = sink.ledger().await?;
        Ok((sink, ledger))
    }

    fn plan(&self, epoch: u64, batch_id: u64, ranges: Vec<RangePlan>) -> BatchPlan {
        BatchPlan {
            app: self.name.clone(),
            app_uuid: self.uuid.clone(),
            epoch,
            incarnation: format!("incarnation-{epoch}"),
            batch_id,
            batch_time_ms: 1_000 * i64::try_from(batch_id).unwrap(),
            seed: 7,
            reduce_slices: 2,
            before: Positions::default(),
            ranges,
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: LimitsInForce::default(),
            pipeline_hash: "hash".to_owned(),
            query_hashes: std::collections::BTreeMap::new(),
            states: StateVersions::new(),
            zero_ms: None,
            turn: None,
        }
    }

    fn record(&self, plan: &BatchPlan, sink: &str) -> LedgerRecord {
        LedgerRecord {
            app: self.name.clone(),
            app_uuid: self.uuid.clone(),
            sink: sink.to_owned(),
            batch_id: plan.batch_id,
            birth: false,
            epoch: plan.epoch,
            incarnation: plan.incarnation.clone(),
            plan_hash: format!("hash-{}", plan.batch_id),
            plan: plan.clone(),
            positions: plan.after(),
            losses: Vec::new(),
            states: StateVersions::new(),
            rows: 0,
        }
    }

    /// One batch of these rows in one slice.
    async fn batch(&self, sink: &mut KafkaSink, epoch: u64, batch_id: u64, ids: &[i64]) -> Result<u64> {
        let plan = self.plan(epoch, batch_id, Vec::new());
        let mut stage = sink.begin(&plan, 1, 0).await?;
        write(&mut stage, 0, ids).await?;
        finish(stage, &permit(&plan), self.record(&plan, "out")).await
    }

    fn committed_ids(&self) -> Vec<i64> {
        self.ids("read_committed")
    }

    fn ids(&self, isolation: &str) -> Vec<i64> {
        let mut ids: Vec<i64> = read_all(&self.topic, self.partitions, isolation)
            .iter()
            .map(|seen| {
                serde_json::from_str::<serde_json::Value>(seen.text()).unwrap()["id"]
                    .as_i64()
                    .unwrap()
            })
            .collect();
        ids.sort_unstable();
        ids
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn rows(ids: &[i64]) -> RecordBatch {
    let names: Vec<String> = ids.iter().map(|id| format!("name {id}")).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(StringArray::from(names)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The permit of a plan whose ranges are all read.
fn permit(plan: &BatchPlan) -> CommitPermit {
    let reports: Vec<SliceReport> = plan
        .ranges
        .iter()
        .map(|range| SliceReport {
            reached: range.until,
            records_in: range.offsets(),
            ..SliceReport::of(range.clone())
        })
        .collect();
    decide(plan, &["events".to_owned()], &reports).unwrap()
}

async fn write(stage: &mut SinkBatch, slice: usize, ids: &[i64]) -> Result<()> {
    stage.writers[slice].write(rows(ids)).await
}

async fn finish(stage: SinkBatch, permit: &CommitPermit, record: LedgerRecord) -> Result<u64> {
    for writer in stage.writers {
        writer.finish().await?;
    }
    Ok(stage.commit.commit(permit, record).await?.rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_ledger_become_visible_together() {
    let app = App::new("visible", 3).await;
    let (mut sink, ledger) = app.instance(1).await;
    assert_eq!(ledger, None);
    let birth = LedgerRecord {
        birth: true,
        ..app.record(&app.plan(1, 0, Vec::new()), "out")
    };
    sink.birth(&birth).await.unwrap();
    sink.birth(&birth).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap().unwrap(), birth);

    let plan = app.plan(1, 1, Vec::new());
    let mut stage = sink.begin(&plan, 2, 0).await.unwrap();
    write(&mut stage, 0, &[1, 2, 3]).await.unwrap();
    write(&mut stage, 1, &[4]).await.unwrap();
    assert_eq!(
        app.committed_ids(),
        Vec::<i64>::new(),
        "nothing shows before the commit"
    );
    let record = app.record(&plan, "out");
    assert_eq!(finish(stage, &permit(&plan), record.clone()).await.unwrap(), 4);

    assert_eq!(app.committed_ids(), [1, 2, 3, 4]);
    let seen = read_all(&app.topic, 3, "read_committed");
    assert_eq!(seen.iter().map(|seen| seen.partition).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert_eq!(seen[0].text(), r#"{"id":1,"name":"name 1"}"#);
    let ledger = sink.ledger().await.unwrap().unwrap();
    assert_eq!(ledger, LedgerRecord { rows: 4, ..record });
    let state = KafkaSink::new("out", &app.name, app.config())
        .inspect(&app.name)
        .await
        .unwrap();
    assert_eq!(
        (state.app_uuid, state.epoch, state.ledger),
        (Some(app.uuid.clone()), 1, Some(ledger))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn x24_a_batch_that_is_given_up_is_never_visible() {
    let app = App::new("dropped", 2).await;
    let (mut sink, _) = app.instance(1).await;
    let plan = app.plan(1, 1, Vec::new());
    let mut stage = sink.begin(&plan, 1, 0).await.unwrap();
    write(&mut stage, 0, &[1, 2, 3]).await.unwrap();
    stage.writers.pop().unwrap().finish().await.unwrap();
    eventually("the rows are in the log", || app.ids("read_uncommitted") == [1, 2, 3]);
    drop(stage);

    sink.fence(&app.claim(1)).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap(), None);
    assert_eq!(app.batch(&mut sink, 1, 1, &[4]).await.unwrap(), 1);
    assert_eq!(app.committed_ids(), [4]);
    assert_eq!(sink.ledger().await.unwrap().unwrap().rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn x22_a_second_instance_fences_the_first_in_mid_batch() {
    let app = App::new("fenced", 2).await;
    let (mut first, _) = app.instance(1).await;
    app.batch(&mut first, 1, 1, &[1]).await.unwrap();
    let plan = app.plan(1, 2, Vec::new());
    let mut stage = first.begin(&plan, 1, 0).await.unwrap();
    write(&mut stage, 0, &[20, 21]).await.unwrap();

    let (mut second, ledger) = app.instance(2).await;
    assert_eq!(ledger.unwrap().batch_id, 1);
    let error = finish(stage, &permit(&plan), app.record(&plan, "out"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
    app.batch(&mut second, 2, 2, &[22]).await.unwrap();
    assert_eq!(app.committed_ids(), [1, 22]);

    // The ledger tells the old instance who it is, should it try to come back.
    let error = first.fence(&app.claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
    app.batch(&mut second, 2, 3, &[23]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn x22_a_fence_in_mid_commit_lets_exactly_one_outcome_stand() {
    let app = App::new("race", 1).await;
    for round in 0..8_u64 {
        let (mut old, ledger) = app.instance(2 * round + 1).await;
        let batch_id = ledger.map_or(1, |record| record.batch_id + 1);
        let plan = app.plan(2 * round + 1, batch_id, Vec::new());
        let mut stage = old.begin(&plan, 1, 0).await.unwrap();
        write(&mut stage, 0, &[i64::try_from(round).unwrap()]).await.unwrap();
        let (permit, record) = (permit(&plan), app.record(&plan, "out"));
        let (committed, (mut new, ledger)) = tokio::join!(finish(stage, &permit, record), app.instance(2 * round + 2));
        let stands = ledger.is_some_and(|record| record.batch_id == batch_id);
        if committed.is_ok() {
            assert!(stands, "round {round}: a commit that was confirmed is in the ledger");
        }
        if !stands {
            app.batch(&mut new, 2 * round + 2, batch_id, &[i64::try_from(round).unwrap()])
                .await
                .unwrap();
        }
    }
    assert_eq!(app.committed_ids(), (0..8).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn x23_the_newest_record_is_found_behind_those_of_many_batches_and_of_other_sinks() {
    let app = App::new("many", 1).await;
    let (mut sink, _) = app.instance(1).await;
    for batch_id in 1..=70 {
        app.batch(&mut sink, 1, batch_id, &[i64::try_from(batch_id).unwrap()])
            .await
            .unwrap();
    }
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 70);
    let (mut other, ledger) = app.instance_of("other", app.config(), 1, true).await.unwrap();
    assert_eq!(ledger, None);
    for batch_id in 1..=70 {
        let plan = app.plan(1, batch_id, Vec::new());
        let stage = other.begin(&plan, 1, 0).await.unwrap();
        finish(stage, &permit(&plan), app.record(&plan, "other")).await.unwrap();
    }
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 70);
    assert_eq!(app.committed_ids().len(), 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn x16_a_batch_without_rows_writes_its_ledger_record() {
    let app = App::new("zero", 1).await;
    let (mut sink, _) = app.instance(1).await;
    assert_eq!(app.batch(&mut sink, 1, 1, &[]).await.unwrap(), 0);
    let ledger = sink.ledger().await.unwrap().unwrap();
    assert_eq!((ledger.batch_id, ledger.rows), (1, 0));
    assert_eq!(app.committed_ids(), Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn x08_a_foreign_application_is_refused_and_left_alone() {
    let app = App::new("foreign", 1).await;
    let (mut sink, _) = app.instance(1).await;
    app.batch(&mut sink, 1, 1, &[1]).await.unwrap();
    let stranger = App {
        uuid: unique("uuid"),
        name: app.name.clone(),
        topic: app.topic.clone(),
        partitions: 1,
    };
    let error = stranger.instance_of("out", app.config(), 9, true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(
        error.chain().contains(&app.uuid) && error.chain().contains(&stranger.uuid),
        "{}",
        error.chain()
    );
    app.batch(&mut sink, 1, 2, &[2]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn x08_a_foreign_application_that_has_settled_nothing_yet_is_left_alone_too() {
    let app = App::new("begun", 1).await;
    let ledger_topic = format!("tidemill-ledger-{}", app.name);
    create_topic(&ledger_topic, 1, &[("cleanup.policy", "compact")]).await;
    // Its first transaction is under way, under a transactional id that nobody fences.
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("transactional.id", unique("begun"))
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    let record = serde_json::to_vec(&app.record(&app.plan(1, 1, Vec::new()), "out")).unwrap();
    let sent = BaseRecord::to(&ledger_topic).key("out").payload(&record);
    producer.send(sent).map_err(|(error, _)| error).unwrap();
    producer.flush(WAIT).unwrap();

    let stranger = App {
        uuid: unique("uuid"),
        name: app.name.clone(),
        topic: app.topic.clone(),
        partitions: 1,
    };
    let error = stranger.instance_of("out", app.config(), 9, true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.chain().contains(&app.uuid), "{}", error.chain());
    producer.commit_transaction(WAIT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn x14_the_parts_of_a_split_partition_arrive_in_offset_order() {
    let app = App::new("split", 4).await;
    let (mut sink, _) = app.instance(1).await;
    let range = |from, until| RangePlan {
        source: "events".to_owned(),
        partition: TopicPartition::new("in", 6),
        topic_id: None,
        from,
        until,
        leader_epoch: -1,
    };
    let plan = app.plan(1, 1, vec![range(0, 2), range(2, 4), range(4, 6)]);
    let stage = sink.begin(&plan, 3, 0).await.unwrap();
    let tasks: Vec<_> = stage
        .writers
        .into_iter()
        .enumerate()
        .rev()
        .map(|(slice, mut writer)| {
            tokio::spawn(async move {
                let first = 2 * i64::try_from(slice).unwrap();
                writer.write(rows(&[first])).await.unwrap();
                writer.write(rows(&[first + 1])).await.unwrap();
                writer.finish().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    stage
        .commit
        .commit(&permit(&plan), app.record(&plan, "out"))
        .await
        .unwrap();
    let seen = read_all(&app.topic, 4, "read_committed");
    assert!(
        seen.iter().all(|seen| seen.partition == 2),
        "source partition 6 of 4 is 2: {seen:?}"
    );
    let ids: Vec<String> = seen.iter().map(|seen| seen.text()[..7].to_owned()).collect();
    assert_eq!(ids, (0..6).map(|id| format!(r#"{{"id":{id}"#)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_choose_the_partition_that_the_clients_own_partitioner_would() {
    let app = App::new("keyed", 5).await;
    let config = KafkaSinkConfig {
        key: Some("name".to_owned()),
        ..app.config()
    };
    let (mut sink, _) = app.instance_of("out", config, 1, false).await.unwrap();
    let ids: Vec<i64> = (0..50).collect();
    app.batch(&mut sink, 1, 1, &ids).await.unwrap();

    let reference = unique("reference");
    create_topic(&reference, 5, &[]).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("partitioner", "murmur2")
        .create()
        .unwrap();
    for id in &ids {
        let key = format!("name {id}");
        producer.send(BaseRecord::to(&reference).key(&key).payload("")).unwrap();
    }
    producer.flush(WAIT).unwrap();
    let placed = |topic| {
        let mut placed: Vec<_> = read_all(topic, 5, "read_committed")
            .into_iter()
            .map(|seen| (seen.key, seen.partition))
            .collect();
        placed.sort();
        placed
    };
    assert_eq!(placed(&app.topic), placed(&reference));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_refused_in_words() {
    let app = App::new("refused", 1).await;
    let missing = KafkaSinkConfig::new(brokers(), "no-such-topic");
    let error = app.instance_of("out", missing, 1, true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.chain().contains("--create --topic no-such-topic"),
        "{}",
        error.chain()
    );

    // Smaller than the producer's own limit, larger than the topic's.
    let small = unique("small");
    create_topic(&small, 1, &[("max.message.bytes", "1000")]).await;
    let config = KafkaSinkConfig {
        compression: tidemill_kafka::Compression::None,
        ..KafkaSinkConfig::new(brokers(), &small)
    };
    let (mut sink, _) = app.instance_of("out", config, 1, true).await.unwrap();
    let error = app
        .batch(&mut sink, 1, 1, &(0..200).collect::<Vec<_>>())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
    assert!(error.chain().contains(&small), "{}", error.chain());

    create_topic(
        &format!("tidemill-ledger-{}-x", app.name),
        1,
        &[("cleanup.policy", "delete")],
    )
    .await;
    let forgetful = App {
        name: format!("{}-x", app.name),
        uuid: unique("uuid"),
        topic: app.topic.clone(),
        partitions: 1,
    };
    let error = forgetful.instance_of("out", app.config(), 1, true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
    assert!(error.chain().contains("cleanup.policy=compact"), "{}", error.chain());
}
