use std::collections::BTreeMap;

use super::*;
use crate::store::LocalStore;

fn checkpoint(folder: &tempfile::TempDir) -> Checkpoint {
    Checkpoint::new(Arc::new(LocalStore::new(folder.path())))
}

#[tokio::test]
async fn x04_a_newer_epoch_fences_the_older() {
    let folder = tempfile::tempdir().expect("temp dir");
    let checkpoint = checkpoint(&folder);
    let first = checkpoint.claim_epoch(0, "a", 0).await.expect("claims");
    checkpoint.look_for_newer(first).await.expect("holds the newest");
    let second = checkpoint.claim_epoch(0, "b", 0).await.expect("claims");
    assert!(second > first);
    assert_eq!(
        checkpoint.look_for_newer(first).await.expect_err("fenced").kind(),
        Kind::Fenced
    );
    checkpoint.look_for_newer(second).await.expect("holds the newest");
}

#[tokio::test]
async fn what_version_1_wrote_is_read() {
    let fixtures = "../../tests/fixtures/v1/checkpoint";
    let contents = Checkpoint::new(Arc::new(LocalStore::new(fixtures)))
        .read()
        .await
        .expect("reads");
    let (app, plan) = (contents.app.expect("app"), contents.last_plan.expect("plan"));
    let commit = contents.last_commit.expect("commit");
    assert_eq!((app.app.as_str(), contents.epoch, plan.plan.batch_id), ("t1", 2, 2));
    assert_eq!(
        plan.plan.after().iter().map(|position| position.offset).sum::<i64>(),
        1_000_000
    );
    assert_eq!((commit.batch_id, commit.sinks["out"].records_in), (2, 737_856));
}

#[tokio::test]
async fn what_version_1_folded_and_lost_is_read() {
    let fixtures = "../../tests/fixtures/v1/folded/checkpoint";
    let checkpoint = Checkpoint::new(Arc::new(LocalStore::new(fixtures)));
    let contents = checkpoint.read().await.expect("reads");
    let (plan, commit) = (contents.last_plan.expect("plan"), contents.last_commit.expect("commit"));
    assert_eq!((plan.plan.batch_id, commit.batch_id), (501, 501));
    let lost = checkpoint.all_losses().await.expect("reads");
    let spans: Vec<_> = lost[0].losses.iter().map(|loss| (loss.from, loss.until)).collect();
    assert_eq!((lost.len(), lost[0].batch_id, spans), (1, 501, vec![(500, 505)]));
    // Without what came after it the snapshot stands alone.
    let folder = tempfile::tempdir().expect("temp dir");
    for name in [
        "app.json",
        "epochs/00000000000000000002.json",
        "snapshots/00000000000000000500.json",
    ] {
        let copy = folder.path().join(name);
        std::fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        std::fs::copy(std::path::Path::new(fixtures).join(name), copy).expect("a copy");
    }
    let contents = Checkpoint::new(Arc::new(LocalStore::new(folder.path()))).read().await;
    assert_eq!(contents.expect("reads").last_plan.expect("plan").plan.batch_id, 500);
}

fn plan(epoch: Epoch) -> BatchPlan {
    BatchPlan {
        app: "app".to_owned(),
        app_uuid: "uuid".to_owned(),
        epoch,
        incarnation: format!("incarnation-{epoch}"),
        batch_id: 1,
        batch_time_ms: 0,
        seed: epoch,
        reduce_slices: 2,
        before: tidemill_core::Positions::default(),
        ranges: Vec::new(),
        sinks: Vec::new(),
        tables: Vec::new(),
        limits: tidemill_core::plan::LimitsInForce::default(),
        pipeline_hash: "queries".to_owned(),
        query_hashes: BTreeMap::new(),
        states: BTreeMap::new(),
        zero_ms: None,
        turn: None,
    }
}

#[tokio::test]
async fn x01_a_plan_of_an_older_driver_is_adopted_and_of_a_newer_one_fences() {
    let folder = tempfile::tempdir().expect("temp dir");
    let checkpoint = checkpoint(&folder);
    let second = checkpoint.log_plan(plan(2)).await.expect("logs");
    assert_eq!(second.plan, plan(2));
    assert_eq!(
        checkpoint.log_plan(plan(1)).await.expect_err("fenced").kind(),
        Kind::Fenced
    );
    assert_eq!(checkpoint.log_plan(plan(3)).await.expect("adopts"), second);
}

#[tokio::test]
async fn x01_a_plan_is_logged_again_after_an_unknown_outcome() {
    let folder = tempfile::tempdir().expect("temp dir");
    let checkpoint = checkpoint(&folder);
    let first = checkpoint.log_plan(plan(2)).await.expect("logs");
    assert_eq!(checkpoint.log_plan(plan(2)).await.expect("finds its own"), first);
    let other = BatchPlan {
        incarnation: "another".to_owned(),
        ..plan(2)
    };
    assert_eq!(
        checkpoint.log_plan(other).await.expect_err("fenced").kind(),
        Kind::Fenced
    );
}

#[tokio::test]
async fn a_checkpoint_without_its_owner_is_not_taken_for_a_fresh_start() {
    let folder = tempfile::tempdir().expect("temp dir");
    let checkpoint = checkpoint(&folder);
    let commit = CommitRecord {
        batch_id: 3,
        epoch: 1,
        sinks: BTreeMap::new(),
        record_bytes: BTreeMap::new(),
        states: BTreeMap::new(),
        committed_ms: 0,
    };
    checkpoint.log_commit(&commit).await.expect("logs");
    assert_eq!(checkpoint.read().await.expect_err("refused").kind(), Kind::Config);
}

fn settled(batch_id: u64) -> CommitRecord {
    CommitRecord {
        batch_id,
        epoch: 2,
        sinks: BTreeMap::new(),
        record_bytes: BTreeMap::new(),
        states: BTreeMap::new(),
        committed_ms: 0,
    }
}

/// A driver that was frozen before it wrote, or that thaws while another folds, changes nothing.
#[tokio::test]
async fn x05_what_stands_at_or_below_the_snapshot_is_dead_whoever_wrote_it() {
    let folder = tempfile::tempdir().expect("temp dir");
    let checkpoint = checkpoint(&folder);
    let app = AppRecord {
        app: "app".to_owned(),
        app_uuid: "uuid".to_owned(),
        created_ms: 0,
    };
    checkpoint.create(app).await.expect("creates");
    let numbered = |batch_id, epoch| BatchPlan {
        batch_id,
        ..plan(epoch)
    };
    let last = checkpoint.log_plan(numbered(1000, 2)).await.expect("logs");
    checkpoint.log_commit(&settled(1000)).await.expect("logs");
    checkpoint.fold(&last, &settled(1000)).await.expect("folds");
    std::fs::remove_dir_all(folder.path().join("plans")).expect("as later folds leave it");
    std::fs::remove_dir_all(folder.path().join("commits")).expect("as later folds leave it");
    for late in [400, 999] {
        checkpoint.log_plan(numbered(late, 1)).await.expect("logs");
        checkpoint.log_commit(&settled(late)).await.expect("logs");
        let read = checkpoint.read().await.expect("reads");
        assert_eq!(read.last_plan.as_ref(), Some(&last), "after plan {late}");
        assert_eq!(
            read.last_commit.expect("a commit").batch_id,
            1000,
            "after commit {late}"
        );
    }
}
