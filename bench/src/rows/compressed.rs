//! Counts of compressed records, beside the plain decompressor of the same bytes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Bench;
use super::throughput::{Place, counted};
use crate::data::Data;
use crate::plain_decompressor::{Decompressed, PlainDecompressor};
use crate::process::Finished;
use crate::report::{Run, rounded};

pub(super) fn zstd(bench: &Bench) -> Result<Run> {
    let measured = Measured::of(bench, "count-zstd", Data::Zstd)?;
    let plain = measured.decompressed(bench, PlainDecompressor::zstd()?)?;
    Ok(measured.run("count-zstd", plain))
}

pub(super) fn gzip(bench: &Bench) -> Result<Run> {
    let measured = Measured::of(bench, "count-gzip", Data::Gzip)?;
    let plain = measured.decompressed(bench, PlainDecompressor::zlib())?;
    let libdeflate = measured.decompressed(bench, PlainDecompressor::libdeflate())?;
    ensure!(
        plain.bytes == libdeflate.bytes,
        "zlib makes {} bytes of them, libdeflate {}",
        plain.bytes,
        libdeflate.bytes
    );
    Ok(measured
        .run("count-gzip", plain)
        .with("libdeflate_cpu_s", seconds(libdeflate.cpu))
        .with("of_libdeflate", measured.of_plain(libdeflate)))
}

/// A count of compressed records, and one of the same records without compression.
struct Measured {
    data: Data,
    records: u64,
    finished: Finished,
    uncompressed: Finished,
}

impl Measured {
    fn of(bench: &Bench, name: &str, data: Data) -> Result<Self> {
        let (records, expected) = bench.events_in(data)?;
        bench.events_in(Data::Uncompressed)?;
        let count = |data| counted(bench, name, Place::loaded(bench, data), records, expected.value_bytes);
        Ok(Self {
            data,
            records,
            uncompressed: count(Data::Uncompressed)?,
            finished: count(data)?,
        })
    }

    fn decompressed(&self, bench: &Bench, mut library: PlainDecompressor) -> Result<Decompressed> {
        let (topic, partitions) = (self.data.topic(), self.data.partitions());
        let plain = library.run(bench.topics.brokers(), topic, partitions)?;
        ensure!(
            plain.records == self.records,
            "topic {topic} holds {} records, its batches say {}",
            self.records,
            plain.records
        );
        Ok(plain)
    }

    fn run(&self, name: &str, plain: Decompressed) -> Run {
        let uncompressed = cpu(&self.uncompressed);
        let beyond = cpu(&self.finished).saturating_sub(uncompressed);
        Run::new(name)
            .with_throughput(self.records, &self.finished)
            .with("stored_bytes", plain.stored_bytes)
            .with("decompressed_bytes", plain.bytes)
            .with("uncompressed_cpu_s", seconds(uncompressed))
            .with("plain_cpu_s", seconds(plain.cpu))
            .with("of_plain", self.of_plain(plain))
            .with("beyond_uncompressed_of_plain", ratio(beyond, plain.cpu))
    }

    fn of_plain(&self, plain: Decompressed) -> f64 {
        ratio(cpu(&self.finished), plain.cpu)
    }
}

fn cpu(finished: &Finished) -> Duration {
    finished.usage.user + finished.usage.system
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64(), 4)
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    rounded(ours.as_secs_f64() / theirs.as_secs_f64().max(1e-9), 4)
}
