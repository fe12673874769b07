//! The programs of `tests/java`: an independent Kafka client.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::servers;

fn command(brokers: &str, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"])
        .arg(format!("-XX:SharedArchiveFile={}", servers::java_archive().display()))
        .args(["-cp", &servers::java_class_path()])
        .arg(program)
        .arg(brokers)
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Runs a program to its end and gives its standard output. The broker's address is put before `args`.
///
/// # Errors
/// Its standard error, where it doesn't succeed.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    run_at(&servers::kafka(), program, args)
}

/// The same at other brokers.
///
/// # Errors
/// As [`run`].
pub fn run_at(brokers: &str, program: &str, args: &[&str]) -> Result<String> {
    let output = command(brokers, program, args)
        .output()
        .context("java can't be started")?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} prints no text"))
}

/// Starts a program and leaves it running, its output unread.
///
/// # Errors
/// Where java can't be started.
pub fn spawn(program: &str, args: &[&str]) -> Result<Child> {
    command(&servers::kafka(), program, args)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("java can't be started")
}

/// Starts a program and leaves it running, its standard input and output piped.
///
/// # Errors
/// Where java can't be started.
pub fn pipe(program: &str, args: &[&str]) -> Result<Child> {
    pipe_at(&servers::kafka(), program, args)
}

/// The same at other brokers.
///
/// # Errors
/// As [`pipe`].
pub fn pipe_at(brokers: &str, program: &str, args: &[&str]) -> Result<Child> {
    command(brokers, program, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("java can't be started")
}

/// Commits `records` records to `partitions` partitions of `topic`; see `tests/java/Load.java` for `options`.
///
/// # Errors
/// As [`run`].
pub fn load(topic: &str, records: u64, partitions: u64, options: &[&str]) -> Result<()> {
    load_at(&servers::kafka(), topic, records, partitions, options)
}

/// The same at `brokers`.
///
/// # Errors
/// As [`run`].
pub fn load_at(brokers: &str, topic: &str, records: u64, partitions: u64, options: &[&str]) -> Result<()> {
    let (records, partitions) = (records.to_string(), partitions.to_string());
    let mut args = vec![topic, records.as_str(), partitions.as_str()];
    args.extend_from_slice(options);
    run_at(brokers, "Load", &args).map(drop)
}

/// Every committed record of `topic` up to its stable end: objects with `partition`, `offset`, `timestamp`, `key`,
/// `value` and `headers`; in offset order within a partition.
///
/// # Errors
/// As [`run`], and where a line is no JSON.
pub fn dump(topic: &str) -> Result<Vec<Value>> {
    dump_at(&servers::kafka(), topic)
}

/// The same at other brokers.
///
/// # Errors
/// As [`dump`].
pub fn dump_at(brokers: &str, topic: &str) -> Result<Vec<Value>> {
    run_at(brokers, "Dump", &[topic, "--json"])?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("Dump of {topic} printed {line}")))
        .collect()
}

/// Lets only `principal` do `operation` on a resource that nothing was said of before; `kind` is `TOPIC`, `GROUP` or
/// `TRANSACTIONAL_ID`.
///
/// # Errors
/// As [`run`].
pub fn allow(kind: &str, name: &str, principal: &str, operation: &str) -> Result<()> {
    run("Topics", &["allow", kind, name, principal, operation]).map(drop)
}

/// Makes a topic.
///
/// # Errors
/// As [`run`]; a topic that exists is one.
pub fn create_topic(topic: &str, partitions: u64, configs: &[&str]) -> Result<()> {
    let partitions = partitions.to_string();
    let mut args = vec!["create", topic, partitions.as_str()];
    args.extend_from_slice(configs);
    run("Topics", &args).map(drop)
}
