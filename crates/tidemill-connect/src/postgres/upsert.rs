//! Rows that take the place of those with the same key (X21).
//!
//! A batch is copied into a table of its transaction, each row with its place, and merged from there into the output.

use tidemill_engine::error::{Error, Kind, Result};
use tokio_postgres::types::Type;

use super::failure::failure;
use super::session::Session;
use super::table::{Table, quoted};
use super::types::Column;

/// The table that a batch is gathered in; it ends with the transaction.
const STAGE: &str = "pg_temp.tidemill_stage";
/// The column of a row's place.
const PLACE: &str = "tidemill_row";

/// Looks for a unique index on exactly the key's columns, none of which may be NULL.
const HAS_KEY: &str = "SELECT EXISTS (SELECT 1 FROM pg_index i, LATERAL \
         (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") AS names, bool_and(a.attnotnull) AS filled \
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, at) \
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE k.at <= i.indnkeyatts) key \
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
     AND i.indexprs IS NULL AND key.filled AND key.names = (SELECT array_agg(n ORDER BY n COLLATE \"C\") FROM unnest($2) n))";

/// How rows of one key are brought together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upsert {
    key: Vec<String>,
    /// True where rows come straight from a source: of one key the last wins. Else a key that comes twice is refused.
    last_wins: bool,
}

impl Upsert {
    /// Upserts by the columns `key`, which must be among `columns`.
    ///
    /// # Errors
    /// `Config`, naming what is missing.
    pub(super) fn new(what: &str, key: &[String], columns: &[Column], last_wins: bool) -> Result<Self> {
        let config = |text: String| Err(Error::new(Kind::Config, format!("{what}: {text}")));
        for (at, name) in key.iter().enumerate() {
            if !columns.iter().any(|column| column.name == *name) {
                let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                return config(format!(
                    "key column {name} is not among the columns {}",
                    known.join(", ")
                ));
            }
            if key[..at].contains(name) {
                return config(format!("key column {name} is named twice"));
            }
        }
        Ok(Self {
            key: key.to_vec(),
            last_wins,
        })
    }

    fn keys(&self) -> String {
        names(self.key.iter())
    }

    /// What makes a table of these columns ready for it, behind them.
    pub(super) fn primary_key(&self) -> String {
        format!("PRIMARY KEY ({})", self.keys())
    }

    /// What stands in the way of upserting into a table that is there.
    pub(super) async fn problems(
        &self,
        session: &Session,
        table: &Table,
        problems: &mut Vec<String>,
    ) -> Result<(), tokio_postgres::Error> {
        let client = &session.client;
        let table = table.quoted();
        let fits: bool = client
            .query_typed_one(HAS_KEY, &[(&table, Type::TEXT), (&self.key, Type::TEXT_ARRAY)])
            .await?
            .try_get(0)?;
        if !fits {
            problems.push(format!(
                "it has no unique index on exactly ({keys}), none of them nullable; run: ALTER TABLE {table} ADD {}",
                self.primary_key(),
                keys = self.keys(),
            ));
        }
        let rights = client
            .query_typed_one(
                "SELECT has_table_privilege(to_regclass($1), 'UPDATE'), has_table_privilege(to_regclass($1), 'SELECT'), \
                 has_database_privilege(current_database(), 'TEMP')",
                &[(&table, Type::TEXT)],
            )
            .await?;
        for (at, right, grant) in [
            (0, "UPDATE", format!("GRANT UPDATE ON {table} TO the sink's user")),
            (1, "SELECT", format!("GRANT SELECT ON {table} TO the sink's user")),
            (2, "TEMP", "GRANT TEMP ON DATABASE … TO the sink's user".to_owned()),
        ] {
            // NULL where the table is not there yet.
            if rights.try_get::<_, Option<bool>>(at)? == Some(false) {
                problems.push(format!("upsert needs the {right} right; run: {grant}"));
            }
        }
        Ok(())
    }

    /// The statement that makes the batch's own table.
    pub(super) fn stage(columns: &[Column]) -> String {
        let columns: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", quoted(&column.name), column.kind))
            .collect();
        format!(
            "CREATE TEMP TABLE {} ({}, {PLACE} bigint) ON COMMIT DROP",
            STAGE.trim_start_matches("pg_temp."),
            columns.join(", ")
        )
    }

    /// The statement that takes a batch's rows.
    pub(super) fn copy(columns: &[Column]) -> String {
        format!("COPY {STAGE} ({}, {PLACE}) FROM STDIN (FORMAT binary)", of(columns))
    }

    /// Brings the batch's rows into `table`.
    ///
    /// # Errors
    /// `Refused` where a key comes twice and none of its rows is the last.
    pub(super) async fn merge(&self, session: &Session, what: &str, table: &Table, columns: &[Column]) -> Result<()> {
        let failed = |error| failure(what, error);
        if !self.last_wins
            && let Some(key) = self.repeated(session).await.map_err(failed)?
        {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "{what}: the key ({}) = {key} comes twice in the query's rows, and nothing says which is to stay; group by \
                     the key",
                    self.key.join(", ")
                ),
            ));
        }
        session
            .client
            .batch_execute(&self.merging(table, columns))
            .await
            .map_err(failed)
    }

    async fn repeated(&self, session: &Session) -> Result<Option<String>, tokio_postgres::Error> {
        let keys = self.keys();
        let found = session
            .client
            .query_typed_opt(
                &format!("SELECT ROW({keys})::text FROM {STAGE} GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"),
                &[],
            )
            .await?;
        found.map(|row| row.try_get(0)).transpose()
    }

    fn merging(&self, table: &Table, columns: &[Column]) -> String {
        let (keys, all) = (self.keys(), of(columns));
        let values: Vec<String> = columns
            .iter()
            .filter(|column| !self.key.contains(&column.name))
            .map(|column| format!("{name} = EXCLUDED.{name}", name = quoted(&column.name)))
            .collect();
        let update = if values.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", values.join(", "))
        };
        format!(
            "INSERT INTO {} ({all}) SELECT DISTINCT ON ({keys}) {all} FROM {STAGE} ORDER BY {keys}, {PLACE} DESC \
             ON CONFLICT ({keys}) DO {update}",
            table.quoted()
        )
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn of(columns: &[Column]) -> String {
    names(columns.iter().map(|column| &column.name))
}

/// The place of a row: slices in their order, rows in theirs.
pub(super) fn place(slice: usize, row: u64) -> i64 {
    // No slice has so many rows, no batch so many slices.
    i64::try_from((slice as u64) << 40 | row & ((1 << 40) - 1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::types::PgType;
    use super::*;

    fn columns() -> Vec<Column> {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
        };
        vec![column("Ad", PgType::Bigint), column("n", PgType::Bigint)]
    }

    fn by(key: &[&str]) -> Result<Upsert> {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        Upsert::new("sink out", &key, &columns(), true)
    }

    #[test]
    fn a_key_must_be_among_the_columns_and_once() {
        for (key, why) in [
            (&["ad"][..], "ad is not among the columns Ad, n"),
            (&["Ad", "Ad"], "named twice"),
        ] {
            let error = by(key).unwrap_err();
            assert!(
                error.kind() == Kind::Config && error.chain().contains(why),
                "{}",
                error.chain()
            );
        }
    }

    #[test]
    fn names_are_quoted_and_a_row_of_keys_only_changes_nothing() {
        let table = Table::parse("out", "t").unwrap();
        assert_eq!(
            by(&["Ad"]).unwrap().merging(&table, &columns()),
            "INSERT INTO \"t\" (\"Ad\", \"n\") SELECT DISTINCT ON (\"Ad\") \"Ad\", \"n\" FROM pg_temp.tidemill_stage \
             ORDER BY \"Ad\", tidemill_row DESC ON CONFLICT (\"Ad\") DO UPDATE SET \"n\" = EXCLUDED.\"n\""
        );
        assert!(
            by(&["Ad", "n"])
                .unwrap()
                .merging(&table, &columns())
                .ends_with("DO NOTHING")
        );
    }

    #[test]
    fn places_grow_with_the_row_and_then_the_slice() {
        assert!(place(0, 0) < place(0, 1) && place(0, u64::from(u32::MAX)) < place(1, 0));
    }
}
