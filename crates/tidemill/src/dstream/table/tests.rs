use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use datafusion::functions::math::expr_fn::random;
use datafusion::prelude::{col, lit};

use super::*;
use crate::testing::{Harness, Input, Output};

const SECOND: Duration = Duration::from_secs(1);
const COLUMNS: &str = "ad VARCHAR NOT NULL, cost BIGINT";

type Click = (&'static str, i64);

const CLICKS: [&[Click]; 3] = [&[("a", 3), ("b", 1), ("a", 4)], &[], &[("b", 2)]];

/// What is made of the table of clicks in each batch.
fn answers<R: Clone + Send + 'static>(made: impl Fn(Table) -> DStream<R>) -> Vec<Vec<R>> {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of(CLICKS.map(<[Click]>::to_vec)), Output::default());
    let run = harness.start(|context| {
        made(input.stream(context).to_table("Clicks", COLUMNS)).foreach_batch(output.keep());
        Ok(())
    });
    run.unwrap().batches(3).unwrap();
    output.batches()
}

#[test]
fn each_batch_is_a_table_of_its_own() {
    let costs = answers(|clicks| clicks.sql::<(String, i64)>("SELECT ad, sum(cost) FROM Clicks GROUP BY ad"));
    let cost = |ad: &str, cost| (ad.to_owned(), cost);
    assert_eq!(costs, [vec![cost("a", 7), cost("b", 1)], vec![], vec![cost("b", 2)]]);
    let counts = answers(|clicks| clicks.sql::<(i64, u64)>("SELECT batch_time()::BIGINT, count(*) FROM Clicks"));
    assert_eq!(counts, [[(1_000, 3)], [(2_000, 0)], [(3_000, 1)]]);
}

#[test]
fn a_closure_makes_a_frame_of_a_frame() {
    let dear = answers(|clicks| {
        clicks.transform::<(String, i64)>(|frame| frame.filter(col("\"Clicks\".cost").gt(lit(1)))?.limit(0, Some(2)))
    });
    let click = |ad: &str, cost| (ad.to_owned(), cost);
    assert_eq!(dear, [vec![click("a", 3), click("a", 4)], vec![], vec![click("b", 2)]]);
}

#[test]
fn a_batch_that_runs_again_asks_again_and_gets_the_same() {
    let harness = Harness::new(SECOND);
    let input = Input::of([1..=100]);
    let calls = Arc::new(AtomicU32::new(0));
    let seen: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
    let run = harness.start(|context| {
        let (counted, seen) = (Arc::clone(&calls), Arc::clone(&seen));
        let numbers = input.stream(context).map(|number: i64| (number,));
        let rests = numbers
            .to_table("numbers", "number BIGINT")
            .transform::<i64>(move |frame| {
                counted.fetch_add(1, Ordering::SeqCst);
                frame.select(vec![(col("number") % lit(7)).alias("rest")])?.distinct()
            });
        rests.foreach_batch(move |rests, batch| {
            seen.lock().unwrap().push(rests);
            if batch.attempt == 0 { Err("not yet") } else { Ok(()) }
        });
        Ok(())
    });
    run.unwrap().batches(1).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(*seen.lock().unwrap(), [[1, 2, 3, 4, 5, 6, 0]; 2]);
}

#[test]
fn what_is_wrong_with_a_query_is_told_before_anything_runs() {
    let harness = Harness::new(SECOND);
    let error = harness.start(|context| {
        let table = |name: &str, columns: &str| Input::of([["a"]]).stream(context).to_table(name, columns);
        let declared = [
            table("clicks", "ad VARCHAR").sql("SELECT da FROM clicks"),
            table("clicks", "ad VARCHAR").sql::<String>("SELECT ad FROM click"),
            table("clicks", "ad VARCHAR").sql("SELECT random() FROM clicks"),
            table("clicks", "ad VARCHAR").sql("DROP TABLE clicks"),
            table("clicks", "ad TEXTURE").sql("SELECT ad FROM clicks"),
            table("", "ad VARCHAR").sql("SELECT ad"),
            table("ads", "ad VARCHAR").sql_with(table("ads", "ad VARCHAR"), "SELECT ad FROM ads"),
        ];
        context.union(declared).print(1);
        Ok(())
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.chain();
    for problem in [
        "sql over clicks: SELECT da FROM clicks: the query can't be run",
        "No field named da",
        "table 'datafusion.public.click' not found",
        "random() would give another answer",
        "DDL not supported: Drop",
        "to_table \"clicks\": column ad: TEXTURE",
        "to_table \"\": a table needs a name",
        "sql over ads, ads: SELECT ad FROM ads: both tables have that name",
    ] {
        assert!(text.contains(problem), "no {problem:?} in: {text}");
    }
}

#[track_caller]
fn stops<T: Serialize + Clone + Send + Sync + 'static, R: DeserializeOwned + Debug + Send + 'static>(
    value: T,
    columns: &str,
    ask: impl Fn(Table) -> DStream<R>,
    words: &[&str],
) {
    let harness = Harness::new(SECOND);
    let input = Input::of([[value]]);
    let run = harness.start(|context| {
        ask(input.stream(context).to_table("clicks", columns)).print(1);
        Ok(())
    });
    let text = run.unwrap().batches(1).unwrap_err().chain();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn what_does_not_fit_stops_the_stream_naming_query_and_column() {
    let all = |clicks: Table| clicks.sql::<(String, u8)>("SELECT * FROM clicks");
    let fits = ("a", 1);
    stops(
        ("a", 300),
        COLUMNS,
        all,
        &[
            "batch 1",
            "output-000",
            "sql over clicks: SELECT * FROM clicks",
            "column cost BIGINT",
            "300",
            "u8",
        ],
    );
    stops(("a", "dear"), COLUMNS, all, &["table clicks", "cost", "dear"]);
    stops(
        (None::<String>, 1),
        COLUMNS,
        all,
        &["table clicks", "column ad is NOT NULL"],
    );
    stops(
        fits,
        COLUMNS,
        |clicks| clicks.sql::<f64>("SELECT 1 / (cost - 1) FROM clicks"),
        &["sql over clicks: SELECT 1 / (cost", "Divide by zero"],
    );
    let over = |over: fn(DataFrame) -> datafusion::error::Result<DataFrame>| {
        move |clicks: Table| clicks.transform::<f64>(over)
    };
    stops(
        fits,
        COLUMNS,
        over(|frame| frame.filter(col("coast").gt(lit(1)))),
        &["transform of table clicks: the closure failed", "coast"],
    );
    stops(
        fits,
        COLUMNS,
        over(|frame| frame.select(vec![random()])),
        &["transform of table clicks", "random() would give another answer"],
    );
    stops(
        fits,
        COLUMNS,
        over(|_frame| panic!("no luck")),
        &["transform of table clicks", "no luck"],
    );
}
