//! A message framed once, for any number of connections.

use std::sync::Arc;

use wireline_proto::Compress;

use crate::Message;

/// A message that is framed once and sent to any number of connections, which share its bytes.
///
/// A server's connections do; a client has to mask every frame anew (RFC 6455 section 5.3), so there this
/// saves nothing. It is not compressed. Cloning it is cheap.
///
/// ```no_run
/// use wireline::{Prepared, SendError, Socket};
///
/// /// Sends `text` to everyone, and gives up those who do not read.
/// fn publish(sockets: &mut Vec<Socket>, text: &str) {
///     let prepared = Prepared::new(text);
///     sockets.retain(|socket| match socket.try_send_prepared(&prepared) {
///         Ok(()) => true,
///         Err(SendError::Full { .. }) => {
///             socket.abort();
///             false
///         }
///         Err(_) => false,
///     });
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Prepared(pub(crate) Arc<wireline_proto::Prepared>);

impl Prepared {
    /// Frames a message.
    #[must_use]
    pub fn new(message: impl Into<Message>) -> Self {
        let message = message.into();
        let kind = match message {
            Message::Text(_) => wireline_proto::MessageKind::Text,
            Message::Binary(_) => wireline_proto::MessageKind::Binary,
        };
        Self(Arc::new(wireline_proto::Prepared::new(kind, message.into_bytes())))
    }

    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.payload().len()
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Into<Message>> From<M> for Prepared {
    fn from(message: M) -> Self {
        Self::new(message)
    }
}

/// What the sending side of a connection takes.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Message, Compress),
    Prepared(Prepared),
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Message(message, _) => message.len(),
            Self::Prepared(prepared) => prepared.len(),
        }
    }
}

impl<M: Into<Message>> From<M> for Outgoing {
    fn from(message: M) -> Self {
        Self::Message(message.into(), Compress::default())
    }
}
