//! Running queries batch after batch, held against DataFusion's own answer over all records so far.

mod ttl;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Accumulator, Volatility, create_udaf};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use futures::future::try_join_all;
use tidemill_core::plan::{BatchPlan, LimitsInForce, TableIdentity};
use tidemill_core::position::Positions;

use super::{Emit, Scope, StateExec, Ttl, lower};
use crate::error::{Error, Kind, Result};
use crate::job::{Job, StateReaders};
use crate::sql::reference::ReferenceTable;
use crate::sql::template::{Catalog, Query, Template};
use crate::state::{BUCKETS, Changes, OperatorSpec, StageName, StateSettings, StateStore};
use crate::store::LocalStore;

/// (key, n), which may be NULL.
type Record = (Option<&'static str>, Option<i64>);

const RUNNING: Scope = running(Emit::Changed, None);
const ALL: Scope = running(Emit::All, None);

const fn running(emit: Emit, ttl: Option<Ttl>) -> Scope {
    Scope::Running { emit, ttl }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
    ]))
}

fn rows(records: &[Record]) -> RecordBatch {
    let keys = StringArray::from_iter(records.iter().map(|(key, _)| *key));
    let numbers = Int64Array::from_iter(records.iter().map(|(_, n)| *n));
    let halves = Float64Array::from_iter(records.iter().map(|(_, n)| n.map(|n| n as f64 / 2.0)));
    RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(numbers), Arc::new(halves)]).expect("rows")
}

/// The records as two tables `a` and `b`, so that partial aggregates of two slices meet, and queries over them.
fn catalog(records: &[Record], queries: &[(&str, &str, Scope)], slices: usize) -> Catalog {
    let (a, b) = records.split_at(records.len() / 2);
    let table = |name: &str, records: &[Record]| ReferenceTable {
        identity: TableIdentity {
            name: name.to_owned(),
            bytes: 0,
            sha256: String::new(),
        },
        schema: schema(),
        rows: vec![rows(records)],
    };
    let both = Query {
        name: "events".to_owned(),
        sql: "SELECT * FROM a UNION ALL SELECT * FROM b".to_owned(),
        scope: Scope::Batch,
    };
    let queries = queries.iter().map(|(name, sql, scope)| Query {
        name: (*name).to_owned(),
        sql: (*sql).to_owned(),
        scope: *scope,
    });
    Catalog {
        tables: Vec::new(),
        references: vec![table("a", a), table("b", b)],
        queries: std::iter::once(both).chain(queries).collect(),
        reduce_slices: slices,
        memory_bytes_max: 64 << 20,
    }
}

async fn planned(records: &[Record], queries: &[(&str, &str, Scope)], sql: &str, slices: usize) -> Result<Template> {
    Template::plan(&catalog(records, queries, slices), "out", sql).await
}

/// A batch comes every 10 ms.
fn plan(batch_id: u64) -> BatchPlan {
    BatchPlan {
        app: String::new(),
        app_uuid: String::new(),
        epoch: 1,
        incarnation: String::new(),
        batch_id,
        batch_time_ms: 10 * i64::try_from(batch_id).expect("a few"),
        seed: 0,
        reduce_slices: 2,
        before: Positions::default(),
        ranges: Vec::new(),
        sinks: Vec::new(),
        tables: Vec::new(),
        limits: LimitsInForce::default(),
        pipeline_hash: String::new(),
        query_hashes: BTreeMap::new(),
        states: BTreeMap::new(),
        zero_ms: None,
        turn: None,
    }
}

/// Runs a batch: its rows as sorted texts, and what it changes.
async fn run(
    template: &Template,
    batch: u64,
    before: &StateReaders,
) -> Result<(Vec<String>, BTreeMap<String, Changes>)> {
    let run = template.for_batch(&plan(batch), before)?;
    let of_slice = |slice| {
        let run = Arc::clone(&run);
        async move { run.execute(slice)?.try_collect::<Vec<_>>().await }
    };
    let rows = try_join_all((0..run.slices()).map(of_slice)).await?;
    let mut texts = Vec::new();
    for rows in rows.iter().flatten() {
        for row in 0..rows.num_rows() {
            let values = rows.columns().iter().map(|column| array_value_to_string(column, row));
            texts.push(
                values
                    .collect::<std::result::Result<Vec<_>, _>>()
                    .expect("text")
                    .join("|"),
            );
        }
    }
    texts.sort();
    Ok((texts, run.finish().await?.changes))
}

/// A stream: its state, and the records that came.
struct Stream {
    _folder: tempfile::TempDir,
    store: StateStore,
    operators: Vec<OperatorSpec>,
    so_far: Vec<Record>,
    batch: u64,
}

impl Stream {
    async fn of(queries: &[(&str, &str, Scope)], sql: &str) -> Self {
        let template = planned(&[], queries, sql, 2).await.expect("planned");
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = StateSettings {
            cache: folder.path().join("cache"),
            memory_bytes_max: 16 << 20,
        };
        let checkpoint = Arc::new(LocalStore::new(folder.path().join("checkpoint")));
        let mut store = StateStore::open(settings, checkpoint).await.expect("opened");
        for operator in template.operators() {
            store.restore(&operator, None).await.expect("restored");
        }
        Self {
            _folder: folder,
            store,
            operators: template.operators(),
            so_far: Vec::new(),
            batch: 0,
        }
    }

    fn readers(&self) -> StateReaders {
        let reader = |operator: &OperatorSpec| (operator.id.clone(), self.store.reader(&operator.id).expect("reader"));
        self.operators.iter().map(reader).collect()
    }

    async fn batch(
        &mut self,
        records: &[Record],
        queries: &[(&str, &str, Scope)],
        sql: &str,
        slices: usize,
    ) -> Vec<String> {
        let template = planned(records, queries, sql, slices).await.expect("planned");
        self.batch += 1;
        let (rows, changes) = run(&template, self.batch, &self.readers()).await.expect("ran");
        for (operator, changes) in changes {
            self.keep(&operator, changes).await;
        }
        self.so_far.extend(records.iter().copied());
        rows
    }

    async fn keep(&mut self, operator: &str, changes: Changes) {
        let at = StageName {
            batch_id: self.batch,
            epoch: 1,
            attempt: 0,
        };
        let version = self.store.stage(operator, at, changes).await.expect("staged");
        self.store.advance(operator, &version).await.expect("advanced");
    }

    /// DataFusion's answer over all records so far.
    async fn recounted(&self, queries: &[(&str, &str, Scope)], sql: &str) -> Vec<String> {
        recounted(&self.so_far, queries, sql).await
    }
}

/// DataFusion's answer over these records.
async fn recounted(records: &[Record], queries: &[(&str, &str, Scope)], sql: &str) -> Vec<String> {
    let of_batch: Vec<_> = queries
        .iter()
        .map(|(name, text, _)| (*name, *text, Scope::Batch))
        .collect();
    let template = planned(records, &of_batch, sql, 2).await.expect("planned");
    run(&template, 1, &StateReaders::new()).await.expect("ran").0
}

const KEYS: [Option<&str>; 5] = [Some("a"), Some("b"), None, Some("a key beyond twelve bytes"), Some("")];

/// A batch in which each key of `keys` comes `each` times.
fn records(keys: std::ops::Range<usize>, each: i64, from: i64) -> Vec<Record> {
    let numbers = (0..each).map(|n| Some(from + n).filter(|n| n % 7 != 0));
    numbers
        .flat_map(|n| KEYS[keys.clone()].iter().map(move |key| (*key, n)))
        .collect()
}

const AGGREGATES: &str = "SELECT k, count(*) AS rows, count(n) AS c, sum(n) AS s, avg(f) AS mean, min(n) AS low, max(k) AS high, \
     sum(n) FILTER (WHERE n % 2 = 0) AS even, bool_and(n > 3) AS big, approx_distinct(n) AS about, round(var_pop(f), 6) AS v, \
     bit_xor(n) AS x, median(n) AS middle FROM events WHERE n IS NULL OR n < 1000 GROUP BY k";

#[tokio::test]
async fn every_aggregate_goes_on_from_where_it_was() {
    let queries = [("totals", AGGREGATES, RUNNING)];
    let (sql, all) = ("SELECT * FROM totals", "SELECT * FROM totals");
    let mut stream = Stream::of(&queries, sql).await;
    for (batch, slices) in [
        (records(0..5, 40, 0), 2),
        (records(0..5, 3, 90), 7),
        (records(0..5, 100, -5), 3),
    ] {
        let rows = stream.batch(&batch, &queries, sql, slices).await;
        assert_eq!(rows, stream.recounted(&queries, all).await);
        assert_eq!(rows.len(), 5);
    }
}

#[tokio::test]
async fn only_the_groups_of_the_batch_are_given_unless_all_are_wanted() {
    let text = "SELECT k, count(*) AS c FROM events GROUP BY k";
    let queries = [("changed", text, RUNNING), ("everything", text, ALL)];
    for (name, second) in [
        ("changed", ["b|4", "|4"].as_slice()),
        ("everything", &["a|2", "b|4", "|4"]),
    ] {
        let sql = format!("SELECT * FROM {name}");
        let mut stream = Stream::of(&queries, &sql).await;
        let first = stream.batch(&records(0..3, 2, 0), &queries, &sql, 2).await;
        assert_eq!(first, ["a|2", "b|2", "|2"].map(str::to_owned).to_vec().sorted());
        let rows = stream.batch(&records(1..3, 2, 0), &queries, &sql, 5).await;
        assert_eq!(
            rows,
            second.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>().sorted()
        );
        let none = stream.batch(&[], &queries, &sql, 2).await;
        assert_eq!(none.len(), if name == "changed" { 0 } else { 3 });
    }
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl Sorted for Vec<String> {
    fn sorted(mut self) -> Self {
        self.sort();
        self
    }
}

#[tokio::test]
async fn select_and_having_stand_above_the_aggregates() {
    let text = "SELECT 2 * sum(n) + count(*) AS twice, upper(k) AS \"KEY\" FROM events GROUP BY k HAVING sum(n) > 10";
    let queries = [("q", text, ALL)];
    let sql = "SELECT \"KEY\", twice FROM q WHERE twice < 100000";
    let mut stream = Stream::of(&queries, sql).await;
    for batch in [records(0..3, 4, 0), records(0..2, 5, 50), records(1..4, 9, 1)] {
        let rows = stream.batch(&batch, &queries, sql, 2).await;
        assert_eq!(rows, stream.recounted(&queries, sql).await);
        assert_eq!(rows.is_empty(), stream.batch == 1, "{rows:?}");
    }
}

/// X30: whichever output decides the state, it is the same: nothing of an output reaches into the query.
#[tokio::test]
async fn all_outputs_of_a_query_bring_its_state_to_the_same() {
    let queries = [(
        "q",
        "SELECT k, count(*) AS c, sum(n) AS s FROM events GROUP BY k",
        RUNNING,
    )];
    let outputs = [
        "SELECT * FROM q",
        "SELECT c FROM q WHERE k = 'a'",
        "SELECT k FROM q LIMIT 1",
        "SELECT q.s FROM q JOIN (SELECT k FROM events WHERE n < -1000) e ON q.k = e.k",
        "SELECT count(*) FROM q",
        "SELECT a.c FROM q a JOIN q b ON a.k = b.k",
    ];
    let mut stream = Stream::of(&queries, outputs[0]).await;
    for batch in [records(0..5, 3, 0), records(1..4, 2, 5)] {
        let before = stream.readers();
        let mut changes = Vec::new();
        for sql in outputs {
            let template = planned(&batch, &queries, sql, 3).await.expect("planned");
            assert_eq!(template.operators(), stream.operators, "{sql}");
            changes.push(run(&template, stream.batch + 1, &before).await.expect(sql).1);
        }
        assert_eq!(changes[0]["query-q"].len(), if stream.batch == 0 { 5 } else { 3 });
        for (sql, changed) in outputs.iter().zip(&changes) {
            assert_eq!(changed, &changes[0], "{sql}");
        }
        stream.batch(&batch, &queries, outputs[0], 2).await;
    }
}

#[tokio::test]
async fn more_groups_than_memory_holds_are_spilled() {
    let text = "SELECT n, count(*) AS c, sum(f) AS s FROM events GROUP BY n";
    let batch: Vec<Record> = (0..60_000).map(|n| (Some("k"), Some(n % 30_000))).collect();
    let ttl = Ttl {
        idle_ms: 2_000,
        interval_ms: 1_000,
    };
    // With a time to live each group has a second key by its time, and there is one more for all of them.
    for (scope, keys) in [(RUNNING, 30_000), (running(Emit::Changed, Some(ttl)), 60_001)] {
        let mut catalog = catalog(&batch, &[("q", text, scope)], 2);
        catalog.memory_bytes_max = 6 << 20;
        let template = Template::plan(&catalog, "out", "SELECT * FROM q")
            .await
            .expect("planned");
        let (rows, changes) = run(&template, 1, &StateReaders::new()).await.expect("ran");
        assert_eq!((rows.len(), changes["query-q"].len()), (30_000, keys), "{scope:?}");
        assert!(rows.iter().all(|row| row.split('|').nth(1) == Some("2")));
    }
}

/// `largest(n)`: a user's own aggregate, without an accumulator for groups.
#[derive(Debug, Default)]
struct Largest(i64);

impl Accumulator for Largest {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let values = values[0].as_primitive::<Int64Type>();
        self.0 = values.iter().flatten().fold(self.0, i64::max);
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.update_batch(states)
    }
}

/// The query planned in a session that knows `largest`, over one batch.
async fn with_largest(records: &[Record]) -> Arc<dyn ExecutionPlan> {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    let number = DataType::Int64;
    let leaves = Arc::new(vec![number.clone()]);
    session.register_udaf(create_udaf(
        "largest",
        vec![number.clone()],
        Arc::new(number),
        Volatility::Immutable,
        Arc::new(|_arguments| Ok(Box::<Largest>::default())),
        leaves,
    ));
    let table = MemTable::try_new(schema(), vec![vec![rows(records)]]).expect("a table");
    session.register_table("events", Arc::new(table)).expect("registered");
    let text = "SELECT k, largest(n) AS l FROM events GROUP BY k";
    let frame = session.sql(text).await.expect("planned");
    lower(frame, "q", text, RUNNING).await.expect("lowered").plan
}

#[tokio::test]
async fn an_aggregate_of_the_users_own_goes_on_too() {
    let context = Arc::new(TaskContext::default());
    let mut kept = Changes::default();
    let queries = [("q", "SELECT k, max(n) AS l FROM events GROUP BY k", RUNNING)];
    let mut stream = Stream::of(&queries, "SELECT * FROM q").await;
    for (batch, largest) in [
        ([("a", 5), ("b", 1)], "5"),
        ([("a", 3), ("b", 9)], "5"),
        ([("a", 7), ("a", 1)], "7"),
    ] {
        let batch: Vec<Record> = batch.iter().map(|(key, n)| (Some(*key), Some(*n))).collect();
        let mut noted = None;
        let before = stream.readers();
        let plan = with_largest(&batch).await.transform_up(|node| {
            let Some(state) = node.downcast_ref::<StateExec>() else {
                return Ok(Transformed::no(node));
            };
            let (state, notes) = state.for_batch(0, &before)?;
            noted = noted.take().or(notes);
            Ok(Transformed::yes(state))
        });
        let rows = collect(plan.expect("planned").data, Arc::clone(&context))
            .await
            .expect("ran");
        let rows = pretty_format_batches(&rows).expect("rows").to_string();
        assert!(rows.contains(&format!("| a | {largest} |")), "{rows}");
        let changes = noted.expect("noted").finish(&context).await.expect("noted");
        stream.batch += 1;
        kept.merge(changes.clone());
        stream.keep("query-q", changes).await;
    }
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn another_query_does_not_go_on_from_the_state_of_this_one() {
    let shape = async |text: &'static str| {
        let queries = [("q", text, RUNNING)];
        let template = planned(&[], &queries, "SELECT * FROM q", 2).await.expect(text);
        template.operators()[0].shape.clone()
    };
    let first = shape("SELECT k, count(*) AS c FROM events GROUP BY k").await;
    assert_eq!(first, shape("SELECT k,  count(*) AS c\nFROM events GROUP BY k").await);
    assert!(first.starts_with("by text; count(Int64): Int64; of query "), "{first}");
    for other in [
        "SELECT n, count(*) AS c FROM events GROUP BY n",
        "SELECT k, sum(n) AS c FROM events GROUP BY k",
        "SELECT k, count(*) AS c FROM events WHERE n > 1 GROUP BY k",
    ] {
        assert_ne!(first, shape(other).await, "{other}");
    }
}

#[tokio::test]
async fn an_upserting_sink_is_told_of_groups_that_may_be_left_out() {
    let plain = "SELECT k, 2 * count(*) AS c FROM events GROUP BY k";
    let having = "SELECT k, count(*) AS c FROM events GROUP BY k HAVING count(*) > 1";
    let of_group = "SELECT k, count(*) AS c FROM events GROUP BY k HAVING k > 'a'";
    for (text, sql, may) in [
        (plain, "SELECT * FROM q", false),
        (plain, "SELECT c, upper(k) AS k FROM q", false),
        (plain, "SELECT * FROM q WHERE c > 1", true),
        (plain, "SELECT * FROM q LIMIT 1", true),
        (plain, "SELECT c, count(*) FROM q GROUP BY c", true),
        (having, "SELECT * FROM q", true),
        (of_group, "SELECT * FROM q", false),
        (plain, "SELECT * FROM events LIMIT 1", false),
    ] {
        let template = planned(&records(0..2, 2, 0), &[("q", text, RUNNING)], sql, 2)
            .await
            .expect(sql);
        assert_eq!(template.may_leave_groups_out(&[]), may, "{text}; {sql}");
    }
}

#[tokio::test]
async fn what_cannot_run_is_refused_by_name() {
    for (text, said) in [
        (
            "SELECT k, count(DISTINCT n) AS c FROM events GROUP BY k",
            "count(DISTINCT …)",
        ),
        (
            "SELECT k, array_agg(n ORDER BY n) AS c FROM events GROUP BY k",
            "array_agg(…) with an ORDER BY",
        ),
        ("SELECT k, count(*) AS c FROM events GROUP BY ROLLUP (k)", "ROLLUP"),
        ("SELECT count(*) AS c FROM events", "an aggregate without GROUP BY is"),
        ("SELECT k FROM a", "no GROUP BY is"),
        ("SELECT k FROM a UNION SELECT k FROM b", "is. Put what comes after"),
        (
            "SELECT k, c FROM (SELECT k, count(*) AS c FROM events GROUP BY k) t",
            "no GROUP BY is",
        ),
        ("SELECT DISTINCT k FROM events", "DISTINCT is"),
        (
            "SELECT k, count(*) AS c FROM events GROUP BY k ORDER BY c",
            "ORDER BY is",
        ),
        ("SELECT k, count(*) AS c FROM events GROUP BY k LIMIT 3", "LIMIT is"),
        (
            "SELECT k, count(*) AS c, row_number() OVER () AS r FROM events GROUP BY k",
            "a window function is",
        ),
        (
            "SELECT k, count(*) AS c FROM events GROUP BY k HAVING count(*) IN (SELECT n FROM a)",
            "planned below other steps",
        ),
    ] {
        let refused: Error = planned(&[], &[("q", text, RUNNING)], "SELECT * FROM q", 2)
            .await
            .expect_err(text);
        assert_eq!(refused.kind(), Kind::Config);
        let chain = refused.chain();
        assert!(
            chain.starts_with("queries.q: scope = \"running\": ") && chain.contains(said),
            "{chain}"
        );
    }
}
