//! The file of a version: a preamble, a head in JSON, sections of entries. `docs/formats.md` has it byte by byte.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill_core::BatchId;

use super::changes::{Change, Entry};
use super::{BUCKETS, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Kind, Result};

/// The version of the format that this build writes and reads.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"TIDESTAT";
/// Magic, format, bytes of the head, checksum.
const PREAMBLE_BYTES: usize = 20;
/// Stands in place of a value's length where the key is removed.
const REMOVED: u32 = u32::MAX;

/// What a version says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// The operator's id.
    pub operator: String,
    /// What it does.
    pub kind: String,
    /// What keys and values hold.
    pub shape: String,
    /// Buckets its keys are spread over.
    pub buckets: u16,
    /// The batch after which the state is this.
    pub batch_id: BatchId,
    /// The version that the batch read; none where it read an empty state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Files whose changes come before those of this one, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Link>,
    /// Where buckets stand whole; a bucket that is missing was empty before the chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<BucketSnapshot>,
    /// What stands behind the head, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
}

impl Head {
    /// The batch after which a bucket was written whole; none where it never was.
    pub(super) fn snapshot_batch(&self, bucket: u16) -> Option<BatchId> {
        let mut snapshots = self.snapshots.iter();
        let found = snapshots.find(|snapshot| snapshot.bucket == bucket);
        found.map(|snapshot| snapshot.batch_id)
    }

    /// The names of all files that the version is made of, but its own.
    pub(super) fn builds_on(&self) -> impl Iterator<Item = &String> {
        let snapshots = self.snapshots.iter().filter_map(|snapshot| snapshot.name.as_ref());
        self.chain.iter().map(|link| &link.name).chain(snapshots)
    }

    /// Keys and bytes of the version's own changes.
    pub(super) fn changed(&self) -> (u64, u64) {
        let changes = self
            .sections
            .iter()
            .filter(|section| section.content == Content::Changes);
        changes.fold((0, 0), |(entries, bytes), section| {
            (entries + section.entries, bytes + section.bytes)
        })
    }
}

/// A file of a version's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    /// The file's name.
    pub name: String,
    /// The batch after which the state is what the file makes of it.
    pub batch_id: BatchId,
    /// Keys that it changes.
    pub entries: u64,
    /// Bytes of its changes.
    pub bytes: u64,
}

/// A bucket that was written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BucketSnapshot {
    /// The bucket.
    pub bucket: u16,
    /// The batch after which it was this; changes of later batches come over it.
    pub batch_id: BatchId,
    /// The file that holds it; none where it was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Keys in it.
    pub entries: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content {
    /// What became of keys since the last file of the chain, or since the parent.
    Changes,
    /// All keys after the batch.
    Snapshot,
}

/// Entries of one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// What it holds.
    pub content: Content,
    /// The bucket.
    pub bucket: u16,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
}

/// What the file of a version says of itself, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSummary {
    /// The operator's id.
    pub operator: String,
    /// What it does.
    pub kind: String,
    /// What keys and values hold.
    pub shape: String,
    /// The batch after which the state is this.
    pub batch_id: BatchId,
    /// The version that the batch read; none where it read an empty state.
    pub parent: Option<String>,
    /// The names of the files that it is made of, but its own.
    pub builds_on: Vec<String>,
    /// Keys that it says are changed.
    pub changed: u64,
    /// Buckets that stand whole in it.
    pub whole: Vec<u16>,
}

impl VersionSummary {
    /// Reads the bytes of a file, and checks all of them.
    ///
    /// # Errors
    /// `Loss` where the file is damaged.
    pub fn of(bytes: Vec<u8>) -> Result<Self> {
        let damaged = |what| Error::new(Kind::Loss, format!("state version is damaged: {what}"));
        Ok(Self::from(&VersionFile::decode(bytes).map_err(damaged)?))
    }
}

impl From<&VersionFile> for VersionSummary {
    fn from(file: &VersionFile) -> Self {
        let head = &file.head;
        let whole = head
            .sections
            .iter()
            .filter(|section| section.content == Content::Snapshot);
        Self {
            operator: head.operator.clone(),
            kind: head.kind.clone(),
            shape: head.shape.clone(),
            batch_id: head.batch_id,
            parent: head.parent.clone(),
            builds_on: head.builds_on().cloned().collect(),
            changed: file.changes().count() as u64,
            whole: whole.map(|section| section.bucket).collect(),
        }
    }
}

/// A version as read from its file.
#[derive(Debug)]
pub(super) struct VersionFile {
    /// What it says of itself.
    pub head: Head,
    bytes: Vec<u8>,
    sections_from: usize,
}

/// Sections of a version that is being written.
#[derive(Debug, Default)]
pub(super) struct SectionsWriter {
    sections: Vec<Section>,
    bytes: Vec<u8>,
}

impl SectionsWriter {
    /// Adds a bucket's changes.
    ///
    /// # Errors
    /// `Config` where a key or value is larger than the maximum; `Bug` where the bucket is none.
    pub(super) fn add_changes(&mut self, bucket: u16, changes: &BTreeMap<Vec<u8>, Change>) -> Result<()> {
        let from = self.bytes.len();
        for (key, value) in changes {
            self.put(key, value.as_deref())?;
        }
        self.end(Content::Changes, bucket, changes.len() as u64, from)
    }

    /// Adds a whole bucket, whose entries come in key order. Gives how many there are and their bytes; nothing is added where
    /// there are none.
    ///
    /// # Errors
    /// As [`add_changes`](Self::add_changes), and where an entry is an error.
    pub(super) fn add_snapshot(
        &mut self,
        bucket: u16,
        entries: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>>,
    ) -> Result<(u64, u64)> {
        let from = self.bytes.len();
        let mut count = 0;
        for entry in entries {
            let (key, value) = entry?;
            self.put(&key, Some(&value))?;
            count += 1;
        }
        if count > 0 {
            self.end(Content::Snapshot, bucket, count, from)?;
        }
        Ok((count, (self.bytes.len() - from) as u64))
    }

    fn end(&mut self, content: Content, bucket: u16, entries: u64, from: usize) -> Result<()> {
        if bucket >= BUCKETS {
            return Err(Error::new(Kind::Bug, format!("bucket {bucket} of {BUCKETS}")));
        }
        let section = &self.bytes[from..];
        self.sections.push(Section {
            content,
            bucket,
            entries,
            bytes: section.len() as u64,
            crc32c: crc32c(section),
        });
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let key_bytes = length("key", key, KEY_BYTES_MAX)?;
        let value_bytes = value.map_or(Ok(REMOVED), |value| length("value", value, VALUE_BYTES_MAX))?;
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    /// The file's bytes; `head` gets the sections.
    ///
    /// # Errors
    /// Where the head can't be written as JSON: a bug.
    pub(super) fn finish(self, head: &mut Head) -> Result<Vec<u8>> {
        head.sections = self.sections;
        let failed = |error| Error::with_source(Kind::Bug, "encode the head of a state version", error);
        let text = serde_json::to_vec(head).map_err(failed)?;
        let length = u32::try_from(text.len())
            .map_err(|error| Error::with_source(Kind::Bug, "the head of a state version is beyond 4 GiB", error))?;
        let mut file = Vec::with_capacity(PREAMBLE_BYTES + text.len() + self.bytes.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&FORMAT.to_le_bytes());
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&crc32c(&text).to_le_bytes());
        file.extend_from_slice(&text);
        file.extend_from_slice(&self.bytes);
        Ok(file)
    }
}

impl VersionFile {
    /// Decodes a file and checks every byte of it.
    ///
    /// # Errors
    /// What is wrong, in words that go after "is damaged: ".
    pub(super) fn decode(bytes: Vec<u8>) -> Result<Self, String> {
        let (head, sections_from) = decode_head(&bytes)?;
        let this = Self {
            head,
            bytes,
            sections_from,
        };
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<(), String> {
        if self.head.buckets != BUCKETS {
            return Err(format!("it has {} buckets, this build {BUCKETS}", self.head.buckets));
        }
        let mut at = self.sections_from;
        let mut seen = BTreeSet::new();
        for section in &self.head.sections {
            if section.bucket >= BUCKETS || !seen.insert((section.content, section.bucket)) {
                return Err(format!("bucket {} is none, or is there twice", section.bucket));
            }
            let length = usize::try_from(section.bytes).map_err(|_| "a section beyond its end".to_owned())?;
            let end = at.checked_add(length).filter(|end| *end <= self.bytes.len());
            let end = end.ok_or_else(|| format!("{} bytes, the sections end after that", self.bytes.len()))?;
            let body = &self.bytes[at..end];
            if crc32c(body) != section.crc32c {
                return Err(format!("the checksum of bucket {} does not fit", section.bucket));
            }
            check_entries(section, body)?;
            at = end;
        }
        if at == self.bytes.len() {
            Ok(())
        } else {
            Err(format!("{} bytes behind the last section", self.bytes.len() - at))
        }
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// True where a bucket stands whole in it.
    pub(super) fn holds_snapshot(&self, bucket: u16) -> bool {
        let mut sections = self.head.sections.iter();
        sections.any(|section| section.content == Content::Snapshot && section.bucket == bucket)
    }

    /// What the version changes, in ascending order.
    pub(super) fn changes(&self) -> impl Iterator<Item = Entry<'_>> {
        self.entries(Content::Changes, &|_| true)
    }

    /// Entries of wanted buckets, in ascending order.
    pub(super) fn entries(&self, content: Content, wanted: &dyn Fn(u16) -> bool) -> impl Iterator<Item = Entry<'_>> {
        let is_wanted = |section: &Section| section.content == content && wanted(section.bucket);
        let mut sections: Vec<_> = self.sections().filter(|(section, _)| is_wanted(section)).collect();
        sections.sort_by_key(|(section, _)| section.bucket);
        sections.into_iter().flat_map(|(section, entries)| {
            let bucket = section.bucket;
            entries.map(move |(key, value)| (bucket, key, value))
        })
    }

    /// The sections with their entries.
    fn sections(&self) -> impl Iterator<Item = (&Section, Entries<'_>)> {
        let mut at = self.sections_from;
        self.head.sections.iter().map(move |section| {
            // In bounds: the file was checked.
            let end = at + usize::try_from(section.bytes).unwrap_or(0);
            let rest = self.bytes.get(at..end).unwrap_or_default();
            at = end;
            (section, Entries { rest })
        })
    }
}

fn check_entries(section: &Section, body: &[u8]) -> Result<(), String> {
    let mut entries = Entries { rest: body };
    let mut last: Option<&[u8]> = None;
    let mut count = 0;
    for (key, value) in entries.by_ref() {
        if last.is_some_and(|last| last >= key) {
            return Err(format!("keys of bucket {} are out of order", section.bucket));
        }
        if value.is_none() && section.content == Content::Snapshot {
            return Err(format!("a removal in the snapshot of bucket {}", section.bucket));
        }
        last = Some(key);
        count += 1;
    }
    if entries.rest.is_empty() && count == section.entries {
        Ok(())
    } else {
        Err(format!("bucket {} ends within an entry", section.bucket))
    }
}

fn decode_head(bytes: &[u8]) -> Result<(Head, usize), String> {
    let mut rest = bytes;
    if take::<8>(&mut rest)? != MAGIC {
        return Err("it is no state version".to_owned());
    }
    let format = u32::from_le_bytes(take(&mut rest)?);
    if format != FORMAT {
        return Err(format!("it has format {format}, this build reads {FORMAT}"));
    }
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let checksum = u32::from_le_bytes(take(&mut rest)?);
    let text = rest.get(..length).ok_or("it ends within the head")?;
    if crc32c(text) != checksum {
        return Err("the checksum of the head does not fit".to_owned());
    }
    let head = serde_json::from_slice(text).map_err(|error| format!("the head can't be read: {error}"))?;
    Ok((head, PREAMBLE_BYTES + length))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or("it ends within the preamble")?;
    *rest = after;
    Ok(*first)
}

/// The entries of a section.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key_bytes, rest) = self.rest.split_first_chunk::<4>()?;
        let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let value_bytes = u32::from_le_bytes(*value_bytes);
        if value_bytes == REMOVED {
            self.rest = rest;
            return Some((key, None));
        }
        let (value, rest) = rest.split_at_checked(value_bytes as usize)?;
        self.rest = rest;
        Some((key, Some(value)))
    }
}

fn length(what: &str, bytes: &[u8], max: usize) -> Result<u32> {
    match u32::try_from(bytes.len()) {
        Ok(length) if bytes.len() <= max => Ok(length),
        _ => {
            let text = format!("a {what} of {} bytes in keyed state, {max} are possible", bytes.len());
            Err(Error::new(Kind::Config, text))
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a 32-bit checksum fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut head = Head {
            operator: "counts".to_owned(),
            kind: "k".to_owned(),
            shape: "s".to_owned(),
            buckets: BUCKETS,
            batch_id: 7,
            parent: Some("p".to_owned()),
            chain: Vec::new(),
            snapshots: Vec::new(),
            sections: Vec::new(),
        };
        let mut sections = SectionsWriter::default();
        let changes = [(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)];
        sections.add_changes(3, &changes.into_iter().collect()).expect("added");
        let whole = [Ok((b"a".to_vec(), b"1".to_vec())), Ok((b"c".to_vec(), Vec::new()))];
        sections.add_snapshot(2, whole.into_iter()).expect("added");
        assert_eq!(sections.add_snapshot(1, std::iter::empty()).expect("added"), (0, 0));
        sections.finish(&mut head).expect("encoded")
    }

    #[test]
    fn what_was_written_is_read() {
        let file = VersionFile::decode(file()).expect("sound");
        let changes: Vec<_> = file.changes().collect();
        assert_eq!(changes, [(3, b"a".as_slice(), Some(b"1".as_slice())), (3, b"b", None)]);
        let whole: Vec<_> = file.entries(Content::Snapshot, &|_| true).collect();
        assert_eq!(
            whole,
            [(2, b"a".as_slice(), Some(b"1".as_slice())), (2, b"c", Some(b""))]
        );
        assert_eq!(file.entries(Content::Snapshot, &|bucket| bucket != 2).count(), 0);
        assert!(file.holds_snapshot(2) && !file.holds_snapshot(3) && !file.holds_snapshot(1));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sound = file();
        for at in 0..sound.len() {
            VersionFile::decode(sound[..at].to_vec()).expect_err("cut");
            for bit in 0..8 {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << bit;
                assert!(VersionFile::decode(damaged).is_err(), "byte {at} bit {bit}");
            }
        }
        let mut longer = sound;
        longer.push(0);
        VersionFile::decode(longer).expect_err("longer");
    }

    /// A file whose checksums fit, with this section.
    fn with_section(content: Content, bucket: u16, entries: u64, bytes: &[u8]) -> Result<VersionFile, String> {
        let mut writer = SectionsWriter::default();
        writer.bytes.extend_from_slice(bytes);
        writer.sections.push(Section {
            content,
            bucket,
            entries,
            bytes: bytes.len() as u64,
            crc32c: crc32c(bytes),
        });
        let mut head = VersionFile::decode(file()).expect("sound").head;
        VersionFile::decode(writer.finish(&mut head).expect("encoded"))
    }

    #[test]
    fn what_can_not_be_is_refused_behind_a_checksum_that_fits() {
        let a = b"\x01\0\0\0\0\0\0\0a".as_slice();
        let removed = b"\x01\0\0\0\xff\xff\xff\xffa".as_slice();
        with_section(Content::Changes, 3, 1, a).expect("sound");
        with_section(Content::Changes, 3, 1, removed).expect("sound");
        for (what, content, bucket, entries, bytes) in [
            ("no such bucket", Content::Changes, BUCKETS, 1, a.to_vec()),
            ("more entries", Content::Changes, 3, 2, a.to_vec()),
            ("keys out of order", Content::Changes, 3, 2, [a, a].concat()),
            ("a removal in a snapshot", Content::Snapshot, 3, 1, removed.to_vec()),
            ("within an entry", Content::Changes, 3, 2, [a, &a[..5]].concat()),
            ("a length beyond the end", Content::Changes, 3, 1, [0xfe; 16].to_vec()),
        ] {
            assert!(with_section(content, bucket, entries, &bytes).is_err(), "{what}");
        }
    }
}
