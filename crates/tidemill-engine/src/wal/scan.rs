//! The records of one segment, in order, and what can't be read between them. Pure: bytes in, pieces out.

use memchr::memmem;
use uuid::Uuid;

use super::record::{Header, MAGIC};
use super::segment::{self, SegmentName, VERSION};
use super::{LogRange, Sequence};

/// Disks write no less than this at once.
const SECTOR: usize = 512;

/// One piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A record whose checksums fit.
    Record {
        /// Where it lies.
        range: LogRange,
        /// Its bytes.
        body: &'a [u8],
    },
    /// The end of a segment that was written last and never became durable. Nothing follows.
    Torn(Bad),
    /// Something was durable here and is gone. Records may follow.
    Damaged(Bad),
}

/// Bytes that hold no sound record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The first byte.
    pub from: u64,
    /// The byte behind the last.
    pub until: u64,
    /// The first sequence that is missing.
    pub first: Sequence,
    /// The sequence behind the last one that is missing. Of a torn end: `first`, as nobody knows.
    pub next: Sequence,
    /// What is wrong.
    pub what: &'static str,
}

/// The pieces of one segment.
#[derive(Debug)]
pub struct Pieces<'a> {
    bytes: &'a [u8],
    log: Uuid,
    segment: SegmentName,
    /// What follows begins with this sequence; `None` where nothing follows: the end may be torn.
    until: Option<Sequence>,
    at: usize,
    /// The sequence that comes next.
    next: Sequence,
    /// What the next record repeats; `None` behind bytes that can't be read.
    chain: Option<u32>,
    ended: bool,
}

impl<'a> Pieces<'a> {
    /// The records of a segment of `log` that are below `until`. Without it the segment is the last of its epoch, and what
    /// was never durable at its end is torn, not damaged.
    pub fn new(bytes: &'a [u8], log: Uuid, segment: SegmentName, until: Option<Sequence>) -> Self {
        Self {
            bytes,
            log,
            segment,
            until,
            at: 0,
            next: segment.first,
            chain: None,
            ended: until == Some(segment.first),
        }
    }

    /// The sequence behind the last record that was given.
    pub fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Reads the segment's header; gives what comes in its place where it is not the one.
    fn begin(&mut self) -> Option<Piece<'a>> {
        let Some(header) = segment::decode_header(self.bytes, self.segment) else {
            return Some(self.bad("the segment's header is not sound"));
        };
        (self.at, self.chain) = (segment::HEADER_BYTES, Some(header.crc));
        if header.version == VERSION && header.log == self.log && header.fits {
            return None;
        }
        // Sound, so it was durable: all of it is somebody else's.
        self.ended = true;
        Some(Piece::Damaged(Bad {
            from: 0,
            until: self.bytes.len() as u64,
            first: self.next,
            next: self.until.unwrap_or(self.next + 1),
            what: "it is a segment of another log or place, under this name",
        }))
    }

    /// The record that must come next.
    fn expected(&self) -> Result<(Header, &'a [u8]), &'static str> {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let header = Header::decode(bytes).ok_or("the header of a record is not sound")?;
        if header.epoch != self.segment.epoch {
            return Err("a record of another epoch");
        }
        if header.sequence != self.next {
            return Err("a record out of its order");
        }
        if self.chain.is_some_and(|chain| chain != header.previous) {
            return Err("a record that follows another one");
        }
        let body = header.body(bytes).ok_or("the body of a record is not sound")?;
        Ok((header, body))
    }

    fn take(&mut self, header: Header, body: &'a [u8]) -> Piece<'a> {
        let range = LogRange {
            segment: self.segment,
            offset: self.at as u64,
            length: header.length,
            sequence: header.sequence,
            crc32c: header.body_crc,
        };
        self.at += header.bytes();
        self.next = header.sequence + 1;
        self.chain = Some(header.crc);
        Piece::Record { range, body }
    }

    /// What to make of bytes at `self.at` that are no record, and goes on behind them.
    fn bad(&mut self, what: &'static str) -> Piece<'a> {
        let found = self.find_next();
        let end = found.map_or(self.bytes.len(), |(at, _)| at);
        let torn = self.until.is_none() && self.may_be_torn(end, found.map(|(_, header)| header));
        let bad = Bad {
            from: self.at as u64,
            until: if torn { self.bytes.len() } else { end } as u64,
            first: self.next,
            next: match (torn, found, self.until) {
                (true, ..) => self.next,
                (_, Some((_, header)), _) => header.sequence,
                (_, None, Some(until)) => until,
                // A whole record that was the last one.
                (_, None, None) => self.next + 1,
            },
            what,
        };
        (self.at, self.chain) = (end, None);
        self.ended = torn || found.is_none();
        if torn {
            return Piece::Torn(bad);
        }
        self.next = bad.next;
        Piece::Damaged(bad)
    }

    /// The next sound record of this epoch that does not stand before the expected one.
    fn find_next(&self) -> Option<(usize, Header)> {
        // Not where it stands: a record where the header of the segment belongs would be found again and again.
        let from = self.at + 1;
        let rest = self.bytes.get(from..)?;
        memmem::find_iter(rest, &MAGIC).find_map(|found| {
            let bytes = &rest[found..];
            let header = Header::decode(bytes)?;
            let fits = header.epoch == self.segment.epoch
                && header.sequence >= self.next
                && self.until.is_none_or(|until| header.sequence < until);
            (fits && header.body(bytes).is_some()).then_some((from + found, header))
        })
    }

    /// True where the bytes from here to `end` may never have been durable. A file grows by bytes that are as they were
    /// written, or by sectors of zeros where a power cut came before them.
    fn may_be_torn(&self, end: usize, after: Option<Header>) -> bool {
        match after {
            Some(after) if after.group > self.next => false,
            Some(_) => self.has_hole(end),
            None => !self.is_whole() || self.has_hole(end),
        }
    }

    fn has_hole(&self, end: usize) -> bool {
        let sectors = self.at.next_multiple_of(SECTOR)..end;
        sectors
            .step_by(SECTOR)
            .filter_map(|from| self.bytes.get(from..from + SECTOR))
            .any(|sector| sector.iter().all(|byte| *byte == 0))
    }

    /// True where a sound header stands here and all of its body behind it, whatever is wrong with that.
    fn is_whole(&self) -> bool {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        Header::decode(bytes).is_some_and(|header| {
            header.epoch == self.segment.epoch && header.sequence == self.next && header.bytes() <= bytes.len()
        })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.ended {
            return None;
        }
        if self.at == 0
            && let Some(piece) = self.begin()
        {
            return Some(piece);
        }
        if self.until == Some(self.next) || (self.until.is_none() && self.at == self.bytes.len()) {
            self.ended = true;
            return None;
        }
        Some(match self.expected() {
            Ok((header, body)) => self.take(header, body),
            Err(what) => self.bad(what),
        })
    }
}
