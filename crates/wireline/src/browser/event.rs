//! What a browser's WebSocket tells its listeners.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{CloseCause, ConnectError, Message, Utf8Bytes};

/// One of the four events.
#[derive(Debug, Clone)]
pub enum Event {
    /// The connection is open.
    Open,
    /// A message came.
    Message(MessageEvent),
    /// The connection failed; a [`CloseEvent`] comes next.
    Error(ErrorEvent),
    /// The connection is over. The last event.
    Close(CloseEvent),
}

impl Event {
    /// Which of the four it is.
    #[must_use]
    pub fn event_type(&self) -> EventType {
        match self {
            Self::Open => EventType::Open,
            Self::Message(_) => EventType::Message,
            Self::Error(_) => EventType::Error,
            Self::Close(_) => EventType::Close,
        }
    }
}

/// The name of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// `open`
    Open,
    /// `message`
    Message,
    /// `error`
    Error,
    /// `close`
    Close,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageEvent {
    /// What came.
    pub data: Data,
    /// The origin of the socket's URL, such as `ws://example.com:8080`.
    pub origin: Arc<str>,
}

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Text.
    Text(Utf8Bytes),
    /// Bytes that came while [`BinaryType::Blob`] was set.
    Blob(Bytes),
    /// Bytes that came while [`BinaryType::ArrayBuffer`] was set.
    ArrayBuffer(Bytes),
}

impl Data {
    pub(super) fn new(message: Message, binary_type: BinaryType) -> Self {
        match (message, binary_type) {
            (Message::Text(text), _) => Self::Text(text),
            (Message::Binary(bytes), BinaryType::Blob) => Self::Blob(bytes),
            (Message::Binary(bytes), BinaryType::ArrayBuffer) => Self::ArrayBuffer(bytes),
        }
    }

    /// The text, or `None` if it is binary.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Blob(_) | Self::ArrayBuffer(_) => None,
        }
    }

    /// The bytes, of any kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Blob(bytes) | Self::ArrayBuffer(bytes) => bytes,
        }
    }
}

/// Text as it is; binary as its length, `<5 bytes>`.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Blob(bytes) | Self::ArrayBuffer(bytes) => write!(f, "<{} bytes>", bytes.len()),
        }
    }
}

impl From<Data> for Message {
    fn from(data: Data) -> Self {
        match data {
            Data::Text(text) => Self::Text(text),
            Data::Blob(bytes) | Data::ArrayBuffer(bytes) => Self::Binary(bytes),
        }
    }
}

/// As what binary messages are given to listeners. Here both are [`Bytes`]: a `Blob` and an `ArrayBuffer`
/// differ in where a browser keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BinaryType {
    /// `"blob"`, until another is set.
    #[default]
    Blob,
    /// `"arraybuffer"`
    ArrayBuffer,
}

/// The connection failed. A browser gives no reason, lest a page learn about networks that it cannot see;
/// here it is told.
#[derive(Debug, Clone)]
pub struct ErrorEvent {
    /// Why.
    pub cause: Cause,
}

impl ErrorEvent {
    /// Why, in words.
    #[must_use]
    pub fn message(&self) -> String {
        self.cause.to_string()
    }
}

/// The connection is over.
#[derive(Debug, Clone, Default)]
pub struct CloseEvent {
    /// Whether the closing handshake completed, whatever its code.
    pub was_clean: bool,
    /// The code of the first Close frame that came: 1005 if it had none, 1006 if no frame came.
    pub code: u16,
    /// The reason in that frame; empty if it had none.
    pub reason: String,
    /// Why it was not clean, as the `error` event before it says. A browser does not tell.
    pub cause: Option<Cause>,
}

impl CloseEvent {
    /// The connection failed, and no Close frame came.
    pub(super) fn failed(cause: Cause) -> Self {
        Self { code: 1006, cause: Some(cause), ..Self::default() }
    }
}

/// Why a connection failed: what 1006 does not tell.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// It was never opened.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// `close()` was called before it was open.
    #[error("the connection was closed before it was open")]
    ClosedBeforeOpen,
    /// What `send()` was given did not fit below the send cap.
    #[error("more was sent than could be kept for a peer that does not read")]
    Full,
    /// It was open, and ended without a closing handshake.
    #[error(transparent)]
    Close(CloseCause),
}
