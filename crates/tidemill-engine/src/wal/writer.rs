//! The thread that owns the file: write, fsync, look for a newer epoch, acknowledge.

use std::sync::Arc;

use tidemill_core::plan::Epoch;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use super::Sequence;
use super::gate::Gate;
use super::group::{Group, Placed};
use super::kept::Kept;
use super::log::State;
use super::open_segment::OpenSegment;
use super::segment::SegmentName;
use super::settings::LogSettings;
use super::staging::Staging;
use super::storage::Storage;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::time::Clock;

/// All that the thread works with.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) log: Uuid,
    pub(super) epoch: Epoch,
    pub(super) settings: LogSettings,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) staging: Arc<Staging>,
    pub(super) kept: Arc<Kept>,
    pub(super) state: watch::Sender<State>,
    /// True once nobody waits for room any longer.
    pub(super) closing: watch::Receiver<bool>,
    /// Where the gate's look and the clock's waits run.
    pub(super) runtime: Handle,
    pub(super) segment: Option<OpenSegment>,
    /// Segments that were made since the last one whose name is durable.
    pub(super) made: Vec<SegmentName>,
}

impl Writer {
    /// Writes groups until the log is closed or ends.
    pub(super) fn run(mut self) {
        while let Some(mut group) = self.staging.take() {
            match self.commit(&mut group) {
                Ok(placed) => self.staging.acknowledge(group, placed),
                Err(error) => {
                    let error = Arc::new(error);
                    self.end(&error);
                    group.settle(Err(error));
                    return;
                }
            }
        }
        self.state.send_replace(State::Closed);
    }

    /// All that wait and all that come later get this error.
    fn end(&self, error: &Arc<Error>) {
        self.state.send_replace(State::Ended(Arc::clone(error)));
        self.staging.end(error);
    }

    fn commit(&mut self, group: &mut Group) -> Result<Placed> {
        let placed = self.append_where_there_is_room(group)?;
        failpoint::pass("log.before-sync");
        if let Some(segment) = &mut self.segment {
            segment.sync(self.storage.as_ref())?;
        }
        // Not before its name is durable: the one before it may be removed from now on.
        self.made.drain(..).for_each(|made| self.kept.add(made));
        failpoint::pass("log.after-sync");
        self.look()?;
        Ok(placed)
    }

    /// A segment in which a write failed is left behind as it is: what of the group stands there is beyond its end, which is the
    /// first sequence of the segment that the group goes to.
    fn append_where_there_is_room(&mut self, group: &mut Group) -> Result<Placed> {
        loop {
            let appended = self.append(group);
            match appended {
                Err(full) if full.is_transient() => {
                    self.segment = None;
                    self.wait_out(full, |writer| writer.try_room(group.bytes()))?;
                }
                done => return done,
            }
        }
    }

    fn append(&mut self, group: &mut Group) -> Result<Placed> {
        let now = self.clock.elapsed();
        let bytes = group.bytes().len();
        let open = self.segment.take();
        let fitting = open.filter(|segment| !segment.is_over(bytes, &self.settings, now));
        let segment = match fitting {
            Some(segment) => segment,
            None => self.create(group.first(), now)?,
        };
        self.segment.insert(segment).append(group, self.epoch)
    }

    fn create(&mut self, first: Sequence, now: std::time::Duration) -> Result<OpenSegment> {
        let attempt = self.made.last().map_or(0, |given_up| given_up.attempt + 1);
        let name = SegmentName {
            epoch: self.epoch,
            first,
            attempt,
        };
        // Also where making it fails: it may be there for all that.
        self.made.push(name);
        let file = self.storage.create(&name.to_string())?;
        OpenSegment::begin(file, self.log, name, now)
    }

    /// Writes as much to a file that is no segment. So a disk that stays full does not fill with abandoned segments.
    fn try_room(&self, bytes: &[u8]) -> Result<()> {
        let name = room_name(self.epoch);
        self.storage.remove(&name)?;
        let written = self.storage.create(&name).and_then(|mut file| file.append(bytes));
        self.storage.remove(&name)?;
        written
    }

    /// What is durable stays so, however often the look has to be tried.
    fn look(&mut self) -> Result<()> {
        match self.runtime.block_on(self.gate.pass()) {
            Err(unavailable) if unavailable.is_transient() => {
                self.wait_out(unavailable, |writer| writer.runtime.block_on(writer.gate.pass()))
            }
            done => done,
        }
    }

    /// Tries until it is no longer unavailable, and shows meanwhile why intake stands still.
    fn wait_out(&mut self, first: Error, attempt: impl Fn(&Self) -> Result<()>) -> Result<()> {
        tracing::warn!(
            log = self.storage.location(),
            reason = first.chain(),
            "the log waits and takes no more"
        );
        self.state.send_replace(State::Waiting(Arc::new(first)));
        loop {
            if !self.wait() {
                return Err(Error::new(Kind::Unavailable, "the log was closed while it waited"));
            }
            match attempt(self) {
                Err(still) if still.is_transient() => {
                    self.state.send_replace(State::Waiting(Arc::new(still)));
                }
                done => {
                    tracing::info!(log = self.storage.location(), "the log goes on");
                    self.state.send_replace(State::Open);
                    return done;
                }
            }
        }
    }

    /// False where the log was closed meanwhile.
    fn wait(&mut self) -> bool {
        let (clock, wait) = (Arc::clone(&self.clock), self.settings.retry_wait);
        let closing = &mut self.closing;
        self.runtime.block_on(async {
            tokio::select! {
                () = clock.sleep(wait) => true,
                _ = closing.wait_for(|closing| *closing) => false,
            }
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end(&Arc::new(Error::new(Kind::Bug, "the log's thread panicked")));
        }
    }
}

/// What is written and removed while a full disk is waited out.
fn room_name(epoch: Epoch) -> String {
    format!(".room-{epoch:020}")
}

/// True for what an older epoch left of it.
pub(super) fn is_room_of_older(name: &str, epoch: Epoch) -> bool {
    let number = name
        .strip_prefix(".room-")
        .and_then(|number| number.parse::<Epoch>().ok());
    number.is_some_and(|of| of < epoch)
}
