//! Zstandard frames.

use std::fmt;

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Output, STEP_BYTES};

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
    /// Frame by frame; Java's producers don't say how large one is, so the room grows as the data comes.
    pub(super) fn decompress(&mut self, data: &[u8], output: &mut impl Output) -> Result<(), String> {
        let context = match &mut self.context {
            Some(context) => context,
            None => {
                let mut context = DCtx::create();
                context
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                    .map_err(damaged)?;
                self.context.insert(context)
            }
        };
        context.init().map_err(damaged)?;
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
