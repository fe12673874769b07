//! Snappy: one raw block, or the frames of Java's library, which cut the data into blocks of their own length.

use snap::raw::{Decoder, decompress_len};

use super::Output;

/// What a frame of Java's library begins with, before two version numbers.
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_BYTES: usize = 16;
/// The most that one byte of Snappy data can become: a copy of 64 bytes takes three.
const EXPANSION_MAX: usize = 22;

/// Decompresses all blocks in `data`.
///
/// # Errors
/// See [`super::Decompressor::decompress`].
pub(super) fn decompress(data: &[u8], output: &mut impl Output) -> Result<(), String> {
    if !data.starts_with(&MAGIC) {
        return block(data, output);
    }
    let mut rest = data;
    while !rest.is_empty() {
        // Streams that were written one behind the other repeat the header.
        if rest.starts_with(&MAGIC) {
            rest = rest.get(HEADER_BYTES..).ok_or("its snappy frame is cut off")?;
            continue;
        }
        let (length, blocks) = rest.split_first_chunk::<4>().ok_or("its snappy frame is cut off")?;
        let length = u32::from_be_bytes(*length) as usize;
        let (this, next) = blocks.split_at_checked(length).ok_or("its snappy block is cut off")?;
        block(this, output)?;
        rest = next;
    }
    Ok(())
}

fn block(data: &[u8], output: &mut impl Output) -> Result<(), String> {
    let damaged = |error: snap::Error| format!("its snappy block is damaged: {error}");
    let size = decompress_len(data).map_err(damaged)?;
    if size > data.len().saturating_mul(EXPANSION_MAX) {
        return Err(format!("its snappy block of {} bytes declares {size}", data.len()));
    }
    output.reserve(size)?;
    let written = Decoder::new()
        .decompress(data, &mut output.free()[..size])
        .map_err(damaged)?;
    output.advance(written);
    Ok(())
}
