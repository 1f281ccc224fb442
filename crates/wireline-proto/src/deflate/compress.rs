//! Compression (RFC 7692 section 7.2.1) of a whole message.

use std::fmt;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

/// What ends every flush, and is taken off (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The least room that the compressor is given. With six bytes or fewer it may flush twice.
const LEAST_ROOM: usize = 64;

/// The most room that it is given at a time.
const MOST_ROOM: usize = 64 << 10;

/// What makes one [`Compressor`] as good as another: those of equal settings give equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressorSettings {
    /// How hard to search: 1 (fast) to 9 (small).
    pub level: u8,
    /// How far back a message may refer: `2^window_bits` bytes, 8 to 15.
    pub window_bits: u8,
    /// How much memory to use: 1 to 9.
    pub memory_level: u8,
}

/// A context to compress with: 128 KiB, and `4 × 2^window_bits` bytes and `2^(memory_level + 9)` bytes on
/// top of that. Which connection it serves does not matter; see [`ContextPool`](super::ContextPool).
pub struct Compressor {
    deflate: Deflate,
    settings: CompressorSettings,
}

impl Compressor {
    /// A new context. Settings beyond their ranges are taken to the nearest that are not.
    #[must_use]
    pub fn new(settings: CompressorSettings) -> Self {
        let deflate = Deflate::new_with_config(DeflateConfig {
            level: settings.level.clamp(1, 9).into(),
            // zlib has no raw window of 8 bits. Its matches end 262 bytes short of the window, so that one
            // of 9 bits refers back by 250 bytes at most, which is within the 256 of 8 bits.
            window_bits: -i32::from(settings.window_bits.clamp(9, 15)),
            mem_level: settings.memory_level.clamp(1, 9).into(),
            ..DeflateConfig::default()
        });
        Self { deflate, settings }
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> CompressorSettings {
        self.settings
    }

    /// Appends the compressed form of `message` to `out`, or nothing if that form is not smaller; whether
    /// it is there.
    ///
    /// It stands for itself: it refers to no other message, so it may go to any peer whose agreed window
    /// is not smaller than this one's. Where the receiver takes its context over from message to message,
    /// the message is then in its window like any other.
    pub fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        self.compress_after([&[], &[]], message, out)
    }

    /// As [`compress`](Self::compress), where the message may refer to `window`.
    pub(super) fn compress_after(&mut self, window: [&[u8]; 2], message: &[u8], out: &mut Vec<u8>) -> bool {
        // With a fresh stream for each message, nothing of a message that was given up can stay behind.
        self.deflate.reset();
        for part in window {
            if !part.is_empty() && self.deflate.set_dictionary(part).is_err() {
                return false;
            }
        }
        let start = out.len();
        let is_smaller = self.run(message, out).is_some_and(|()| {
            let end = out.len().saturating_sub(TAIL.len()).max(start);
            let is_flushed = out[end..] == TAIL;
            out.truncate(end);
            is_flushed && end - start < message.len()
        });
        if !is_smaller {
            out.truncate(start);
        }
        is_smaller
    }

    /// Compresses and flushes; `None` as soon as it is clear that nothing is gained.
    fn run(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let first = out.len();
        let most = first + input.len() + TAIL.len();
        loop {
            let start = out.len();
            let room = (input.len() / 2).max(start - first).clamp(LEAST_ROOM, MOST_ROOM);
            out.resize(start + room, 0);
            let before = (self.deflate.total_in(), self.deflate.total_out());
            let status = self.deflate.compress(input, &mut out[start..], DeflateFlush::SyncFlush);
            let count = usize::try_from(self.deflate.total_out() - before.1).unwrap_or(room);
            let taken = usize::try_from(self.deflate.total_in() - before.0).unwrap_or(input.len());
            out.truncate(start + count);
            input = &input[taken..];
            if count < room {
                return (input.is_empty() && status.is_ok()).then_some(());
            }
            if status.is_err() || out.len() >= most {
                return None;
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compressor").field(&self.settings).finish()
    }
}
