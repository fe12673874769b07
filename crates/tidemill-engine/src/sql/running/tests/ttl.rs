//! Groups that get no record for longer than the time to live, held against a stream that is remembered record by record.

use super::*;

const COUNTS: &str = "SELECT k, count(*) AS c, sum(n) AS s FROM events GROUP BY k";

/// In batches.
fn ttl(batches: i64) -> Option<Ttl> {
    Some(Ttl {
        idle_ms: 10 * batches,
        interval_ms: 10,
    })
}

/// What a stream has of each key: its last batch, and its records.
#[derive(Debug, Default)]
struct Remembered(BTreeMap<Option<&'static str>, (u64, Vec<Record>)>);

impl Remembered {
    /// Takes a batch, and gives the records of the groups that it gives rows of.
    fn batch(&mut self, n: u64, records: &[Record], ttl: u64, emit: Emit) -> Vec<Record> {
        for (key, number) in records {
            let (last, all) = self.0.entry(*key).or_default();
            if n - *last > ttl + 1 {
                all.clear();
            }
            *last = n;
            all.push((*key, *number));
        }
        self.0.retain(|_, (last, _)| n - *last <= ttl);
        let given = self.0.values().filter(|(last, _)| emit == Emit::All || *last == n);
        given.flat_map(|(_, records)| records.iter().copied()).collect()
    }
}

impl Stream {
    /// The groups that are kept, those that stand by time, and all entries.
    fn kept(&self) -> [usize; 3] {
        let reader = &self.readers()["query-q"];
        let count = |from: &[u8], until: Option<&[u8]>| {
            let entries = (0..BUCKETS).map(|bucket| reader.range(bucket, from, until).count());
            entries.sum()
        };
        [
            count(&[], Some(super::super::ttl::GROUPS_END)),
            count(b"t", Some(b"u")),
            count(&[], None),
        ]
    }

    /// Batch `n`, which may leave out some that had no records.
    async fn at(&mut self, n: u64, records: &[Record], scope: Scope) -> Vec<String> {
        self.batch = n - 1;
        self.batch(records, &[("q", COUNTS, scope)], "SELECT * FROM q", 2).await
    }
}

/// Numbers that look drawn, the same in every run.
fn drawn(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[tokio::test]
async fn groups_live_as_long_as_they_get_records() {
    let sql = "SELECT * FROM q";
    for (batches, emit) in [(1, Emit::Changed), (3, Emit::Changed), (2, Emit::All), (4, Emit::All)] {
        let scope = running(emit, ttl(batches));
        let queries = [("q", AGGREGATES, scope)];
        let (mut stream, mut remembered, mut seed) = (Stream::of(&queries, sql).await, Remembered::default(), 7);
        let (mut n, mut forgotten, mut begun) = (0, 0, 0);
        for _ in 0..40 {
            n += 1 + if drawn(&mut seed).is_multiple_of(4) {
                drawn(&mut seed) % 7
            } else {
                0
            };
            let batch: Vec<Record> = (0..drawn(&mut seed) % 4)
                .map(|_| {
                    let key = KEYS[usize::try_from(drawn(&mut seed) % 5).expect("small")];
                    (key, Some(i64::try_from(drawn(&mut seed) % 90).expect("small")))
                })
                .collect();
            let before: Vec<_> = remembered.0.keys().copied().collect();
            let given = remembered.batch(n, &batch, batches.unsigned_abs(), emit);
            stream.batch = n - 1;
            let slices = 2 + usize::try_from(n % 4).expect("small");
            let rows = stream.batch(&batch, &queries, sql, slices).await;
            assert_eq!(rows, recounted(&given, &queries, sql).await, "batch {n}");
            let count = remembered.0.len();
            assert_eq!(stream.kept(), [count, count, 2 * count + 1], "batch {n}");
            forgotten += before.iter().filter(|key| !remembered.0.contains_key(*key)).count();
            begun += before.len();
        }
        assert!(forgotten > 5 && begun > 2 * forgotten, "{forgotten} of {begun}");
    }
}

#[tokio::test]
async fn the_batch_that_would_forget_a_group_may_keep_it() {
    let scope = running(Emit::Changed, ttl(3));
    let queries = [("q", COUNTS, scope)];
    let a = records(0..1, 1, 1);
    // Whether a batch without records is run makes no difference.
    for (run, last, count) in [
        (&[][..], 4, 2),
        (&[], 5, 2),
        (&[2, 3, 4], 5, 2),
        (&[], 6, 1),
        (&[5], 6, 1),
        (&[2, 3, 4, 5], 6, 1),
        (&[], 500, 1),
    ] {
        let mut stream = Stream::of(&queries, "SELECT * FROM q").await;
        assert_eq!(stream.at(1, &a, scope).await, ["a|1|1"]);
        for n in run {
            let groups = usize::from(*n < 5);
            assert_eq!(stream.at(*n, &[], scope).await, Vec::<String>::new());
            assert_eq!(stream.kept()[0], groups, "{n}");
        }
        let rows = stream.at(last, &a, scope).await;
        assert_eq!(rows, [format!("a|{count}|{count}")], "{run:?}, then {last}");
        assert_eq!(stream.kept(), [1, 1, 3]);
    }
}

/// Its rows end with the batch that forgets it.
#[tokio::test]
async fn a_forgotten_group_is_no_longer_given() {
    let scope = running(Emit::All, ttl(2));
    let queries = [("q", COUNTS, scope)];
    let mut stream = Stream::of(&queries, "SELECT * FROM q").await;
    stream.at(1, &records(0..2, 1, 1), scope).await;
    assert_eq!(stream.at(2, &records(1..2, 1, 1), scope).await, ["a|1|1", "b|2|2"]);
    assert_eq!(stream.at(3, &[], scope).await, ["a|1|1", "b|2|2"]);
    assert_eq!(stream.at(4, &[], scope).await, ["b|2|2"]);
    assert_eq!(stream.at(5, &[], scope).await, Vec::<String>::new());
    assert_eq!(stream.kept(), [0, 0, 1]);
}

/// What was kept without one counts from the first batch with it, however old it is.
#[tokio::test]
async fn a_time_to_live_may_come_go_and_change() {
    for emit in [Emit::Changed, Emit::All] {
        let (forever, of) = (running(emit, None), |batches| running(emit, ttl(batches)));
        let mut stream = Stream::of(&[("q", COUNTS, forever)], "SELECT * FROM q").await;
        stream.at(1, &records(0..5, 1, 1), forever).await;
        assert_eq!(stream.kept(), [5, 0, 5]);

        // It comes: what is there counts from batch 100.
        stream.at(100, &records(0..1, 1, 1), of(10)).await;
        assert_eq!(stream.kept(), [5, 1, 7]);
        let rows = stream.at(105, &records(0..2, 1, 1), of(10)).await;
        assert!(
            ["a|3|3", "b|2|2"]
                .iter()
                .all(|row| rows.iter().any(|given| given == row)),
            "{rows:?}"
        );
        stream.at(110, &[], of(10)).await;
        assert_eq!(stream.kept(), [5, 2, 8]);
        stream.at(111, &[], of(10)).await;
        assert_eq!(stream.kept(), [2, 2, 5], "a and b came in 105");

        // It changes: shorter, then longer.
        stream.at(112, &records(1..2, 1, 1), of(10)).await;
        stream.at(113, &[], of(5)).await;
        assert_eq!(stream.kept(), [1, 1, 3], "a came in 105");
        stream.at(200, &[], of(100)).await;
        assert_eq!(stream.kept(), [1, 1, 3]);

        // It goes: nothing is forgotten any more, and what gets records has no time.
        stream.at(1000, &records(0..1, 1, 1), forever).await;
        assert_eq!(stream.kept(), [2, 1, 3]);
        let rows = stream.at(2000, &records(1..3, 1, 1), forever).await;
        assert!(rows.contains(&"b|4|4".to_owned()), "{rows:?}");
        assert_eq!(stream.kept(), [3, 0, 3]);

        // And comes again.
        stream.at(2001, &[], of(2)).await;
        stream.at(2003, &[], of(2)).await;
        assert_eq!(stream.kept(), [3, 0, 4]);
        stream.at(2004, &records(2..3, 1, 1), of(2)).await;
        assert_eq!(stream.kept(), [1, 1, 3]);
    }
}

/// A record that changes nothing but the time must count, where there was no time to live when it came.
#[tokio::test]
async fn a_time_that_later_records_did_not_move_is_not_believed() {
    let queries = |scope| [("q", "SELECT k, max(n) AS m FROM events GROUP BY k", scope)];
    let (with, without) = (running(Emit::Changed, ttl(3)), running(Emit::Changed, None));
    let sql = "SELECT * FROM q";
    let mut stream = Stream::of(&queries(with), sql).await;
    for (n, records, scope, kept) in [
        (1, &records(0..2, 1, 5)[..], with, [2, 2, 5]),
        (2, &records(0..1, 1, 4), without, [2, 2, 4]),
        (90, &[], with, [2, 2, 5]),
        (93, &[], with, [2, 2, 5]),
        (94, &[], with, [0, 0, 1]),
    ] {
        stream.batch = n - 1;
        stream.batch(records, &queries(scope), sql, 2).await;
        assert_eq!(stream.kept(), kept, "batch {n}");
    }
}

/// X30: whichever output decides the state, and however often, it is the same.
#[tokio::test]
async fn all_outputs_forget_the_same() {
    let outputs = [
        "SELECT * FROM q",
        "SELECT c FROM q WHERE k = 'a'",
        "SELECT k FROM q LIMIT 1",
        "SELECT q.s FROM q JOIN (SELECT k FROM events WHERE n < -1000) e ON q.k = e.k",
        "SELECT count(*) FROM q",
    ];
    for emit in [Emit::Changed, Emit::All] {
        let scope = running(emit, ttl(1));
        let queries = [("q", COUNTS, scope)];
        let mut stream = Stream::of(&queries, outputs[0]).await;
        for (n, batch, changed_keys) in [
            (1, records(0..5, 3, 0), 5 + 5 + 1),
            (2, records(1..3, 2, 5), 2 + 2 * 2),
            (3, Vec::new(), 3 * 2 + 1),
            (9, records(2..4, 1, 1), 2 + 3 + 2 + 1),
        ] {
            let before = stream.readers();
            let mut changes = Vec::new();
            for (at, sql) in outputs.iter().chain([&outputs[0]]).enumerate() {
                let template = planned(&batch, &queries, sql, 2 + at % 3).await.expect("planned");
                changes.push(run(&template, n, &before).await.expect(sql).1);
            }
            for changed in &changes {
                assert_eq!(changed, &changes[0], "batch {n}");
            }
            assert_eq!(changes[0]["query-q"].len(), changed_keys, "batch {n}");
            stream.at(n, &batch, scope).await;
        }
    }
}

#[tokio::test]
async fn a_query_with_a_time_to_live_keeps_its_state_and_its_upserts() {
    let mut shapes = Vec::new();
    for ttl in [None, ttl(2), ttl(3)] {
        let queries = [("q", COUNTS, running(Emit::Changed, ttl))];
        let template = planned(&[], &queries, "SELECT * FROM q", 2).await.expect("planned");
        assert!(!template.may_leave_groups_out(&["k".to_owned()]));
        shapes.push(template.operators());
    }
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(shapes[1], shapes[2]);
}
