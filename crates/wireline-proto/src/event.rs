//! What a connection tells its driver.

use bytes::Bytes;

use crate::{CloseCode, CloseFrameError, ProtocolError, frame::MAX_CONTROL_PAYLOAD};

/// What happened. Payloads borrow from the bytes given to
/// [`receive`](crate::Connection::receive) where they lie there whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// A whole message.
    Message(Message<'b>),
    /// A part of a message, with [`Config::receive_in_pieces`](crate::Config::receive_in_pieces).
    Piece(Piece<'b>),
    /// A Ping. The Pong is already queued.
    Ping(Payload<'b>),
    /// A Pong, asked for or not.
    Pong(Payload<'b>),
    /// The end; exactly one, and the last event.
    Closed(Closed),
}

/// Whether a message is text or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// UTF-8 text, checked.
    Text,
    /// Bytes.
    Binary,
}

impl MessageKind {
    /// The opcode of the message's first frame.
    #[inline]
    pub(crate) const fn opcode(self) -> crate::Opcode {
        match self {
            Self::Text => crate::Opcode::Text,
            Self::Binary => crate::Opcode::Binary,
        }
    }
}

/// A whole received message. The payload of a [`MessageKind::Text`] is valid UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'b> {
    // Private, so that a `Text` is proof of a passed check.
    pub(crate) kind: MessageKind,
    pub(crate) payload: Payload<'b>,
}

impl<'b> Message<'b> {
    /// Text or binary.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The unmasked bytes.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.payload.as_ref()
    }

    /// The unmasked bytes, with what is needed to keep them.
    #[must_use]
    #[inline]
    pub fn into_payload(self) -> Payload<'b> {
        self.payload
    }
}

/// A part of a message, as it came: at most a frame, and at most what one read brought of it.
///
/// The pieces of a [`MessageKind::Text`] are UTF-8 together; one may end within a character.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'b> {
    /// Of the whole message.
    pub kind: MessageKind,
    /// The unmasked bytes, which may be none.
    pub payload: Payload<'b>,
    /// It is the first piece of its message.
    pub begins_message: bool,
    /// It is the last piece of its frame.
    pub ends_frame: bool,
    /// It is the last piece of its message.
    pub ends_message: bool,
}

/// Unmasked payload bytes.
#[derive(Debug, Clone)]
pub enum Payload<'b> {
    /// They lie whole in the bytes that were received.
    Borrowed(&'b [u8]),
    /// They came in pieces and were put together.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    /// The bytes, kept: copied if borrowed, moved if owned.
    #[must_use]
    #[inline]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => Bytes::from(bytes),
        }
    }
}

impl AsRef<[u8]> for Payload<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl PartialEq for Payload<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Payload<'_> {}

/// A code and a reason, checked to be fit for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    code: CloseCode,
    reason: String,
}

impl CloseFrame {
    /// # Errors
    /// When the code must not be sent or the reason has more than 123 bytes.
    pub fn new(code: impl Into<CloseCode>, reason: impl Into<String>) -> Result<Self, CloseFrameError> {
        let (code, reason) = (code.into(), reason.into());
        if !code.is_sendable() {
            return Err(CloseFrameError::UnsendableCode(code));
        }
        if reason.len() > MAX_CONTROL_PAYLOAD - 2 {
            return Err(CloseFrameError::ReasonTooLong(reason.len()));
        }
        Ok(Self { code, reason })
    }

    /// A code that is known to be sendable, without a reason.
    pub(crate) fn of(code: CloseCode) -> Self {
        debug_assert!(code.is_sendable());
        Self { code, reason: String::new() }
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> CloseCode {
        self.code
    }

    /// The reason; often empty.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Reads the payload of a received Close frame; `None` is a frame without a code.
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::TruncatedCloseCode) };
        };
        let code = u16::from_be_bytes(*code);
        if !CloseCode::from(code).is_receivable() {
            return Err(ProtocolError::InvalidCloseCode(code));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidCloseReason)?;
        Ok(Some(Self { code: code.into(), reason: reason.to_owned() }))
    }

    /// The payload as it goes on the wire.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = u16::from(self.code).to_be_bytes().to_vec();
        payload.extend_from_slice(self.reason.as_bytes());
        payload
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Whether the closing handshake completed: a Close frame sent and one received.
    pub was_clean: bool,
    /// The code of the first Close frame received: 1005 if it had none, 1006 if none came.
    pub code: CloseCode,
    /// The reason of that frame; empty if it had none.
    pub reason: String,
    /// Who began to end it.
    pub initiator: Initiator,
    /// Why it was not clean. `None` if it was.
    pub cause: Option<Cause>,
}

/// Who began to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiator {
    /// The application at this end.
    User,
    /// This library, for a broken rule, a passed limit, or a silent peer.
    Library,
    /// The peer, or whatever took the transport away.
    Remote,
}

/// Why a connection ended without a closing handshake: what 1006 does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The peer broke a rule or passed a limit.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer gave no sign of life after a Ping.
    #[error("the peer did not answer a Ping in time")]
    PingTimeout,
    /// The peer did not answer our Close frame, or did not take it.
    #[error("the peer did not complete the closing handshake in time")]
    CloseTimeout,
    /// The transport ended or failed without a Close frame.
    #[error("the connection was lost without a Close frame")]
    ConnectionLost,
    /// This end gave the connection up.
    #[error("the connection was aborted at this end")]
    Aborted,
}
