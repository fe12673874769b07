//! Encrypted connections, and who we are on them, on real listeners.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::java;
use tidemill_tests::own_server::SecureKafka;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::{Record, produce_at};
use tidemill_tests::servers;
use tidemill_tests::token_endpoint::TokenEndpoint;

use crate::sheet::{files, head, rows, sink};

const RECORDS: i64 = 1_000;

/// The broker, which ends with the run of the tests, and a topic of numbers.
fn secure() -> &'static (SecureKafka, String) {
    static SECURE: OnceLock<(SecureKafka, String)> = OnceLock::new();
    SECURE.get_or_init(|| {
        let kafka = SecureKafka::start().expect("a broker");
        let topic = topic(&kafka);
        produce_at(kafka.address(), &topic, &numbers(0..RECORDS)).expect("records");
        (kafka, topic)
    })
}

/// A new topic of two partitions.
fn topic(kafka: &SecureKafka) -> String {
    let topic = servers::unique("secure");
    java::run_at(kafka.address(), "Topics", &["create", &topic, "2"]).expect("a topic");
    topic
}

fn numbers(range: std::ops::Range<i64>) -> Vec<Record> {
    range
        .map(|n| Record::of(i32::try_from(n % 2).expect("0 or 1"), format!("{{\"n\":{n}}}")))
        .collect()
}

/// The lines of a table of properties, and the listener that they are for.
struct Login {
    brokers: String,
    properties: String,
}

impl Login {
    fn at(port: &str, properties: &[(&str, &str)]) -> Self {
        let properties: Vec<String> = properties
            .iter()
            .map(|(name, value)| format!("\"{name}\" = {}", json!(value)))
            .collect();
        Self {
            brokers: format!("127.0.0.1:{port}"),
            properties: format!("properties = {{ {} }}\n", properties.join(", ")),
        }
    }

    /// SASL over TLS.
    fn tls(mechanism: &[(&str, &str)]) -> Self {
        let (kafka, _) = secure();
        let ca = kafka.pem("ca.pem");
        let tls = [("security.protocol", "SASL_SSL"), ("ssl.ca.location", ca.as_str())];
        Self::at(kafka.sasl_tls(), &[&tls[..], mechanism].concat())
    }

    /// SASL without TLS.
    fn plain(mechanism: &[(&str, &str)]) -> Self {
        let (kafka, _) = secure();
        Self::at(
            kafka.sasl(),
            &[&[("security.protocol", "SASL_PLAINTEXT")], mechanism].concat(),
        )
    }

    /// TLS alone, with these.
    fn mutual(properties: &[(&str, &str)]) -> Self {
        let (kafka, _) = secure();
        Self::at(
            kafka.mutual_tls(),
            &[&[("security.protocol", "SSL")], properties].concat(),
        )
    }

    fn source(&self, topic: &str) -> String {
        format!(
            "[sources.events]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\nformat = \"json\"\n\
             columns = \"n BIGINT\"\n{}",
            self.brokers, self.properties
        )
    }
}

fn user<'a>(mechanism: &'a str, password: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("sasl.mechanism", mechanism),
        ("sasl.username", "reader"),
        ("sasl.password", password),
    ]
}

/// A client that gets its tokens from there.
fn client<'a>(url: &'a str, secret: &'a str) -> [(&'static str, &'a str); 6] {
    [
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.token.endpoint.url", url),
        ("sasl.oauthbearer.client.id", "reader"),
        ("sasl.oauthbearer.client.secret", secret),
        ("sasl.oauthbearer.scope", "kafka"),
    ]
}

/// Copies a topic that holds all numbers to files, and counts.
fn reads_through(login: &Login, topic: &str) {
    let target = files();
    let text = head("secure") + &login.source(topic) + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let mut seen: Vec<i64> = rows(&pipeline, &target)
        .iter()
        .filter_map(|row| row["n"].as_i64())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..RECORDS).collect::<Vec<_>>());
}

/// Copies one topic to another.
fn writes_through(login: &Login, from: &str, to: &str) {
    let text = head("written")
        + &login.source(from)
        + &format!(
            "[sinks.out]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{to}\"\nsql = \"SELECT n FROM events\"\n{}",
            login.brokers, login.properties
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    pipeline.run_to_end(&[], LIMIT).unwrap();
}

/// Expects a start to be refused for this reason, and the password to stay out of what is said.
fn refused(login: &Login, reason: &str) {
    let text = head("refused") + &login.source(&secure().1) + &sink("out", "SELECT n FROM events", &files());
    let pipeline = Pipeline::write(&text).unwrap();
    for ended in [
        pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap(),
        pipeline.ask(&["check"]).unwrap(),
    ] {
        assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
        assert!(ended.stderr.contains(reason), "{reason} is not in\n{}", ended.stderr);
        assert!(!ended.stderr.contains("wrong-secret"), "{}", ended.stderr);
    }
}

#[test]
fn a_certificate_of_ours_lets_us_in() {
    let (kafka, topic) = secure();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|name| kafka.pem(name));
    let files = Login::mutual(&[
        ("ssl.ca.location", &ca),
        ("ssl.certificate.location", &certificate),
        ("ssl.key.location", &key),
    ]);
    reads_through(&files, topic);
    let [ca, certificate, key] = [ca, certificate, key].map(|file| std::fs::read_to_string(file).unwrap());
    let texts = Login::mutual(&[
        ("ssl.ca.pem", &ca),
        ("ssl.certificate.pem", &certificate),
        ("ssl.key.pem", &key),
    ]);
    reads_through(&texts, topic);
}

#[test]
fn every_mechanism_lets_us_in() {
    let (_, topic) = secure();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        reads_through(&Login::tls(&user(mechanism, "hunter2")), topic);
        reads_through(&Login::plain(&user(mechanism, "hunter2")), topic);
    }
}

#[test]
fn a_token_lets_us_in() {
    // The broker takes tokens that nobody signed.
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({"sub": "reader", "iat": now, "exp": now + 3600});
    let token = format!("{}.{}.", part(json!({"alg": "none"})), part(claims));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token + "\n").unwrap();
    let url = format!("file://{}", file.path().display());
    let of_file = [
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token.endpoint.url", url.as_str()),
    ];
    reads_through(&Login::tls(&of_file), &secure().1);
    std::fs::write(file.path(), "no-token").unwrap();
    refused(&Login::tls(&of_file), "invalid_token");
}

#[test]
fn a_token_of_an_endpoint_lets_us_in_one_for_all_connections() {
    let (kafka, records) = secure();
    let endpoint = TokenEndpoint::start(3600).unwrap();
    let login = Login::plain(&client(&endpoint.url(), "hunter2"));
    reads_through(&login, records);
    assert_eq!(endpoint.granted(), 1);
    let out = topic(kafka);
    writes_through(&login, records, &out);
    // The check and the run: one for the source, one for the sink.
    assert_eq!(endpoint.granted(), 1 + 4);
    reads_through(&login, &out);
    let endpoint = TokenEndpoint::start_tls(3600, &kafka.pem("broker.pem"), &kafka.pem("broker.key")).unwrap();
    let url = endpoint.url();
    reads_through(&Login::tls(&client(&url, "hunter2")), records);
    // The CA is for the endpoint alone where the connection to the broker is not encrypted.
    let ca = kafka.pem("ca.pem");
    let of_endpoint = [&client(&url, "hunter2")[..], &[("ssl.ca.location", &ca)]].concat();
    reads_through(&Login::plain(&of_endpoint), records);
    assert_eq!(endpoint.granted(), 2);
}

#[test]
fn who_gets_no_token_is_told_why() {
    let (kafka, _) = secure();
    let mut endpoint = TokenEndpoint::start(3600).unwrap();
    let url = endpoint.url();
    let login = Login::plain(&client(&url, "wrong-secret"));
    refused(
        &login,
        &format!(
            "token endpoint {url}: it answers 401 Unauthorized (invalid_client: who is that?); check sasl.oauthbearer"
        ),
    );
    endpoint.end().unwrap();
    refused(&login, &format!("token endpoint {url}: Connection refused"));
    let endpoint = TokenEndpoint::start_tls(3600, &kafka.pem("broker.pem"), &kafka.pem("broker.key")).unwrap();
    let stranger = kafka.pem("stranger.pem");
    let url = endpoint.url();
    let of_stranger = [&client(&url, "wrong-secret")[..], &[("ssl.ca.location", &stranger)]].concat();
    refused(
        &Login::plain(&of_stranger),
        "UnknownIssuer; give the CA that signed it as ssl.ca.location",
    );
    assert_eq!(endpoint.granted(), 0);
}

#[test]
fn a_pipeline_goes_on_after_its_token_has_ended_and_its_endpoint_was_away() {
    let (kafka, _) = secure();
    let (topic, target) = (topic(kafka), files());
    let mut endpoint = TokenEndpoint::start(2).unwrap();
    let url = endpoint.url();
    let login = Login::plain(&client(&url, "hunter2"));
    let text = head("tokens") + &login.source(&topic) + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let run = pipeline.start(&[], &[]).unwrap();
    let mut batch = 0;
    let mut goes_on = || {
        batch += 1;
        produce_at(kafka.address(), &topic, &numbers(0..1)).unwrap();
        let has_run = run.wait_for_log(&format!("batch={batch} "), LIMIT).unwrap();
        assert!(has_run, "{}", run.log());
    };
    // Longer than a token holds.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        goes_on();
    }
    assert!(!run.log().contains("WARN"), "{}", run.log());
    assert!(endpoint.granted() >= 3, "{} tokens in 5 s", endpoint.granted());
    endpoint.end().unwrap();
    let away = format!("token endpoint {url}: Connection refused");
    assert!(run.wait_for_log(&away, LIMIT).unwrap(), "{}", run.log());
    endpoint.again(2).unwrap();
    goes_on();
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
}

#[test]
fn a_pipeline_goes_on_where_the_broker_wants_to_hear_again_who_we_are() {
    let (kafka, _) = secure();
    let (topic, target) = (topic(kafka), files());
    let login = Login::plain(&user("PLAIN", "hunter2"));
    let text = head("again") + &login.source(&topic) + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let run = pipeline.start(&[], &[]).unwrap();
    // Longer than the broker believes a connection.
    let until = Instant::now() + Duration::from_secs(4);
    let mut batch = 0;
    while Instant::now() < until {
        batch += 1;
        produce_at(kafka.address(), &topic, &numbers(0..1)).unwrap();
        assert!(
            run.wait_for_log(&format!("batch={batch} "), LIMIT).unwrap(),
            "{}",
            run.log()
        );
    }
    run.signal(Signal::TERM);
    let ended = run.wait(LIMIT).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert!(!ended.stderr.contains("WARN"), "{}", ended.log_tail());
}

#[test]
fn a_topic_is_written_over_sasl_and_tls() {
    let (kafka, records) = secure();
    let out = topic(kafka);
    let login = Login::tls(&user("SCRAM-SHA-512", "hunter2"));
    writes_through(&login, records, &out);
    reads_through(&login, &out);
}

#[test]
fn a_broker_that_is_not_trusted_is_refused() {
    let (kafka, _) = secure();
    let stranger = kafka.pem("stranger.pem");
    let other_ca = Login::mutual(&[("ssl.ca.location", &stranger)]);
    refused(&other_ca, "give the CA that signed it as ssl.ca.location");
    let mut other_host = Login::tls(&user("PLAIN", "hunter2"));
    other_host.brokers = format!("localhost:{}", kafka.sasl_tls());
    refused(&other_host, "connect by a name that the certificate has");
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let (kafka, _) = secure();
    let ca = kafka.pem("ca.pem");
    refused(
        &Login::mutual(&[("ssl.ca.location", &ca)]),
        "it may ask for a client certificate",
    );
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        refused(&Login::tls(&user(mechanism, "wrong-secret")), "it does not let us in");
    }
}

#[test]
fn a_listener_of_another_kind_is_named() {
    let (kafka, _) = secure();
    let plain = Login::at(kafka.mutual_tls(), &[("client.id", "me")]);
    refused(&plain, "it may be a TLS listener: security.protocol");
    let port = kafka.address().rsplit_once(':').unwrap().1;
    let tls = Login::at(
        port,
        &[("security.protocol", "SSL"), ("ssl.ca.location", &kafka.pem("ca.pem"))],
    );
    refused(&tls, "is this the port of a TLS listener?");
}
