//! A new epoch finds what older ones left: it reads all that is needed, and writes down where each of them ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_core::plan::Epoch;
use uuid::Uuid;

use super::ends::{self, Ends, Gap, Span};
use super::scan::{Bad, Piece, Pieces};
use super::segment::{self, SegmentName};
use super::storage::Storage;
use super::writer::is_room_of_older;
use super::{LogRange, Sequence};
use crate::error::{Error, Kind, Result};

/// What to do about records that were durable and can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Stop, and name them. The default.
    #[default]
    Stop,
    /// Leave them out, and count them.
    Skip,
}

/// A takeover of a log. Its epoch must be claimed already: only then does the older driver acknowledge nothing more (X31).
#[derive(Debug, Clone)]
pub struct Takeover {
    /// Where the log lies.
    pub storage: Arc<dyn Storage>,
    /// Whose log it is; segments of another are refused.
    pub log: Uuid,
    /// The epoch that was claimed.
    pub epoch: Epoch,
    /// The first sequence that a batch may still read. Below it nothing is read, and anything may be missing.
    pub needed_from: Sequence,
    /// What to do about damage.
    pub on_damage: OnDamage,
}

/// A record that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where it lies.
    pub range: LogRange,
    /// Its bytes.
    pub body: &'a [u8],
}

/// An end that was never durable, and does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub segment: SegmentName,
    /// The first byte that does not count.
    pub from: u64,
    /// The length of the segment.
    pub until: u64,
}

/// What a takeover came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records found.
    pub records: u64,
    /// Bytes of them, without headers.
    pub bytes: u64,
    /// The torn end of the last segment.
    pub cut: Option<Cut>,
    /// What was left out on purpose, this time.
    pub skipped: Vec<Gap>,
    /// Segments that older drivers began after a newer one had looked. Not read.
    pub strays: Vec<SegmentName>,
    /// The sequence of the first record to come.
    pub next_sequence: Sequence,
}

/// A log that was taken over and may be written to.
#[derive(Debug)]
pub struct Taken {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) log: Uuid,
    pub(super) epoch: Epoch,
    /// Oldest first.
    pub(super) segments: Vec<SegmentName>,
    /// What was found.
    pub report: Report,
}

/// What the names and the newest ends say.
struct Past {
    ends: Ends,
    /// Segments in their order, with the sequence behind their last record; of the last one nobody knows it yet.
    segments: Vec<(SegmentName, Option<Sequence>)>,
    strays: Vec<SegmentName>,
}

impl Takeover {
    /// Reads what is needed, each record in order, and writes down where older epochs end. Waits for the storage; holds one
    /// segment in memory at a time.
    ///
    /// # Errors
    /// `Loss` where records are damaged or missing; names segment, bytes and sequences. `Fenced` where a newer epoch wrote.
    /// `Config` where it is another's log. The first error of `each`.
    pub fn run(&self, each: &mut dyn FnMut(Found<'_>) -> Result<()>) -> Result<Taken> {
        let names = self.storage.list()?;
        let past = self.past(&names)?;
        if let Some((last, None)) = past.segments.last() {
            // What is read as truth must be there after a power cut.
            self.storage.settle(&last.to_string())?;
            self.storage.sync_names()?;
        }
        let mut reading = Reading {
            takeover: self,
            known: &past.ends.gaps,
            report: Report {
                strays: past.strays,
                ..Report::default()
            },
            expected: self.needed_from,
            end: past.ends.next,
        };
        let mut spans = Vec::new();
        for (segment, until) in &past.segments {
            let until = reading.segment(*segment, *until, each)?;
            if until > self.needed_from || names.contains(&segment.to_string()) {
                spans.push(Span {
                    segment: *segment,
                    until,
                });
            }
        }
        let mut report = reading.finish()?;
        let segments = spans.iter().map(|span| span.segment).collect();
        let gaps = past.ends.gaps.iter().filter(|gap| gap.next > self.needed_from);
        let ends = Ends {
            gaps: gaps.copied().chain(report.skipped.iter().copied()).collect(),
            next: report.next_sequence,
            spans,
        };
        ends.put(self.storage.as_ref(), self.epoch)?;
        self.sweep(&names)?;
        report.strays.sort_unstable();
        Ok(Taken {
            storage: Arc::clone(&self.storage),
            log: self.log,
            epoch: self.epoch,
            segments,
            report,
        })
    }

    fn past(&self, names: &[String]) -> Result<Past> {
        let mut by_epoch: BTreeMap<Epoch, Vec<SegmentName>> = BTreeMap::new();
        for segment in names.iter().filter_map(|name| name.parse::<SegmentName>().ok()) {
            by_epoch.entry(segment.epoch).or_default().push(segment);
        }
        let ends = names.iter().filter_map(|name| ends::epoch_of(name));
        let newest = by_epoch.keys().copied().chain(ends).max().unwrap_or(0);
        if newest >= self.epoch {
            let text = format!(
                "fenced: epoch {newest} writes the log {}; this instance has epoch {}",
                self.storage.location(),
                self.epoch
            );
            return Err(Error::new(Kind::Fenced, text));
        }
        let (writer, ends) = self.newest_ends(names, &by_epoch)?;
        let mut live = by_epoch.remove(&writer).unwrap_or_default();
        live.sort_unstable();
        let listed = |segment: &SegmentName| ends.spans.iter().any(|span| span.segment == *segment);
        let strays = by_epoch
            .into_values()
            .flatten()
            .filter(|segment| !listed(segment))
            .collect();
        let older = ends.spans.iter().map(|span| (span.segment, Some(span.until)));
        let follower = live.iter().skip(1).map(|segment| Some(segment.first)).chain([None]);
        let segments = older.chain(live.iter().copied().zip(follower)).collect();
        Ok(Past { ends, segments, strays })
    }

    /// The newest ends that were written whole, and who wrote them. Half-written ones are of an epoch that wrote nothing else.
    fn newest_ends(&self, names: &[String], segments: &BTreeMap<Epoch, Vec<SegmentName>>) -> Result<(Epoch, Ends)> {
        let last_writer = segments.keys().next_back().copied();
        let mut epochs: Vec<Epoch> = names.iter().filter_map(|name| ends::epoch_of(name)).collect();
        epochs.sort_unstable();
        for epoch in epochs.into_iter().rev() {
            match Ends::get(self.storage.as_ref(), epoch) {
                Ok(Some(ends)) if last_writer.is_none_or(|last| last <= epoch) => return Ok((epoch, ends)),
                Err(error) if last_writer.is_some_and(|last| last >= epoch) => {
                    return Err(Error::with_source(
                        Kind::Loss,
                        self.lost(&format!("what epoch {epoch} found can't be read")),
                        error,
                    ));
                }
                _ => {}
            }
        }
        match last_writer {
            None => Ok((0, Ends::default())),
            Some(epoch) => Err(Error::new(
                Kind::Loss,
                self.lost(&format!(
                    "what epoch {epoch} found is missing: {}",
                    ends::ends_name(epoch)
                )),
            )),
        }
    }

    fn lost(&self, what: &str) -> String {
        format!(
            "the log {} is damaged: {what}. Restore it from a copy",
            self.storage.location()
        )
    }

    /// Removes what older epochs left and nobody reads any more.
    fn sweep(&self, names: &[String]) -> Result<()> {
        let is_old = |name: &&String| {
            ends::epoch_of(name).is_some_and(|epoch| epoch < self.epoch) || is_room_of_older(name, self.epoch)
        };
        names
            .iter()
            .filter(is_old)
            .try_for_each(|name| self.storage.remove(name))
    }
}

/// A takeover on its way through the segments.
struct Reading<'a> {
    takeover: &'a Takeover,
    /// What was left out by older epochs.
    known: &'a [Gap],
    report: Report,
    /// The first sequence that was not accounted for.
    expected: Sequence,
    /// The sequence behind the last record of all.
    end: Sequence,
}

impl Reading<'_> {
    /// Reads one segment; gives the sequence behind its last record.
    fn segment(
        &mut self,
        segment: SegmentName,
        until: Option<Sequence>,
        each: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Result<Sequence> {
        if let Some(until) = until.filter(|until| *until <= self.expected) {
            self.end = self.end.max(until);
            return Ok(until);
        }
        self.missing_until(segment.first)?;
        let Some(bytes) = self.whole(segment)? else {
            let vanished = || Error::new(Kind::Loss, self.takeover.lost(&format!("segment {segment} vanished")));
            let until = until.ok_or_else(vanished)?;
            self.missing_until(until)?;
            return Ok(until);
        };
        let mut pieces = Pieces::new(&bytes, self.takeover.log, segment, until);
        for piece in pieces.by_ref() {
            self.piece(segment, piece, each)?;
        }
        let next = pieces.next_sequence();
        self.expected = self.expected.max(next);
        self.end = self.end.max(next);
        Ok(next)
    }

    fn piece(
        &mut self,
        segment: SegmentName,
        piece: Piece<'_>,
        each: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Result<()> {
        match piece {
            Piece::Record { range, body } if range.sequence >= self.expected => {
                self.report.records += 1;
                self.report.bytes += body.len() as u64;
                self.expected = range.sequence + 1;
                each(Found { range, body })
            }
            Piece::Record { .. } => Ok(()),
            Piece::Torn(bad) => {
                self.report.cut = Some(Cut {
                    segment,
                    from: bad.from,
                    until: bad.until,
                });
                Ok(())
            }
            Piece::Damaged(bad) => {
                let Bad { from, until, what, .. } = bad;
                let place = format!("segment {segment}, bytes {from}..{until}: {what}");
                self.gone(bad.first.max(self.expected), bad.next, &place)
            }
        }
    }

    fn missing_until(&mut self, next: Sequence) -> Result<()> {
        self.gone(self.expected, next, "no segment holds them")
    }

    /// Accounts for records that are gone.
    fn gone(&mut self, first: Sequence, next: Sequence, place: &str) -> Result<()> {
        if first >= next {
            return Ok(());
        }
        self.expected = next;
        if self.known.iter().any(|gap| gap.first <= first && next <= gap.next) {
            return Ok(());
        }
        let location = self.takeover.storage.location();
        match self.takeover.on_damage {
            OnDamage::Stop => Err(Error::new(
                Kind::Loss,
                format!(
                    "records {first}..{next} of the log {location} are lost: {place}. Restore it from a copy, or leave them out: \
                     on_damage = \"skip\""
                ),
            )),
            OnDamage::Skip => {
                tracing::warn!(log = location, first, next, place, "records of the log are left out");
                self.report.skipped.push(Gap { first, next });
                Ok(())
            }
        }
    }

    fn whole(&self, segment: SegmentName) -> Result<Option<Vec<u8>>> {
        let storage = self.takeover.storage.as_ref();
        let Some(file) = storage.open(&segment.to_string())? else {
            return Ok(None);
        };
        let length = file.length()?;
        let Some(length) = usize::try_from(length)
            .ok()
            .filter(|_| length <= 2 * segment::BYTES_MAX)
        else {
            return Err(Error::new(
                Kind::Loss,
                self.takeover.lost(&format!("segment {segment} has {length} bytes")),
            ));
        };
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes)?;
        self.refuse_foreign(segment, &bytes)?;
        Ok(Some(bytes))
    }

    /// Another's log is not damage: nothing of it is left out.
    fn refuse_foreign(&self, segment: SegmentName, bytes: &[u8]) -> Result<()> {
        let header = segment::decode_header(bytes, segment);
        let problem = match header {
            Some(header) if header.version != segment::VERSION => {
                format!("has version {}, this build reads {}", header.version, segment::VERSION)
            }
            Some(header) if header.log != self.takeover.log => {
                format!("belongs to the log {}, not {}", header.log, self.takeover.log)
            }
            _ => return Ok(()),
        };
        let location = self.takeover.storage.location();
        Err(Error::new(
            Kind::Config,
            format!("segment {segment} in {location} {problem}"),
        ))
    }

    /// What was found, where nothing is missing that is needed.
    fn finish(mut self) -> Result<Report> {
        let end = self.end;
        self.missing_until(end)?;
        let needed = self.takeover.needed_from;
        if needed > end {
            let location = self.takeover.storage.location();
            let text = format!("batches read the log {location} from record {needed} on, but it ends at {end}");
            return Err(Error::new(Kind::Loss, text));
        }
        self.report.next_sequence = end;
        Ok(self.report)
    }
}
