//! LZ4 frames, block by block into a buffer of ours.
//!
//! Kafka's producers write independent blocks of 64 KiB to 4 MiB; each is decompressed straight to its place. Frames whose
//! blocks refer back to earlier ones go through the library's stream decoder.

use std::io::Read;

use ::lz4::block::decompress_to_buffer;

use super::{Output, STEP_BYTES};

const MAGIC: u32 = 0x184d_2204;
/// Set in a block's size where the block is stored as it is.
const STORED: u32 = 1 << 31;

struct Frame {
    block_bytes_max: usize,
    linked: bool,
    block_checksums: bool,
    header_bytes: usize,
}

fn number(data: &[u8], at: usize) -> Result<u32, String> {
    let bytes = data.get(at..at + 4).ok_or("its lz4 frame is cut off")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("a slice of four bytes")))
}

fn header(data: &[u8]) -> Result<Frame, String> {
    let magic = number(data, 0)?;
    let (Some(flags), Some(block)) = (data.get(4), data.get(5)) else {
        return Err("its lz4 frame is cut off".into());
    };
    if magic != MAGIC || flags >> 6 != 1 {
        return Err(format!("its lz4 frame begins with {magic:08x}, version {}", flags >> 6));
    }
    let block_bytes_max = match block >> 4 & 7 {
        class @ 4..=7 => 1usize << (8 + 2 * u32::from(class)),
        class => return Err(format!("its lz4 block size class is {class}")),
    };
    let with_size = flags & 1 << 3 != 0;
    if flags & 1 != 0 {
        return Err("its lz4 frame needs a dictionary".into());
    }
    if with_size && data.get(6..14).is_none_or(|size| size[4..] != [0; 4]) {
        return Err("its lz4 frame is cut off, or declares more than 4 GiB".into());
    }
    Ok(Frame {
        block_bytes_max,
        linked: flags & 1 << 5 == 0,
        block_checksums: flags & 1 << 4 != 0,
        header_bytes: 7 + if with_size { 8 } else { 0 },
    })
}

/// Decompresses the frame in `data`.
///
/// # Errors
/// See [`super::Decompressor::decompress`].
pub(super) fn decompress(data: &[u8], output: &mut impl Output) -> Result<(), String> {
    let frame = header(data)?;
    if frame.linked {
        return decompress_linked(data, output);
    }
    let mut at = frame.header_bytes;
    loop {
        let size = number(data, at)?;
        at += 4;
        if size == 0 {
            return Ok(());
        }
        let bytes = (size & !STORED) as usize;
        let block = data
            .get(at..)
            .and_then(|rest| rest.get(..bytes))
            .ok_or("its lz4 block is cut off")?;
        at += bytes + if frame.block_checksums { 4 } else { 0 };
        if size & STORED != 0 {
            if bytes > frame.block_bytes_max {
                return Err(format!("its lz4 block holds {bytes} bytes"));
            }
            output.reserve(bytes)?;
            output.free()[..bytes].copy_from_slice(block);
            output.advance(bytes);
        } else {
            decompress_block(block, frame.block_bytes_max, output)?;
        }
    }
}

fn decompress_block(block: &[u8], bytes_max: usize, output: &mut impl Output) -> Result<(), String> {
    // Large blocks are rarely full, so what is free is tried first; 64 KiB ones nearly always are.
    let free = output.free();
    let room = free.len().min(bytes_max);
    if room >= block.len() && (room == bytes_max || bytes_max > 64 << 10) {
        match decompress_to_buffer(block, Some(room as i32), &mut free[..room]) {
            Ok(written) => {
                output.advance(written);
                return Ok(());
            }
            Err(error) if room == bytes_max => return Err(format!("its lz4 block is damaged: {error}")),
            Err(_) => {}
        }
    }
    output.reserve(bytes_max)?;
    let free = &mut output.free()[..bytes_max];
    let written = decompress_to_buffer(block, Some(bytes_max as i32), free)
        .map_err(|error| format!("its lz4 block is damaged: {error}"))?;
    output.advance(written);
    Ok(())
}

fn decompress_linked(data: &[u8], output: &mut impl Output) -> Result<(), String> {
    let damaged = |error: std::io::Error| format!("its lz4 frame is damaged: {error}");
    let mut decoder = ::lz4::Decoder::new(data).map_err(damaged)?;
    loop {
        output.reserve(STEP_BYTES)?;
        let written = decoder.read(output.free()).map_err(damaged)?;
        if written == 0 {
            return decoder.finish().1.map_err(damaged);
        }
        output.advance(written);
    }
}
