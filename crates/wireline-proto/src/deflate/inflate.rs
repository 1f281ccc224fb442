//! Decompression (RFC 7692 section 7.2.2), a piece at a time and never beyond a limit.

use std::fmt;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::window::end_of;
use crate::ProtocolError;

/// What follows the last byte of a message: the four bytes that its sender took off, and an empty last
/// block. They complete a stream that stands where section 7.2.1 leaves it, and no other.
const ENDING: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];

/// The most that one step inflates, so that text is checked while it is still in the cache.
const STEP: usize = 64 << 10;

/// Blocks with BFINAL set that one message may have, beside one for each KiB that it stands for. After each,
/// the window is copied anew, so that a message made of nothing else would cost a thousand times the work
/// that its bytes show.
const MAX_FINAL_BLOCKS: u32 = 64;

/// Inflated bytes that pay for one more of them: they take about as long.
const PAID_BY: u64 = 1 << 10;

/// The most that a message can refer back to.
const LARGEST_WINDOW: usize = 32 << 10;

/// A context to decompress with: 46 KiB. Which connection it serves does not matter; see
/// [`ContextPool`](super::ContextPool).
pub struct Inflater {
    inflate: Inflate,
    /// Nothing was fed since the stream began: it stands at the start of a block.
    is_fresh: bool,
    final_blocks: u32,
    /// Bytes that the message stands for so far.
    made: u64,
    /// The room that the last step filled, 0 if it did not.
    filled: usize,
}

impl Inflater {
    /// A new context.
    #[must_use]
    pub fn new() -> Self {
        // Of the largest size, whatever was agreed: what a message may refer to is bounded by the window
        // that is put in.
        Self { inflate: Inflate::new(false, 15), is_fresh: true, final_blocks: 0, made: 0, filled: 0 }
    }

    /// Starts on a message that may refer to `window`.
    pub(super) fn begin(&mut self, window: [&[u8]; 2]) -> Result<(), ProtocolError> {
        self.final_blocks = 0;
        self.made = 0;
        self.filled = 0;
        self.restart(window, &[])
    }

    fn restart(&mut self, window: [&[u8]; 2], output: &[u8]) -> Result<(), ProtocolError> {
        self.inflate.reset(false);
        self.is_fresh = true;
        let output = &output[output.len().saturating_sub(LARGEST_WINDOW)..];
        let [older, newer] = end_of(window, LARGEST_WINDOW - output.len());
        for part in [older, newer, output] {
            if !part.is_empty() {
                self.inflate.set_dictionary(part).map_err(|_| ProtocolError::InvalidDeflate)?;
            }
        }
        Ok(())
    }

    /// How many blocks with BFINAL set the message has had so far.
    pub(super) fn final_blocks(&self) -> u32 {
        self.final_blocks
    }

    /// Takes compressed bytes from the front of `input` and appends some of what they stand for to
    /// `output`; whether there is more to come before the next input.
    ///
    /// `window` is what the message began with. Beyond `limit` bytes of output it fails. Where it fails,
    /// what came before the fault is in `output`, so that the first of several faults is found, whatever
    /// the pieces.
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        window: [&[u8]; 2],
        output: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool, ProtocolError> {
        let start = output.len();
        if start >= limit {
            return self.expect_nothing(input, window, output, limit).map(|()| false);
        }
        // Room is zeroed before it is filled, so it is given by what came in: text comes to about four times
        // its compressed size, and what comes to more is given twice as much each time.
        let wanted = if self.filled > 0 { self.filled * 2 } else { input.len().saturating_mul(4) };
        let room = make_room(output, wanted.clamp(64, STEP), limit);
        output.resize(start + room, 0);
        let (count, status) = self.run(input, &mut output[start..]);
        output.truncate(start + count);
        self.made += count as u64;
        self.filled = if count == room { room } else { 0 };
        if status? == Status::StreamEnd {
            self.end_final_block(window, output)?;
        }
        Ok(count == room || !input.is_empty())
    }

    /// The output has come to the limit: what follows must not add to it.
    fn expect_nothing(
        &mut self,
        input: &mut &[u8],
        window: [&[u8]; 2],
        output: &[u8],
        limit: usize,
    ) -> Result<(), ProtocolError> {
        loop {
            // Even without input: some of what was taken may not have come out for want of room.
            let (count, status) = self.run(input, &mut [0]);
            if count > 0 {
                return Err(ProtocolError::MessageTooBig { announced: limit as u64 + 1, limit });
            }
            if status? == Status::StreamEnd {
                self.end_final_block(window, output)?;
            }
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    /// Goes on until `input` is taken, `output` is full, or a last block has ended: how much output there
    /// is.
    fn run(&mut self, input: &mut &[u8], output: &mut [u8]) -> (usize, Result<Status, ProtocolError>) {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, output, InflateFlush::NoFlush);
        let taken = delta(before.0, self.inflate.total_in());
        let count = delta(before.1, self.inflate.total_out());
        *input = &input[taken..];
        self.is_fresh &= taken == 0;
        let status = match status {
            // No byte in and none out, with room for both: it would stay like this for ever.
            Ok(Status::Ok | Status::BufError) if taken + count == 0 && !input.is_empty() => {
                Err(ProtocolError::InvalidDeflate)
            }
            status => status.map_err(|_| ProtocolError::InvalidDeflate),
        };
        (count, status)
    }

    /// A block with BFINAL set has ended (section 7.2.3.4). More may follow, and may refer to everything
    /// before it: BFINAL ends the stream for DEFLATE, but neither the message nor the window.
    fn end_final_block(&mut self, window: [&[u8]; 2], output: &[u8]) -> Result<(), ProtocolError> {
        self.final_blocks += 1;
        let paid = u32::try_from(self.made / PAID_BY).unwrap_or(u32::MAX);
        let limit = MAX_FINAL_BLOCKS.saturating_add(paid);
        if self.final_blocks > limit {
            return Err(ProtocolError::TooManyFinalBlocks { limit });
        }
        self.restart(window, output)
    }

    /// The message has ended: it must be whole.
    pub(super) fn finish(&mut self) -> Result<(), ProtocolError> {
        if self.is_fresh {
            // It has no byte at all, or ends with a BFINAL block to which its sender added no empty one.
            // Neither is what section 7.2.1 makes, but both have one meaning only.
            return Ok(());
        }
        let mut ending = &ENDING[..];
        match self.run(&mut ending, &mut [0]) {
            (0, Ok(Status::StreamEnd)) if ending.is_empty() => Ok(()),
            _ => Err(ProtocolError::InvalidDeflate),
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

fn delta(before: u64, after: u64) -> usize {
    usize::try_from(after - before).unwrap_or(usize::MAX)
}

/// Sees that `output` can grow by `wanted`, or what is left to `limit`, doubling it where it has to be
/// moved; by how much it may grow.
fn make_room(output: &mut Vec<u8>, wanted: usize, limit: usize) -> usize {
    let left = limit - output.len();
    let room = wanted.min(left);
    if output.capacity() - output.len() < room {
        output.reserve_exact(room.max(output.len()).min(left));
    }
    room
}
