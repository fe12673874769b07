//! What it costs to decompress a topic's record batches and nothing else, with the libraries that anybody would take.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use flate2::{Decompress, FlushDecompress, Status};

use crate::stored::{StoredBatch, StoredBatches};
use crate::usage;

/// Room for one batch: the bench's have 110,000 bytes at most, and a few of one record more.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// The largest window of deflate.
const WINDOW_BITS: u8 = 15;

/// A library, with its working memory and a buffer that each batch is decompressed into.
pub(crate) enum PlainDecompressor {
    /// The C library of Zstandard, one call per batch.
    Zstd(zstd::bulk::Decompressor<'static>),
    /// zlib.
    Zlib(Decompress),
    /// libdeflate, one call per batch.
    Libdeflate(libdeflater::Decompressor),
}

/// What decompressing a topic took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Decompressed {
    /// CPU time of the thread in the decompressor.
    pub(crate) cpu: Duration,
    /// Records, as the batches' headers count them.
    pub(crate) records: u64,
    /// Bytes of the records as they are stored.
    pub(crate) stored_bytes: u64,
    /// Bytes that came of them.
    pub(crate) bytes: u64,
}

impl PlainDecompressor {
    pub(crate) fn zstd() -> Result<Self> {
        Ok(Self::Zstd(zstd::bulk::Decompressor::new()?))
    }

    pub(crate) fn zlib() -> Self {
        Self::Zlib(Decompress::new_gzip(WINDOW_BITS))
    }

    pub(crate) fn libdeflate() -> Self {
        Self::Libdeflate(libdeflater::Decompressor::new())
    }

    /// The protocol's number of the codec that it reads.
    fn codec(&self) -> u8 {
        match self {
            Self::Zlib(_) | Self::Libdeflate(_) => 1,
            Self::Zstd(_) => 4,
        }
    }

    /// Decompresses all batches of a topic, response by response as they are fetched.
    ///
    /// # Errors
    /// The broker's; a batch of another codec, damaged, or larger than 1 MiB.
    pub(crate) fn run(&mut self, broker: &str, topic: &str, partitions: i32) -> Result<Decompressed> {
        let mut connection = StoredBatches::connect(broker)?;
        let mut buffer = vec![0; BATCH_BYTES_MAX];
        let mut total = Decompressed::default();
        for partition in 0..partitions {
            connection.each(topic, partition, |batches| {
                self.decompress(batches, &mut buffer, &mut total)
                    .with_context(|| format!("decompress {topic}/{partition}"))
            })?;
        }
        Ok(total)
    }

    fn decompress(&mut self, batches: &[StoredBatch], buffer: &mut [u8], total: &mut Decompressed) -> Result<()> {
        let codec = self.codec();
        if let Some(other) = batches.iter().find(|batch| batch.codec != codec) {
            bail!("a batch is compressed with codec {}, not {codec}", other.codec);
        }
        let before = usage::thread_cpu_time()?;
        for batch in batches {
            total.bytes += self.one(&batch.payload, buffer)? as u64;
        }
        total.cpu += usage::thread_cpu_time()?.saturating_sub(before);
        for batch in batches {
            total.records += batch.records;
            total.stored_bytes += batch.payload.len() as u64;
        }
        Ok(())
    }

    fn one(&mut self, payload: &[u8], buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Zstd(decompressor) => Ok(decompressor.decompress_to_buffer(payload, buffer)?),
            Self::Libdeflate(decompressor) => Ok(decompressor.gzip_decompress(payload, buffer)?),
            Self::Zlib(decompressor) => {
                // Its reset forgets that a gzip header comes.
                *decompressor = Decompress::new_gzip(WINDOW_BITS);
                match decompressor.decompress(payload, buffer, FlushDecompress::Finish)? {
                    Status::StreamEnd => Ok(usize::try_from(decompressor.total_out())?),
                    status => bail!("the member does not end: {status:?}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn stored(codec: u8, payload: Vec<u8>) -> StoredBatch {
        StoredBatch::of(codec, 2, Bytes::from(payload))
    }

    #[test]
    fn each_library_reads_its_codec_and_refuses_another() {
        let records = b"a record and another".repeat(500);
        let mut member = vec![0; 2 * records.len()];
        let bytes = libdeflater::Compressor::default()
            .gzip_compress(&records, &mut member)
            .unwrap();
        member.truncate(bytes);
        let frame = zstd::stream::encode_all(&records[..], 3).unwrap();
        for (mut library, payload) in [
            (PlainDecompressor::zstd().unwrap(), frame),
            (PlainDecompressor::zlib(), member.clone()),
            (PlainDecompressor::libdeflate(), member),
        ] {
            let codec = library.codec();
            let mut buffer = vec![0; BATCH_BYTES_MAX];
            let mut total = Decompressed::default();
            let batches = [stored(codec, payload.clone()), stored(codec, payload.clone())];
            library.decompress(&batches, &mut buffer, &mut total).unwrap();
            assert_eq!(
                (total.records, total.stored_bytes, total.bytes),
                (4, 2 * payload.len() as u64, 2 * records.len() as u64)
            );
            assert_eq!(&buffer[..records.len()], records);
            assert!(total.cpu > Duration::ZERO);
            let mut refused = |batch| library.decompress(&[batch], &mut buffer, &mut total).is_err();
            assert!(refused(stored(3, payload.clone())));
            assert!(refused(stored(codec, payload[..payload.len() - 9].to_vec())));
        }
    }
}
