//! The PostgreSQL sink's promise, against a real server: X7, X8, X9, X16, X20.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, RecordBatch, StringArray,
    StringViewArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use tidemill_connect::postgres::{PostgresConfig, PostgresSink};
use tidemill_core::commit::{CommitPermit, decide};
use tidemill_core::ledger::LedgerRecord;
use tidemill_core::plan::{BatchPlan, LimitsInForce};
use tidemill_core::position::Positions;
use tidemill_core::state::StateVersions;
use tidemill_engine::error::{Kind, Result};
use tidemill_engine::sink::{Claim, Committed, Sink, SinkBatch, SinkInput, SinkState};
use tidemill_tests::servers::{self, unique};
use tokio_postgres::{Client, NoTls};

/// One application with one table in a schema of its own.
struct App {
    name: String,
    uuid: String,
    url: String,
    reader: Client,
}

impl App {
    async fn new(test: &str) -> Self {
        let name = unique(test);
        let url = servers::postgres();
        let mark = if url.contains('?') { '&' } else { '?' };
        // The schema holds only characters that stand for themselves in a URL and in SQL's quotes.
        let url = format!("{url}{mark}options=-csearch_path%3D{}", name.replace('-', "_"));
        let (reader, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let app = Self {
            uuid: unique("uuid"),
            name,
            url,
            reader,
        };
        app.sql(&format!("CREATE SCHEMA {}", app.name.replace('-', "_"))).await;
        app
    }

    async fn sql(&self, statement: &str) {
        self.reader.batch_execute(statement).await.unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        self.reader.query_one(query, &[]).await.unwrap().get(0)
    }

    fn sink(&self, create_table: bool) -> PostgresSink {
        self.sink_by(&[], create_table)
    }

    fn sink_by(&self, key: &[&str], create_table: bool) -> PostgresSink {
        let config = PostgresConfig {
            url: self.url.clone(),
            table: "Out".to_owned(),
            create_table,
            key: key.iter().map(|name| (*name).to_owned()).collect(),
        };
        PostgresSink::new("out".to_owned(), config).unwrap()
    }

    fn claim(&self, epoch: u64) -> Claim {
        Claim {
            app: self.name.clone(),
            app_uuid: self.uuid.clone(),
            epoch,
            incarnation: format!("incarnation-{epoch}"),
        }
    }

    /// A sink that is checked for `rows` and fenced, and makes its table.
    async fn instance(&self, epoch: u64, rows: &RecordBatch) -> PostgresSink {
        let mut sink = self.sink(true);
        sink.check(&input(rows)).await.unwrap();
        sink.fence(&self.claim(epoch)).await.unwrap();
        sink
    }

    fn plan(&self, epoch: u64, batch_id: u64) -> BatchPlan {
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
            ranges: Vec::new(),
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

    fn record(&self, epoch: u64, batch_id: u64) -> LedgerRecord {
        let plan = self.plan(epoch, batch_id);
        LedgerRecord {
            app: self.name.clone(),
            app_uuid: self.uuid.clone(),
            sink: "out".to_owned(),
            batch_id,
            birth: false,
            epoch,
            incarnation: plan.incarnation.clone(),
            plan_hash: format!("hash-{batch_id}"),
            positions: plan.after(),
            plan,
            losses: Vec::new(),
            states: StateVersions::new(),
            rows: 0,
        }
    }

    async fn begin(&self, sink: &mut PostgresSink, epoch: u64, batch_id: u64, slices: usize) -> Result<SinkBatch> {
        sink.begin(&self.plan(epoch, batch_id), slices, 0).await
    }

    /// One batch, each of `slices` by a writer of its own.
    async fn batch(
        &self,
        sink: &mut PostgresSink,
        epoch: u64,
        batch_id: u64,
        slices: &[RecordBatch],
    ) -> Result<Committed> {
        let mut stage = self.begin(sink, epoch, batch_id, slices.len()).await?;
        for (writer, rows) in stage.writers.iter_mut().zip(slices) {
            writer.write(rows.clone()).await?;
        }
        self.commit(stage, epoch, batch_id).await
    }

    async fn commit(&self, stage: SinkBatch, epoch: u64, batch_id: u64) -> Result<Committed> {
        for writer in stage.writers {
            writer.finish().await?;
        }
        stage
            .commit
            .commit(&self.permit(epoch, batch_id), self.record(epoch, batch_id))
            .await
    }

    fn permit(&self, epoch: u64, batch_id: u64) -> CommitPermit {
        decide(&self.plan(epoch, batch_id), &[], &[]).unwrap()
    }

    async fn ids(&self) -> Vec<i64> {
        let rows = self
            .reader
            .query("SELECT id FROM \"Out\" ORDER BY id", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn input(rows: &RecordBatch) -> SinkInput {
    SinkInput {
        schema: rows.schema(),
        ordered: true,
    }
}

fn ids(ids: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef, true)])
        .unwrap()
}

fn every_type() -> RecordBatch {
    let bytes: Vec<Option<&[u8]>> = vec![Some(b"\x00\xff"), None];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None]))),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None]))),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None]))),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
        ("u8", Arc::new(UInt8Array::from(vec![Some(u8::MAX), None]))),
        ("u16", Arc::new(UInt16Array::from(vec![Some(u16::MAX), None]))),
        ("u32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(-1.5), None]))),
        ("f64", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        ("utf8", Arc::new(StringArray::from(vec![Some("hé\n\t\\"), None]))),
        ("large", Arc::new(LargeStringArray::from(vec![Some(""), None]))),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                Some("a view of more than twelve bytes"),
                None,
            ])),
        ),
        ("bin", Arc::new(BinaryArray::from(bytes.clone()))),
        ("lbin", Arc::new(LargeBinaryArray::from(bytes.clone()))),
        ("vbin", Arc::new(BinaryViewArray::from(bytes))),
        ("date", Arc::new(Date32Array::from(vec![Some(-1), None]))),
        ("ts_s", Arc::new(TimestampSecondArray::from(vec![Some(-1), None]))),
        (
            "ts_ms",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), None])),
        ),
        (
            "ts_us",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None])),
        ),
        (
            "ts_ns",
            Arc::new(TimestampNanosecondArray::from(vec![
                Some(1_700_000_000_123_456_789),
                None,
            ])),
        ),
        (
            "tz",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), None]).with_timezone("+02:00")),
        ),
        (
            "dec",
            Arc::new(
                Decimal128Array::from(vec![Some(-123_456_789), None])
                    .with_precision_and_scale(38, 5)
                    .unwrap(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_null_reads_back_as_it_was() {
    let app = App::new("types").await;
    let rows = every_type();
    let mut sink = app.instance(1, &rows).await;
    // What the sink made passes its own check.
    app.sink(false).check(&input(&rows)).await.unwrap();
    assert_eq!(
        app.batch(&mut sink, 1, 1, std::slice::from_ref(&rows))
            .await
            .unwrap()
            .rows,
        2
    );
    let expected = [
        ("bool", "true"),
        ("i8", "-128"),
        ("i16", "-32768"),
        ("i32", "-2147483648"),
        ("i64", "-9223372036854775808"),
        ("u8", "255"),
        ("u16", "65535"),
        ("u32", "4294967295"),
        ("u64", "18446744073709551615"),
        ("f32", "-1.5"),
        ("f64", "0.1"),
        ("utf8", "hé\n\t\\"),
        ("large", ""),
        ("view", "a view of more than twelve bytes"),
        ("bin", "\\x00ff"),
        ("lbin", "\\x00ff"),
        ("vbin", "\\x00ff"),
        ("date", "1969-12-31"),
        ("ts_s", "1969-12-31 23:59:59"),
        ("ts_ms", "2023-11-14 22:13:20.123"),
        ("ts_us", "2023-11-14 22:13:20.123456"),
        ("ts_ns", "2023-11-14 22:13:20.123456"),
        ("tz", "2023-11-14 22:13:20.123+00"),
        ("dec", "-1234.56789"),
    ];
    assert_eq!(expected.len(), rows.num_columns());
    app.sql("SET timezone = 'UTC'").await;
    for (column, text) in expected {
        let query = format!("SELECT \"{column}\"::text FROM \"Out\" WHERE \"{column}\" IS NOT NULL");
        let values = app.reader.query(&query, &[]).await.unwrap();
        let values: Vec<&str> = values.iter().map(|row| row.get(0)).collect();
        assert_eq!(values, [text], "{column}");
    }
    assert_eq!(app.number("SELECT count(*) FROM \"Out\"").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_ledger_become_visible_together() {
    let app = App::new("together").await;
    let mut sink = app.instance(1, &ids(&[])).await;
    assert_eq!(sink.inspect(&app.name).await.unwrap().ledger, None);
    let mut birth = app.record(1, 0);
    birth.birth = true;
    sink.birth(&birth).await.unwrap();
    sink.birth(&birth).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap(), Some(birth));

    let mut stage = app.begin(&mut sink, 1, 1, 2).await.unwrap();
    stage.writers[0].write(ids(&[1, 2])).await.unwrap();
    stage.writers[1].write(ids(&[3])).await.unwrap();
    assert_eq!(app.ids().await, [0_i64; 0]);
    assert_eq!(app.commit(stage, 1, 1).await.unwrap().rows, 3);
    assert_eq!(app.ids().await, [1, 2, 3]);
    // Larger than what a slice gathers, so that chunks of two slices mix.
    let many: Vec<i64> = (10..200_010).collect();
    let halves = [ids(&many[..100_000]), ids(&many[100_000..])];
    assert_eq!(app.batch(&mut sink, 1, 2, &halves).await.unwrap().rows, 200_000);
    assert_eq!(app.number("SELECT count(DISTINCT id) FROM \"Out\"").await, 200_003);
    let newest = sink.ledger().await.unwrap().unwrap();
    assert_eq!((newest.batch_id, newest.rows), (2, 200_000));
    assert_eq!(newest.plan, app.plan(1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_rows_stands_in_the_ledger() {
    let app = App::new("empty").await;
    let mut sink = app.instance(1, &ids(&[])).await;
    assert_eq!(app.batch(&mut sink, 1, 1, &[ids(&[])]).await.unwrap().rows, 0);
    assert_eq!(app.batch(&mut sink, 1, 2, &[]).await.unwrap().rows, 0);
    assert_eq!(app.number("SELECT count(*) FROM tidemill_ledger").await, 2);
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_given_up_leaves_nothing_and_frees_the_fence() {
    let app = App::new("givenup").await;
    let mut sink = app.instance(1, &ids(&[])).await;
    let mut stage = app.begin(&mut sink, 1, 1, 1).await.unwrap();
    stage.writers[0].write(ids(&[1])).await.unwrap();
    drop(stage);
    let started = Instant::now();
    sink.fence(&app.claim(1)).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "waited for its own dropped connection"
    );
    app.batch(&mut sink, 1, 1, &[ids(&[1])]).await.unwrap();
    assert_eq!(app.ids().await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_in_mid_copy_is_ended_and_nothing_is_doubled() {
    let app = App::new("zombie").await;
    let mut old = app.instance(1, &ids(&[])).await;
    app.batch(&mut old, 1, 1, &[ids(&[1])]).await.unwrap();
    let mut stage = app.begin(&mut old, 1, 2, 1).await.unwrap();
    stage.writers[0].write(ids(&[2])).await.unwrap();

    let mut new = app.instance(2, &ids(&[])).await;
    assert_eq!(new.ledger().await.unwrap().unwrap().batch_id, 1);
    app.batch(&mut new, 2, 2, &[ids(&[2])]).await.unwrap();

    let error = app.commit(stage, 1, 2).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
    assert_eq!(app.ids().await, [1, 2]);
    for error in [
        old.fence(&app.claim(1)).await.unwrap_err(),
        app.begin(&mut old, 1, 2, 1).await.unwrap_err(),
        old.birth(&app.record(1, 0)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
        let text = error.to_string();
        assert!(text.contains("epoch is 2") && text.contains("this one's 1"), "{text}");
    }
    let state = new.inspect(&app.name).await.unwrap();
    assert_eq!((state.epoch, state.app_uuid), (2, Some(app.uuid.clone())));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_fenced_does_not_end_the_newer_instance() {
    let app = App::new("fenced").await;
    let mut old = app.instance(1, &ids(&[])).await;
    let mut new = app.instance(2, &ids(&[])).await;
    let mut stage = app.begin(&mut new, 2, 1, 1).await.unwrap();
    stage.writers[0].write(ids(&[1])).await.unwrap();
    assert_eq!(old.fence(&app.claim(1)).await.unwrap_err().kind(), Kind::Fenced);
    app.commit(stage, 2, 1).await.unwrap();
    assert_eq!(app.ids().await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_application_of_the_same_name_is_refused() {
    let app = App::new("foreign").await;
    app.instance(1, &ids(&[])).await;
    let mut other = app.sink(true);
    other.check(&input(&ids(&[]))).await.unwrap();
    let claim = Claim {
        app_uuid: "somebody-else".to_owned(),
        ..app.claim(9)
    };
    let error = other.fence(&claim).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.to_string();
    assert!(
        text.contains("somebody-else") && text.contains(&app.uuid) && text.contains("--adopt"),
        "{text}"
    );
    let fenced = app
        .reader
        .query_one("SELECT app_uuid, epoch FROM tidemill_fence", &[])
        .await
        .unwrap();
    assert_eq!(
        (fenced.get::<_, &str>(0), fenced.get::<_, i64>(1)),
        (app.uuid.as_str(), 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_violated_constraint_is_told_in_the_servers_words() {
    let app = App::new("constraint").await;
    app.sql("CREATE TABLE \"Out\" (id bigint PRIMARY KEY)").await;
    let mut sink = app.instance(1, &ids(&[])).await;
    app.batch(&mut sink, 1, 1, &[ids(&[7])]).await.unwrap();
    let error = app.batch(&mut sink, 1, 2, &[ids(&[8, 7])]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let text = error.to_string();
    for part in [
        "sink out",
        "table Out",
        "batch 2",
        "Out_pkey",
        "(id)=(7) already exists",
        "23505",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    sink.fence(&app.claim(1)).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 1);
    app.batch(&mut sink, 1, 2, &[ids(&[8])]).await.unwrap();
    assert_eq!(app.ids().await, [7, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_character_is_refused_by_column() {
    let app = App::new("nul").await;
    let rows = RecordBatch::try_from_iter([("word", Arc::new(StringArray::from(vec!["a\0"])) as ArrayRef)]).unwrap();
    let mut sink = app.instance(1, &rows).await;
    let error = app.batch(&mut sink, 1, 1, &[rows]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("batch 1, column word: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_everything_that_does_not_fit_at_once() {
    let app = App::new("misfit").await;
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("word", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
    ])
    .unwrap();
    let error = app.sink(false).check(&input(&rows)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let text = error.to_string();
    assert!(text.contains("create_table = true"), "{text}");
    assert!(
        text.contains(r#"CREATE TABLE "Out" ("id" bigint, "word" text)"#),
        "{text}"
    );

    app.sql(
        "CREATE UNLOGGED TABLE \"Out\" (id integer, must date NOT NULL, may date, filled date NOT NULL DEFAULT now())",
    )
    .await;
    let text = app.sink(true).check(&input(&rows)).await.unwrap_err().to_string();
    for part in [
        "column id is integer in the table, the query gives bigint",
        "column word (text) is missing",
        "column must is not in the query",
        "UNLOGGED",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(
        !text.contains("column may") && !text.contains("column filled"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_missing_rights() {
    let app = App::new("rights").await;
    let schema = app.name.replace('-', "_");
    let (user, password) = (format!("{schema}_user"), "hush-hush");
    app.sql(&format!(
        "CREATE TABLE \"Out\" (id bigint); CREATE ROLE {user} LOGIN PASSWORD '{password}'; \
         GRANT USAGE ON SCHEMA {schema} TO {user}"
    ))
    .await;
    let (_, rest) = app.url.rsplit_once("//").unwrap();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let config = PostgresConfig {
        url: format!("postgres://{user}:{password}@{rest}"),
        table: "Out".to_owned(),
        create_table: false,
        key: Vec::new(),
    };
    let mut sink = PostgresSink::new("out".to_owned(), config).unwrap();
    let text = sink.check(&input(&ids(&[]))).await.unwrap_err().to_string();
    assert!(text.contains("no INSERT right"), "{text}");
    assert!(
        text.contains(&format!("no CREATE right on schema {schema}, where tidemill_ledger")),
        "{text}"
    );
    let shown = format!("{sink:?} {:?} {text}", sink.identity());
    assert!(!shown.contains(password), "{shown}");
    app.sql(&format!(
        "GRANT INSERT ON \"Out\" TO {user}; GRANT CREATE ON SCHEMA {schema} TO {user}"
    ))
    .await;
    sink.check(&input(&ids(&[]))).await.unwrap();
    sink.fence(&app.claim(1)).await.unwrap();
    app.batch(&mut sink, 1, 1, &[ids(&[1])]).await.unwrap();
    app.sql(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_works_without_tables_and_makes_none() {
    let app = App::new("inspect").await;
    let state = app.sink(true).inspect(&app.name).await.unwrap();
    assert_eq!(state, SinkState::default());
    assert_eq!(
        app.number("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_made_by_many_at_once_are_made_once() {
    let app = App::new("race").await;
    let mut sinks = Vec::new();
    for _ in 0..8 {
        let mut sink = app.sink(true);
        sink.check(&input(&ids(&[]))).await.unwrap();
        sinks.push(sink);
    }
    let claim = app.claim(1);
    let tasks: Vec<_> = sinks
        .into_iter()
        .map(|mut sink| {
            let claim = claim.clone();
            tokio::spawn(async move { sink.fence(&claim).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(app.number("SELECT count(*) FROM tidemill_fence").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_of_the_ledger_are_deleted() {
    let app = App::new("prune").await;
    let mut sink = app.instance(1, &ids(&[])).await;
    for batch_id in [1, 99, 100, 101, 1099, 1100] {
        app.batch(&mut sink, 1, batch_id, &[]).await.unwrap();
    }
    assert_eq!(app.number("SELECT min(batch_id) FROM tidemill_ledger").await, 100);
    assert_eq!(app.number("SELECT count(*) FROM tidemill_ledger").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_named_without_the_password() {
    // Bound and let go again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = PostgresConfig {
        url: format!("postgres://me:hush-hush@127.0.0.1:{port}/shop"),
        table: "Out".to_owned(),
        create_table: false,
        key: Vec::new(),
    };
    assert!(!format!("{config:?}").contains("hush"));
    let mut sink = PostgresSink::new("out".to_owned(), config).unwrap();
    assert_eq!(sink.identity().target, format!("127.0.0.1:{port}/shop/Out"));
    let error = sink.check(&input(&ids(&[]))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.chain();
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && !text.contains("hush"),
        "{text}"
    );
}

fn pairs(pairs: &[(i64, &str)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(pairs.iter().map(|(id, _)| *id)));
    let words: ArrayRef = Arc::new(StringArray::from_iter_values(pairs.iter().map(|(_, word)| *word)));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("word", words, true)]).unwrap()
}

impl App {
    /// A sink that upserts by `id`, checked and fenced.
    async fn upserting(&self, ordered: bool) -> PostgresSink {
        let mut sink = self.sink_by(&["id"], true);
        let input = SinkInput {
            ordered,
            ..input(&pairs(&[]))
        };
        sink.check(&input).await.unwrap();
        sink.fence(&self.claim(1)).await.unwrap();
        sink
    }

    async fn words(&self) -> Vec<(i64, String)> {
        let rows = self.reader.query("SELECT id, word FROM \"Out\" ORDER BY id", &[]);
        rows.await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

fn words(words: &[(i64, &str)]) -> Vec<(i64, String)> {
    words.iter().map(|(id, word)| (*id, (*word).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x21_of_one_key_the_last_row_of_a_source_stays() {
    let app = App::new("upsert").await;
    let mut sink = app.upserting(true).await;
    let first = [pairs(&[(1, "a"), (2, "b"), (1, "c")])];
    assert_eq!(app.batch(&mut sink, 1, 1, &first).await.unwrap().rows, 3);
    assert_eq!(app.words().await, words(&[(1, "c"), (2, "b")]));
    // The later slice comes first: its rows are the last all the same.
    let mut stage = app.begin(&mut sink, 1, 2, 2).await.unwrap();
    stage.writers[1].write(pairs(&[(1, "y"), (3, "z")])).await.unwrap();
    stage.writers[0].write(pairs(&[(1, "x"), (4, "w")])).await.unwrap();
    app.commit(stage, 1, 2).await.unwrap();
    assert_eq!(app.words().await, words(&[(1, "y"), (2, "b"), (3, "z"), (4, "w")]));
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn x21_a_key_that_comes_twice_out_of_a_query_is_refused_by_name() {
    let app = App::new("twice").await;
    let mut sink = app.upserting(false).await;
    app.batch(&mut sink, 1, 1, &[pairs(&[(7, "a"), (8, "b")])])
        .await
        .unwrap();
    let error = app
        .batch(&mut sink, 1, 2, &[pairs(&[(7, "c")]), pairs(&[(7, "d")])])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
    assert!(
        error.chain().contains("the key (id) = (7) comes twice"),
        "{}",
        error.chain()
    );
    assert_eq!(app.words().await, words(&[(7, "a"), (8, "b")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_upserted_into_is_refused_with_the_way_out() {
    let app = App::new("keyless").await;
    app.sql("CREATE TABLE \"Out\" (id bigint, word text)").await;
    let check = || async {
        let mut sink = app.sink_by(&["id"], false);
        sink.check(&input(&pairs(&[]))).await.map_err(|error| error.chain())
    };
    let way_out = "ALTER TABLE \"Out\" ADD PRIMARY KEY (\"id\")";
    assert!(check().await.unwrap_err().contains(way_out));
    // A key that may be NULL would let rows pile up.
    app.sql("CREATE UNIQUE INDEX keys ON \"Out\" (id)").await;
    assert!(check().await.unwrap_err().contains(way_out));
    app.sql("ALTER TABLE \"Out\" ALTER id SET NOT NULL").await;
    assert_eq!(check().await, Ok(()));
    app.sql("DROP INDEX keys; CREATE UNIQUE INDEX keys ON \"Out\" (id, word)")
        .await;
    assert!(check().await.unwrap_err().contains(way_out));
}
