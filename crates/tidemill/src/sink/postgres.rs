//! A table of PostgreSQL.

use arrow::datatypes::Schema;
use tidemill_connect::postgres::{PostgresConfig, PostgresSink};
use tidemill_engine::error::Result;
use tidemill_engine::sink::Sink;

use super::{SinkSettings, unfit_columns};

/// Where [`DStream::to_postgres`](crate::DStream::to_postgres) writes: a table that rows are appended to, or upserted into.
///
/// ```
/// use tidemill::PostgresTable;
/// let _views = PostgresTable::new("postgres://localhost/ads", "ad_views")
///     .columns("ad_id VARCHAR NOT NULL, views BIGINT")
///     .upsert(["ad_id"])
///     .create_table();
/// ```
#[derive(Debug, Clone)]
pub struct PostgresTable {
    config: PostgresConfig,
    columns: String,
    upserts: bool,
}

impl PostgresTable {
    /// The table, `table` or `schema.table` as it is written, of the database at `url`:
    /// `postgres://user:password@host:port/database`, with libpq's `sslmode` and `sslrootcert`.
    ///
    /// ```
    /// use tidemill::PostgresTable;
    ///
    /// let sink = PostgresTable::new("postgres://localhost/shop", "counts").columns("word VARCHAR NOT NULL, count BIGINT");
    /// ```
    pub fn new(url: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            config: PostgresConfig {
                url: url.into(),
                table: table.into(),
                create_table: false,
                key: Vec::new(),
            },
            columns: String::new(),
            upserts: false,
        }
    }

    /// The columns, as a pipeline file declares them: `"ad_id VARCHAR, views BIGINT NOT NULL"`.
    ///
    /// ```
    /// use tidemill::PostgresTable;
    ///
    /// let sink = PostgresTable::new("postgres://localhost/shop", "counts").columns("word VARCHAR NOT NULL, count BIGINT");
    /// ```
    #[must_use]
    pub fn columns(mut self, columns: impl Into<String>) -> Self {
        self.columns = columns.into();
        self
    }

    /// A row takes the place of the one with the same values in these columns. Default = rows are appended.
    ///
    /// ```
    /// use tidemill::PostgresTable;
    ///
    /// let sink = PostgresTable::new("postgres://localhost/shop", "counts").columns("word VARCHAR NOT NULL, count BIGINT").upsert(["word"]);
    /// ```
    #[must_use]
    pub fn upsert<C: Into<String>>(mut self, key: impl IntoIterator<Item = C>) -> Self {
        self.upserts = true;
        self.config.key = key.into_iter().map(Into::into).collect();
        self
    }

    /// Makes the table where it is missing.
    ///
    /// ```
    /// use tidemill::PostgresTable;
    ///
    /// let sink = PostgresTable::new("postgres://localhost/shop", "counts").columns("word VARCHAR NOT NULL, count BIGINT").create_table();
    /// ```
    #[must_use]
    pub fn create_table(mut self) -> Self {
        self.config.create_table = true;
        self
    }
}

impl SinkSettings for PostgresTable {
    fn columns(&self) -> &str {
        &self.columns
    }

    fn problems(&self, schema: &Schema) -> Vec<String> {
        let mut problems = unfit_columns("upsert", &self.config.key, schema);
        if self.upserts && self.config.key.is_empty() {
            problems.push("upsert names no column: for example .upsert([\"ad_id\"])".to_owned());
        }
        problems
    }

    fn open(&self, _app: &str, name: &str) -> Result<Box<dyn Sink>> {
        Ok(Box::new(PostgresSink::new(name.to_owned(), self.config.clone())?))
    }
}
