//! What the browser throws.

use wireline_proto::CloseCode;

use crate::ConnectError;

/// What a browser throws at whoever uses a [`WebSocket`](super::WebSocket) wrongly, under its name there.
/// The socket is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Exception {
    /// A URL, a subprotocol or a header that cannot be used, or a reason that is too long: it says what.
    #[error("SyntaxError: {0}")]
    SyntaxError(String),
    /// A close code that is neither 1000 nor one of 3000 to 4999.
    #[error("InvalidAccessError: the close code must be 1000, or one of 3000 to 4999, and not {}", u16::from(*.0))]
    InvalidAccessError(CloseCode),
    /// A message before the connection was open.
    #[error("InvalidStateError: nothing can be sent before the connection is open")]
    InvalidStateError,
}

impl Exception {
    /// The name of the `DOMException`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SyntaxError(_) => "SyntaxError",
            Self::InvalidAccessError(_) => "InvalidAccessError",
            Self::InvalidStateError => "InvalidStateError",
        }
    }
}

/// What is wrong with a URL or a subprotocol, before anything is done about it.
impl From<ConnectError> for Exception {
    fn from(error: ConnectError) -> Self {
        Self::SyntaxError(error.to_string())
    }
}
