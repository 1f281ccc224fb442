//! How a connection ended, told in full.

use std::{fmt, io, sync::Arc};

use wireline_proto::{Cause, CloseCode, Closed, Initiator, ProtocolError};

/// How a connection ended: what the browser's `CloseEvent` says, and what it does not.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let mut ws = wireline::connect("ws://127.0.0.1:8080/").await?;
/// ws.close();
/// let close = ws.closed().await;
/// println!("{close}"); // clean, 1005 no status received
/// assert!(close.was_clean && close.cause.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CloseEvent {
    /// Whether the closing handshake completed: a Close frame sent and one received, whatever the code.
    pub was_clean: bool,
    /// The code of the first Close frame received: 1005 if it had none, 1006 if no frame came.
    pub code: CloseCode,
    /// The reason of that frame; empty if it had none.
    pub reason: String,
    /// Who began to end it.
    pub initiator: Initiator,
    /// Why it was not clean: what 1006 does not tell.
    pub cause: Option<CloseCause>,
}

impl CloseEvent {
    pub(crate) fn new(closed: Closed, transport_error: Option<io::Error>) -> Self {
        let cause = closed.cause.map(|cause| match (CloseCause::from(cause), transport_error) {
            (CloseCause::ConnectionLost, Some(error)) => CloseCause::Transport(Arc::new(error)),
            (cause, _) => cause,
        });
        Self {
            was_clean: closed.was_clean,
            code: closed.code,
            reason: closed.reason,
            initiator: closed.initiator,
            cause,
        }
    }
}

/// In words: `clean, 1000 normal closure: "done"`, or `not clean: the peer did not answer a Ping in time`.
impl fmt::Display for CloseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cause) = &self.cause {
            return write!(f, "not clean: {cause}");
        }
        let by = match self.initiator {
            Initiator::User => "by this end",
            Initiator::Library => "by wireline at this end",
            Initiator::Remote => "by the peer",
        };
        write!(f, "closed cleanly {by}, {}", self.code)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {:?}", self.reason) }
    }
}

/// Why a connection ended without a closing handshake.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CloseCause {
    /// The peer broke a rule of the protocol or passed a limit; it was told with a Close frame.
    #[error(transparent)]
    Protocol(ProtocolError),
    /// The peer gave no sign of life after a Ping.
    #[error("the peer did not answer a Ping in time")]
    PingTimeout,
    /// The peer did not complete the closing handshake in time.
    #[error("the peer did not complete the closing handshake in time")]
    CloseTimeout,
    /// The peer, or something between, ended the connection without a Close frame.
    #[error("the connection was lost without a Close frame")]
    ConnectionLost,
    /// Reading or writing failed.
    #[error("the connection was lost: {0}")]
    Transport(Arc<io::Error>),
    /// Messages that came after this end began to close were dropped, since nobody took them.
    #[error("messages that came while this end was closing were dropped, since nobody took them")]
    Unread,
    /// The closing handshake completed within a message, whose end did not come.
    #[error("the connection was closed within a message")]
    UnfinishedMessage,
    /// This end gave the connection up: `abort()`, or the runtime ended.
    #[error("the connection was aborted at this end")]
    Aborted,
}

impl From<Cause> for CloseCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Protocol(error) => Self::Protocol(error),
            Cause::PingTimeout => Self::PingTimeout,
            Cause::CloseTimeout => Self::CloseTimeout,
            Cause::Aborted => Self::Aborted,
            _ => Self::ConnectionLost,
        }
    }
}
