//! Rows over TLS into a PostgreSQL server that takes them in no other way, and who is not trusted.

use tidemill_tests::case::LIMIT;
use tidemill_tests::own_server::SecurePostgres;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;
use tidemill_tests::servers;
use tidemill_tests::target::with_database_at;

use crate::sheet::{head, source, topic};

const RECORDS: i64 = 5_000;

fn numbers() -> String {
    let records: Vec<Record> = (0..RECORDS).map(|n| Record::of(0, format!("{{\"n\":{n}}}"))).collect();
    topic("tls", 1, &records)
}

fn pipeline(topic: &str, table: &str, url: &str) -> Pipeline {
    let text = head("tls")
        + &source("events", topic, "n BIGINT", "")
        + &format!(
            "[sinks.out]\nfrom = \"events\"\nkind = \"postgres\"\nurl = \"{url}\"\ntable = \"{table}\"\ncreate_table = true\n"
        );
    Pipeline::write(&text).unwrap()
}

#[test]
fn rows_go_over_tls_by_password_and_by_certificate() {
    let server = SecurePostgres::start().unwrap();
    let (topic, place) = (numbers(), server.place());
    let (ca, certificate, key) = (server.pem("ca.pem"), server.pem("client.pem"), server.pem("client.key"));
    for (table, url) in [
        (
            "in_full",
            format!("postgres://pipeline:hunter2@{place}?sslmode=verify-full&sslrootcert={ca}"),
        ),
        (
            "unchecked",
            format!("postgres://pipeline:hunter2@{place}?sslmode=require"),
        ),
        (
            "by_name",
            // The certificate names the address only.
            format!("postgres://pipeline:hunter2@{place}?sslmode=verify-ca&sslrootcert={ca}")
                .replace("127.0.0.1", "localhost"),
        ),
        (
            "certified",
            format!("postgres://client@{place}?sslrootcert={ca}&sslcert={certificate}&sslkey={key}"),
        ),
    ] {
        pipeline(&topic, table, &url).run_to_end(&[], LIMIT).unwrap();
        let (rows, sum) = with_database_at(server.address(), async |database| {
            let row = database
                .query_one(&format!("SELECT count(*), sum(n)::bigint FROM {table}"), &[])
                .await?;
            Ok((row.get::<_, i64>(0), row.get::<_, i64>(1)))
        })
        .unwrap();
        assert_eq!((rows, sum), (RECORDS, RECORDS * (RECORDS - 1) / 2), "{table}");
    }
}

#[test]
fn who_is_not_trusted_is_refused_with_the_way_out() {
    let server = SecurePostgres::start().unwrap();
    let (topic, place) = (numbers(), server.place());
    let (ca, stranger) = (server.pem("ca.pem"), server.pem("stranger.pem"));
    let url = |host: &str, more: &str| format!("postgres://pipeline:hunter2@{place}{more}").replace("127.0.0.1", host);
    let plain = servers::postgres();
    for (url, said) in [
        (url("127.0.0.1", "?sslmode=verify-full"), "sslrootcert"),
        (
            url("127.0.0.1", &format!("?sslrootcert={stranger}")),
            "give the CA that signed it as sslrootcert",
        ),
        (
            url("localhost", &format!("?sslrootcert={ca}")),
            "take sslmode=verify-ca",
        ),
        (
            url("127.0.0.1", "?sslrootcert=/nowhere.pem"),
            "sslrootcert: /nowhere.pem can't be read",
        ),
        (url("127.0.0.1", ""), "pg_hba.conf rejects connection"),
        (
            format!("postgres://client@{place}?sslrootcert={ca}"),
            "connection requires a valid client certificate",
        ),
        (format!("{plain}?sslmode=require"), "sslmode=disable does without"),
    ] {
        let checked = pipeline(&topic, "never", &url).ask(&["check"]).unwrap();
        assert_eq!(checked.code(), Some(1), "{said}: {}", checked.log_tail());
        assert!(checked.stderr.contains(said), "lacks {said}: {}", checked.stderr);
        assert!(
            !checked.stderr.contains("hunter2") && !checked.stdout.contains("hunter2"),
            "{}",
            checked.stderr
        );
    }
}
