#![expect(
    clippy::single_range_in_vec_init,
    reason = "a slice writes one run of rows or several"
)]

use std::collections::BTreeMap;
use std::fs;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringViewArray, TimestampSecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use tidemill_core::commit;
use tidemill_core::plan::LimitsInForce;
use tidemill_core::position::Positions;
use tidemill_engine::store::Put;

use super::*;

const PARQUET: Encoding = Encoding::Parquet(Compression::Snappy);

fn sink(folder: &TempDir) -> FileSink {
    sink_with(folder, PARQUET)
}

fn sink_with(folder: &TempDir, encoding: Encoding) -> FileSink {
    FileSink::new("out", folder.path().join("a/b").to_str().unwrap(), encoding).unwrap()
}

fn claim(epoch: u64) -> Claim {
    Claim {
        app: "ads".into(),
        app_uuid: "uuid-1".into(),
        epoch,
        incarnation: format!("driver-{epoch}"),
    }
}

async fn taken(folder: &TempDir, epoch: u64) -> FileSink {
    let mut sink = sink(folder);
    sink.fence(&claim(epoch)).await.unwrap();
    sink
}

fn plan(batch_id: u64) -> BatchPlan {
    BatchPlan {
        app: "ads".into(),
        app_uuid: "uuid-1".into(),
        epoch: 1,
        incarnation: "driver-1".into(),
        batch_id,
        batch_time_ms: 1_700_000_000_000,
        seed: 7,
        reduce_slices: 2,
        before: Positions::default(),
        ranges: Vec::new(),
        sinks: Vec::new(),
        tables: Vec::new(),
        limits: LimitsInForce::default(),
        pipeline_hash: "p".into(),
        query_hashes: BTreeMap::new(),
        states: BTreeMap::new(),
        zero_ms: None,
        turn: None,
    }
}

fn record(batch_id: u64, epoch: u64) -> LedgerRecord {
    LedgerRecord {
        app: "ads".into(),
        app_uuid: "uuid-1".into(),
        sink: "out".into(),
        batch_id,
        birth: false,
        epoch,
        incarnation: format!("driver-{epoch}"),
        plan_hash: format!("hash-{batch_id}"),
        plan: plan(batch_id),
        positions: Positions::default(),
        losses: Vec::new(),
        states: BTreeMap::new(),
        rows: 0,
    }
}

fn permit(batch_id: u64) -> CommitPermit {
    commit::decide(&plan(batch_id), &[], &[]).unwrap()
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8View, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Second, None), true),
    ]);
    let names = StringViewArray::from_iter(
        ids.clone()
            .map(|id| (id % 3 != 0).then(|| format!("a name longer than a view, {id}"))),
    );
    let at = TimestampSecondArray::from_iter_values(ids.clone());
    let ids = Int64Array::from_iter_values(ids);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(names), Arc::new(at)]).unwrap()
}

/// Rows of a slice that gets a file of its own.
const MANY: i64 = 20_000;

/// Writes `slices` with two writes each and ends them; commits nothing.
async fn write(sink: &mut FileSink, batch_id: u64, slices: &[std::ops::Range<i64>]) -> Box<dyn BatchCommit> {
    let SinkBatch { writers, commit } = sink.begin(&plan(batch_id), slices.len(), 1).await.unwrap();
    for (mut writer, ids) in writers.into_iter().zip(slices) {
        let middle = (ids.start + ids.end) / 2;
        writer.write(rows(ids.start..middle)).await.unwrap();
        writer.write(rows(middle..ids.end)).await.unwrap();
        writer.finish().await.unwrap();
    }
    commit
}

async fn write_and_commit(sink: &mut FileSink, batch_id: u64, slices: &[std::ops::Range<i64>]) -> Result<Committed> {
    let epoch = sink.claim()?.epoch;
    write(sink, batch_id, slices)
        .await
        .commit(&permit(batch_id), record(batch_id, epoch))
        .await
}

/// What a reader sees: the ids in the files that the manifests name, read without anything of ours.
fn visible(folder: &TempDir) -> Vec<i64> {
    let base = folder.path().join("a/b");
    let mut manifests: Vec<PathBuf> = fs::read_dir(base.join("_tidemill"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    manifests.sort();
    let mut ids = Vec::new();
    for path in manifests.iter().filter(|path| path.file_stem().unwrap().len() == 20) {
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for file in manifest["files"].as_array().unwrap() {
            let path = base.join(file["path"].as_str().unwrap());
            assert_eq!(fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap());
            let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap())
                .unwrap()
                .build()
                .unwrap();
            let before = ids.len();
            for batch in reader {
                ids.extend(batch.unwrap().column(0).as_primitive::<Int64Type>().values());
            }
            assert_eq!((ids.len() - before) as u64, file["rows"].as_u64().unwrap());
        }
    }
    ids
}

fn data_files(folder: &TempDir) -> BTreeSet<String> {
    let entries = fs::read_dir(folder.path().join("a/b")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("part-"))
        .collect()
}

#[tokio::test]
async fn rows_come_back_in_every_compression() {
    for compression in [
        Compression::None,
        Compression::Snappy,
        Compression::Zstd,
        Compression::Lz4,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink_with(&folder, Encoding::Parquet(compression));
        sink.check(&SinkInput {
            schema: rows(0..1).schema(),
            ordered: false,
        })
        .await
        .unwrap();
        assert!(!folder.path().join("a").exists(), "a check creates nothing");
        sink.fence(&claim(1)).await.unwrap();
        let committed = write_and_commit(&mut sink, 1, &[0..50, 100..150]).await.unwrap();
        assert_eq!((committed.rows, committed.files.len()), (100, 1));
        assert_eq!(visible(&folder), (0..50).chain(100..150).collect::<Vec<_>>());
        let path = folder.path().join("a/b").join(&committed.files[0]);
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap())
            .unwrap()
            .build()
            .unwrap();
        let read = reader.next().unwrap().unwrap().slice(0, 50);
        assert_eq!(read.column(1).as_string_view(), rows(0..50).column(1).as_string_view());
        assert_eq!(
            read.schema().field(2).data_type(),
            &DataType::Timestamp(TimeUnit::Millisecond, None)
        );
        let ledger = sink.ledger().await.unwrap().unwrap();
        assert_eq!(
            ledger,
            LedgerRecord {
                rows: 100,
                ..record(1, 1)
            }
        );
    }
}

#[tokio::test]
async fn json_is_one_object_per_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink_with(&folder, Encoding::Json);
    sink.fence(&claim(1)).await.unwrap();
    let committed = write_and_commit(&mut sink, 1, &[0..10]).await.unwrap();
    let text = fs::read_to_string(folder.path().join("a/b").join(&committed.files[0])).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(
        lines[3],
        serde_json::json!({"id": 3, "name": null, "at": "1970-01-01T00:00:03"})
    );
    assert_eq!(lines[4]["name"], "a name longer than a view, 4");
}

#[tokio::test]
async fn x16_a_batch_without_rows_has_a_manifest_without_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    assert_eq!(
        write_and_commit(&mut sink, 3, &[0..0, 5..5]).await.unwrap(),
        Committed::default()
    );
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 3);
    assert!(data_files(&folder).is_empty());
    assert!(visible(&folder).is_empty());
}

#[tokio::test]
async fn x27_a_crash_before_the_manifest_shows_nothing_and_the_rerun_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = taken(&folder, 1).await;
    // A killed process runs no destructors.
    let slices = [0..MANY, MANY..2 * MANY];
    std::mem::forget(write(&mut first, 1, &slices).await);
    assert_eq!(data_files(&folder).len(), 2);
    assert!(visible(&folder).is_empty());
    let mut second = taken(&folder, 2).await;
    assert_eq!(second.ledger().await.unwrap(), None);
    write_and_commit(&mut second, 1, &slices).await.unwrap();
    assert_eq!(visible(&folder), (0..2 * MANY).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_is_given_up_removes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    drop(write(&mut sink, 1, &[0..MANY]).await);
    let mut open = sink.begin(&plan(1), 1, 2).await.unwrap();
    open.writers[0].write(rows(0..MANY)).await.unwrap();
    assert_eq!(data_files(&folder).len(), 1);
    drop(open);
    assert!(data_files(&folder).is_empty());
}

#[tokio::test]
async fn x14_a_commit_needs_every_slice_and_its_own_permit() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    let SinkBatch { mut writers, commit } = sink.begin(&plan(1), 2, 1).await.unwrap();
    writers.pop().unwrap().finish().await.unwrap();
    assert_eq!(
        commit.commit(&permit(1), record(1, 1)).await.unwrap_err().kind(),
        Kind::Bug
    );
    let commit = write(&mut sink, 1, &[0..10]).await;
    assert_eq!(
        commit.commit(&permit(2), record(1, 1)).await.unwrap_err().kind(),
        Kind::Bug
    );
    assert_eq!(sink.ledger().await.unwrap(), None);
}

#[tokio::test]
async fn x08_another_owner_is_refused_and_both_are_named() {
    let folder = tempfile::tempdir().unwrap();
    taken(&folder, 1).await;
    let mut foreign = sink(&folder);
    let theirs = Claim {
        app_uuid: "uuid-2".into(),
        ..claim(9)
    };
    assert_eq!(
        foreign.inspect("ads").await.unwrap().app_uuid.as_deref(),
        Some("uuid-1")
    );
    let error = foreign.fence(&theirs).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(
        error.chain().contains("uuid-1") && error.chain().contains("uuid-2"),
        "{}",
        error.chain()
    );
    let path = folder.path().join("a/b");
    let mut other_sink = FileSink::new("other", path.to_str().unwrap(), PARQUET).unwrap();
    assert_eq!(other_sink.fence(&claim(2)).await.unwrap_err().kind(), Kind::Config);
    assert_eq!(
        sink(&folder).inspect("ads").await.unwrap().epoch,
        1,
        "a refused claim leaves no mark"
    );
}

#[tokio::test]
async fn x04_an_older_epoch_loses_at_its_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = taken(&folder, 1).await;
    old.fence(&claim(1)).await.unwrap();
    let commit = write(&mut old, 1, &[0..10]).await;
    let mut new = taken(&folder, 2).await;
    let refused = commit.commit(&permit(1), record(1, 1)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Fenced);
    assert!(data_files(&folder).is_empty());
    assert_eq!(
        write_and_commit(&mut old, 1, &[0..1]).await.unwrap_err().kind(),
        Kind::Fenced
    );
    assert_eq!(old.birth(&record(0, 1)).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(old.fence(&claim(1)).await.unwrap_err().kind(), Kind::Fenced);
    let twin = Claim {
        incarnation: "driver-2b".into(),
        ..claim(2)
    };
    assert_eq!(sink(&folder).fence(&twin).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(new.ledger().await.unwrap(), None);
    write_and_commit(&mut new, 1, &[0..10]).await.unwrap();
    assert_eq!(visible(&folder), (0..10).collect::<Vec<_>>());
}

/// A driver that froze after its last look for a newer epoch and goes on now.
async fn put_late(sink: &FileSink, batch_id: u64, name: &str) -> ManifestPut {
    let epoch = sink.claim().unwrap().epoch;
    let file = FileEntry {
        path: name.to_owned(),
        rows: 10,
        bytes: 1,
    };
    let manifest = Manifest::new(
        vec![file],
        LedgerRecord {
            rows: 10,
            ..record(batch_id, epoch)
        },
    );
    sink.records.put_manifest(&manifest).await.unwrap()
}

#[tokio::test]
async fn x01_a_late_manifest_of_the_same_plan_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = taken(&folder, 1).await;
    let mut new = taken(&folder, 2).await;
    let commit = write(&mut new, 1, &[0..10]).await;
    assert!(matches!(put_late(&frozen, 1, "part-frozen").await, ManifestPut::Ours));
    let committed = commit.commit(&permit(1), record(1, 2)).await.unwrap();
    assert_eq!(
        committed,
        Committed {
            rows: 10,
            files: vec!["part-frozen".into()]
        }
    );
    assert!(data_files(&folder).is_empty(), "what was written beside it is gone");
    assert_eq!(new.ledger().await.unwrap().unwrap().epoch, 1);
}

#[tokio::test]
async fn a_late_manifest_finds_the_name_taken() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = taken(&folder, 1).await;
    let mut new = taken(&folder, 2).await;
    write_and_commit(&mut new, 1, &[0..10]).await.unwrap();
    let ManifestPut::Theirs(found) = put_late(&frozen, 1, "part-frozen").await else {
        panic!("it was put twice")
    };
    assert_eq!(found.ledger.epoch, 2);
    assert_eq!(visible(&folder), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn x26_another_plan_under_the_same_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    write_and_commit(&mut sink, 1, &[0..10]).await.unwrap();
    let commit = write(&mut sink, 1, &[0..20]).await;
    let other_plan = LedgerRecord {
        plan_hash: "another".into(),
        ..record(1, 1)
    };
    let error = commit.commit(&permit(1), other_plan).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.chain().contains("hash-1") && error.chain().contains("another"),
        "{}",
        error.chain()
    );
    assert_eq!((visible(&folder).len(), data_files(&folder).len()), (10, 1));
}

#[tokio::test]
async fn of_two_writers_of_one_batch_one_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    let (first, second) = (write(&mut sink, 1, &[0..10]).await, write(&mut sink, 1, &[0..10]).await);
    let (permit_a, permit_b) = (permit(1), permit(1));
    let (a, b) = tokio::join!(
        first.commit(&permit_a, record(1, 1)),
        second.commit(&permit_b, record(1, 1))
    );
    assert_eq!(a.unwrap(), b.unwrap(), "the loser reports the winner's files");
    assert_eq!(visible(&folder), (0..10).collect::<Vec<_>>());
    assert_eq!(data_files(&folder).len(), 1);
}

#[tokio::test]
async fn the_newest_manifest_is_found_across_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    for batch_id in [1, 2, 9, 10, 100] {
        write_and_commit(&mut sink, batch_id, &[0..1]).await.unwrap();
        assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, batch_id);
    }
    let state = self::sink(&folder).inspect("ads").await.unwrap();
    assert_eq!((state.epoch, state.ledger.unwrap().batch_id), (1, 100));
}

/// A store whose listings lag behind: they show nothing beyond the name `until`.
#[derive(Debug)]
struct Lagging {
    inner: LocalStore,
    until: String,
}

#[async_trait]
impl Store for Lagging {
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
        self.inner.put_new(path, bytes).await
    }
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.inner.read(path).await
    }
    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = self.inner.list(folder).await?;
        names.retain(|name| *name < self.until);
        Ok(names)
    }
    async fn delete(&self, path: &str) -> Result<()> {
        self.inner.delete(path).await
    }
    async fn probe(&self) -> Result<()> {
        self.inner.probe().await
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

#[tokio::test]
async fn x02_what_a_listing_lacks_is_read() {
    for shown in [0, 2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a/b");
        let store = Lagging {
            inner: LocalStore::new(base.clone()),
            until: format!("{shown:020}.json"),
        };
        let mut sink = FileSink::over("out", Arc::new(store), Arc::new(LocalFolder::new(base)), PARQUET);
        sink.fence(&claim(1)).await.unwrap();
        for batch_id in 1..=4 {
            write_and_commit(&mut sink, batch_id, &[0..1]).await.unwrap();
        }
        assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 4, "shown up to {shown}");
        taken(&folder, 2).await;
        assert_eq!(
            sink.fence(&claim(1)).await.unwrap_err().kind(),
            Kind::Fenced,
            "shown up to {shown}"
        );
    }
}

#[tokio::test]
async fn x09_a_birth_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    let birth = LedgerRecord {
        birth: true,
        ..record(5, 1)
    };
    sink.birth(&birth).await.unwrap();
    sink.birth(&birth).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap().as_ref(), Some(&birth));
    let other = LedgerRecord {
        plan_hash: "another".into(),
        ..birth
    };
    assert_eq!(sink.birth(&other).await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(
        write_and_commit(&mut sink, 5, &[0..1]).await.unwrap_err().kind(),
        Kind::Refused
    );
    write_and_commit(&mut sink, 6, &[0..1]).await.unwrap();
    assert_eq!(sink.ledger().await.unwrap().unwrap().batch_id, 6);
}

#[tokio::test]
async fn x28_orphans_are_files_of_settled_batches_that_no_manifest_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    std::mem::forget(write(&mut sink, 1, &[0..MANY]).await);
    let orphan: Vec<String> = data_files(&folder).into_iter().collect();
    write_and_commit(&mut sink, 1, &[0..MANY]).await.unwrap();
    std::mem::forget(write(&mut sink, 2, &[0..MANY]).await);
    fs::write(folder.path().join("a/b/part-of-somebody.parquet"), b"x").unwrap();
    assert!(
        sink.remove_orphans(1, Duration::from_secs(3600))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(sink.remove_orphans(0, Duration::ZERO).await.unwrap().is_empty());
    assert_eq!(sink.remove_orphans(1, Duration::ZERO).await.unwrap(), orphan);
    assert_eq!(visible(&folder), (0..MANY).collect::<Vec<_>>());
    assert_eq!(data_files(&folder).len(), 3);
}

#[tokio::test]
async fn small_slices_share_a_file_in_their_order_and_larger_ones_have_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    let small = [0..10, 10..10, 10..30, 30..31];
    assert_eq!(write_and_commit(&mut sink, 1, &small).await.unwrap().files.len(), 1);
    let mixed = [31..40, 40..40 + MANY, 40 + MANY..50 + MANY];
    assert_eq!(write_and_commit(&mut sink, 2, &mixed).await.unwrap().files.len(), 2);
    let mut ids = visible(&folder);
    assert_eq!(ids[..31], (0..31).collect::<Vec<_>>());
    ids.sort_unstable();
    assert_eq!(ids, (0..50 + MANY).collect::<Vec<_>>());
    // Of all slices together no more than a few MiB stay in memory, however many there are.
    let many: Vec<_> = (0..40).map(|slice| slice * 5_000..(slice + 1) * 5_000).collect();
    let files = write_and_commit(&mut sink, 3, &many).await.unwrap().files.len();
    assert!((2..40).contains(&files), "{files} files");
}

#[tokio::test]
async fn damaged_and_later_manifests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken(&folder, 1).await;
    write_and_commit(&mut sink, 1, &[0..1]).await.unwrap();
    let path = folder.path().join("a/b/_tidemill/00000000000000000001.json");
    let text = fs::read_to_string(&path).unwrap();
    for (damaged, words) in [
        (text[..text.len() / 2].to_owned(), "can't be read"),
        (text.replace("\"version\":1", "\"version\":2"), "has version 2"),
        (text.replace("uuid-1", "uuid-2"), "belongs to sink out"),
    ] {
        fs::write(&path, damaged).unwrap();
        let error = sink.ledger().await.unwrap_err().chain();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn paths_of_other_systems_are_refused() {
    for path in ["s3://bucket/x", "hdfs://host/x", "file://", ""] {
        assert_eq!(
            FileSink::new("out", path, PARQUET).unwrap_err().kind(),
            Kind::Config,
            "{path}"
        );
    }
    assert_eq!(
        FileSink::new("out", "file:///tmp/x", PARQUET)
            .unwrap()
            .identity()
            .target,
        "/tmp/x"
    );
}

#[tokio::test]
async fn check_names_what_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let gap = Field::new(
        "gap",
        DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
        true,
    );
    let input = SinkInput {
        schema: Arc::new(Schema::new(vec![gap])),
        ordered: false,
    };
    let error = sink(&folder).check(&input).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.chain().contains("sink out: column gap"), "{}", error.chain());
    fs::write(folder.path().join("a"), b"a file").unwrap();
    let input = SinkInput {
        schema: rows(0..1).schema(),
        ordered: false,
    };
    assert!(
        sink(&folder).check(&input).await.is_err(),
        "a folder can't be made below a file"
    );
}

#[tokio::test]
async fn what_version_1_wrote_is_read() {
    let fixtures = "../../tests/fixtures/v1/folded/out";
    let mut sink = FileSink::new("out", fixtures, Encoding::Json).unwrap();
    let state = sink.inspect("fixture").await.unwrap();
    let ledger = state.ledger.unwrap();
    assert_eq!((state.epoch, ledger.batch_id, ledger.rows), (2, 501, 5));
    assert_eq!((ledger.losses[0].from, ledger.losses[0].until), (500, 505));
}

/// Rows for `folders` folders, one row of each after the other, `times` times over.
fn scattered(folders: i64, times: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("of", DataType::Utf8View, true),
        Field::new("id", DataType::Int64, false),
    ]));
    let batch = |time: i64| {
        let of =
            StringViewArray::from_iter((0..folders).map(|folder| (folder > 0).then(|| format!("folder/{folder}"))));
        let ids = Int64Array::from_iter_values(time * folders..(time + 1) * folders);
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(of), Arc::new(ids)]).unwrap()
    };
    (0..times).map(batch).collect()
}

async fn write_scattered(sink: &mut FileSink, batch_id: u64, rows: &[RecordBatch]) -> Box<dyn BatchCommit> {
    let SinkBatch { mut writers, commit } = sink.begin(&plan(batch_id), 2, 1).await.unwrap();
    for (at, rows) in rows.iter().enumerate() {
        writers[at % 2].write(rows.clone()).await.unwrap();
    }
    for writer in writers {
        writer.finish().await.unwrap();
    }
    commit
}

fn partitioned(folder: &TempDir) -> FileSink {
    sink(folder).partitioned_by(&["of".to_owned()])
}

async fn taken_partitioned(folder: &TempDir, epoch: u64) -> FileSink {
    let mut sink = partitioned(folder);
    sink.fence(&claim(epoch)).await.unwrap();
    sink
}

/// The ids of each folder, in the order of its files, read through the manifest of `batch_id`.
fn by_folder(folder: &TempDir, batch_id: u64) -> BTreeMap<String, Vec<i64>> {
    let base = folder.path().join("a/b");
    let manifest = fs::read(base.join(format!("_tidemill/{batch_id:020}.json"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let mut ids: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(base.join(path)).unwrap()).unwrap();
        assert_eq!(
            reader.schema().fields().len(),
            1,
            "the column that names the folder is not in {path}"
        );
        let of_folder = ids.entry(path.rsplit_once('/').unwrap().0.to_owned()).or_default();
        for rows in reader.build().unwrap() {
            of_folder.extend(rows.unwrap().column(0).as_primitive::<Int64Type>().values());
        }
    }
    ids
}

#[tokio::test]
async fn rows_go_to_the_folders_that_their_values_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken_partitioned(&folder, 1).await;
    let commit = write_scattered(&mut sink, 1, &scattered(3, 4)).await;
    assert!(data_files(&folder).is_empty(), "a few rows wait in memory");
    let committed = commit.commit(&permit(1), record(1, 1)).await.unwrap();
    assert_eq!((committed.rows, committed.files.len()), (12, 3));
    let expected = [
        ("of=__HIVE_DEFAULT_PARTITION__", vec![0, 3, 6, 9]),
        ("of=folder%2F1", vec![1, 4, 7, 10]),
        ("of=folder%2F2", vec![2, 5, 8, 11]),
    ];
    let expected: BTreeMap<String, Vec<i64>> = expected.into_iter().map(|(name, ids)| (name.to_owned(), ids)).collect();
    assert_eq!(by_folder(&folder, 1), expected);
    assert!(data_files(&folder).is_empty(), "no file lies beside the folders");
}

#[tokio::test]
async fn of_thousands_of_folders_few_files_are_open_and_each_has_all_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken_partitioned(&folder, 1).await;
    let (folders, times) = (2_000, 3);
    let commit = write_scattered(&mut sink, 1, &scattered(folders, times)).await;
    let committed = commit.commit(&permit(1), record(1, 1)).await.unwrap();
    assert_eq!(
        (committed.rows, committed.files.len()),
        (6_000, 2_000),
        "sorted, a folder has one file"
    );
    let ids = by_folder(&folder, 1);
    for folder in 1..folders {
        let expected: Vec<i64> = (0..times).map(|time| time * folders + folder).collect();
        assert_eq!(ids[&format!("of=folder%2F{folder}")], expected);
    }
}

/// More rows than are gathered at once: files stay open from one run of sorted rows to the next, or are finished and followed
/// by others.
#[tokio::test]
async fn what_is_gathered_is_bounded_and_a_folder_may_get_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken_partitioned(&folder, 1).await;
    // More than may be open, in three runs and a bit.
    let folders = 200;
    let one = scattered(folders, 1);
    let bytes = one[0].get_array_memory_size();
    let times = i64::try_from(3 * (32 << 20) / bytes).unwrap() + 10;
    let commit = write_scattered(&mut sink, 1, &scattered(folders, times)).await;
    let committed = commit.commit(&permit(1), record(1, 1)).await.unwrap();
    assert_eq!(i64::try_from(committed.rows).unwrap(), folders * times);
    assert!(
        (290..500).contains(&committed.files.len()),
        "{} files: some folders keep their file",
        committed.files.len()
    );
    let ids = by_folder(&folder, 1);
    for folder in 1..folders {
        let expected: Vec<i64> = (0..times).map(|time| time * folders + folder).collect();
        assert_eq!(
            ids[&format!("of=folder%2F{folder}")],
            expected,
            "in order, across files"
        );
    }
}

#[tokio::test]
async fn x28_orphans_lie_in_folders_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = taken_partitioned(&folder, 1).await;
    let rows = scattered(5, 2);
    let one = write_scattered(&mut sink, 1, &rows).await;
    one.commit(&permit(1), record(1, 1)).await.unwrap();
    let lost = folder.path().join("a/b/of=lost%2Fone");
    fs::create_dir(&lost).unwrap();
    let orphan = "part-00000000000000000001-00000-e0-a1-0f.parquet";
    fs::write(lost.join(orphan), b"x").unwrap();
    fs::write(lost.join("part-of-somebody.parquet"), b"x").unwrap();
    assert_eq!(
        sink.remove_orphans(1, Duration::ZERO).await.unwrap(),
        [format!("of=lost%2Fone/{orphan}")]
    );
    assert_eq!(by_folder(&folder, 1).len(), 5);
    // A batch that is given up leaves no file.
    drop(write_scattered(&mut sink, 2, &rows).await);
    assert_eq!(
        sink.remove_orphans(2, Duration::ZERO).await.unwrap(),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn check_names_the_column_that_no_folder_can_be_named_by() {
    let folder = tempfile::tempdir().unwrap();
    let input = SinkInput {
        schema: scattered(1, 1)[0].schema(),
        ordered: false,
    };
    partitioned(&folder).check(&input).await.unwrap();
    let mut wrong = sink(&folder).partitioned_by(&["off".to_owned()]);
    let error = wrong.check(&input).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(
        error.chain().contains("sink out: partition_by names column off") && error.chain().contains("of, id"),
        "{}",
        error.chain()
    );
}
