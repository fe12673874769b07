//! Where streams begin.

pub(crate) mod kafka;
pub(crate) mod memory;
pub(crate) mod queue;
pub(crate) mod rate;
pub(crate) mod watched_folder;

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use tidemill_core::loss::OnOutOfRange;
use tidemill_core::rate::PartitionBound;
use tidemill_core::start::{OnNewPartition, StartPolicy};
use tidemill_engine::driver::DriverSource;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::format::RawFormat;
use tidemill_engine::source::Source;
use tidemill_engine::sql::table::{OnBadRecord, SourceTable};
use tidemill_engine::sql::template::Template;

use crate::batch::{Batch, Leaf};
use crate::record::Record;
use crate::scope::Scope;

/// A source that a program declared: read by name, once the program has started.
#[derive(Debug)]
pub(crate) struct DeclaredSource {
    pub(crate) name: String,
    pub(crate) opens: Box<dyn Opens>,
    pub(crate) reading: Reading,
    /// What it is planned with; `None` where a batch takes all that there is.
    pub(crate) limits: SourceLimits,
    /// True where its values are gone with the process.
    pub(crate) is_lost_with_the_process: bool,
}

/// How a source is planned.
#[derive(Debug, Clone)]
pub(crate) struct SourceLimits {
    pub(crate) start: StartPolicy,
    pub(crate) on_new_partition: OnNewPartition,
    pub(crate) on_out_of_range: OnOutOfRange,
    pub(crate) bound: PartitionBound,
    pub(crate) initial_rate: Option<u64>,
    pub(crate) batch_bytes_max: u64,
}

impl SourceLimits {
    /// All there is, from the beginning.
    pub(crate) fn none() -> Self {
        Self {
            start: StartPolicy::Earliest,
            on_new_partition: OnNewPartition::Earliest,
            on_out_of_range: OnOutOfRange::default(),
            bound: PartitionBound {
                max_rate: 0,
                min_records: 1,
            },
            initial_rate: None,
            batch_bytes_max: u64::MAX,
        }
    }
}

/// Opens a source for an application.
pub(crate) trait Opens: Debug + Send {
    fn open(&self, app: &str) -> Result<Arc<dyn Source>>;
}

/// How a source is read: planned when the program starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading(Arc<OnceLock<Arc<Template>>>);

impl Reading {
    pub(crate) fn planned(&self, template: Template) {
        // A program is started once.
        let _first = self.0.set(Arc::new(template));
    }

    /// The records of a batch.
    pub(crate) fn batch(&self, source: &str, scope: &Arc<Scope>) -> Result<Batch<Record>> {
        let template = self
            .0
            .get()
            .ok_or_else(|| Error::new(Kind::Bug, format!("source {source} is read before the start")))?;
        Ok(Batch::new(Leaf::new(Arc::clone(template), source, scope), scope))
    }
}

impl DeclaredSource {
    pub(crate) fn table(&self, app: &str) -> Result<SourceTable> {
        Ok(SourceTable {
            name: self.name.clone(),
            source: self.opens.open(app)?,
            format: Arc::new(RawFormat),
            on_bad_record: OnBadRecord::Stop,
            columns: RawFormat::schema(),
            checked: Vec::new(),
        })
    }

    pub(crate) fn for_driver(&self, source: &Arc<dyn Source>) -> DriverSource {
        let limits = self.limits.clone();
        DriverSource {
            name: self.name.clone(),
            source: Arc::clone(source),
            start: limits.start,
            on_new_partition: limits.on_new_partition,
            on_out_of_range: limits.on_out_of_range,
            bound: limits.bound,
            initial_rate: limits.initial_rate,
            batch_bytes_max: limits.batch_bytes_max,
        }
    }
}
