//! Kerberos: a realm with its KDC, and a listener that takes nothing but GSSAPI. `scripts/test gssapi` runs these, as the binary
//! and librdkafka must be built for it.

use std::sync::OnceLock;

use tidemill_tests::java;
use tidemill_tests::own_server::GssapiKafka;
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::records::{Record, produce_at};
use tidemill_tests::servers;

use crate::sheet::{files, head, numbers, rows_by, sink};

fn kafka() -> &'static GssapiKafka {
    static KAFKA: OnceLock<GssapiKafka> = OnceLock::new();
    KAFKA.get_or_init(|| GssapiKafka::start().expect("a broker and its KDC"))
}

/// A new topic of two partitions.
fn topic() -> String {
    let topic = servers::unique("gssapi");
    java::run_at(kafka().address(), "Topics", &["create", &topic, "2"]).unwrap();
    topic
}

fn produce(topic: &str, range: std::ops::Range<i64>) {
    let records: Vec<Record> = range
        .map(|n| Record::of(i32::try_from(n % 2).unwrap(), format!("{{\"n\":{n}}}")))
        .collect();
    produce_at(kafka().address(), topic, &records).unwrap();
}

/// A source at the listener, for the principal whose keytab this is; `more` are further lines.
fn source(topic: &str, principal: &str, more: &str) -> String {
    let kafka = kafka();
    format!(
        "[sources.events]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:{}\"\ntopics = [\"{topic}\"]\nformat = \"json\"\n\
         columns = \"n BIGINT\"\nreader = \"librdkafka\"\n{more}\n[sources.events.properties]\n\
         \"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"GSSAPI\"\n\
         \"sasl.kerberos.service.name\" = \"kafka\"\n\"sasl.kerberos.principal\" = \"{principal}\"\n\
         \"sasl.kerberos.keytab\" = \"{}\"\n",
        kafka.sasl(),
        kafka.file("reader.keytab")
    )
}

/// A command of a pipeline, with the realm and a cache of tickets of its own.
fn ask(pipeline: &Pipeline, args: &[&str]) -> Finished {
    let cache = format!("FILE:{}", pipeline.folder().join("tickets").display());
    let realm = kafka().file("krb5.conf");
    let env = [("KRB5_CONFIG", realm.as_str()), ("KRB5CCNAME", cache.as_str())];
    pipeline.ask_with(args, &env).unwrap()
}

fn runs(pipeline: &Pipeline) {
    let ended = ask(pipeline, &["run", "--until-caught-up"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
}

#[test]
fn a_ticket_lets_us_in_and_offsets_are_published() {
    let (topic, group, target) = (topic(), servers::unique("group"), files());
    produce(&topic, 0..1000);
    let group = format!("group = \"{group}\"");
    let text = head("kerberos") + &source(&topic, "reader", &group) + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    let checked = ask(&pipeline, &["check"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    let said = format!("{}{}", checked.stdout, checked.stderr);
    assert!(said.contains("2 partitions, up to 1000 records"), "{said}");
    assert!(said.contains("neither topic ids nor leader epochs"), "{said}");
    runs(&pipeline);
    produce(&topic, 1000..1500);
    runs(&pipeline);
    let seen = numbers(&rows_by("n", &pipeline, &target), "n");
    assert_eq!(seen, (0..1500).collect::<Vec<_>>());
    produce(&topic, 1500..1600);
    let target = files();
    let next = head("committed")
        + &source(&topic, "reader", &format!("{group}\nstart = \"committed\""))
        + &sink("out", "SELECT n FROM events", &target);
    let next = Pipeline::write(&next).unwrap();
    runs(&next);
    let seen = numbers(&rows_by("n", &next, &target), "n");
    assert_eq!(seen, (1500..1600).collect::<Vec<_>>());
}

#[test]
fn a_time_is_looked_for_and_all_topics_of_a_pattern_are_found() {
    let (topic, target) = (topic(), files());
    produce(&topic, 0..10);
    let start = "start = { timestamp = \"2020-01-01T00:00:00Z\" }";
    let pattern = source(&topic, "reader", start).replace(
        &format!("topics = [\"{topic}\"]"),
        &format!("topic_pattern = \"{topic}.*\""),
    );
    let text = head("since") + &pattern + &sink("out", "SELECT n FROM events", &target);
    let pipeline = Pipeline::write(&text).unwrap();
    runs(&pipeline);
    assert_eq!(rows_by("n", &pipeline, &target).len(), 10);
}

#[test]
fn who_has_no_key_is_told_so() {
    let text = head("stranger") + &source(&topic(), "stranger", "") + &sink("out", "SELECT n FROM events", &files());
    let pipeline = Pipeline::write(&text).unwrap();
    for command in [&["check"][..], &["run", "--until-caught-up"]] {
        let ended = ask(&pipeline, command);
        assert_eq!(ended.code(), Some(1), "{}", ended.log_tail());
        assert!(ended.stderr.contains("kinit"), "{}", ended.stderr);
    }
}
