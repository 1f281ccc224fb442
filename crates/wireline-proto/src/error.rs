//! What a peer can do wrong, and the close code each of it gets; what a caller can do wrong.

use crate::{CloseCode, frame::FrameError};

/// A rule of RFC 6455 that the peer broke, or a limit of ours that it passed. The connection is failed
/// with [`close_code`](Self::close_code) (section 7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The bytes are no frame header.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// RSV1 is set though no negotiated extension uses it there.
    #[error("the peer set RSV1, which no negotiated extension allows there")]
    ReservedBit1,
    /// A client sent a frame without masking it (section 5.1).
    #[error("the client sent an unmasked frame")]
    UnmaskedFrame,
    /// A server masked a frame (section 5.1).
    #[error("the server sent a masked frame")]
    MaskedFrame,
    /// A continuation frame with no message to continue (section 5.4).
    #[error("the peer sent a continuation frame with no message begun")]
    UnexpectedContinuation,
    /// A new message before the last fragment of the one begun (section 5.4).
    #[error("the peer began a message within another")]
    ContinuationExpected,
    /// Text that is not UTF-8 (section 8.1).
    #[error("the peer sent text that is not UTF-8")]
    InvalidUtf8,
    /// A compressed message that is not DEFLATE, or not whole (RFC 7692 section 7.2.2).
    #[error("the peer sent a compressed message that is not valid")]
    InvalidDeflate,
    /// A compressed message that ends its DEFLATE stream more often than any sender has reason to.
    #[error("the peer sent a compressed message with more than {limit} final blocks")]
    TooManyFinalBlocks {
        /// The limit in force.
        limit: u32,
    },
    /// A Close frame with one byte of payload (section 5.5.1).
    #[error("the peer sent a Close frame with half a close code")]
    TruncatedCloseCode,
    /// A close code that must not be on the wire (section 7.4).
    #[error("the peer sent the close code {0}, which must not be sent")]
    InvalidCloseCode(u16),
    /// A close reason that is not UTF-8 (section 5.5.1).
    #[error("the peer sent a close reason that is not UTF-8")]
    InvalidCloseReason,
    /// A frame above `max_frame_size`.
    #[error("the peer announced a frame of {announced} bytes; the limit is {limit}")]
    FrameTooBig {
        /// Bytes of payload that the header announced.
        announced: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A message above `max_message_size`.
    #[error("the peer announced a message of at least {announced} bytes; the limit is {limit}")]
    MessageTooBig {
        /// Bytes of payload so far, and those that the header announced. Of a compressed message, bytes
        /// that were inflated.
        announced: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A message in more than `max_fragments` frames.
    #[error("the peer sent a message in more than {limit} fragments")]
    TooManyFragments {
        /// The limit in force.
        limit: u32,
    },
}

impl ProtocolError {
    /// The close code that tells the peer (section 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Frame(_)
            | Self::ReservedBit1
            | Self::UnmaskedFrame
            | Self::MaskedFrame
            | Self::UnexpectedContinuation
            | Self::ContinuationExpected
            | Self::TruncatedCloseCode
            | Self::InvalidCloseCode(_) => CloseCode::PROTOCOL_ERROR,
            Self::InvalidUtf8 | Self::InvalidCloseReason | Self::InvalidDeflate => CloseCode::INVALID_PAYLOAD,
            Self::FrameTooBig { .. }
            | Self::MessageTooBig { .. }
            | Self::TooManyFragments { .. }
            | Self::TooManyFinalBlocks { .. } => CloseCode::MESSAGE_TOO_BIG,
        }
    }
}

/// Why a frame was not queued. The connection is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A Close frame was sent or received, or the connection was lost.
    #[error("the connection is closing or closed")]
    Closed,
    /// A message is being sent in pieces; another can be sent behind its last one (section 5.4).
    #[error("a message is being sent in pieces, and no other can go between them")]
    MessageUnderWay,
    /// A piece of a text that is not UTF-8 (section 5.6).
    #[error("text must be UTF-8; send other bytes as a binary message")]
    InvalidUtf8,
    /// A Ping or Pong with more than 125 bytes (section 5.5).
    #[error("a Ping or Pong carries at most 125 bytes; this one has {0}")]
    ControlPayloadTooBig(usize),
}

/// A Close frame that must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseFrameError {
    /// See [`CloseCode::is_sendable`].
    #[error("the close code {0} must not be sent; use 1000 or one of 3000-4999")]
    UnsendableCode(CloseCode),
    /// A reason of more than 123 bytes (section 5.5).
    #[error("a close reason has at most 123 bytes of UTF-8; this one has {0}")]
    ReasonTooLong(usize),
}
