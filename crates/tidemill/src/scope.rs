//! One run of one output in one batch: what the streams are computed from, and what has to be done before it ends.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_core::plan::BatchPlan;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::job::{BatchRun, FEW_OFFSETS, Finished, StateReaders};
use tidemill_engine::sql::template::{QueryRun, Template};
use tidemill_engine::state::{Changes, StateReader};

use crate::batch::exchange::{Layout, Spill};
use crate::task::OffsetRange;

/// What an operator has to do in a batch for its state, whether anybody takes its values or not.
#[async_trait]
pub(crate) trait StateStep: Send + Sync {
    /// What changes in the operator's state. Computed once; called again it gives the same.
    async fn changes(&self) -> Result<Changes>;
}

/// One run of one output in one batch.
pub(crate) struct Scope {
    plan: Arc<BatchPlan>,
    interval_ms: i64,
    before: StateReaders,
    spill: Spill,
    // Leaf locks, held to add and to look.
    runs: Mutex<Vec<Arc<QueryRun>>>,
    steps: Mutex<BTreeMap<String, Arc<dyn StateStep>>>,
    computed: Mutex<HashMap<usize, Box<dyn Any + Send>>>,
}

impl Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("batch", &self.plan.batch_id)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scope {
    pub(crate) fn new(plan: &BatchPlan, interval: Duration, before: StateReaders, held_bytes_max: usize) -> Self {
        Self {
            plan: Arc::new(plan.clone()),
            interval_ms: i64::try_from(interval.as_millis()).unwrap_or(i64::MAX),
            before,
            spill: Spill::new(held_bytes_max),
            runs: Mutex::default(),
            steps: Mutex::default(),
            computed: Mutex::default(),
        }
    }

    pub(crate) fn plan(&self) -> &Arc<BatchPlan> {
        &self.plan
    }

    pub(crate) fn time_ms(&self) -> i64 {
        self.plan.batch_time_ms
    }

    /// Where batch times are counted from.
    pub(crate) fn zero_ms(&self) -> i64 {
        self.plan.zero_ms.unwrap_or(0)
    }

    pub(crate) fn interval_ms(&self) -> i64 {
        self.interval_ms
    }

    pub(crate) fn reduce_slices(&self) -> usize {
        self.plan.reduce_slices.max(1)
    }

    /// How rows are dealt out over slices where nothing else is said.
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(self.reduce_slices(), None)
    }

    pub(crate) fn spill(&self) -> &Spill {
        &self.spill
    }

    /// True where one task is quicker than several.
    pub(crate) fn is_small(&self) -> bool {
        self.plan
            .ranges
            .iter()
            .map(|range| range.until - range.from)
            .sum::<i64>()
            <= FEW_OFFSETS
    }

    /// What the batch reads of a source, range by range.
    pub(crate) fn ranges(&self, source: &str) -> Vec<OffsetRange> {
        let of = |range: &&tidemill_core::RangePlan| range.source == source && range.until > range.from;
        self.plan.ranges.iter().filter(of).map(OffsetRange::of).collect()
    }

    /// Opens a scan of a source. What it leaves unread is read at the end.
    pub(crate) fn scan(&self, template: &Template) -> Result<Arc<QueryRun>> {
        let run = Arc::new(template.run(&self.plan)?);
        lock(&self.runs).push(Arc::clone(&run));
        Ok(run)
    }

    /// What an operator holds before this batch.
    pub(crate) fn state(&self, operator: &str) -> Result<StateReader> {
        self.before
            .get(operator)
            .cloned()
            .ok_or_else(|| Error::new(Kind::Bug, format!("operator {operator} has no state")))
    }

    /// Has a step done before the run ends.
    pub(crate) fn step(&self, operator: String, step: Arc<dyn StateStep>) {
        lock(&self.steps).insert(operator, step);
    }

    /// What a stream computes once in a run, however many streams follow it.
    pub(crate) fn once<R: Clone + Send + 'static>(
        &self,
        stream: usize,
        compute: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        if let Some(known) = lock(&self.computed).get(&stream) {
            let known = known.downcast_ref::<R>().cloned();
            return known.ok_or_else(|| Error::new(Kind::Bug, "a stream has two types"));
        }
        let computed = compute()?;
        lock(&self.computed).insert(stream, Box::new(computed.clone()));
        Ok(computed)
    }

    /// Lets go of what refers back to this.
    pub(crate) fn release(&self) {
        lock(&self.computed).clear();
        lock(&self.steps).clear();
    }

    /// Ends the run: does the steps that are left, and gives what was scanned and what changed.
    pub(crate) async fn finish(&self) -> Result<Finished> {
        let steps = lock(&self.steps).clone();
        let mut changes = BTreeMap::new();
        for (operator, step) in steps {
            let of = |error: Error| {
                let kind = error.kind();
                Error::with_source(kind, format!("operator {operator}"), error)
            };
            changes.insert(operator.clone(), step.changes().await.map_err(of)?);
        }
        let runs = lock(&self.runs).clone();
        let mut scans = Vec::new();
        for run in runs {
            scans.extend(run.finish().await?.scans);
        }
        Ok(Finished { scans, changes })
    }
}

#[cfg(test)]
impl Scope {
    /// A batch without input.
    pub(crate) fn for_tests(reduce_slices: usize, held_bytes_max: usize) -> Arc<Self> {
        let plan = BatchPlan {
            app: "app".to_owned(),
            app_uuid: String::new(),
            epoch: 1,
            incarnation: String::new(),
            batch_id: 1,
            batch_time_ms: 1_000,
            seed: 0,
            reduce_slices,
            before: tidemill_core::Positions::default(),
            ranges: Vec::new(),
            sinks: Vec::new(),
            tables: Vec::new(),
            limits: tidemill_core::plan::LimitsInForce::default(),
            pipeline_hash: String::new(),
            query_hashes: BTreeMap::new(),
            states: BTreeMap::new(),
            zero_ms: Some(0),
            turn: None,
        };
        Arc::new(Self::new(
            &plan,
            Duration::from_secs(1),
            StateReaders::new(),
            held_bytes_max,
        ))
    }
}
