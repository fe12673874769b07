//! One pipeline with a sink of each kind: each is exact by itself, and they differ by one batch at most.

use tidemill_tests::case::{Input, LIMIT};
use tidemill_tests::oracle::{self, Row};
use tidemill_tests::pipeline::Pipeline;
use tidemill_tests::target::{Kind, Target};

use crate::sheet::{head, sink, source};

/// Offsets of each of three partitions in a batch, which give four batches and more.
const PER_BATCH: u64 = 200;

struct Several {
    pipeline: Pipeline,
    /// In the order of their names.
    targets: Vec<Target>,
}

impl Several {
    /// The kinds get names in their order; the file names the sinks in the other, which must not matter.
    fn new(kinds: &[Kind]) -> Self {
        let targets: Vec<Target> = kinds
            .iter()
            .map(|kind| Target::create(*kind, "seq BIGINT, part INT, aborted BOOLEAN").unwrap())
            .collect();
        let mut text = head("several")
            + &source(
                "events",
                &Input::small().topic,
                "seq BIGINT, part INT, aborted BOOLEAN",
                &format!("max_rate_per_partition = {}", PER_BATCH * 10),
            );
        for (name, target) in ["first", "second", "third"].iter().zip(&targets).rev() {
            text += &sink(name, "SELECT seq, part, aborted FROM events", target);
        }
        Self {
            pipeline: Pipeline::write(&text).unwrap(),
            targets,
        }
    }

    fn rows(&self, target: &Target) -> Vec<Row> {
        let rows = target.rows(self.pipeline.folder()).unwrap();
        rows.iter().map(|row| Row::from_json(row).unwrap()).collect()
    }

    fn counts(&self) -> Vec<usize> {
        self.targets.iter().map(|target| self.rows(target).len()).collect()
    }

    fn finish(&self) {
        let finished = self.pipeline.run_to_end(&[], LIMIT).unwrap();
        for target in &self.targets {
            let verdict = oracle::judge(&Input::small().truth, &self.rows(target));
            verdict.assert_clean(&format!("{}\n{}", target.kind().name(), finished.log_tail()));
        }
    }
}

/// Every kind is first, second and third once.
fn orders() -> [Vec<Kind>; 3] {
    use Kind::{File, Kafka, Postgres};
    [
        vec![File, Postgres, Kafka],
        vec![Postgres, Kafka, File],
        vec![Kafka, File, Postgres],
    ]
}

#[test]
fn three_sinks_in_one_pipeline_are_each_exact() {
    Several::new(&orders()[0]).finish();
}

/// X15: the sinks commit in the order of their names, and none begins a batch before all have the last.
#[test]
fn x15_a_kill_between_the_commits_of_a_batch_leaves_each_sink_exact() {
    for kinds in orders() {
        // The first or the first two sinks have committed batch 2.
        for committed in [1, 2] {
            let several = Several::new(&kinds);
            let armed = format!("sink.after-commit=kill@{}", kinds.len() + committed);
            let killed = several
                .pipeline
                .start_to_end(&[("TIDEMILL_FAILPOINTS", &armed)])
                .and_then(|run| run.wait(LIMIT))
                .unwrap();
            assert!(killed.was_killed(), "{armed}: {}", killed.log_tail());
            let counts = several.counts();
            let (ahead, behind) = counts.split_at(committed);
            let (ahead_of_all, behind_of_all) = (ahead[0], behind[0]);
            assert!(
                ahead.iter().all(|count| *count == ahead_of_all),
                "{kinds:?}: {counts:?}"
            );
            assert!(
                behind.iter().all(|count| *count == behind_of_all),
                "{kinds:?}: {counts:?}"
            );
            assert!(
                0 < behind_of_all && behind_of_all < ahead_of_all,
                "{kinds:?}: {counts:?}"
            );
            for target in &several.targets {
                let verdict = oracle::judge_prefix(&Input::small().truth, &several.rows(target));
                verdict.assert_clean(&format!("{} between kill and restart", target.kind().name()));
            }
            several.finish();
            eprintln!("{kinds:?}: killed after {committed} commits of batch 2: clean");
        }
    }
}
