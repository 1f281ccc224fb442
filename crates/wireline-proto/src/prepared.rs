//! A message that is framed once for any number of connections.

use bytes::{Bytes, BytesMut};

use crate::{
    MessageKind,
    deflate::{Compressor, CompressorSettings, encode_frame},
    frame::{FrameHeader, MAX_HEADER_LEN},
};

/// A message, framed once: every server connection that sends it shares the bytes. A client masks every
/// frame with a key of its own (RFC 6455 section 5.3), so there the frame is made anew.
///
/// ```
/// use wireline_proto::{MessageKind, Prepared};
///
/// let prepared = Prepared::new(MessageKind::Text, "Hello".into());
/// assert_eq!(&prepared.frame()[..], b"\x81\x05Hello"); // RFC 6455 section 5.7
/// ```
#[derive(Debug, Clone)]
pub struct Prepared {
    kind: MessageKind,
    frame: Bytes,
    header_len: usize,
}

impl Prepared {
    /// Frames a message, copying its payload. Text must be UTF-8: the caller's types see to that.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "as Connection::send takes it")]
    pub fn new(kind: MessageKind, payload: Bytes) -> Self {
        let mut header = [0; MAX_HEADER_LEN];
        let header_len = FrameHeader::new(kind.opcode(), payload.len() as u64).encode(&mut header);
        let mut frame = BytesMut::with_capacity(header_len + payload.len());
        frame.extend_from_slice(&header[..header_len]);
        frame.extend_from_slice(&payload);
        Self { kind, frame: frame.freeze(), header_len }
    }

    /// Whether it is text or binary.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The frame that a server sends.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The payload alone; it shares the frame's bytes.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.frame.slice(self.header_len..)
    }

    /// Compresses it, for all connections with the settings of `compressor`; `None` if that makes it no
    /// smaller.
    #[must_use]
    pub fn compress(&self, compressor: &mut Compressor) -> Option<PreparedDeflate> {
        let settings = compressor.settings();
        let payload = &self.frame[self.header_len..];
        let frame = encode_frame(self.kind, payload, compressor)?;
        Some(PreparedDeflate { settings, frame: frame.into() })
    }
}

/// The compressed form of a [`Prepared`] message.
#[derive(Debug, Clone)]
pub struct PreparedDeflate {
    settings: CompressorSettings,
    frame: Bytes,
}

impl PreparedDeflate {
    /// What it was compressed with.
    #[must_use]
    pub fn settings(&self) -> CompressorSettings {
        self.settings
    }

    /// The frame that a server sends.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    pub(crate) fn payload_len(&self) -> usize {
        // Its header has two bytes, and as many more as its length takes.
        self.frame.len()
            - if self.frame.len() < 128 {
                2
            } else if self.frame.len() < 65_540 {
                4
            } else {
                10
            }
    }
}
