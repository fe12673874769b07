//! What is asked of the disk, and in which order, as the kernel sees it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tidemill_tests::case::{Case, Input};
use tidemill_tests::servers;
use tidemill_tests::target::Kind;

/// A call that a thread made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// The bytes of a file, or the names in a folder, were made durable.
    Sync(String),
    /// A file got another name.
    Link(String, String),
}

/// Runs a pipeline to its end under strace with these arguments.
fn traced(pipeline: &Path, trace: &Path, args: &[&str]) -> Output {
    Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-o"])
        .arg(trace)
        .args(args)
        .arg(servers::binary())
        .arg("run")
        .arg(pipeline)
        .arg("--until-caught-up")
        .output()
        .unwrap()
}

/// The calls in the order of their ends, each with its thread.
fn calls(trace: &str) -> Vec<(u32, Call)> {
    let mut unfinished: HashMap<u32, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let thread: u32 = thread.parse().unwrap();
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, begun.to_owned());
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (_, end) = resumed.split_once("resumed>").unwrap();
                unfinished.remove(&thread).unwrap_or_default() + end
            }
            None => rest.to_owned(),
        };
        if !whole.trim_end().ends_with("= 0") {
            continue;
        }
        if whole.starts_with("fsync(") || whole.starts_with("fdatasync(") {
            let path = whole.split_once('<').unwrap().1.rsplit_once('>').unwrap().0;
            calls.push((thread, Call::Sync(path.to_owned())));
        } else if whole.starts_with("link") {
            let names: Vec<&str> = whole.split('"').collect();
            calls.push((thread, Call::Link(names[1].to_owned(), names[3].to_owned())));
        }
    }
    calls
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').unwrap().0.to_owned()
}

/// Every record of checkpoint and file sink is synced under another name, linked, and its folder synced, one after the other by
/// one thread; what a manifest names was synced before it, and so were the names.
#[test]
fn x03_records_and_data_files_are_durable_before_they_count() {
    let case = Case::new(Kind::File, Input::small(), 200).unwrap();
    let trace = case.pipeline.folder().join("trace");
    let args = ["-e", "trace=fsync,fdatasync,link,linkat"];
    let ended = traced(case.pipeline.file(), &trace, &args);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    case.judge().unwrap().assert_clean("traced");
    let calls = calls(&fs::read_to_string(&trace).unwrap());
    let out = case.pipeline.folder().join("out").display().to_string();
    let (mut records, mut manifests) = (0, 0);
    for (at, (thread, call)) in calls.iter().enumerate() {
        let Call::Link(from, to) = call else { continue };
        records += 1;
        let before = calls[..at].iter().rev().find(|(by, _)| by == thread);
        let after = calls[at + 1..].iter().find(|(by, _)| by == thread);
        assert_eq!(
            before.map(|(_, call)| call),
            Some(&Call::Sync(from.clone())),
            "before {to}"
        );
        assert_eq!(after.map(|(_, call)| call), Some(&Call::Sync(parent(to))), "after {to}");
        let is_manifest = *to == format!("{out}/_tidemill/{}", to.rsplit('/').next().unwrap())
            && to.rsplit('/').next().unwrap().len() == "00000000000000000001.json".len();
        if !is_manifest {
            continue;
        }
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(to).unwrap()).unwrap();
        for file in manifest["files"].as_array().unwrap() {
            manifests += 1;
            let path = format!("{out}/{}", file["path"].as_str().unwrap());
            let synced = calls[..at]
                .iter()
                .position(|(_, call)| *call == Call::Sync(path.clone()));
            let synced = synced.unwrap_or_else(|| panic!("{path} is named before it was synced"));
            let named = Call::Sync(out.clone());
            assert!(
                calls[synced..at].iter().any(|(_, call)| *call == named),
                "{path} is named before its name was synced"
            );
        }
    }
    assert!(
        records > 10 && manifests > 3,
        "{records} records, {manifests} data files: {calls:?}"
    );
}

/// The kernel says once that it could not write, and may say that all is well when it is asked again: nobody asks again.
#[test]
fn x03_a_failed_fsync_ends_the_process_and_the_next_one_goes_on_exactly() {
    let mut ended_by_it = 0;
    // The n-th of each thread.
    for nth in [1, 2, 4, 8] {
        let case = Case::new(Kind::File, Input::small(), 200).unwrap();
        let trace = case.pipeline.folder().join("trace");
        let inject = format!("inject=fsync:error=EIO:when={nth}");
        let ended = traced(case.pipeline.file(), &trace, &["-e", "trace=fsync", "-e", &inject]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if ended.status.code() != Some(0) {
            assert_eq!(ended.status.code(), Some(1), "{said}");
            assert!(said.contains("what was written may be lost"), "{said}");
            ended_by_it += 1;
        }
        let failed = fs::read_to_string(&trace).unwrap().matches("EIO").count();
        assert_eq!(
            failed > 0,
            ended.status.code() == Some(1),
            "the {nth}. of a thread, {failed} failed: {said}"
        );
        case.judge_prefix().unwrap().assert_clean(&said);
        case.finish().unwrap();
    }
    assert!(ended_by_it > 1, "{ended_by_it} runs met a failed fsync");
}
