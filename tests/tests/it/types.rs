//! Values of every type, through JSON files, Parquet files and tables.

use std::fs::File;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMillisecondType;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::records::Record;
use tidemill_tests::servers;
use tidemill_tests::target::{Kind, Target, manifests, with_database};

use crate::sheet::{files, head, rows_by, sink, source, topic};

const COLUMNS: &str = "id BIGINT, price DECIMAL(12, 2), day DATE, yes BOOLEAN, ratio DOUBLE, at TIMESTAMP(3), \
                       tz TIMESTAMP(3) WITH TIME ZONE, word VARCHAR, small SMALLINT";

const FULL: &str = r#"{"id":1,"price":1234567890.12,"day":"2024-02-29","yes":true,"ratio":0.1,"at":1700000000123,
    "tz":"2024-03-01T12:00:00.5+02:00","word":"the „Wort“ \n\u0041 😀","small":-32768}"#;
const NEGATIVE: &str = r#"{"id":2,"price":"-0.05","day":"1969-12-31","yes":false,"ratio":-1e300,"at":"1969-12-31T23:59:59.999",
    "tz":-1,"word":"","small":32767}"#;
const EMPTY: &str = r#"{"id":3}"#;

fn a_topic() -> String {
    let records: Vec<Record> = [FULL, NEGATIVE, EMPTY]
        .into_iter()
        .map(|text| Record::of(0, text))
        .collect();
    topic("types", 1, &records)
}

#[test]
fn plain_types_reach_json_and_a_table_unchanged() {
    let topic = a_topic();
    let lines = files();
    let table = servers::unique("types").replace('-', "_");
    let text = head("types")
        + &source("events", &topic, COLUMNS, "")
        + &sink("lines", "SELECT * FROM events", &lines)
        + &format!(
            "[sinks.table]\nfrom = \"events\"\nkind = \"postgres\"\nurl = \"${{DATABASE_URL}}\"\ntable = \"{table}\"\n\
             create_table = true\n"
        );
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let expected = [
        json!({"id": 1, "price": 1_234_567_890.12, "day": "2024-02-29", "yes": true, "ratio": 0.1,
            "at": "2023-11-14T22:13:20.123", "tz": "2024-03-01T10:00:00.500Z", "word": "the „Wort“ \nA 😀",
            "small": -32768}),
        json!({"id": 2, "price": -0.05, "day": "1969-12-31", "yes": false, "ratio": -1e300,
            "at": "1969-12-31T23:59:59.999", "tz": "1969-12-31T23:59:59.999Z", "word": "", "small": 32767}),
        json!({"id": 3, "price": null, "day": null, "yes": null, "ratio": null, "at": null, "tz": null, "word": null,
            "small": null}),
    ];
    assert_eq!(rows_by("id", &pipeline, &lines), expected);

    // The table's own words, with times in UTC.
    let select = format!(
        "SELECT id, price::text, day::text, yes, ratio::text, at::text, (tz AT TIME ZONE 'UTC')::text, word, small \
         FROM {table} ORDER BY id"
    );
    let seen = with_database(async |database| {
        let rows = database.query(&select, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| {
                let text = |at: usize| row.get::<_, Option<String>>(at);
                json!([
                    row.get::<_, i64>(0),
                    text(1),
                    text(2),
                    row.get::<_, Option<bool>>(3),
                    text(4),
                    text(5),
                    text(6),
                    text(7),
                    row.get::<_, Option<i16>>(8)
                ])
            })
            .collect::<Vec<Value>>())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            json!([
                1,
                "1234567890.12",
                "2024-02-29",
                true,
                "0.1",
                "2023-11-14 22:13:20.123",
                "2024-03-01 10:00:00.5",
                "the „Wort“ \nA 😀",
                -32768
            ]),
            json!([
                2,
                "-0.05",
                "1969-12-31",
                false,
                "-1e+300",
                "1969-12-31 23:59:59.999",
                "1969-12-31 23:59:59.999",
                "",
                32767
            ]),
            json!([3, null, null, null, null, null, null, null, null]),
        ]
    );
}

const NESTED: &str = "SELECT id, price, day, yes, ratio, at, word, make_array(id, id + 1) AS list, \
                      named_struct('half', ratio / 2, 'word', word) AS pair FROM events";

#[test]
fn nested_types_reach_json_unchanged() {
    let topic = a_topic();
    let target = files();
    let text = head("nested") + &source("events", &topic, COLUMNS, "") + &sink("out", NESTED, &target);
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let rows = rows_by("id", &pipeline, &target);
    assert_eq!(rows[0]["list"], json!([1, 2]));
    assert_eq!(rows[0]["pair"], json!({"half": 0.05, "word": "the „Wort“ \nA 😀"}));
    assert_eq!(rows[2]["list"], json!([3, 4]));
    assert_eq!(rows[2]["pair"], json!({"half": null, "word": null}));
}

/// The rows of all Parquet files that the manifests name.
fn parquet_rows(folder: &std::path::Path) -> Vec<RecordBatch> {
    let manifests = manifests(folder).unwrap();
    let entries = manifests
        .iter()
        .flat_map(|manifest| manifest["files"].as_array().unwrap());
    entries
        .flat_map(|entry| {
            let file = File::open(folder.join(entry["path"].as_str().unwrap())).unwrap();
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap()
        })
        .map(Result::unwrap)
        .collect()
}

#[test]
fn plain_and_nested_types_reach_parquet_unchanged() {
    let topic = a_topic();
    let text = head("parquet")
        + &source("events", &topic, COLUMNS, "")
        + &format!("[sinks.out]\nsql = \"\"\"{NESTED}\"\"\"\nkind = \"file\"\npath = \"out\"\nformat = \"parquet\"\n");
    let pipeline = Pipeline::write(&text).unwrap();
    pipeline.run_to_end(&[], LIMIT).unwrap();
    let batches = parquet_rows(&pipeline.folder().join("out"));
    assert_eq!(batches.len(), 1);
    let rows = &batches[0];
    let column = |name: &str| rows.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let kinds = ["price", "day", "at"].map(|name| column(name).data_type().clone());
    assert_eq!(
        kinds,
        [
            DataType::Decimal128(12, 2),
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Millisecond, None)
        ]
    );
    assert_eq!(column("id").as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    let price = column("price").as_primitive::<Decimal128Type>();
    assert_eq!(
        price.iter().collect::<Vec<_>>(),
        [Some(123_456_789_012), Some(-5), None]
    );
    let day = column("day").as_primitive::<Date32Type>();
    assert_eq!(day.iter().collect::<Vec<_>>(), [Some(19_782), Some(-1), None]);
    let yes = column("yes").as_boolean();
    assert_eq!(yes.iter().collect::<Vec<_>>(), [Some(true), Some(false), None]);
    let ratio = column("ratio").as_primitive::<Float64Type>();
    assert_eq!(ratio.iter().collect::<Vec<_>>(), [Some(0.1), Some(-1e300), None]);
    let at = column("at").as_primitive::<TimestampMillisecondType>();
    assert_eq!(at.iter().collect::<Vec<_>>(), [Some(1_700_000_000_123), Some(-1), None]);
    let list = column("list").as_list::<i32>();
    assert_eq!(list.value(2).as_primitive::<Int64Type>().values(), &[3, 4]);
    let half = column("pair").as_struct().column_by_name("half").unwrap();
    let half = half.as_primitive::<Float64Type>();
    assert_eq!(half.iter().collect::<Vec<_>>(), [Some(0.05), Some(-5e299), None]);
}

#[test]
fn a_type_that_a_table_has_no_column_for_is_named() {
    let topic = a_topic();
    let table = Target::create(Kind::Postgres, "id BIGINT, list BIGINT[], pair JSONB").unwrap();
    let text = head("no-type")
        + &source("events", &topic, COLUMNS, "")
        + &sink(
            "out",
            "SELECT id, make_array(id) AS list, named_struct('a', id) AS pair FROM events",
            &table,
        );
    let pipeline = Pipeline::write(&text).unwrap();
    let ended = pipeline.ask(&["check"]).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", ended.log_tail());
    for named in [
        "sink out",
        "column list: no PostgreSQL type",
        "column pair: no PostgreSQL type",
        "CAST it in the query",
    ] {
        assert!(ended.stderr.contains(named), "{named}: {}", ended.log_tail());
    }
}
