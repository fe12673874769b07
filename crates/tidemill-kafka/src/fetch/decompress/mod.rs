//! Compressed record batches, into a buffer of ours.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use crate::compression::Compression;

/// Largest decompressed batch.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;
/// Room that is asked for at least, where a size isn't known or is small.
const STEP_BYTES: usize = 64 << 10;

/// Where decompressed bytes go: a buffer that can be exchanged for a larger one, keeping what was written.
pub(crate) trait Output {
    /// The free part.
    fn free(&mut self) -> &mut [u8];
    /// Marks `count` bytes of the free part as written.
    fn advance(&mut self, count: usize);
    /// Makes the free part at least `bytes` long.
    ///
    /// # Errors
    /// Where the batch would exceed [`BATCH_BYTES_MAX`].
    fn reserve(&mut self, bytes: usize) -> Result<(), String>;
}

/// Decompresses batches one after another; a codec's working memory is made once.
#[derive(Debug, Default)]
pub(crate) struct Decompressor {
    gzip: gzip::Gzip,
    zstd: zstd::Zstd,
}

impl Decompressor {
    /// Decompresses one batch's records.
    ///
    /// # Errors
    /// Anything that is no sound frame of `compression`, or more than [`BATCH_BYTES_MAX`] bytes.
    pub(crate) fn decompress(
        &mut self,
        compression: Compression,
        data: &[u8],
        output: &mut impl Output,
    ) -> Result<(), String> {
        match compression {
            Compression::None => {
                output.reserve(data.len())?;
                output.free()[..data.len()].copy_from_slice(data);
                output.advance(data.len());
                Ok(())
            }
            Compression::Gzip => self.gzip.decompress(data, output),
            Compression::Snappy => snappy::decompress(data, output),
            Compression::Lz4 => lz4::decompress(data, output),
            Compression::Zstd => self.zstd.decompress(data, output),
        }
    }
}
