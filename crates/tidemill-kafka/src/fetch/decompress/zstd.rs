//! Zstandard frames.

use std::fmt;

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Output, STEP_BYTES};

const MAGIC: u32 = 0xfd2f_b528;
/// The most that a compressed block may hold.
const BLOCK_BYTES_MAX: usize = 128 << 10;
/// Room for all that data may become is made at once where it is at most so many times the data.
const EXPANSION_MAX: usize = 32;
/// Frames may refer back by at most this power of two, which is what a reader has to keep: 64 MiB, as large as a batch.
const WINDOW_LOG_MAX: u32 = 26;

/// Decompresses Zstandard frames.
#[derive(Default)]
pub(super) struct Zstd {
    context: Option<DCtx<'static>>,
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

fn damaged(code: usize) -> String {
    format!("its zstd frame is damaged: {}", zstd_safe::get_error_name(code))
}

impl Zstd {
    /// Straight to its place where room for all of it can be made: the library then needs no window of its own to copy
    /// from. Producers rarely say how large a frame is, but its blocks tell how large it may be.
    pub(super) fn decompress(&mut self, data: &[u8], output: &mut impl Output) -> Result<(), String> {
        let Some(bytes_max) = bytes_max(data).filter(|bytes| *bytes <= data.len() * EXPANSION_MAX) else {
            return self.decompress_piecewise(data, output);
        };
        output.reserve(bytes_max)?;
        let written = self.context().decompress(output.free(), data).map_err(damaged)?;
        output.advance(written);
        Ok(())
    }

    fn context(&mut self) -> &mut DCtx<'static> {
        self.context.get_or_insert_with(DCtx::create)
    }

    /// The room grows as the data comes.
    fn decompress_piecewise(&mut self, data: &[u8], output: &mut impl Output) -> Result<(), String> {
        let context = self.context();
        context.init().map_err(damaged)?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(damaged)?;
        let mut input = InBuffer::around(data);
        loop {
            output.reserve(STEP_BYTES)?;
            let mut room = OutBuffer::around(output.free());
            let more = context.decompress_stream(&mut room, &mut input).map_err(damaged)?;
            let (written, is_full) = (room.pos(), room.pos() == room.capacity());
            output.advance(written);
            let is_read = input.pos() == data.len();
            if more == 0 && is_read {
                return Ok(());
            }
            if more != 0 && is_read && !is_full {
                return Err("its zstd frame is cut off".to_owned());
            }
        }
    }
}

/// The most that the frames in `data` can become, by the headers of their blocks (RFC 8878, 3.1.1); none where they are no
/// whole frames.
fn bytes_max(data: &[u8]) -> Option<usize> {
    let mut rest = data;
    let mut bytes = 0;
    while !rest.is_empty() {
        let (frame_bytes, after) = frame(rest)?;
        bytes += frame_bytes;
        rest = after;
    }
    Some(bytes)
}

/// The most that the first frame can become, and what follows it.
fn frame(data: &[u8]) -> Option<(usize, &[u8])> {
    let (magic, rest) = data.split_first_chunk()?;
    let (descriptor, rest) = rest.split_first()?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return None;
    }
    let is_single_segment = descriptor & 1 << 5 != 0;
    let has_checksum = descriptor & 1 << 2 != 0;
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = [usize::from(is_single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    let window_bytes = usize::from(!is_single_segment);
    let mut rest = rest.get(window_bytes + dictionary_bytes + size_bytes..)?;
    let mut bytes = 0;
    loop {
        let (header, blocks) = rest.split_first_chunk()?;
        let [low, middle, high]: [u8; 3] = *header;
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let size = (header >> 3) as usize;
        let (stored, held) = match header >> 1 & 3 {
            0 => (size, size),
            1 => (1, size),
            2 => (size, BLOCK_BYTES_MAX),
            _ => return None,
        };
        bytes += held;
        rest = blocks.get(stored..)?;
        if header & 1 != 0 {
            return Some((bytes, rest.get(if has_checksum { 4 } else { 0 }..)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use zstd::stream::Encoder;

    use super::*;

    /// Keeps what is written, and the most that was asked for at once.
    #[derive(Default)]
    struct Room {
        bytes: Vec<u8>,
        written: usize,
        asked_max: usize,
    }

    impl Output for Room {
        fn free(&mut self) -> &mut [u8] {
            &mut self.bytes[self.written..]
        }

        fn advance(&mut self, count: usize) {
            self.written += count;
        }

        fn reserve(&mut self, bytes: usize) -> Result<(), String> {
            self.asked_max = self.asked_max.max(bytes);
            self.bytes.resize(self.bytes.len().max(self.written + bytes), 0);
            Ok(())
        }
    }

    /// What `data` becomes, and the most room that was asked for at once.
    fn decompressed(data: &[u8]) -> (Result<Vec<u8>, String>, usize) {
        let mut room = Room::default();
        let done = Zstd::default().decompress(data, &mut room);
        room.bytes.truncate(room.written);
        (done.map(|()| room.bytes), room.asked_max)
    }

    /// One frame, its blocks cut where `pieces` end.
    fn frame_of(pieces: &[Vec<u8>], checksum: bool) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(checksum).unwrap();
        for piece in pieces {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3_000),
            (any::<u8>(), 0..300_000_usize).prop_map(|(byte, count)| vec![byte; count]),
            (1..20_000_u32).prop_map(|count| (0..count).flat_map(u32::to_le_bytes).collect()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_hold_at_most_what_their_blocks_say(
            frames in prop::collection::vec((prop::collection::vec(piece(), 0..4), any::<bool>()), 1..3),
            whole in piece(),
        ) {
            let mut data = zstd::bulk::compress(&whole, 3).unwrap();
            let mut expected = whole;
            for (pieces, checksum) in &frames {
                data.extend(frame_of(pieces, *checksum));
                expected.extend(pieces.concat());
            }
            prop_assert!(bytes_max(&data).unwrap() >= expected.len());
            prop_assert_eq!(decompressed(&data).0, Ok(expected));
            prop_assert_eq!(bytes_max(&data[..data.len() - 1]), None);
        }
    }

    #[test]
    fn room_is_made_for_a_full_block_at_once_and_not_for_what_a_small_one_might_be() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(|n| (n % 5_000).to_be_bytes()).collect();
        let full = zstd::stream::encode_all(&text[..], 3).unwrap();
        assert_eq!(decompressed(&full), (Ok(text), BLOCK_BYTES_MAX));
        let small = zstd::stream::encode_all(&b"ab".repeat(50)[..], 3).unwrap();
        assert_eq!(decompressed(&small), (Ok(b"ab".repeat(50)), STEP_BYTES));
    }
}
