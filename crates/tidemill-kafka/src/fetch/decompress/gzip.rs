//! gzip: one member, decompressed as a whole.

use std::fmt;

use libdeflater::{DecompressionError, Decompressor};

use super::{BATCH_BYTES_MAX, Output, STEP_BYTES};

/// Bytes of a member's header and trailer.
const FRAME_BYTES: usize = 18;
/// The most that one byte of deflate data can become.
const EXPANSION_MAX: usize = 1_032;

/// Decompresses gzip members.
#[derive(Default)]
pub(super) struct Gzip {
    decompressor: Option<Decompressor>,
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip").finish_non_exhaustive()
    }
}

impl Gzip {
    pub(super) fn decompress(&mut self, data: &[u8], output: &mut impl Output) -> Result<(), String> {
        let size = data
            .last_chunk::<4>()
            .filter(|_| data.len() >= FRAME_BYTES)
            .ok_or("its gzip member is cut off")?;
        // The size at the end counts modulo 4 GiB, and is what the producer says: nothing is taken for it that the data
        // could not become.
        let size = u32::from_le_bytes(*size) as usize;
        if size > BATCH_BYTES_MAX || size > data.len().saturating_mul(EXPANSION_MAX) {
            return Err(format!("its gzip member declares {size} bytes"));
        }
        // Without any room the library has no place to point to.
        output.reserve(size.max(STEP_BYTES))?;
        let written = self
            .decompressor
            .get_or_insert_default()
            .gzip_decompress(data, &mut output.free()[..size.max(1)])
            .map_err(|error| match error {
                DecompressionError::BadData => "its gzip member is damaged".to_owned(),
                DecompressionError::InsufficientSpace => {
                    format!("its gzip member holds more than the {size} bytes that it declares")
                }
            })?;
        if written != size {
            // Another member may follow, which no producer writes; where it is as long as the first, it goes unseen here, and
            // the number of records tells.
            return Err(format!("its gzip member declares {size} bytes and holds {written}"));
        }
        output.advance(written);
        Ok(())
    }
}
