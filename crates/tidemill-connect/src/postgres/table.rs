//! The output table: whether rows of a schema fit it, and how it is made.

use std::fmt;

use tidemill_engine::error::{Error, Kind, Result};
use tokio_postgres::types::Type;

use super::failure::failure;
use super::session::Session;
use super::types::{Column, PgType};
use super::upsert::Upsert;

/// The output table as the pipeline names it: `table` or `schema.table`, taken as written (not folded to lower case).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    schema: Option<String>,
    name: String,
}

/// As the pipeline names it.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// A name as SQL takes it literally.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A column that the table has.
struct Present {
    name: String,
    kind: String,
    not_null: bool,
    filled: bool,
    generated: bool,
}

/// What the server says of the table.
struct Found {
    kind: i8,
    unlogged: bool,
    may_insert: bool,
}

impl Table {
    /// Reads the name given for the sink `sink`.
    pub(super) fn parse(sink: &str, text: &str) -> Result<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        if name.is_empty() || schema.is_some_and(str::is_empty) || name.contains('.') || text.contains(['\0', '"']) {
            return Err(Error::new(
                Kind::Config,
                format!("sink {sink}: table {text:?}: expected table or schema.table, without quotes"),
            ));
        }
        Ok(Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// The name for SQL.
    pub(super) fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }

    /// The statement that makes it.
    pub(super) fn create(&self, columns: &[Column], upsert: Option<&Upsert>) -> String {
        let columns: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", quoted(&column.name), column.kind))
            .chain(upsert.map(Upsert::primary_key))
            .collect();
        format!("CREATE TABLE {} ({})", self.quoted(), columns.join(", "))
    }

    /// The statement that takes rows.
    pub(super) fn copy(&self, columns: &[Column]) -> String {
        let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            self.quoted(),
            names.join(", ")
        )
    }

    /// Everything that stands in the way of writing `columns` for the sink `sink`, in one error.
    pub(super) async fn check(
        &self,
        session: &Session,
        sink: &str,
        columns: &[Column],
        upsert: Option<&Upsert>,
        create: bool,
    ) -> Result<()> {
        let problems = self
            .problems(session, columns, upsert, create)
            .await
            .map_err(|error| failure(format!("sink {sink}: looking at table {self}"), error))?;
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!("sink {sink}: table {self} can't be written: {}", problems.join("; ")),
        ))
    }

    async fn problems(
        &self,
        session: &Session,
        columns: &[Column],
        upsert: Option<&Upsert>,
        create: bool,
    ) -> Result<Vec<String>, tokio_postgres::Error> {
        let mut problems = Vec::new();
        let client = &session.client;
        let standby: bool = client
            .query_typed_one("SELECT pg_is_in_recovery()", &[])
            .await?
            .try_get(0)?;
        if standby {
            problems.push("the server is a standby, which takes no rows; name the primary".to_owned());
        }
        for (name, rights) in [
            ("tidemill_fence", ["SELECT", "INSERT", "UPDATE"].as_slice()),
            ("tidemill_ledger", ["SELECT", "INSERT", "DELETE"].as_slice()),
        ] {
            self.ledger_rights(session, name, rights, &mut problems).await?;
        }
        match self.find(session).await? {
            Some(found) => {
                self.fits(session, &found, columns, &mut problems).await?;
                if let Some(upsert) = upsert {
                    upsert.problems(session, self, &mut problems).await?;
                }
            }
            None if create => {
                self.may_create(session, self.schema.as_deref(), &self.to_string(), &mut problems)
                    .await?;
            }
            None => problems.push(format!(
                "it does not exist; set create_table = true or run: {}",
                self.create(columns, upsert)
            )),
        }
        Ok(problems)
    }

    /// Rights on a table of the ledger where it exists, the right to make it where it doesn't.
    async fn ledger_rights(
        &self,
        session: &Session,
        name: &str,
        rights: &[&str],
        problems: &mut Vec<String>,
    ) -> Result<(), tokio_postgres::Error> {
        let wanted: Vec<String> = rights.iter().map(|right| (*right).to_owned()).collect();
        let row = session
            .client
            .query_typed_one(
                "SELECT to_regclass($1) IS NOT NULL, \
                 ARRAY(SELECT r FROM unnest($2) r WHERE NOT has_table_privilege(to_regclass($1), r)), \
                 current_user::text",
                &[(&name, Type::TEXT), (&wanted, Type::TEXT_ARRAY)],
            )
            .await?;
        if !row.try_get::<_, bool>(0)? {
            return self.may_create(session, None, name, problems).await;
        }
        let missing: Vec<String> = row.try_get(1)?;
        if !missing.is_empty() {
            let user: &str = row.try_get(2)?;
            let missing = missing.join(", ");
            problems.push(format!(
                "no {missing} right on {name}; run: GRANT {missing} ON {name} TO {}",
                quoted(user)
            ));
        }
        Ok(())
    }

    async fn may_create(
        &self,
        session: &Session,
        schema: Option<&str>,
        table: &str,
        problems: &mut Vec<String>,
    ) -> Result<(), tokio_postgres::Error> {
        let row = session
            .client
            .query_typed_one(
                "SELECT n.nspname::text, has_schema_privilege(n.oid, 'CREATE'), current_user::text \
                 FROM (SELECT coalesce($1, current_schema()) AS name) wanted \
                 LEFT JOIN pg_namespace n ON n.nspname = wanted.name",
                &[(&schema, Type::TEXT)],
            )
            .await?;
        let (found, allowed): (Option<&str>, Option<bool>) = (row.try_get(0)?, row.try_get(1)?);
        let user: &str = row.try_get(2)?;
        match (found, allowed) {
            (Some(_), Some(true)) => {}
            (Some(found), _) => problems.push(format!(
                "no CREATE right on schema {found}, where {table} is to be made; run: GRANT CREATE ON SCHEMA {} TO {}",
                quoted(found),
                quoted(user)
            )),
            (None, _) => problems.push(match schema {
                Some(schema) => format!("schema {schema} does not exist; run: CREATE SCHEMA {}", quoted(schema)),
                None => format!("no schema of the search path exists, so {table} can't be made; set search_path"),
            }),
        }
        Ok(())
    }

    async fn find(&self, session: &Session) -> Result<Option<Found>, tokio_postgres::Error> {
        let row = session
            .client
            .query_typed_opt(
                "SELECT relkind, relpersistence <> 'p', has_table_privilege(oid, 'INSERT') \
                 FROM pg_class WHERE oid = to_regclass($1)",
                &[(&self.quoted(), Type::TEXT)],
            )
            .await?;
        row.map(|row| {
            Ok(Found {
                kind: row.try_get(0)?,
                unlogged: row.try_get(1)?,
                may_insert: row.try_get(2)?,
            })
        })
        .transpose()
    }

    async fn fits(
        &self,
        session: &Session,
        found: &Found,
        columns: &[Column],
        problems: &mut Vec<String>,
    ) -> Result<(), tokio_postgres::Error> {
        // 'r' is a table, 'p' a partitioned one.
        if ![b'r', b'p'].contains(&found.kind.unsigned_abs()) {
            problems.push("it is no table (a view, sequence or foreign table)".to_owned());
            return Ok(());
        }
        if found.unlogged {
            problems.push(
                "it is UNLOGGED or temporary: a crash of the server would empty it and leave the ledger; \
                 run: ALTER TABLE … SET LOGGED"
                    .to_owned(),
            );
        }
        if !found.may_insert {
            problems.push(format!(
                "no INSERT right; run: GRANT INSERT ON {} TO the sink's user",
                self.quoted()
            ));
        }
        compare(&self.quoted(), columns, &self.present(session).await?, problems);
        Ok(())
    }

    async fn present(&self, session: &Session) -> Result<Vec<Present>, tokio_postgres::Error> {
        let rows = session
            .client
            .query_typed(
                "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, \
                 atthasdef OR attidentity <> '' OR attgenerated <> '', attgenerated <> '' \
                 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[(&self.quoted(), Type::TEXT)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Present {
                    name: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    not_null: row.try_get(2)?,
                    filled: row.try_get(3)?,
                    generated: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Looks whether the rows that were just copied went into the columns that were checked. The server takes the bytes of a
    /// binary COPY for whatever type a column has then; the COPY of the open transaction keeps the table from changing now.
    pub(super) async fn took(&self, session: &Session, what: &str, columns: &[Column]) -> Result<()> {
        let present = self.present(session).await.map_err(|error| failure(what, error))?;
        let mut problems = Vec::new();
        compare(&self.quoted(), columns, &present, &mut problems);
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!("{what}: the table was changed: {}", problems.join("; ")),
        ))
    }
}

/// What differs between the columns written and those the table has.
fn compare(table: &str, columns: &[Column], present: &[Present], problems: &mut Vec<String>) {
    let before = problems.len();
    for column in columns {
        let Some(there) = present.iter().find(|there| there.name == column.name) else {
            problems.push(format!(
                "column {} ({}) is missing; run: ALTER TABLE {table} ADD COLUMN {} {}",
                column.name,
                column.kind,
                quoted(&column.name),
                column.kind
            ));
            continue;
        };
        if there.generated {
            problems.push(format!(
                "column {} is generated by the table; leave it out of the query",
                column.name
            ));
        } else if !column.kind.is_named(&there.kind) {
            problems.push(format!(
                "column {} is {} in the table, the query gives {}; CAST it in the query or change the table",
                column.name,
                there.kind,
                given(column.kind)
            ));
        }
    }
    for there in present {
        let written = columns.iter().any(|column| column.name == there.name);
        if !written && there.not_null && !there.filled {
            problems.push(format!(
                "column {} is not in the query, NOT NULL and without a default; give it a DEFAULT or drop NOT NULL",
                there.name
            ));
        }
    }
    if problems.len() > before {
        problems.push("or name a table that does not exist yet and set create_table = true".to_owned());
    }
}

fn given(kind: PgType) -> String {
    match kind {
        PgType::Text => "text (or character varying)".to_owned(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_as_written() {
        let table = Table::parse("out", "Shop.Orders").unwrap();
        assert_eq!(table.quoted(), r#""Shop"."Orders""#);
        assert_eq!(table.to_string(), "Shop.Orders");
        for bad in ["", "a.", ".a", "a.b.c", "\"a\""] {
            let error = Table::parse("out", bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{bad}");
        }
    }

    #[test]
    fn names_what_differs_column_by_column() {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
        };
        let present = |name: &str, kind: &str, not_null, filled, generated| Present {
            name: name.to_owned(),
            kind: kind.to_owned(),
            not_null,
            filled,
            generated,
        };
        let columns = [
            column("id", PgType::Bigint),
            column("word", PgType::Text),
            column("new", PgType::Date),
            column("sum", PgType::Bigint),
        ];
        let there = [
            present("id", "integer", true, false, false),
            present("word", "character varying(9)", true, false, false),
            present("sum", "bigint", false, true, true),
            present("stamp", "date", true, true, false),
            present("must", "date", true, false, false),
        ];
        let mut problems = Vec::new();
        compare("\"t\"", &columns, &there, &mut problems);
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(problems[0].starts_with("column id is integer in the table, the query gives bigint"));
        assert!(problems[1].ends_with("ALTER TABLE \"t\" ADD COLUMN \"new\" date"));
        assert!(problems[2].starts_with("column sum is generated"));
        assert!(problems[3].starts_with("column must is not in the query"));
    }
}
