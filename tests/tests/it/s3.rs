//! Checkpoint and file sink in a bucket of a real gateway.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tidemill_connect::bucket::{Bucket, BucketSettings};
use tidemill_engine::store::{Put, Store};
use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::own_server::OwnS3;
use tidemill_tests::pipeline::{Finished, Pipeline};
use tidemill_tests::s3::S3;
use tidemill_tests::target::{Target, manifests};
use tidemill_tests::{java, servers};

use crate::read_back::{lines, python};
use crate::sheet::{head, source};

fn opened(s3: &S3, url: &str) -> Bucket {
    let settings = BucketSettings {
        url: url.to_owned(),
        endpoint: Some(s3.address.clone()),
        access_key_id: Some("tidemill".to_owned()),
        secret_access_key: Some(s3.secret.clone()),
        ..BucketSettings::default()
    };
    Bucket::new(&settings).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_of_many_that_put_one_name_one_creates_it() {
    const CREATORS: usize = 20;
    let s3 = S3::shared();
    let bucket = opened(&s3, &format!("s3://{}/race", s3.bucket().unwrap()));
    for round in 0..20 {
        let path = format!("epochs/{round}.json");
        let put = |creator: usize| {
            let (bucket, path) = (bucket.clone(), path.clone());
            tokio::spawn(async move { bucket.put_new(&path, vec![b'0' + creator as u8]).await })
        };
        let creators: Vec<_> = (0..CREATORS).map(put).collect();
        let mut created = Vec::new();
        for (creator, put) in creators.into_iter().enumerate() {
            if put.await.unwrap().unwrap() == Put::Created {
                created.push(vec![b'0' + creator as u8]);
            }
        }
        assert_eq!(created.len(), 1, "round {round}");
        assert_eq!(bucket.read(&path).await.unwrap().as_ref(), created.first());
    }
    assert_eq!(bucket.list("epochs").await.unwrap().len(), 20);
}

#[tokio::test]
async fn missing_objects_are_told_apart_from_empty_ones() {
    let s3 = S3::shared();
    let bucket = opened(&s3, &format!("s3://{}", s3.bucket().unwrap()));
    assert_eq!(bucket.read("plans/1.json").await.unwrap(), None);
    assert!(bucket.list("plans").await.unwrap().is_empty());
    assert_eq!(bucket.put_new("plans/1.json", Vec::new()).await.unwrap(), Put::Created);
    assert_eq!(bucket.read("plans/1.json").await.unwrap(), Some(Vec::new()));
    assert_eq!(bucket.list("plans").await.unwrap(), ["1.json"]);
    bucket.delete("plans/1.json").await.unwrap();
    bucket.delete("plans/1.json").await.unwrap();
    assert!(bucket.list("plans").await.unwrap().is_empty());
}

/// A pipeline from a small topic to JSON files at `url`, whose checkpoint is a folder.
fn copying(topic: &str, url: &str, options: &str) -> Pipeline {
    let text = head("s3")
        + &source("events", topic, "seq BIGINT, part INT", "")
        + &format!(
            "[sinks.out]\nsql = \"SELECT seq, part FROM events\"\nkind = \"file\"\nformat = \"json\"\npath = \"{url}\"\n\
             options = {options}\n"
        );
    Pipeline::write(&text).unwrap()
}

fn small_topic() -> String {
    let topic = servers::unique("s3");
    java::load(&topic, 100, 1, &[]).unwrap();
    topic
}

fn all_files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(all_files(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names
}

#[test]
fn a_check_probes_the_bucket_and_leaves_nothing() {
    let s3 = S3::shared();
    let bucket = s3.bucket().unwrap();
    let pipeline = copying(&small_topic(), &format!("s3://{bucket}/out"), &s3.options());
    let checked = pipeline.ask(&["check"]).unwrap();
    assert_eq!(checked.code(), Some(0), "{}", checked.log_tail());
    assert!(
        checked.stdout.contains(&format!("s3://{bucket}/out")),
        "{}",
        checked.stdout
    );
    assert_eq!(all_files(&s3.folder.join(&bucket)), Vec::<String>::new());
}

fn refused(checked: &Finished, s3: &S3, said: &str) {
    assert_eq!(checked.code(), Some(1), "{}", checked.log_tail());
    let log = format!("{}{}", checked.stdout, checked.stderr);
    assert!(log.contains(said), "{said} is not in\n{log}");
    assert!(!log.contains(&s3.secret) && !log.contains("hunter2"), "{log}");
}

#[test]
fn what_cannot_work_is_refused_by_check_without_the_secret() {
    let s3 = S3::shared();
    let topic = small_topic();
    let bucket = s3.bucket().unwrap();
    let url = format!("s3://{bucket}/out");
    let check = |url: &str, options: &str| copying(&topic, url, options).ask(&["check"]).unwrap();
    refused(
        &check(&url, &s3.options_with("hunter2", "")),
        &s3,
        "the store refuses the access key",
    );
    refused(
        &check("s3://no-such-bucket/out", &s3.options()),
        &s3,
        "the bucket or object is not there",
    );
    let nowhere = S3 {
        address: "http://127.0.0.1:1".to_owned(),
        ..s3.clone()
    };
    refused(&check(&url, &nowhere.options()), &s3, &url);
}

#[test]
fn a_checkpoint_that_cannot_work_is_refused_by_check_and_run() {
    let s3 = S3::shared();
    let bucket = s3.bucket().unwrap();
    let options = s3.options_with("hunter2", "");
    let checkpoint = format!("checkpoint = {{ path = \"s3://{bucket}/checkpoint\", options = {options} }}\n");
    let text = head("s3").replace("checkpoint = \"checkpoint\"\n", &checkpoint)
        + &source("events", &small_topic(), "seq BIGINT", "")
        + "[sinks.out]\nsql = \"SELECT seq FROM events\"\nkind = \"console\"\n";
    let pipeline = Pipeline::write(&text).unwrap();
    let said = "the store refuses the access key";
    refused(&pipeline.ask(&["check"]).unwrap(), &s3, said);
    refused(&pipeline.start_to_end(&[]).unwrap().wait(LIMIT).unwrap(), &s3, said);
}

/// Answers every request with success and no more, as a store does that doesn't know `If-None-Match`.
fn agreeable_store() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut some = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut some).unwrap();
                request.extend_from_slice(&some[..read]);
            }
            let answer = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn x01_a_store_without_conditional_puts_is_refused() {
    let s3 = S3 {
        address: agreeable_store(),
        ..S3::shared()
    };
    let error = opened(&s3, "s3://lake/out").probe().await.unwrap_err().chain();
    assert!(error.contains("ignores `If-None-Match: *`"), "{error}");
}

/// The gateway is killed in a batch of each kind of step and comes back; sink and checkpoint are both in it.
#[test]
fn a_run_rides_through_the_ends_of_its_store() {
    let mut own = OwnS3::start().unwrap();
    for point in ["file.before-data-sync", "sink.before-commit", "plan.before-log"] {
        let target = Target::bucket(own.s3()).unwrap();
        let case = Case::with_target(target, Input::small(), 200).unwrap();
        let armed = format!("{point}=stop@2");
        let mut run = case.pipeline.start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)]).unwrap();
        assert!(run.wait_frozen(LIMIT).unwrap(), "{}", run.log());
        own.server().end(Signal::KILL).unwrap();
        run.signal(Signal::CONT);
        assert!(
            run.wait_for_log("nothing is lost, intake waits", LIMIT).unwrap(),
            "{point}: {}",
            run.log()
        );
        own.server().again().unwrap();
        let ended = run.wait(LIMIT).unwrap();
        assert_eq!(ended.code(), Some(0), "{point}: {}", ended.log_tail());
        case.judge().unwrap().assert_clean(&ended.log_tail());
    }
}

/// What was killed before its manifest is in the bucket, and is not among the rows.
#[test]
fn x28_a_killed_attempt_is_named_by_no_manifest() {
    let s3 = S3::shared();
    let target = Target::bucket(&s3).unwrap();
    let out = s3.folder_of(target.place());
    let case = Case::with_target(target, Input::small(), 200).unwrap();
    let armed = [("TIDEMILL_FAILPOINTS", "file.before-manifest=kill@2")];
    let killed = case.pipeline.start_to_end(&armed).unwrap().wait(LIMIT).unwrap();
    assert!(killed.was_killed(), "{}", killed.log_tail());
    case.finish().unwrap();
    let named: BTreeSet<String> = manifests(&out)
        .unwrap()
        .iter()
        .flat_map(|manifest| manifest["files"].as_array().unwrap().clone())
        .map(|file| file["path"].as_str().unwrap().to_owned())
        .collect();
    let files = std::fs::read_dir(&out).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.starts_with("part-")
    });
    assert!(
        files.count() > named.len(),
        "the killed attempt's files lie beside the others"
    );
}

/// Files beyond one part, in folders by value, as pyarrow reads them over S3 by the lines of the documentation.
#[test]
fn other_engines_read_large_files_from_the_bucket() {
    const RECORDS: u64 = 30_000;
    let s3 = S3::shared();
    let bucket = s3.bucket().unwrap();
    let topic = servers::unique("s3");
    java::load(&topic, RECORDS, 2, &[]).unwrap();
    let text = head("s3")
        + &source("events", &topic, "seq BIGINT, part INT", "")
        + &format!(
            "[sinks.out]\nsql = \"SELECT seq, part, repeat(md5(CAST(seq * 2 + part AS VARCHAR)), 44) AS pad, CASE WHEN seq % 2 > 0 THEN 'a/b' END AS value FROM events\"\n\
             kind = \"file\"\npath = \"s3://{bucket}/out\"\ncompression = \"none\"\npartition_by = [\"value\"]\noptions = {}\n",
            s3.options()
        );
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let sizes = manifests(&s3.folder.join(&bucket).join("out")).unwrap();
    let sizes = sizes.iter().flat_map(|manifest| manifest["files"].as_array().unwrap());
    let largest = sizes.map(|file| file["bytes"].as_u64().unwrap()).max().unwrap();
    assert!(largest > 17 << 20, "{largest} bytes: more than two parts");
    let program = format!(
        "{}\nrows = table.to_pylist()\nprint(json.dumps([len(rows), len({{(row['part'], row['seq'], row['value'], \
         row['pad']) for row in rows}}), sum(row['value'] == 'a/b' for row in rows)]))\n",
        lines("python s3").replace("lake/out", &format!("{bucket}/out"))
    );
    let env = [
        ("AWS_ACCESS_KEY_ID", "tidemill"),
        ("AWS_SECRET_ACCESS_KEY", s3.secret.as_str()),
        ("AWS_ENDPOINT_URL", s3.address.as_str()),
    ];
    let read = python(pipeline.folder(), &program, &env);
    assert_eq!(read, Value::from(vec![RECORDS, RECORDS, RECORDS / 2]));
}

#[test]
fn a_bucket_behind_tls_is_written_where_its_ca_is_trusted() {
    let own = OwnS3::secure().unwrap();
    let s3 = own.s3();
    let topic = small_topic();
    let with_ca = |ca: &str| s3.options_with(&s3.secret, &format!(", ca = \"{ca}\""));
    let bucket = s3.bucket().unwrap();
    let url = format!("s3://{bucket}/out");
    refused(
        &copying(&topic, &url, &with_ca(&own.pem("stranger.pem")))
            .ask(&["check"])
            .unwrap(),
        s3,
        "certificate",
    );
    let pipeline = copying(&topic, &url, &with_ca(&own.pem("ca.pem")));
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = tidemill_tests::target::rows_of_files(&s3.folder_of(&url)).unwrap();
    assert_eq!(rows.len(), 100);
}

/// Without options the environment tells, as for other programs.
#[test]
fn the_environment_gives_what_the_options_leave_out() {
    let s3 = S3::shared();
    let bucket = s3.bucket().unwrap();
    let text = head("s3").replace("\"checkpoint\"\n", &format!("\"s3://{bucket}/checkpoint\"\n"))
        + &source("events", &small_topic(), "seq BIGINT, part INT", "")
        + &format!(
            "[sinks.out]\nfrom = \"events\"\nkind = \"file\"\nformat = \"json\"\npath = \"s3://{bucket}/out\"\n"
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let env = [
        ("AWS_ACCESS_KEY_ID", "tidemill"),
        ("AWS_SECRET_ACCESS_KEY", s3.secret.as_str()),
        ("AWS_ENDPOINT_URL", s3.address.as_str()),
        ("AWS_REGION", "us-east-1"),
    ];
    pipeline.run_to_end(&env, LIMIT).unwrap();
    assert_eq!(
        tidemill_tests::target::rows_of_files(&s3.folder.join(&bucket).join("out"))
            .unwrap()
            .len(),
        100
    );
}
