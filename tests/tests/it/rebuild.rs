//! A checkpoint that is lost comes back from the ledgers.

use std::fs;

use tidemill_tests::case::{Case, Input, LIMIT};
use tidemill_tests::target::Kind;

const PER_BATCH: u64 = 200;

/// The last batch is in the sink or not, with its commit record or without; then the checkpoint goes.
fn rebuilds(kind: Kind) {
    for (point, again) in [
        ("sink.before-commit=kill@3", "epoch.after-claim"),
        ("sink.after-commit=kill@3", "sink.after-fence"),
        ("commit-log.after=kill@3", "commit-log.before"),
        ("sink.after-birth=kill@1", "commit-log.after"),
    ] {
        let case = Case::new(kind, Input::small(), PER_BATCH).unwrap();
        let killed = case
            .pipeline
            .start_to_end(&[("TIDEMILL_FAILPOINTS", point)])
            .and_then(|run| run.wait(LIMIT))
            .unwrap();
        assert!(killed.was_killed(), "{point}: {}", killed.log_tail());
        let there = case.pipeline.ask(&["checkpoint", "rebuild"]).unwrap();
        assert_eq!(there.code(), Some(2), "{}", there.log_tail());
        assert!(
            there.stderr.contains("there is a checkpoint at "),
            "{}",
            there.log_tail()
        );
        let checkpoint = case.pipeline.folder().join("checkpoint");
        let app = fs::read_to_string(checkpoint.join("app.json")).unwrap();
        fs::remove_dir_all(&checkpoint).unwrap();
        // Nobody is told that all begins anew.
        let refused = case.pipeline.start_to_end(&[]).and_then(|run| run.wait(LIMIT)).unwrap();
        assert_eq!(refused.code(), Some(2), "{}", refused.log_tail());
        assert!(
            refused.stderr.contains("tidemill checkpoint rebuild"),
            "{}",
            refused.log_tail()
        );
        let armed = format!("{again}=kill@1");
        let killed = case
            .pipeline
            .ask_with(&["checkpoint", "rebuild"], &[("TIDEMILL_FAILPOINTS", &armed)])
            .unwrap();
        assert!(killed.was_killed(), "{again}: {}", killed.log_tail());
        let rebuilt = case.pipeline.ask(&["checkpoint", "rebuild"]).unwrap();
        assert_eq!(rebuilt.code(), Some(0), "{}", rebuilt.log_tail());
        assert!(
            rebuilt.stdout.contains(" is rebuilt; its last batch is "),
            "{}",
            rebuilt.stdout
        );
        let uuid = |text: &str| text.split("\"app_uuid\":").nth(1).map(|rest| rest[..38].to_owned());
        let back = fs::read_to_string(checkpoint.join("app.json")).unwrap();
        assert_eq!(uuid(&app).unwrap(), uuid(&back).unwrap());
        case.finish().unwrap();
        eprintln!("{}: {point}, then {again}: clean", kind.name());
    }
}

#[test]
fn x07_a_lost_checkpoint_is_rebuilt_from_a_folder() {
    rebuilds(Kind::File);
}

#[test]
fn x07_a_lost_checkpoint_is_rebuilt_from_a_table() {
    rebuilds(Kind::Postgres);
}

#[test]
fn x07_a_lost_checkpoint_is_rebuilt_from_a_topic() {
    rebuilds(Kind::Kafka);
}

#[test]
fn x07_without_a_ledger_there_is_nothing_to_rebuild() {
    let case = Case::new(Kind::Postgres, Input::small(), PER_BATCH).unwrap();
    let ended = case.pipeline.ask(&["checkpoint", "rebuild"]).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
    assert!(ended.stderr.contains("nothing to rebuild from"), "{}", ended.log_tail());
    assert!(!case.pipeline.folder().join("checkpoint/app.json").exists());
}
