//! What `docs/reading-files.md` says of other engines, run as it stands there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::{java, servers};

use crate::sheet::{head, source};

const LIMIT: Duration = Duration::from_secs(120);
const RECORDS: u64 = 3_000;

/// The page's lines in `language`.
pub(crate) fn lines(language: &str) -> String {
    let page = "../docs/reading-files.md";
    let text = fs::read_to_string(page).unwrap();
    let (_, from) = text.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0.to_owned()
}

/// Runs a program in `folder` with the variables `env`; the last line of its output is JSON.
pub(crate) fn python(folder: &Path, program: &str, env: &[(&str, &str)]) -> Value {
    let output = Command::new(servers::python())
        .args(["-c", program])
        .envs(env.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program}\n{err}");
    serde_json::from_str(out.lines().last().unwrap()).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// The rows (part, seq, value) of the sink, as DuckDB reads them.
fn by_duckdb(folder: &Path) -> Value {
    let program = format!(
        r#"
import duckdb, json
counted = duckdb.execute({:?}).fetchall()[0][0]
rows = duckdb.execute("""SELECT part, seq, value FROM read_parquet(getvariable('files'), hive_partitioning = true)""").fetchall()
assert counted == len(rows)
print(json.dumps(sorted(rows, key=str)))
"#,
        lines("sql")
    );
    python(folder, &program, &[])
}

/// The same by pyarrow.
fn by_pyarrow(folder: &Path) -> Value {
    let program = format!(
        r#"{}
rows = [(row["part"], row["seq"], row["value"]) for row in table.to_pylist()]
assert table.num_rows == len(rows)
print(json.dumps(sorted(rows, key=str)))
"#,
        lines("python")
    );
    python(folder, &program, &[])
}

fn data_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names
        .map(|path| match path.file_name().unwrap().to_str().unwrap() {
            name if name.starts_with("part-") => 1,
            name if name.contains('=') => data_files(&path),
            _ => 0,
        })
        .sum()
}

fn files_named(sink: &Path) -> usize {
    let manifests = tidemill_tests::target::manifests(sink).unwrap();
    let files = |manifest: &Value| manifest["files"].as_array().unwrap().len();
    manifests.iter().map(files).sum()
}

/// A pipeline that was killed between its data files and a manifest, and went on: every row is read once, by engines that know
/// nothing of us.
fn is_read_back(partition_by: &str) {
    let topic = servers::unique("read-back");
    java::load(&topic, RECORDS, 2, &[]).unwrap();
    let text = head("read-back")
        + &source(
            "events",
            &topic,
            "seq BIGINT, part INT",
            "max_rate_per_partition = 5000",
        )
        + "[sinks.out]\nkind = \"file\"\npath = \"out\"\n"
        + partition_by
        + "sql = \"SELECT seq, part, CASE WHEN seq % 3 > 0 THEN 'a/' || CAST(seq % 3 AS VARCHAR) END AS value FROM events\"\n";
    let pipeline = Pipeline::write(&text).unwrap();
    let armed = [("TIDEMILL_FAILPOINTS", "file.before-manifest=kill@3")];
    let killed = pipeline.start_to_end(&armed).unwrap().wait(LIMIT).unwrap();
    assert!(killed.was_killed(), "{}\n{}", killed.status, killed.log_tail());
    let sink = pipeline.folder().join("out");
    let between = files_named(&sink);
    assert!(
        0 < between && between < data_files(&sink),
        "{between} of {}",
        data_files(&sink)
    );
    let rows_between = by_duckdb(pipeline.folder());
    assert_eq!(rows_between, by_pyarrow(pipeline.folder()));
    let committed = rows_between.as_array().unwrap().len() as u64;
    assert!(0 < committed && committed < RECORDS, "{committed} rows");

    pipeline.run_to_end(&[], LIMIT).unwrap();
    assert!(
        files_named(&sink) < data_files(&sink),
        "the killed attempt's files lie beside the others"
    );
    let value = |seq: u64| match seq % 3 {
        0 => Value::Null,
        rest => Value::from(format!("a/{rest}")),
    };
    let key = |row: &Value| (row[0].as_u64(), row[1].as_u64());
    let mut expected: Vec<Value> = (0..2)
        .flat_map(|part| (0..RECORDS / 2).map(move |seq| (part, seq)))
        .map(|(part, seq)| serde_json::json!([part, seq, value(seq)]))
        .collect();
    expected.sort_by_key(key);
    for (engine, rows) in [
        ("duckdb", by_duckdb(pipeline.folder())),
        ("pyarrow", by_pyarrow(pipeline.folder())),
    ] {
        let mut rows = rows.as_array().unwrap().clone();
        rows.sort_by_key(key);
        assert!(
            rows == expected,
            "{engine} read {} rows, {} were committed",
            rows.len(),
            expected.len()
        );
    }
}

#[test]
fn other_engines_read_the_committed_rows_and_no_others() {
    is_read_back("");
}

#[test]
fn other_engines_read_folders_as_columns() {
    is_read_back("partition_by = [\"value\"]\n");
}
