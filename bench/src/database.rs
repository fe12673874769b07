//! PostgreSQL: a fresh database per run, plain COPY for comparison, and the recount.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use tidemill_kafka::embedded::ad_events::AdEvents;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Row};

use crate::expected::{self, AdEvent, Sums};
use crate::usage;

/// Milliseconds from 1970 to 2000, where PostgreSQL's time begins.
const YEAR_2000_MS: i64 = 946_684_800_000;
/// Bytes per message of COPY.
const CHUNK_BYTES: usize = 64 << 10;

const TABLE: &str = "CREATE TABLE ad_events (user_id text, page_id text, ad_id text, ad_type text, event_type text, \
                     event_time timestamp, ip_address text)";

/// A database of its own for one run. It is dropped by [`Database::drop`].
pub(crate) struct Database {
    runtime: Runtime,
    admin: Client,
    name: String,
    url: String,
}

/// What plain COPY took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied {
    /// Sum of the transactions' times, from BEGIN to the end of COMMIT.
    pub(crate) time: Duration,
    /// CPU time of the client in them.
    pub(crate) cpu: Duration,
}

impl Database {
    /// Makes the database `name` on the server of `url`, and writes out what earlier runs left dirty.
    ///
    /// # Errors
    /// Where the server doesn't answer or refuses.
    pub(crate) fn make(url: &str, name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let admin = connect(&runtime, url)
            .context("no PostgreSQL at the given URL; start one: eval \"$(scripts/servers start)\"")?;
        let name = name.replace('-', "_");
        let url = with_database(url, &name)?;
        runtime.block_on(async {
            admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
            admin.batch_execute("CHECKPOINT").await
        })?;
        Ok(Self {
            runtime,
            admin,
            name,
            url,
        })
    }

    /// The database's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The server's version.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(self
            .runtime
            .block_on(self.admin.query_one("SHOW server_version", &[]))?
            .get(0))
    }

    /// Drops the database.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn drop(self) -> Result<()> {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        Ok(self.runtime.block_on(self.admin.batch_execute(&drop))?)
    }

    /// What the rows of the table `ad_events` come to.
    ///
    /// # Errors
    /// The server's, and where a value is NULL.
    pub(crate) fn sums(&self) -> Result<Sums> {
        let client = connect(&self.runtime, &self.url)?;
        let sql = "SELECT ad_id::text, count(*), sum((extract(epoch FROM event_time) * 1000)::bigint)::bigint, \
                   count(*) FILTER (WHERE num_nulls(user_id, page_id, ad_id, ad_type, event_type, event_time, ip_address) > 0) \
                   FROM ad_events GROUP BY 1";
        let mut sums = Sums::default();
        for row in self.runtime.block_on(client.query(sql, &[]))? {
            let (ad, count, time, nulls): (String, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
            if nulls > 0 {
                bail!("wrong: {nulls} rows about {ad} hold NULLs");
            }
            sums.records += count.unsigned_abs();
            sums.by_ad.insert(ad, count.unsigned_abs());
            sums.time_ms += i128::from(time);
        }
        Ok(sums)
    }

    /// The rows that a query gives, each column a whole number.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn numbers(&self, sql: &str) -> Result<Vec<Vec<i64>>> {
        let client = connect(&self.runtime, &self.url)?;
        let rows = self.runtime.block_on(client.query(sql, &[]))?;
        let numbers = |row: &Row| (0..row.len()).map(|column| Ok(row.try_get(column)?)).collect();
        rows.iter().map(numbers).collect()
    }

    /// Writes the first events of the stream by binary COPY, one transaction per number in `transactions`. The rows of
    /// a transaction are encoded before its time begins.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn copy(&self, transactions: &[u64]) -> Result<Copied> {
        let client = connect(&self.runtime, &self.url)?;
        self.runtime.block_on(client.batch_execute(TABLE))?;
        let mut copied = Copied {
            time: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        let mut next = 0;
        for rows in transactions {
            let chunks = encoded(next, *rows)?;
            next += rows;
            let cpu = usage::cpu_time(std::process::id())?;
            let begun = Instant::now();
            let written = self.runtime.block_on(copy(&client, chunks))?;
            copied.time += begun.elapsed();
            copied.cpu += usage::cpu_time(std::process::id())?.saturating_sub(cpu);
            if written != *rows {
                bail!("wrong: COPY of {rows} rows wrote {written}");
            }
        }
        Ok(copied)
    }
}

async fn copy(client: &Client, chunks: Vec<Bytes>) -> Result<u64> {
    client.batch_execute("BEGIN").await?;
    let sink = client.copy_in("COPY ad_events FROM STDIN (FORMAT binary)").await?;
    let mut sink = std::pin::pin!(sink);
    for chunk in chunks {
        sink.feed(chunk).await?;
    }
    let written = sink.as_mut().finish().await?;
    client.batch_execute("COMMIT").await?;
    Ok(written)
}

fn connect(runtime: &Runtime, url: &str) -> Result<Client> {
    let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
    runtime.spawn(async move {
        // The client's calls report what ended it.
        let _ended = connection.await;
    });
    Ok(client)
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (base, query) = url.split_once('?').map_or((url, ""), |(base, query)| (base, query));
    let Some((scheme, rest)) = base
        .split_once("://")
        .filter(|(scheme, _)| scheme.starts_with("postgres"))
    else {
        bail!("the URL of PostgreSQL must begin with postgres://");
    };
    let server = rest.split('/').next().unwrap_or_default();
    let question = if query.is_empty() { "" } else { "?" };
    Ok(format!("{scheme}://{server}/{name}{question}{query}"))
}

/// Events `from` to `from + rows` in COPY's binary format.
fn encoded(from: u64, rows: u64) -> Result<Vec<Bytes>> {
    let events = expected::ad_events();
    let mut chunks = Vec::new();
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES + 1024);
    chunk.put_slice(b"PGCOPY\n\xff\r\n\0");
    chunk.put_i64(0);
    let mut value = Vec::new();
    for n in from..from + rows {
        value.clear();
        AdEvents::write_value(&events, n, &mut value);
        put_row(&mut chunk, &serde_json::from_slice(&value)?);
        if chunk.len() >= CHUNK_BYTES {
            chunks.push(std::mem::replace(&mut chunk, BytesMut::with_capacity(CHUNK_BYTES + 1024)).freeze());
        }
    }
    chunk.put_i16(-1);
    chunks.push(chunk.freeze());
    Ok(chunks)
}

fn put_row(out: &mut BytesMut, event: &AdEvent<'_>) {
    out.put_i16(7);
    for text in [
        event.user_id,
        event.page_id,
        event.ad_id,
        event.ad_type,
        event.event_type,
    ] {
        put_text(out, text);
    }
    out.put_i32(8);
    out.put_i64((event.event_time - YEAR_2000_MS) * 1_000);
    put_text(out, event.ip_address);
}

fn put_text(out: &mut BytesMut, text: &str) {
    // A text of the stream has a few dozen bytes.
    out.put_i32(text.len() as i32);
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_in_a_url_is_replaced() {
        let with = |url| with_database(url, "other").unwrap();
        assert_eq!(with("postgres://me:pw@h:5/db"), "postgres://me:pw@h:5/other");
        assert_eq!(with("postgresql://me@h"), "postgresql://me@h/other");
        assert_eq!(with("postgres://h/db?a=b"), "postgres://h/other?a=b");
        assert!(with_database("host=localhost", "other").is_err());
    }

    #[test]
    fn rows_are_encoded_for_copy() {
        let chunks = encoded(0, 1_000).unwrap();
        assert!(chunks.len() > 1);
        let whole: Vec<u8> = chunks.concat();
        assert_eq!(&whole[..11], b"PGCOPY\n\xff\r\n\0");
        // Header, then seven columns, the first a uuid of 36 characters.
        assert_eq!(&whole[11..25], [0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 36]);
        assert_eq!(&whole[whole.len() - 2..], [0xff, 0xff]);
        let mut rows = 0;
        let mut rest = &whole[19..];
        while rest[..2] == [0, 7] {
            rest = &rest[2..];
            for _ in 0..7 {
                let length = i32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                rest = &rest[4 + length..];
            }
            rows += 1;
        }
        assert_eq!((rows, rest), (1_000, &[0xff, 0xff][..]));
    }
}
