//! Streams as tables: queries over the rows of each batch.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::dataframe::DataFrame;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::parse_columns;
use tidemill_engine::sql::row_tables::RowTables;
use tokio::sync::OnceCell;

use super::DStream;
use crate::batch::whole::fold_slices;
use crate::batch::{Batch, Out, Slices};
use crate::outcome::guarded_call;
use crate::row::decoder::decode;
use crate::row::encoder::{ROWS_MAX, RowEncoder};
use crate::task::OffsetRange;

/// Characters of a query that an error shows.
const SHOWN_MAX: usize = 200;

/// A stream whose values are the rows of a table, batch by batch: what [`DStream::to_table`] gives.
///
/// Each batch is a table of its own, held in memory while the batch lasts, as are the rows of the query's answer; what the query
/// sorts, joins and groups beyond [`Builder::memory_limit`](crate::Builder::memory_limit) goes to a temporary file.
///
/// A query is run on one core per output, so that its rows come in the same order whenever the batch is run: in that of its ORDER BY,
/// where it has none in an order of the engine's own. The answer is in one slice; [`DStream::repartition`] deals it out. Functions of
/// time answer with the batch's (`batch_time()`, `batch_id()`, `now()`), those of chance are refused.
///
/// Rows become values as values become rows: a struct or map takes columns by name, a tuple by place, anything else is the only column.
/// A column that a type does not take, NULL where it has no `Option`, a number beyond it stops the stream naming query and column.
pub struct Table {
    rows: DStream<RecordBatch>,
    shape: Shape,
}

/// What is known of a table before it has rows.
#[derive(Debug, Clone)]
struct Shape {
    name: String,
    /// Without columns where they were declared wrongly.
    schema: SchemaRef,
}

impl Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Makes a frame of those of the tables.
type OverFrames = Box<dyn Fn(Vec<DataFrame>) -> datafusion::error::Result<DataFrame> + Send + Sync>;

/// What is asked of the tables of a batch.
enum Query {
    Sql(String),
    Frames(OverFrames),
}

/// Tables, and what is asked of them.
struct Asked {
    shapes: Vec<Shape>,
    query: Query,
}

impl Asked {
    /// What an error begins with.
    fn name(&self) -> String {
        let tables: Vec<&str> = self.shapes.iter().map(|shape| shape.name.as_str()).collect();
        let tables = tables.join(", ");
        match &self.query {
            Query::Sql(query) => {
                let words = query.split_whitespace().collect::<Vec<_>>().join(" ");
                let shown: String = words.chars().take(SHOWN_MAX).collect();
                let rest = if shown.len() < words.len() { "…" } else { "" };
                format!("sql over {tables}: {shown}{rest}")
            }
            Query::Frames(_) => format!("transform of table {tables}"),
        }
    }

    /// Everything that can be known of a query before it has rows.
    async fn check(&self, query: &str) -> Result<()> {
        let tables = RowTables::new(0, 0, usize::MAX)?;
        for shape in &self.shapes {
            tables.add(&shape.name, &shape.schema, Vec::new())?;
        }
        tables.check(tables.sql(query).await?).await
    }

    async fn answer(&self, batches: &[Batch<RecordBatch>]) -> Result<Vec<RecordBatch>> {
        let scope = &batches[0].scope;
        let tables = RowTables::new(scope.plan().batch_id, scope.time_ms(), scope.spill().held_bytes_max())?;
        let mut frames = Vec::with_capacity(batches.len());
        for (shape, batch) in self.shapes.iter().zip(batches) {
            let slices = fold_slices(batch, Vec::new, |rows, some| rows.push(some)).await?;
            let rows = slices.into_iter().flatten().collect();
            frames.push(tables.add(&shape.name, &shape.schema, rows)?);
        }
        let frame = match &self.query {
            Query::Sql(query) => tables.sql(query).await?,
            Query::Frames(over) => {
                let failed = |error| Error::with_source(Kind::UserCode, "the closure failed", error);
                guarded_call(|| over(frames).map_err(failed))?
            }
        };
        tables.rows(frame).await
    }
}

impl<T: Serialize + Send + 'static> DStream<T> {
    /// The values of each batch as the rows of a table, which a query knows by `name`, its case included. `columns` are declared as
    /// those of a sink are: `"ad_id VARCHAR, views BIGINT"`. A struct or a map gives columns by name, a tuple by place; what does not
    /// fit stops the stream naming the column.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidemill::testing::{Harness, Input, Output};
    ///
    /// let harness = Harness::new(Duration::from_secs(1));
    /// let clicks = Input::of([vec![("a", 3), ("b", 1), ("a", 4)]]);
    /// let costs = Output::default();
    /// let run = harness.start(|context| {
    ///     clicks
    ///         .stream(context)
    ///         .to_table("clicks", "ad VARCHAR, cost BIGINT")
    ///         .sql::<(String, i64)>("SELECT ad, sum(cost) FROM clicks GROUP BY ad ORDER BY ad")
    ///         .foreach_batch(costs.keep());
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// assert_eq!(costs.at(1_000), [("a".to_owned(), 7), ("b".to_owned(), 1)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn to_table(self, name: impl Into<String>, columns: &str) -> Table {
        let name = name.into();
        let problem = |what: String| self.graph.problem(format!("to_table {name:?}: {what}"));
        if name.is_empty() {
            problem("a table needs a name".to_owned());
        }
        let schema = parse_columns(columns).unwrap_or_else(|error| {
            problem(error.chain());
            Arc::new(Schema::empty())
        });
        let encoder = Arc::new(RowEncoder::new(Arc::clone(&schema)));
        let shape = Shape { name, schema };
        let table = shape.name.clone();
        let rows = self.in_slices(move |batch| {
            let encoded = Encoded {
                parent: Arc::clone(&batch.slices),
                encoder: Arc::clone(&encoder),
                table: table.clone(),
            };
            Batch::new(encoded, &batch.scope)
        });
        Table { rows, shape }
    }
}

impl Table {
    /// The answers of a query, batch by batch. It is checked where it is declared: a name that it does not know is told with all that
    /// is wrong with the program, before anything runs.
    ///
    /// ```
    /// # use tidemill::testing::batches_of;
    /// let most = batches_of([[("a", 3), ("b", 5)]], |clicks| {
    ///     clicks.to_table("clicks", "ad VARCHAR, cost BIGINT").sql::<i64>("SELECT max(cost) FROM clicks")
    /// })?;
    /// assert_eq!(most, [[5]]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn sql<R: DeserializeOwned + Send + 'static>(self, query: impl Into<String>) -> DStream<R> {
        asked(vec![self], Query::Sql(query.into()))
    }

    /// The same over this table and another.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let clicks = Input::of([["a", "b", "a"]]);
    /// let ads = Input::of([[("a", "shoes"), ("b", "hats")]]);
    /// # let counts = Output::default();
    /// # let run = harness.start(|context| {
    /// let ads = ads.stream(context).to_table("ads", "id VARCHAR, title VARCHAR");
    /// let clicks = clicks.stream(context).map(|ad| (ad,)).to_table("clicks", "ad VARCHAR");
    /// clicks
    ///     .sql_with::<(String, u64)>(ads, "SELECT title, count(*) FROM clicks JOIN ads ON ad = id GROUP BY title ORDER BY title")
    ///     .foreach_batch(counts.keep());
    /// # Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(counts.at(1_000), [("hats".to_owned(), 1), ("shoes".to_owned(), 2)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn sql_with<R: DeserializeOwned + Send + 'static>(self, other: Self, query: impl Into<String>) -> DStream<R> {
        asked(vec![self, other], Query::Sql(query.into()))
    }

    /// What `f` makes of each batch, as a frame of [`datafusion`](crate::datafusion). It is called once per batch and output, and again
    /// when the batch runs again: it must make the same of the same. Functions of time and chance are refused; [`sql`](Self::sql) has
    /// those of the batch.
    ///
    /// ```
    /// use tidemill::datafusion::prelude::{col, lit};
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let clicks = Input::of([[("a", 3), ("b", 1), ("a", 4)]]);
    /// # let dear = Output::default();
    /// # let run = harness.start(|context| {
    /// clicks
    ///     .stream(context)
    ///     .to_table("clicks", "ad VARCHAR, cost BIGINT")
    ///     .transform::<(String, i64)>(|frame| frame.filter(col("cost").gt(lit(2)))?.sort_by(vec![col("cost")]))
    ///     .foreach_batch(dear.keep());
    /// # Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(dear.at(1_000), [("a".to_owned(), 3), ("a".to_owned(), 4)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn transform<R: DeserializeOwned + Send + 'static>(
        self,
        f: impl Fn(DataFrame) -> datafusion::error::Result<DataFrame> + Send + Sync + 'static,
    ) -> DStream<R> {
        let over = move |frames: Vec<DataFrame>| f(only(frames.into_iter())?);
        asked(vec![self], Query::Frames(Box::new(over)))
    }

    /// What `f` makes of each batch here and of that of `other` at the same time.
    ///
    /// ```
    /// use tidemill::datafusion::common::JoinType;
    /// # use std::time::Duration;
    /// # use tidemill::testing::{Harness, Input, Output};
    /// # let harness = Harness::new(Duration::from_secs(1));
    /// let clicks = Input::of([["a", "b", "c"]]);
    /// let blocked = Input::of([["b"]]);
    /// # let rest = Output::sorted();
    /// # let run = harness.start(|context| {
    /// let blocked = blocked.stream(context).map(|ad| (ad,)).to_table("blocked", "id VARCHAR");
    /// let clicks = clicks.stream(context).map(|ad| (ad,)).to_table("clicks", "ad VARCHAR");
    /// clicks
    ///     .transform_with::<String>(blocked, |clicks, blocked| clicks.join(blocked, JoinType::LeftAnti, &["ad"], &["id"], None))
    ///     .foreach_batch(rest.keep());
    /// # Ok(())
    /// # })?;
    /// # run.batches(1)?;
    /// assert_eq!(rest.at(1_000), ["a", "c"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn transform_with<R: DeserializeOwned + Send + 'static>(
        self,
        other: Self,
        f: impl Fn(DataFrame, DataFrame) -> datafusion::error::Result<DataFrame> + Send + Sync + 'static,
    ) -> DStream<R> {
        let over = move |frames: Vec<DataFrame>| {
            let mut frames = frames.into_iter();
            f(only(frames.by_ref())?, only(frames)?)
        };
        asked(vec![self, other], Query::Frames(Box::new(over)))
    }
}

/// The next frame: there is one per table.
fn only(mut frames: impl Iterator<Item = DataFrame>) -> datafusion::error::Result<DataFrame> {
    let missing = || datafusion::error::DataFusionError::Internal("a table without a frame".to_owned());
    frames.next().ok_or_else(missing)
}

fn asked<R: DeserializeOwned + Send + 'static>(tables: Vec<Table>, query: Query) -> DStream<R> {
    let graph = Arc::clone(&tables[0].rows.graph);
    let (streams, shapes): (Vec<_>, Vec<_>) = tables.into_iter().map(|table| (table.rows, table.shape)).unzip();
    let asked = Arc::new(Asked { shapes, query });
    if let Err(error) = checked(&asked) {
        graph.problem(Error::with_source(error.kind(), asked.name(), error).chain());
    }
    DStream::merged(&graph, streams, move |batches| {
        let answer = Answer {
            asked: Arc::clone(&asked),
            batches: batches.to_vec(),
            rows: OnceCell::new(),
        };
        Ok(Batch::new(answer, &batches[0].scope))
    })
}

/// What can be known of a query where it is declared.
fn checked(asked: &Asked) -> Result<()> {
    let names: Vec<&str> = asked.shapes.iter().map(|shape| shape.name.as_str()).collect();
    if let [name, other] = names.as_slice()
        && name == other
    {
        return Err(Error::new(
            Kind::Config,
            "both tables have that name: give each its own",
        ));
    }
    let was_declared_wrongly = |shape: &Shape| shape.schema.fields().is_empty() || shape.name.is_empty();
    match &asked.query {
        Query::Sql(query) if !asked.shapes.iter().any(was_declared_wrongly) => wait_for(asked.check(query)),
        _ => Ok(()),
    }
}

/// Waits on a thread of its own: the caller's may belong to a runtime already, which must not be blocked.
fn wait_for(check: impl Future<Output = Result<()>> + Send) -> Result<()> {
    let refused = |error| Error::with_source(Kind::Refused, "start the runtime", error);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(refused)?;
            runtime.block_on(check)
        });
        let lost = |_panic| Err(Error::new(Kind::Bug, "the planner panicked"));
        waiting.join().unwrap_or_else(lost)
    })
}

/// Values as rows, in their slices.
struct Encoded<T> {
    parent: Arc<dyn Slices<T>>,
    encoder: Arc<RowEncoder>,
    table: String,
}

impl<T: Serialize + Send + 'static> Slices<RecordBatch> for Encoded<T> {
    fn count(&self) -> usize {
        self.parent.count()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, RecordBatch>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut values = Vec::new();
            let mut failed = None;
            let mut encode = |values: &mut Vec<T>| {
                if failed.is_none() {
                    match self.encoder.encode(values) {
                        Ok(rows) => rows.into_iter().for_each(&mut *out),
                        Err(error) => failed = Some(error),
                    }
                }
                values.clear();
            };
            let mut gather = |value| {
                values.push(value);
                if values.len() == ROWS_MAX {
                    encode(&mut values);
                }
            };
            self.parent.run(slice, &mut gather).await?;
            encode(&mut values);
            let of = |error: Error| Error::with_source(error.kind(), format!("table {}", self.table), error);
            failed.map_or(Ok(()), |error| Err(of(error)))
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        self.parent.range(slice)
    }

    fn exchanges(&self) -> bool {
        self.parent.exchanges()
    }
}

/// The answer of a query in one slice, computed once.
struct Answer {
    asked: Arc<Asked>,
    batches: Vec<Batch<RecordBatch>>,
    rows: OnceCell<Vec<RecordBatch>>,
}

impl Answer {
    async fn give<R: DeserializeOwned>(&self, out: Out<'_, R>) -> Result<()> {
        let rows = self.rows.get_or_try_init(|| self.asked.answer(&self.batches)).await?;
        rows.iter().try_for_each(|rows| decode(rows, &mut *out))
    }
}

impl<R: DeserializeOwned + Send + 'static> Slices<R> for Answer {
    fn count(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, _slice: usize, out: Out<'a, R>) -> BoxFuture<'a, Result<()>> {
        async move {
            let of = |error: Error| Error::with_source(error.kind(), self.asked.name(), error);
            self.give(out).await.map_err(of)
        }
        .boxed()
    }

    fn exchanges(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
