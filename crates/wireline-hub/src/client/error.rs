//! What goes wrong for a client.

use std::sync::Arc;

use wireline::{CloseEvent, ConnectError, ReconnectError};

use crate::InvalidTopic;

/// Why a client does not do what it was asked for, or ended. Losses of the connection are none: it comes back.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The caller's fault: there is no such topic.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// The caller's fault: the client has subscribed to the topic already.
    #[error("the client has subscribed to this topic already")]
    AlreadySubscribed,
    /// The server said no. To a publication that it could not take yet it did so for 90 s: it may have been published
    /// all the same, so that another try needs the same [key](super::Publish::key).
    #[error("the server refused: {code}")]
    Refused {
        /// The server's word: `forbidden`, `unavailable`, `too_large`, `unauthorized` and others.
        code: String,
        /// Another try may go better.
        is_temporary: bool,
    },
    /// It may have been published: the connection was lost before the answer came, and by now the server would not
    /// know a second attempt as one.
    #[error("the connection was lost, and it may have been published")]
    Unknown,
    /// The client ended: it cannot connect, and that lasts.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The client ended: the server closed the connection and does not want it back.
    #[error("the server does not want this client back: {0}")]
    Closed(CloseEvent),
    /// The client ended, since it was closed at this end.
    #[error("the client is closed")]
    Ended,
}

impl ClientError {
    /// Whether another try may go better.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Refused { is_temporary: true, .. })
    }

    /// The server's word, if it refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl From<ReconnectError> for ClientError {
    fn from(error: ReconnectError) -> Self {
        match error {
            ReconnectError::Connect(error) => Self::Connect(Arc::new(error)),
            ReconnectError::Closed(event) => Self::Closed(event),
            // Nothing is done before a connection is given out.
            _ => Self::Ended,
        }
    }
}

impl From<std::convert::Infallible> for ClientError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
