//! Windows batch after batch, held against DataFusion's own answer over the records of their batches.

use super::*;
use crate::sql::running::Window;

/// Lengths in batches.
fn window(length: i64, slide: i64) -> Scope {
    Scope::Windowed(Window {
        length_ms: 10 * length,
        slide_ms: 10 * slide,
    })
}

/// Records of batch `n`: not all keys in each, none at all in some.
fn of_batch(n: u64) -> Vec<Record> {
    let at = usize::try_from(n % 4).expect("small");
    match n % 6 {
        0 => Vec::new(),
        each => records(
            at..at + 2,
            i64::try_from(each).expect("small"),
            10 * i64::try_from(n).expect("small"),
        ),
    }
}

#[tokio::test]
async fn every_window_has_exactly_its_batches() {
    for (length, slide) in [(6, 2), (4, 4), (5, 3), (3, 5), (1, 1), (8, 1)] {
        let queries = [("totals", AGGREGATES, window(length, slide))];
        let sql = "SELECT * FROM totals";
        let mut stream = Stream::of(&queries, sql).await;
        for n in 1..=20 {
            let rows = stream
                .batch(&of_batch(n), &queries, sql, [2, 5, 3][n as usize % 3])
                .await;
            let (end, first) = (n as i64, n as i64 - length + 1);
            if end % slide != 0 {
                assert_eq!(rows, Vec::<String>::new(), "{length} every {slide}, batch {n}");
                continue;
            }
            let inside: Vec<Record> = (first.max(1)..=end).flat_map(|n| of_batch(n as u64)).collect();
            assert_eq!(
                rows,
                recounted(&inside, &queries, sql).await,
                "{length} every {slide}, batch {n}"
            );
        }
    }
}

/// Groups times panes, however many batches there were; nothing once the stream has dried up.
#[tokio::test]
async fn what_left_the_window_is_forgotten() {
    let queries = [("q", "SELECT k, count(*) AS c FROM events GROUP BY k", window(12, 4))];
    let sql = "SELECT * FROM q";
    let mut stream = Stream::of(&queries, sql).await;
    let kept = |stream: &Stream| {
        let reader = &stream.readers()["query-q"];
        (0..BUCKETS)
            .map(|bucket| reader.range(bucket, &[], None).count())
            .sum::<usize>()
    };
    for n in 1..=40 {
        stream.batch(&records(0..5, 2, 0), &queries, sql, 3).await;
        // Of each slide: one pane of three batches, and that of the batch in which a window ends.
        assert!(kept(&stream) <= 5 * 2 * 3, "{} after batch {n}", kept(&stream));
        assert!(!stream.readers()["query-q"].is_empty().expect("read"));
    }
    let mut last = Vec::new();
    for n in 41..=52 {
        let rows = stream.batch(&[], &queries, sql, 2).await;
        if n % 4 == 0 {
            last = rows;
        }
        assert_eq!(
            stream.readers()["query-q"].is_empty().expect("read"),
            n >= 48,
            "batch {n}"
        );
    }
    assert_eq!(last, Vec::<String>::new());
}

/// What is left of it is what keeps the driver from stepping over the end of the next window.
#[tokio::test]
async fn an_operator_that_holds_anything_has_it_for_its_next_window() {
    for (length, slide) in [(6, 2), (4, 4), (5, 3), (3, 5)] {
        let queries = [(
            "q",
            "SELECT k, count(*) AS c FROM events GROUP BY k",
            window(length, slide),
        )];
        let mut stream = Stream::of(&queries, "SELECT * FROM q").await;
        let template = planned(&[], &queries, "SELECT * FROM q", 2).await.expect("planned");
        assert_eq!(template.slides(), BTreeMap::from([("query-q".to_owned(), 10 * slide)]));
        for n in 1..=30 {
            stream.batch(&of_batch(n), &queries, "SELECT * FROM q", 2).await;
            let end = tidemill_core::next_batch::window_end_after(10 * n as i64, 10 * slide) / 10;
            let inside = ((end - length + 1).max(1)..=n as i64).flat_map(|n| of_batch(n as u64));
            let holds = !stream.readers()["query-q"].is_empty().expect("read");
            assert_eq!(holds, inside.count() > 0, "{length} every {slide}, batch {n}");
        }
    }
}

/// X30, in batches in which a window ends and in others.
#[tokio::test]
async fn all_outputs_of_a_window_bring_its_state_to_the_same() {
    let queries = [(
        "q",
        "SELECT k, count(*) AS c, batch_time() AS until FROM events GROUP BY k HAVING count(*) > 3",
        window(4, 2),
    )];
    let outputs = [
        "SELECT * FROM q",
        "SELECT k FROM q LIMIT 1",
        "SELECT count(*) FROM q WHERE c > 1000000",
        "SELECT q.c FROM q JOIN (SELECT k FROM events WHERE n < -1000) e ON q.k = e.k",
    ];
    let mut stream = Stream::of(&queries, outputs[0]).await;
    for n in 1..=7 {
        let before = stream.readers();
        let mut changes = Vec::new();
        for sql in outputs {
            let template = planned(&of_batch(n), &queries, sql, 3).await.expect("planned");
            changes.push(run(&template, n, &before).await.expect(sql).1);
        }
        for (sql, changed) in outputs.iter().zip(&changes) {
            assert_eq!(changed, &changes[0], "{sql}, batch {n}");
        }
        stream.batch(&of_batch(n), &queries, outputs[0], 2).await;
    }
}

#[tokio::test]
async fn the_end_of_a_window_is_the_batch_time() {
    let text = "SELECT batch_time() AS until, k, count(*) AS c FROM events GROUP BY k HAVING count(*) > 2";
    let queries = [("q", text, window(4, 2))];
    let sql = "SELECT until, c FROM q WHERE k = 'a'";
    let mut stream = Stream::of(&queries, sql).await;
    let mut rows = Vec::new();
    for _ in 1..=4 {
        rows.extend(stream.batch(&records(0..1, 2, 0), &queries, sql, 2).await);
    }
    assert_eq!(rows, ["1970-01-01T00:00:00.020|4", "1970-01-01T00:00:00.040|8"]);
}

#[tokio::test]
async fn an_upserting_sink_needs_the_end_of_the_window_in_its_key() {
    let text = "SELECT k, count(*) AS c, batch_time() AS until, batch_id() AS id FROM events GROUP BY k";
    let by_time = "SELECT k, count(*) AS c, batch_time() AS until FROM events GROUP BY k, batch_time()";
    for (text, sql, key, may) in [
        (text, "SELECT * FROM q", &["k"][..], true),
        (text, "SELECT * FROM q", &["k", "until"], false),
        (text, "SELECT * FROM q", &["id", "k"], false),
        (
            text,
            "SELECT until AS u, k FROM q WHERE c > 1 ORDER BY k LIMIT 3",
            &["u", "k"],
            false,
        ),
        (text, "SELECT k, now() AS at FROM q", &["k", "at"], false),
        (text, "SELECT k, current_date AS day FROM q", &["k", "day"], true),
        (
            text,
            "SELECT k, date_trunc('hour', until) AS hour FROM q",
            &["k", "hour"],
            true,
        ),
        (text, "SELECT k, until FROM q", &["k", "missing"], true),
        // The time of the batch in which a record came, not of that which gives the row.
        (by_time, "SELECT * FROM q", &["k", "until"], true),
    ] {
        let template = planned(&records(0..2, 2, 0), &[("q", text, window(4, 2))], sql, 2)
            .await
            .expect(sql);
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(template.may_leave_groups_out(&key), may, "{sql}, {key:?}");
    }
}

#[tokio::test]
async fn another_window_does_not_go_on_from_the_state_of_this_one() {
    let spec = async |scope| {
        let queries = [("q", "SELECT k, count(*) AS c FROM events GROUP BY k", scope)];
        let template = planned(&[], &queries, "SELECT * FROM q", 2).await.expect("planned");
        template.operators()[0].clone()
    };
    let (first, running) = (spec(window(4, 2)).await, spec(RUNNING).await);
    assert!(
        first.shape.contains("; window of 40 ms every 20 ms; of query "),
        "{}",
        first.shape
    );
    assert_ne!(first.kind, running.kind);
    for other in [window(6, 2), window(4, 1)] {
        assert_ne!(first.shape, spec(other).await.shape);
    }
}

#[tokio::test]
async fn a_window_that_cannot_run_is_refused_by_name() {
    for (text, said) in [
        (
            "SELECT k, count(DISTINCT n) AS c FROM events GROUP BY k",
            "count(DISTINCT …)",
        ),
        ("SELECT k, n FROM events", "no GROUP BY is"),
        (
            "SELECT k, count(*) AS c FROM events GROUP BY k ORDER BY c",
            "ORDER BY is",
        ),
    ] {
        let refused = planned(&[], &[("q", text, window(4, 2))], "SELECT * FROM q", 2)
            .await
            .expect_err(text);
        let chain = refused.chain();
        assert!(
            chain.starts_with("queries.q: scope = { window = … }: ") && chain.contains(said),
            "{chain}"
        );
    }
}
