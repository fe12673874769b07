//! Everything that can be known before starting, all of it at once, without touching anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::try_join_all;
use tidemill_core::plan::{BatchPlan, LimitsInForce, RangePlan};
use tidemill_core::position::Positions;

use super::recovery::Standing;
use super::{Driver, DriverSource};
use crate::error::{Error, Kind, Result};
use crate::job::StateReaders;
use crate::sink::SinkInput;
use crate::source::PartitionEnds;

/// Offsets that are tried for a record to read through the queries, each where the one before held none.
const SAMPLE_OFFSETS: [i64; 4] = [1, 10, 100, 1_000];

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// One sentence for each thing that is as it should be, or that a person should know.
    pub found: Vec<String>,
    /// What would keep the pipeline from starting, or soon stop it.
    pub problems: Vec<Error>,
    /// Where the pipeline stands; `None` where a problem hides it.
    pub standing: Option<Standing>,
}

impl Checked {
    /// Keeps the problem of a thing that has one.
    fn keep<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|problem| self.problems.push(problem)).ok()
    }
}

impl Driver {
    /// Looks at sources, checkpoint and sinks, and reads a record of each source through the queries.
    pub async fn check(&mut self) -> Checked {
        let mut checked = Checked::default();
        let ends = self.check_sources(&mut checked).await;
        let probed = self.checkpoint.probe().await;
        if checked.keep(probed).is_some() {
            let place = self.checkpoint.location();
            checked
                .found
                .push(format!("checkpoint {place}: can be written and synced"));
        }
        self.check_sinks(&mut checked).await;
        if checked.problems.is_empty() {
            let acceptable = self.acceptable().await;
            if let Some((standing, app)) = checked.keep(acceptable) {
                checked.found.extend(self.left_behind(&standing, &app.app_uuid));
                checked.standing = Some(standing);
            }
        }
        if let Some(standing) = &checked.standing {
            let sampled = self.sample(standing, &ends).await;
            let sampled = checked.keep(sampled).unwrap_or_default();
            checked.found.extend(sampled);
        }
        checked
    }

    async fn check_sources(&self, checked: &mut Checked) -> BTreeMap<String, Vec<PartitionEnds>> {
        let mut all = BTreeMap::new();
        for DriverSource { name, source, .. } in &self.sources {
            let named = |error: Error| Error::with_source(error.kind(), format!("source {name}"), error);
            let Some(ends) = checked.keep(source.ends(true).await.map_err(named)) else {
                continue;
            };
            let records: i64 = ends.iter().map(|end| end.end - end.earliest).sum();
            let partitions = ends.len();
            checked.found.push(format!(
                "source {name}: {partitions} partitions, up to {records} records"
            ));
            if let Some(more) = checked.keep(source.check().await.map_err(named)) {
                checked
                    .found
                    .extend(more.into_iter().map(|text| format!("source {name}: {text}")));
            }
            all.insert(name.clone(), ends);
        }
        all
    }

    async fn check_sinks(&mut self, checked: &mut Checked) {
        for output in &mut self.outputs {
            let input = SinkInput {
                schema: output.job.schema(),
                ordered: output.job.ordered(),
            };
            if checked.keep(output.sink.check(&input).await).is_none() {
                continue;
            }
            let identity = output.sink.identity();
            let (name, kind, target) = (identity.name, identity.kind, identity.target);
            checked
                .found
                .push(format!("sink {name}: {kind} {target} takes the rows of its query"));
            if let Some(more) = checked.keep(output.sink.describe().await) {
                checked
                    .found
                    .extend(more.into_iter().map(|text| format!("sink {name}: {text}")));
            }
        }
    }

    /// Reads a record of each source through all queries, and throws the rows away. Gives a sentence per source.
    async fn sample(&self, standing: &Standing, ends: &BTreeMap<String, Vec<PartitionEnds>>) -> Result<Vec<String>> {
        let positions = match &standing.contents.last_plan {
            Some(last) => last.plan.after(),
            None => self.first_positions().await?,
        };
        let mut read: BTreeMap<String, u64> = BTreeMap::new();
        for offsets in SAMPLE_OFFSETS {
            let ranges: Vec<RangePlan> = ends
                .iter()
                .filter_map(|(source, ends)| some_offsets(source, &positions, ends, offsets))
                .collect();
            read = self.read_through(&ranges).await?;
            if ranges
                .iter()
                .all(|range| read.get(&range.source).is_some_and(|read| *read > 0))
            {
                break;
            }
        }
        Ok(ends
            .keys()
            .map(|source| match read.get(source) {
                Some(1) => format!("source {source}: a record went through its queries"),
                Some(records) if *records > 0 => format!("source {source}: {records} records went through its queries"),
                _ => format!("source {source}: holds no record that could be tried"),
            })
            .collect())
    }

    /// Records read per source.
    async fn read_through(&self, ranges: &[RangePlan]) -> Result<BTreeMap<String, u64>> {
        let plan = BatchPlan {
            app: self.settings.app.clone(),
            app_uuid: String::new(),
            epoch: 0,
            incarnation: String::new(),
            batch_id: 0,
            batch_time_ms: self.clock.now_ms(),
            seed: 0,
            reduce_slices: self.settings.reduce_slices,
            before: Positions::default(),
            ranges: ranges.to_vec(),
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: LimitsInForce::default(),
            pipeline_hash: String::new(),
            query_hashes: BTreeMap::new(),
            states: BTreeMap::new(),
            zero_ms: None,
            turn: None,
        };
        let mut read = BTreeMap::new();
        for output in &self.outputs {
            let run = output.job.for_batch(&plan, &StateReaders::new())?;
            let failed = |error: Error| {
                let kind = error.kind();
                Error::with_source(kind, format!("query of sink {}", output.name), error)
            };
            let thrown_away = |slice| {
                let run = Arc::clone(&run);
                async move {
                    run.execute(slice)?
                        .try_for_each(|_rows| std::future::ready(Ok(())))
                        .await
                }
            };
            try_join_all((0..run.slices()).map(thrown_away)).await.map_err(failed)?;
            for scan in run.finish().await.map_err(failed)?.scans {
                let records = scan.finish().await?.iter().map(|report| report.records_in).sum();
                read.insert(scan.source().to_owned(), records);
            }
        }
        Ok(read)
    }
}

/// So many offsets of one partition: those that come next where there are any, else the last ones.
fn some_offsets(source: &str, positions: &Positions, ends: &[PartitionEnds], offsets: i64) -> Option<RangePlan> {
    let position = |end: &PartitionEnds| positions.get(source, &end.partition).map(|position| position.offset);
    let ahead = ends
        .iter()
        .filter_map(|end| Some((position(end)?.max(end.earliest), end)));
    let next = ahead
        .max_by_key(|(from, end)| end.end - from)
        .filter(|(from, end)| from < &end.end);
    let (from, until, end) = match next {
        Some((from, end)) => (from, end.end.min(from + offsets), end),
        None => {
            let end = ends.iter().max_by_key(|end| end.end - end.earliest)?;
            (end.earliest.max(end.end - offsets), end.end, end)
        }
    };
    (from < until).then(|| RangePlan {
        source: source.to_owned(),
        partition: end.partition.clone(),
        topic_id: end.topic_id.clone(),
        from,
        until,
        leader_epoch: end.leader_epoch,
    })
}

/// The problems as one error, for an exit code: what is wrong in the file comes before what is wrong in the world.
///
/// # Errors
/// Where there is any.
pub fn all_of(problems: Vec<Error>) -> Result<()> {
    let kind = match problems.iter().map(Error::kind).find(|kind| *kind == Kind::Config) {
        Some(kind) => kind,
        None => match problems.first() {
            Some(first) => first.kind(),
            None => return Ok(()),
        },
    };
    let texts: Vec<String> = problems.iter().map(Error::chain).collect();
    Err(Error::new(kind, texts.join("\nerror: ")))
}

#[cfg(test)]
mod tests {
    use tidemill_core::position::{PartitionPosition, TopicPartition};

    use super::*;

    fn sampled(at: i64, earliest: i64, end: i64) -> Option<(i64, i64)> {
        let partition = TopicPartition::new("t", 0);
        let positions = [PartitionPosition {
            source: "events".into(),
            partition: partition.clone(),
            topic_id: None,
            offset: at,
            leader_epoch: -1,
        }];
        let ends = [PartitionEnds {
            partition,
            topic_id: None,
            leader_epoch: -1,
            earliest,
            end,
        }];
        some_offsets("events", &positions.into_iter().collect(), &ends, 10).map(|range| (range.from, range.until))
    }

    #[test]
    fn a_sample_comes_next_or_is_the_last_there_was() {
        assert_eq!(sampled(5, 0, 100), Some((5, 15)));
        assert_eq!(sampled(5, 0, 8), Some((5, 8)));
        assert_eq!(sampled(5, 50, 100), Some((50, 60)), "retention overtook the position");
        assert_eq!(sampled(100, 0, 100), Some((90, 100)));
        assert_eq!(sampled(100, 95, 100), Some((95, 100)));
        assert_eq!(sampled(0, 0, 0), None);
    }

    #[test]
    fn the_files_own_problems_give_the_exit_code() {
        assert!(all_of(Vec::new()).is_ok());
        let problem = |kind, text: &str| Error::new(kind, text);
        let both = all_of(vec![
            problem(Kind::Refused, "no right"),
            problem(Kind::Config, "no column"),
        ]);
        let both = both.expect_err("problems");
        assert_eq!(
            (both.kind(), both.chain().as_str()),
            (Kind::Config, "no right\nerror: no column")
        );
        let one = all_of(vec![problem(Kind::Unavailable, "no broker")]).expect_err("a problem");
        assert_eq!(one.kind(), Kind::Unavailable);
    }
}
