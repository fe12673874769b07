use std::path::Path;

use tidemill_core::rate::PidSettings;
use tidemill_core::start::StartPolicy;
use tidemill_engine::sql::running::{Emit, Scope, Ttl, Window};

use super::place::Bucket;
use super::secret::Secret;
use super::*;

const SAMPLE: &str = r#"
name       = "ad-views"
interval   = "1s"
checkpoint = "checkpoint/ad-views"
memory_limit = "1GiB"

[sources.events]
kind    = "kafka"
brokers = "localhost:9092"
topics  = ["events"]
format  = "json"
columns = "user_id VARCHAR, ad_id BIGINT, event_type VARCHAR, event_time TIMESTAMP(3)"
start            = { offsets = { events = { "0" = 17 } } }
on_new_partition = "earliest"
on_out_of_range  = "stop"
on_bad_record    = "skip"
max_rate_per_partition = 100000
group = "ad-views"
properties = { "security.protocol" = "PLAINTEXT", "client.id" = "me" }

[queries.views]
sql = "SELECT ad_id, count(*) AS views FROM events WHERE event_type = 'view' GROUP BY ad_id"
scope = "batch"

[sinks.out]
from  = "views"
kind  = "postgres"
url   = "${DATABASE_URL}"
table = "ad_views"
mode  = "append"
create_table = true

[rate]
backpressure = false
"#;

fn parse(text: &str) -> Result<Settings, Problems> {
    let env = |name: &str| (name == "DATABASE_URL").then(|| "postgres://me:hunter2@localhost/db".to_owned());
    Settings::parse("f.toml", text, Path::new("/pipelines"), &env)
}

#[test]
fn a_checkpoint_may_be_in_a_bucket() {
    let of = |checkpoint: &str| {
        let text = SAMPLE.replace("\"checkpoint/ad-views\"", checkpoint);
        parse(&text).expect("reads").checkpoint
    };
    let bucket = Bucket {
        url: "s3://lake/ad-views".to_owned(),
        ..Bucket::default()
    };
    assert_eq!(of("\"s3://lake/ad-views\""), Place::Bucket(bucket.clone()));
    let options = "{ endpoint = \"https://127.0.0.1:1\", access_key_id = \"me\", secret_access_key = \"hunter2\", ca = \"ca.pem\" }";
    let found = of(&format!("{{ path = \"s3://lake/ad-views\", options = {options} }}"));
    let expected = Bucket {
        endpoint: Some("https://127.0.0.1:1".to_owned()),
        access_key_id: Some(Secret::new("me".to_owned())),
        secret_access_key: Some(Secret::new("hunter2".to_owned())),
        ca: Some("/pipelines/ca.pem".into()),
        ..bucket
    };
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(found, Place::Bucket(expected));
}

#[test]
fn aggregates_range_over_the_batch_a_window_or_the_stream() {
    let of = |scope: &str| {
        let settings = parse(&SAMPLE.replace("scope = \"batch\"\n", scope)).expect(scope);
        settings.queries[0].scope
    };
    assert_eq!(of(""), Scope::Batch);
    assert_eq!(of("scope = \"batch\"\n"), Scope::Batch);
    assert_eq!(of("scope = \"running\"\n"), running(Emit::Changed, None));
    assert_eq!(of("scope = \"running\"\nemit = \"all\"\n"), running(Emit::All, None));
    let window = Scope::Windowed(Window {
        length_ms: 300_000,
        slide_ms: 60_000,
    });
    let text = "scope = { window = \"5m\", slide = \"1m\" }\n";
    assert_eq!(of(text), window);
    assert_eq!(of(&format!("{text}emit = \"all\"\n")), window);
}

fn running(emit: Emit, ttl: Option<Ttl>) -> Scope {
    Scope::Running { emit, ttl }
}

#[test]
fn groups_are_kept_for_ever_or_for_a_time() {
    let ttl = |idle_ms| {
        Some(Ttl {
            idle_ms,
            interval_ms: 1_000,
        })
    };
    for (text, scope) in [
        ("ttl = \"30d\"\n", running(Emit::Changed, ttl(2_592_000_000))),
        ("ttl = \"1s\"\n", running(Emit::Changed, ttl(1_000))),
        ("ttl = \"1.5s\"\nemit = \"all\"\n", running(Emit::All, ttl(1_500))),
        ("", running(Emit::Changed, None)),
    ] {
        let file = SAMPLE.replace("scope = \"batch\"\n", &format!("scope = \"running\"\n{text}"));
        assert_eq!(parse(&file).expect(text).queries[0].scope, scope, "{text}");
    }
}

#[test]
fn state_is_cached_on_this_machine() {
    let of = |checkpoint: &str, home: &'static str| {
        let text = SAMPLE.replace("\"checkpoint/ad-views\"", checkpoint);
        let env = |name: &str| match name {
            "DATABASE_URL" => Some("postgres://localhost/db".to_owned()),
            name => (name == home).then(|| "/home/me".to_owned()),
        };
        let settings = Settings::parse("f.toml", &text, Path::new("/pipelines"), &env);
        settings.expect("reads").state_cache
    };
    let local = Path::new("/pipelines/checkpoint/ad-views/state-cache");
    assert_eq!(of("\"checkpoint/ad-views\"", "HOME"), local);
    let in_home = Path::new("/home/me/.cache/tidemill/ad-views/state-cache");
    assert_eq!(of("\"s3://lake/ad-views\"", "HOME"), in_home);
    let in_caches = Path::new("/home/me/tidemill/ad-views/state-cache");
    assert_eq!(of("\"s3://lake/ad-views\"", "XDG_CACHE_HOME"), in_caches);
}

#[test]
fn the_sample_is_read() {
    let settings = parse(SAMPLE).expect("reads");
    assert_eq!(settings.name, "ad-views");
    assert_eq!(
        settings.checkpoint,
        Place::Folder("/pipelines/checkpoint/ad-views".into())
    );
    let source = &settings.sources[0];
    assert_eq!(
        (source.bound.max_rate, &source.on_bad_record, source.line),
        (100_000, &source::OnBadRecord::Skip, 7)
    );
    assert_eq!(
        source.start,
        StartPolicy::Offsets([("events".to_owned(), [(0, 17)].into())].into())
    );
    assert_eq!(settings.sinks[0].from, From::Table("views".to_owned()));
}

#[test]
fn dead_letters_go_to_a_topic_or_a_folder() {
    for (text, target) in [
        ("{ topic = \"t\" }", source::DeadLetterTarget::Topic("t".to_owned())),
        (
            "{ path = \"p\" }",
            source::DeadLetterTarget::Path(Place::Folder("/pipelines/p".into())),
        ),
    ] {
        let file = SAMPLE.replace("\"skip\"", &format!("{{ dead_letter = {text} }}"));
        let settings = parse(&file).expect(text);
        assert_eq!(
            settings.sources[0].on_bad_record,
            source::OnBadRecord::DeadLetter(target),
            "{text}"
        );
    }
}

#[test]
fn every_start_is_read() {
    for (text, start) in [
        ("\"earliest\"", StartPolicy::Earliest),
        ("\"latest\"", StartPolicy::Latest),
        ("\"committed\"", StartPolicy::Committed),
        (
            "{ timestamp = \"1970-01-01T01:00:01+01:00\" }",
            StartPolicy::Since(1_000),
        ),
        ("{ timestamp = 1970-01-01T00:00:01.5Z }", StartPolicy::Since(1_500)),
    ] {
        let file = SAMPLE.replace("{ offsets = { events = { \"0\" = 17 } } }", text);
        assert_ne!(file, SAMPLE);
        assert_eq!(parse(&file).expect(text).sources[0].start, start, "{text}");
    }
}

#[test]
fn back_pressure_is_on_unless_switched_off() {
    let of = |rate: &str| {
        parse(&SAMPLE.replace("[rate]\nbackpressure = false\n", rate))
            .expect(rate)
            .backpressure
    };
    assert_eq!(parse(SAMPLE).expect("reads").backpressure, None);
    assert_eq!(of(""), Some(PidSettings::new(1_000)));
    let given = "[rate]\nproportional = 0.5\nintegral = 1\nderivative = 0.25\nmin_rate = 7\n";
    let expected = PidSettings {
        interval_ms: 1_000,
        proportional: 0.5,
        integral: 1.0,
        derivative: 0.25,
        min_rate: 7.0,
    };
    assert_eq!(of(given), Some(expected));
}

#[test]
fn secrets_do_not_show_themselves() {
    assert!(!format!("{:?}", parse(SAMPLE).expect("reads")).contains("hunter2"));
}

/// What is put in for what, and what is said of it.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "topics  =",
        "topcs =",
        "f.toml:10: sources.events.topcs: unknown key; did you mean \"topics\"?",
    ),
    ("\"1s\"", "\"1ms\"", "f.toml:3: interval: must be 5ms or more"),
    ("\"1s\"", "\"soon\"", "f.toml:3: interval: \"soon\" is no duration"),
    ("\"1s\"", "1", "f.toml:3: interval: expected a text, found integer"),
    (
        "\"ad-views\"\ninterval",
        "\"Ad Views\"\ninterval",
        "f.toml:2: name: must be 1 to 63 of a-z, 0-9 and \"-\"",
    ),
    ("1GiB", "1GB5", "f.toml:5: memory_limit: \"1GB5\" is no size"),
    (
        "topics  = [\"events\"]",
        "topic_pattern = \"ev(\"",
        "f.toml:10: sources.events.topic_pattern: no regular expression: ",
    ),
    (
        "topics  = [\"events\"]",
        "topics = [\"events\"]\ntopic_pattern = \"e\"",
        "f.toml:11: sources.events.topic_pattern: stands beside topics",
    ),
    (
        "{ offsets = { events = { \"0\" = 17 } } }",
        "{ timestamp = \"yesterday\" }",
        "sources.events.start.timestamp: \"yesterday\" is no moment",
    ),
    (
        "{ offsets = { events = { \"0\" = 17 } } }",
        "{ timestamp = 2026-01-31T08:00:00 }",
        "sources.events.start.timestamp: \"2026-01-31T08:00:00\" is no moment",
    ),
    (
        "{ offsets = { events = { \"0\" = 17 } } }",
        "{ }",
        "sources.events.start: expected either timestamp or offsets",
    ),
    (
        "\"json\"",
        "\"jsn\"",
        "f.toml:11: sources.events.format: \"jsn\" is unknown; expected one of json, csv, avro, raw",
    ),
    (
        "\"json\"",
        "\"avro\"",
        "sources.events.columns: the schema gives avro its columns",
    ),
    ("\"json\"", "\"avro\"", "sources.events.schema: is missing; for example"),
    (
        "\"json\"",
        "\"avro\"\nschema = \"absent.avsc\"",
        "sources.events.schema: /pipelines/absent.avsc can't be read: ",
    ),
    (
        "\"json\"",
        "\"json\"\ndelimiter = \";\"",
        "f.toml:12: sources.events.delimiter: belongs to format = \"csv\"",
    ),
    (
        "\"json\"",
        "\"json\"\nheader = true",
        "f.toml:12: sources.events.header: belongs to format = \"csv\" or \"avro\"",
    ),
    (
        "\"json\"",
        "\"csv\"\ndelimiter = \";;\"",
        "f.toml:12: sources.events.delimiter: expected one ASCII character",
    ),
    (
        "\"skip\"",
        "{ path = \"x\" }",
        "f.toml:16: sources.events.on_bad_record: expected stop, skip or { dead_letter = { topic = \"…\" } }",
    ),
    (
        "\"skip\"",
        "{ dead_letter = { topic = \"x\", path = \"y\" } }",
        "f.toml:16: sources.events.on_bad_record.dead_letter: expected either topic or path",
    ),
    (
        "\"skip\"",
        "{ dead_letter = { topic = \"events\" } }",
        "f.toml:16: sources.events.on_bad_record: the source reads the topic events itself",
    ),
    (
        "\"skip\"",
        "{ dead_letter = { topc = \"x\" } }",
        "sources.events.on_bad_record.dead_letter.topc: unknown key; did you mean \"topic\"?",
    ),
    ("\"PLAINTEXT\"", "\"SASL_SSL\"", "sasl.mechanism: is missing"),
    (
        "\"PLAINTEXT\"",
        "\"SASL_SSL\", \"sasl.mechanism\" = \"GSSAPI\"",
        "sasl.mechanism: GSSAPI is spoken through librdkafka alone: a source with reader = \"librdkafka\"",
    ),
    (
        "client.id",
        "linger.ms",
        "f.toml:19: sources.events.properties.linger.ms: the native reader can't honour this",
    ),
    (
        "from  = \"views\"",
        "from = \"viws\"",
        "f.toml:26: sinks.out.from: there is no source or query named viws",
    ),
    (
        "${DATABASE_URL}",
        "${NOWHERE}",
        "f.toml:28: sinks.out.url: the environment variable NOWHERE is not set",
    ),
    ("\"append\"", "\"upsert\"", "sinks.out.key: is missing; upsert needs it"),
    (
        "backpressure = false",
        "integral = -1",
        "f.toml:34: rate.integral: must be 0 or more",
    ),
    (
        "format  = \"json\"",
        "format = \"json\"\nreader = \"librdkafka\"",
        "sources.events.properties.security.protocol: librdkafka is built in for SASL by GSSAPI alone",
    ),
    (
        "backpressure = false",
        "min_rate = \"10\"",
        "f.toml:34: rate.min_rate: expected a number, found string",
    ),
    (
        "[rate]",
        "[web]\nlisten = \"x\"\n[rate]",
        "f.toml:33: web: is not in this version",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\", slide = \"1500ms\" }",
        "queries.views.scope.slide: must be a multiple of the interval, 1000ms: \"1000ms\" or \"2000ms\"",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"500ms\", slide = \"1s\" }",
        "queries.views.scope.window: must be a multiple of the interval, 1000ms: \"1000ms\"",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"0s\", slide = \"1s\" }",
        "queries.views.scope.window: must be a multiple of the interval, 1000ms: \"1000ms\"",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\" }",
        "queries.views.scope.slide: is missing; for example slide = \"1m\"",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\", slide = 60 }",
        "queries.views.scope.slide: expected a text, found integer",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\", slide = \"1m\", size = 3 }",
        "queries.views.scope.size: unknown key; ",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\", slide = \"1m\" }\nemit = \"changed\"",
        "queries.views.emit: a window gives all its groups, emit = \"all\"",
    ),
    (
        "scope = \"batch\"",
        "scope = 5",
        "queries.views.scope: expected one of batch, running, found integer",
    ),
    (
        "scope = \"batch\"",
        "scope = \"runing\"",
        "queries.views.scope: \"runing\" is unknown; expected one of batch, running",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nemit = \"new\"",
        "queries.views.emit: \"new\" is unknown; expected one of changed, all",
    ),
    (
        "scope = \"batch\"",
        "emit = \"all\"",
        "queries.views.emit: belongs to scope = \"running\"",
    ),
    (
        "scope = \"batch\"",
        "ttl = \"30d\"",
        "f.toml:23: queries.views.ttl: belongs to scope = \"running\"",
    ),
    (
        "scope = \"batch\"",
        "scope = { window = \"5m\", slide = \"1m\" }\nttl = \"30d\"",
        "f.toml:24: queries.views.ttl: belongs to scope = \"running\": what left the window is forgotten",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nttl = \"0s\"",
        "queries.views.ttl: must be the interval, 1000ms, or more",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nttl = \"999ms\"",
        "queries.views.ttl: must be the interval, 1000ms, or more",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nttl = \"-1d\"",
        "queries.views.ttl: \"-1d\" is out of range",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nttl = \"a month\"",
        "queries.views.ttl: \"a month\" is no duration",
    ),
    (
        "scope = \"batch\"",
        "scope = \"running\"\nttl = 30",
        "queries.views.ttl: expected a text, found integer",
    ),
    (
        "checkpoint/ad-views",
        "hdfs://b/c",
        "f.toml:4: checkpoint: hdfs:// is not in this version",
    ),
    (
        "checkpoint/ad-views",
        "s3:///c",
        "f.toml:4: checkpoint: lacks the bucket's name",
    ),
    (
        "\"checkpoint/ad-views\"",
        "{ path = \"s3://b/c\", options = { access_key_id = \"me\" } }",
        "f.toml:4: checkpoint.options.secret_access_key: is missing",
    ),
    (
        "\"checkpoint/ad-views\"",
        "{ path = \"s3://b/c\", options = { endpoint = \"localhost:9000\" } }",
        "f.toml:4: checkpoint.options.endpoint: must begin with https:// or http://",
    ),
    (
        "\"checkpoint/ad-views\"",
        "{ path = \"c\", options = { region = \"x\" } }",
        "f.toml:4: checkpoint.options: belongs to a path that begins with s3://",
    ),
    (
        "kind  = \"postgres\"",
        "kind = \"oracle\"",
        "f.toml:27: sinks.out.kind: \"oracle\" is unknown",
    ),
    (
        "[queries.views]",
        "[queries.events]",
        "queries.events: there is a source or query named events already",
    ),
    ("name       =", "name ", "f.toml:2: "),
    (
        "[rate]",
        "[tables.views]\npath = \"v.csv\"\nformat = \"csv\"\n[rate]",
        "tables.views: there is a source or query named views already",
    ),
    (
        "[rate]",
        "[tables.t]\nformat = \"csv\"\n[rate]",
        "tables.t.path: is missing; for example path = \"campaigns.parquet\"",
    ),
];

#[test]
fn each_mistake_is_named_with_its_line_and_the_way_out() {
    for (right, wrong, said) in MISTAKES {
        assert!(SAMPLE.contains(right), "{right}");
        let problems = parse(&SAMPLE.replacen(right, wrong, 1)).expect_err(wrong).to_string();
        assert!(problems.contains(said), "{wrong}:\n{problems}\nlacks\n{said}");
    }
}

#[test]
fn all_problems_come_at_once() {
    let text = SAMPLE
        .replace("topics  =", "topcs =")
        .replace("\"1s\"", "\"1ms\"")
        .replace("\"json\"", "\"jsn\"")
        .replace("from  = \"views\"", "from = \"viws\"");
    let problems = parse(&text).expect_err("wrong");
    let lines: Vec<usize> = problems.list.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [3, 7, 10, 11, 26], "{problems}");
}
