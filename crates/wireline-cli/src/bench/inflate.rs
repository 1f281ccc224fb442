//! Compressed messages of a server (RFC 7692 section 7.2.2), as they arrive.

use std::fmt;

use zlib_rs::{Inflate, InflateFlush};

use super::fault::Fault;

/// What a sender takes off the end of every message.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Bytes that are inflated at a time.
const STEP: usize = 8 * 1024;

/// The window that one connection's messages refer to.
pub(super) struct Inflating {
    inflate: Inflate,
}

impl Inflating {
    pub(super) fn new() -> Self {
        Self { inflate: Inflate::new(false, 15) }
    }

    /// Gives what a piece of a message stands for to `take`, in pieces.
    pub(super) fn piece(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut step = [0; STEP];
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            if self.inflate.decompress(bytes, &mut step, InflateFlush::NoFlush).is_err() {
                return Err(Fault::Frame("a compressed message cannot be inflated"));
            }
            let taken = usize::try_from(self.inflate.total_in() - before.0).unwrap_or(bytes.len());
            let count = usize::try_from(self.inflate.total_out() - before.1).unwrap_or(STEP);
            bytes = &bytes[taken..];
            take(&step[..count])?;
            if count < STEP {
                let is_taken = bytes.is_empty();
                return if is_taken { Ok(()) } else { Err(Fault::Frame("a compressed message ends early")) };
            }
        }
    }

    /// The same for what was taken off its end.
    pub(super) fn end(&mut self, take: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        self.piece(&TAIL, take)
    }
}

impl fmt::Debug for Inflating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflating")
    }
}
