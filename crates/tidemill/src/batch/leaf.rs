//! The records of a source in one batch: a slice per planned range.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tidemill_engine::error::Result;
use tidemill_engine::job::BatchRun;
use tidemill_engine::sql::template::{QueryRun, Template};

use super::{Out, Slices};
use crate::record::{Block, Record};
use crate::scope::Scope;
use crate::task::OffsetRange;

/// The ranges of one source.
pub(crate) struct Leaf {
    template: Arc<Template>,
    scope: Arc<Scope>,
    ranges: Vec<OffsetRange>,
    /// Each scan gives each slice once: a slice that is run again gets another. A leaf lock, held to look and to add.
    scans: Mutex<Vec<Scanned>>,
}

struct Scanned {
    run: Arc<QueryRun>,
    taken: Vec<bool>,
}

impl Leaf {
    pub(crate) fn new(template: Arc<Template>, source: &str, scope: &Arc<Scope>) -> Self {
        Self {
            template,
            ranges: scope.ranges(source),
            scope: Arc::clone(scope),
            scans: Mutex::default(),
        }
    }

    fn scan(&self, slice: usize) -> Result<Arc<QueryRun>> {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scanned) = scans.iter_mut().find(|scanned| !scanned.taken[slice]) {
            scanned.taken[slice] = true;
            return Ok(Arc::clone(&scanned.run));
        }
        let run = self.scope.scan(&self.template)?;
        let mut taken = vec![false; self.ranges.len()];
        taken[slice] = true;
        scans.push(Scanned {
            run: Arc::clone(&run),
            taken,
        });
        Ok(run)
    }
}

impl Slices<Record> for Leaf {
    fn count(&self) -> usize {
        self.ranges.len()
    }

    fn run<'a>(&'a self, slice: usize, out: Out<'a, Record>) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut rows = self.scan(slice)?.execute(slice)?;
            while let Some(rows) = rows.next().await {
                let block = Arc::new(Block::new(&rows?)?);
                for row in 0..block.len() {
                    out(Record::new(Arc::clone(&block), row));
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn range(&self, slice: usize) -> Option<OffsetRange> {
        self.ranges.get(slice).cloned()
    }

    fn exchanges(&self) -> bool {
        false
    }
}
