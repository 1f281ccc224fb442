//! What is sent and received: text or bytes.

use std::fmt;

use bytes::Bytes;

pub use self::text::Utf8Bytes;

mod text;

/// A whole message. Two kinds, as in the browser and as in the protocol.
///
/// ```
/// use wireline::Message;
///
/// let message = Message::from("My name is John");
/// match &message {
///     Message::Text(text) => assert!(text.starts_with("My name")),
///     Message::Binary(bytes) => println!("{} bytes", bytes.len()),
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// UTF-8 text, checked when it was received.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// The text, or `None` if it is binary.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The payload, of either kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The payload, of either kind, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.into(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty. Empty messages are messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Text as it is; binary as its length, `<5 bytes>`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Binary(bytes) => write!(f, "<{} bytes>", bytes.len()),
        }
    }
}

macro_rules! from {
    ($kind:ident: $($source:ty),+) => {$(
        impl From<$source> for Message {
            fn from(payload: $source) -> Self {
                Self::$kind(payload.into())
            }
        }
    )+};
}

from!(Text: Utf8Bytes, String, &str, Box<str>, std::borrow::Cow<'_, str>);
from!(Binary: Bytes, Vec<u8>, bytes::BytesMut, Box<[u8]>);

impl From<&[u8]> for Message {
    fn from(payload: &[u8]) -> Self {
        Self::Binary(Bytes::copy_from_slice(payload))
    }
}

impl<const N: usize> From<[u8; N]> for Message {
    fn from(payload: [u8; N]) -> Self {
        Self::Binary(Bytes::copy_from_slice(&payload))
    }
}
