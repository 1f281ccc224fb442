//! permessage-deflate (RFC 7692): messages compressed one by one, as one option inside a connection.
//!
//! - [`Deflate`]: what an endpoint offers, agrees to and does.
//! - [`DeflateParameters`]: what both ends agreed on, in the [`handshake`](crate::handshake).
//! - [`ContextPool`]: where connections borrow what they compress with.
//!
//! # What a connection holds
//!
//! Nothing while it is not compressed. Between messages, with context takeover, the windows: the last
//! `2^window_bits` bytes of the messages that went each way, as far as they came. zlib's contexts, which
//! are far larger, are borrowed for one message and primed from the window. So ten thousand
//! connections on a server with its default window of 4 KiB cost 80 MB with context takeover, where a
//! context each would cost two gigabytes; and a message that is sent as it is after all, since its
//! compressed form is not smaller, leaves no trace that a later message could refer to.

mod compress;
mod inflate;
mod parameters;
mod window;

use std::fmt;

pub(crate) use self::parameters::NAME;
use self::window::{Window, end_of};
pub use self::{
    compress::{Compressor, CompressorSettings},
    inflate::Inflater,
    parameters::DeflateParameters,
};
use crate::{
    MessageKind, ProtocolError,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::{MaskKey, apply_mask},
};

/// The least bytes of its window that a compressor is primed with.
const LEAST_PRIMED: usize = 512;

/// What work counts, in bytes that are inflated in the same time, two nanoseconds each. Measured, and rounded
/// up, since who counts too much gives way to others too often, which costs little.
mod work {
    /// To begin on a stream: a context is reset and primed with up to 32 KiB.
    pub(super) const BEGIN_INFLATING: usize = 1 << 10;
    /// A byte that is taken, should it be one of a block that describes its codes and uses none.
    pub(super) const TAKE_BYTE: usize = 8;
    /// To begin on a message: 128 KiB of hash tables are cleared.
    pub(super) const BEGIN_DEFLATING: usize = 4 << 10;
    /// To find for a byte that it is no repetition.
    pub(super) const DEFLATE_BYTE: usize = 16;
}

/// What an endpoint offers, agrees to and does about permessage-deflate.
///
/// ```
/// use wireline_proto::{Config, Deflate};
///
/// // A server that compresses what browsers ask it to compress, and holds no window for them.
/// let deflate = Deflate::server().send_context_takeover(false).receive_context_takeover(false);
/// let config = Config::server().deflate(deflate);
/// assert_eq!(config.deflate, Some(deflate));
/// ```
///
/// "Send" is what this end compresses, "receive" what its peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deflate {
    /// Bytes of payload from which on a message is compressed.
    pub threshold: usize,
    /// How hard to search: 1 to 9.
    pub level: u8,
    /// How much memory a compressor has: 1 to 9.
    pub memory_level: u8,
    /// How far back this end's messages refer: `2^bits` bytes.
    pub send_window_bits: u8,
    /// How far back the peer's messages may refer: `2^bits` bytes.
    pub receive_window_bits: u8,
    /// Whether this end's messages refer to earlier ones.
    pub send_context_takeover: bool,
    /// Whether the peer's messages may refer to earlier ones.
    pub receive_context_takeover: bool,
}

impl Deflate {
    /// The defaults of a server: windows of 4 KiB (12 bits) each way, where the client allows it.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            threshold: 1 << 10,
            level: 6,
            memory_level: 5,
            send_window_bits: 12,
            receive_window_bits: 12,
            send_context_takeover: true,
            receive_context_takeover: true,
        }
    }

    /// The defaults of a client: as the server's, but its server may use the whole 32 KiB (15 bits).
    #[must_use]
    pub const fn client() -> Self {
        Self { receive_window_bits: 15, ..Self::server() }
    }

    /// Compresses messages from this many bytes of payload on (1 KiB). Below it the time is better spent
    /// otherwise: a packet holds more than that.
    #[must_use]
    pub const fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// How hard to search for what repeats: 1 (fast) to 9 (small); 6 if left alone.
    #[must_use]
    pub const fn level(mut self, level: u8) -> Self {
        self.level = clamp(level, 1, 9);
        self
    }

    /// How much memory a compressor has, 1 to 9; 5 if left alone. Compressors are shared by the
    /// connections of a thread.
    #[must_use]
    pub const fn memory_level(mut self, level: u8) -> Self {
        self.memory_level = clamp(level, 1, 9);
        self
    }

    /// How far back this end's messages refer: `2^bits` bytes, 8 to 15 (12). A peer may ask for less. With
    /// context takeover it is memory that each connection holds.
    #[must_use]
    pub const fn send_window_bits(mut self, bits: u8) -> Self {
        self.send_window_bits = clamp(bits, 8, 15);
        self
    }

    /// How far back the peer's messages may refer: `2^bits` bytes, 8 to 15. A client asks its server for
    /// it if it is less than 15 (its default); a server (12) can ask only a client that allows it, as
    /// browsers do. With context takeover it is memory that each connection holds.
    #[must_use]
    pub const fn receive_window_bits(mut self, bits: u8) -> Self {
        self.receive_window_bits = clamp(bits, 8, 15);
        self
    }

    /// Whether this end's messages refer to earlier ones, which makes small messages that are alike much
    /// smaller (true). A peer may ask for the contrary.
    #[must_use]
    pub const fn send_context_takeover(mut self, takeover: bool) -> Self {
        self.send_context_takeover = takeover;
        self
    }

    /// Whether the peer's messages may refer to earlier ones (true); asked of it if not.
    #[must_use]
    pub const fn receive_context_takeover(mut self, takeover: bool) -> Self {
        self.receive_context_takeover = takeover;
        self
    }
}

const fn clamp(value: u8, least: u8, most: u8) -> u8 {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}

/// Whether to compress one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compress {
    /// From [`Deflate::threshold`] on.
    #[default]
    ByThreshold,
    /// Whatever its size, if the compressed form is smaller.
    Always,
    /// Never. For what is compressed already, and for secrets: what an attacker can have sent beside a
    /// secret in one window tells him the secret by the size of the message (the BREACH attack).
    Never,
}

/// Where connections borrow contexts for a message and give them back, in the order of need: what is
/// given back may be lent to anyone, or dropped. Without one, contexts are made for each message.
///
/// The protocol has no threads and no locks, so whoever drives connections keeps the pool: for each
/// thread, most likely.
pub trait ContextPool: fmt::Debug + Sync {
    /// A context to decompress with, if there is one.
    fn take_inflater(&self) -> Option<Inflater>;

    /// Takes a context back.
    fn keep_inflater(&self, inflater: Inflater);

    /// A context to compress with, of these settings, if there is one.
    fn take_compressor(&self, settings: CompressorSettings) -> Option<Compressor>;

    /// Takes a context back.
    fn keep_compressor(&self, compressor: Compressor);
}

/// What compression made of a connection's messages: bytes of payload before and after. Messages that
/// were not compressed do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeflateTotals {
    /// Messages that were sent, as the application knows them.
    pub sent: u64,
    /// The same on the wire.
    pub sent_compressed: u64,
    /// Messages that were received, as the application knows them.
    pub received: u64,
    /// The same on the wire.
    pub received_compressed: u64,
}

/// A server's frame with a whole message in compressed form; `None` if that is not smaller than the
/// message itself. It stands for itself, so it can be made once and sent to every client with which a
/// window of at least the compressor's size was agreed on.
///
/// ```
/// use wireline_proto::{MessageKind, deflate::{Compressor, CompressorSettings, encode_frame}};
///
/// let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
/// let mut compressor = Compressor::new(settings);
/// let frame = encode_frame(MessageKind::Text, &[b'a'; 1000], &mut compressor).expect("it is smaller");
/// assert_eq!(frame[0], 0xC1); // FIN, RSV1, Text
/// assert!(frame.len() < 20);
/// ```
#[must_use]
pub fn encode_frame(kind: MessageKind, message: &[u8], compressor: &mut Compressor) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    append_frame(&mut frame, kind, None, message.len(), |out| compressor.compress(message, out))
        .then_some(frame)
}

/// Appends a frame with RSV1 and what `compress` appends of a message of this length, if it does.
pub(crate) fn append_frame(
    out: &mut Vec<u8>,
    kind: MessageKind,
    mask: Option<MaskKey>,
    message_len: usize,
    compress: impl FnOnce(&mut Vec<u8>) -> bool,
) -> bool {
    let header = |payload_len: usize| {
        let mut bytes = [0; MAX_HEADER_LEN];
        let header = FrameHeader::new(kind.opcode(), payload_len as u64);
        let len = FrameHeader { rsv1: true, mask, ..header }.encode(&mut bytes);
        (bytes, len)
    };
    // The payload is made where it will stand, should its length need as long a header as the message's.
    let start = out.len();
    let room = header(message_len).1;
    out.resize(start + room, 0);
    if !compress(out) {
        out.truncate(start);
        return false;
    }
    let payload = start + room..out.len();
    let (bytes, len) = header(payload.len());
    if let Some(key) = mask {
        apply_mask(&mut out[payload.clone()], key, 0);
    }
    out.copy_within(payload, start + len);
    out.truncate(out.len() - (room - len));
    out[start..][..len].copy_from_slice(&bytes[..len]);
    true
}

/// How much of the end of its window a compressor is primed with for a message of this length. To prime it
/// with more takes longer than compressing a small message does, and hardly makes it smaller.
fn primed(message_len: usize) -> usize {
    message_len.saturating_mul(2).max(LEAST_PRIMED)
}

/// The extension's state in one connection.
#[derive(Debug)]
pub(crate) struct PerMessageDeflate {
    threshold: usize,
    settings: CompressorSettings,
    /// With context takeover.
    sent: Option<Window>,
    /// With context takeover; without it, while a message is received in pieces.
    received: Option<Window>,
    keeps_received: bool,
    received_window_bits: u8,
    /// While a compressed message is under way.
    inflater: Option<Inflater>,
    pool: Option<&'static dyn ContextPool>,
    totals: DeflateTotals,
    /// What was done since it was last asked for; see [`work`].
    work: usize,
}

impl PerMessageDeflate {
    /// The extension in the client (else the server), with what was agreed on.
    pub(crate) fn new(is_client: bool, agreed: DeflateParameters, options: &Deflate) -> Self {
        let (sends, receives) = agreed.directions(is_client);
        let window = |takeover: bool, bits| takeover.then(|| Window::new(bits));
        let window_bits = sends.window_bits.min(options.send_window_bits);
        Self {
            threshold: options.threshold,
            settings: CompressorSettings {
                level: options.level,
                window_bits,
                memory_level: options.memory_level,
            },
            sent: window(sends.context_takeover && options.send_context_takeover, window_bits),
            received: window(receives.context_takeover, receives.window_bits),
            keeps_received: receives.context_takeover,
            received_window_bits: receives.window_bits,
            inflater: None,
            pool: None,
            totals: DeflateTotals::default(),
            work: 0,
        }
    }

    pub(crate) fn share_contexts(&mut self, pool: &'static dyn ContextPool) {
        self.pool = Some(pool);
    }

    pub(crate) fn totals(&self) -> DeflateTotals {
        self.totals
    }

    pub(crate) fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    pub(crate) fn settings(&self) -> CompressorSettings {
        self.settings
    }

    /// Whether a message of this size is worth a try.
    pub(crate) fn is_wanted(&self, compress: Compress, message_len: usize) -> bool {
        match compress {
            Compress::ByThreshold => message_len >= self.threshold,
            Compress::Always => true,
            Compress::Never => false,
        }
    }

    /// Appends the compressed form of a message to `out`; whether it is there, since one that is not
    /// smaller is of no use. The message must then be sent, for the window has taken it in.
    pub(crate) fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        self.do_work(work::BEGIN_DEFLATING + message.len().saturating_mul(work::DEFLATE_BYTE));
        let kept = self.pool.and_then(|pool| pool.take_compressor(self.settings));
        let mut compressor = kept.unwrap_or_else(|| Compressor::new(self.settings));
        let (start, window) = (out.len(), self.sent.as_ref().map_or([&[][..]; 2], Window::parts));
        let window = end_of(window, primed(message.len()));
        let is_smaller = compressor.compress_after(window, message, out);
        if let Some(pool) = self.pool {
            pool.keep_compressor(compressor);
        }
        if is_smaller {
            self.note_sent(message, out.len() - start);
        }
        is_smaller
    }

    /// A message went out in a compressed form of this length.
    pub(crate) fn note_sent(&mut self, message: &[u8], compressed_len: usize) {
        self.totals.sent += message.len() as u64;
        self.totals.sent_compressed += compressed_len as u64;
        if let Some(window) = &mut self.sent {
            window.slide(message);
        }
    }

    /// Takes compressed bytes of a received message from the front of `input` and appends some of what
    /// they stand for to `message`, up to `limit`; whether there is more before the next input.
    pub(crate) fn inflate(
        &mut self,
        input: &mut &[u8],
        message: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool, ProtocolError> {
        let window = self.received.as_ref().map_or([&[][..]; 2], Window::parts);
        let mut begun = 0;
        let inflater = match &mut self.inflater {
            Some(inflater) => inflater,
            none => {
                let kept = self.pool.and_then(ContextPool::take_inflater);
                let inflater = none.insert(kept.unwrap_or_default());
                inflater.begin(window)?;
                begun = 1;
                inflater
            }
        };
        let before = (inflater.final_blocks(), input.len(), message.len());
        let has_more = inflater.step(input, window, message, limit);
        begun += inflater.final_blocks() - before.0;
        let (taken, made) = (before.1 - input.len(), message.len() - before.2);
        self.do_work(begun as usize * work::BEGIN_INFLATING + taken * work::TAKE_BYTE + made);
        has_more
    }

    fn do_work(&mut self, work: usize) {
        self.work = self.work.saturating_add(work);
    }

    /// What was inflated is given to the application, and the rest of the message comes behind it.
    pub(crate) fn pass_piece(&mut self, piece: &[u8]) {
        self.totals.received += piece.len() as u64;
        self.received.get_or_insert_with(|| Window::new(self.received_window_bits)).slide(piece);
    }

    /// As [`finish`](Self::finish), where the message was passed on in pieces.
    pub(crate) fn finish_pieces(&mut self, wire_len: u64) -> Result<(), ProtocolError> {
        self.finish(&[], wire_len)?;
        if !self.keeps_received {
            self.received = None;
        }
        Ok(())
    }

    /// The last byte of a compressed message, `wire_len` in all, was taken.
    pub(crate) fn finish(&mut self, message: &[u8], wire_len: u64) -> Result<(), ProtocolError> {
        if let Some(inflater) = &mut self.inflater {
            inflater.finish()?;
        }
        self.give_inflater_back();
        self.totals.received += message.len() as u64;
        self.totals.received_compressed += wire_len;
        if let Some(window) = &mut self.received {
            window.slide(message);
        }
        Ok(())
    }

    /// Nothing more is received or sent: holds nothing from now on but the totals.
    pub(crate) fn release(&mut self) {
        self.give_inflater_back();
        self.sent = None;
        self.received = None;
    }

    fn give_inflater_back(&mut self) {
        if let (Some(inflater), Some(pool)) = (self.inflater.take(), self.pool) {
            pool.keep_inflater(inflater);
        }
    }
}
