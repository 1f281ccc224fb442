//! Where a connection stands between its opening handshake and the end of its transport.

use crate::event::{Cause, Closed, Initiator};

/// States say what they wait for.
///
/// ```text
///                       close()
///           Open ───────────────────► AwaitingPeerClose
///            │ peer's Close, or it broke a rule    │ peer's Close, or it broke a rule
///            ▼                                     ▼
///            └────────► AwaitingTransmit ◄─────────┘     the Close frame is on its way out
///                              │ all transmitted: the outcome is told
///                              ▼
///                         AwaitingEof                    sending side shut, bytes are dropped
///                              │ end of file or deadline
///                              ▼
///   lost, aborted or timed out before that ──► Finished ──► Closed
///                                              the outcome is told
/// ```
#[derive(Debug)]
pub(super) enum State {
    /// Messages go both ways.
    Open,
    /// Our Close frame is queued or sent; messages still come in.
    AwaitingPeerClose {
        /// Who wanted it.
        initiator: Initiator,
    },
    /// The outcome is known; the last bytes are on their way out.
    AwaitingTransmit(Box<Closed>),
    /// The outcome was told; the peer is given time to read what was sent.
    AwaitingEof,
    /// The transport is of no more use; the outcome is to be told.
    Finished(Box<Closed>),
    /// Nothing is left to do.
    Closed,
}

impl State {
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    #[inline]
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self, Self::Open | Self::AwaitingPeerClose { .. })
    }
}

impl Closed {
    /// The end of a connection on which no Close frame was received.
    pub(super) fn failed(cause: Cause, initiator: Initiator) -> Self {
        Self { initiator, cause: Some(cause), ..Self::default() }
    }

    /// The closing handshake could not be finished after all.
    pub(super) fn interrupt(&mut self, cause: Cause) {
        self.was_clean = false;
        self.cause.get_or_insert(cause);
    }
}

impl Default for Closed {
    fn default() -> Self {
        Self {
            was_clean: false,
            code: crate::CloseCode::ABNORMAL,
            reason: String::new(),
            initiator: Initiator::Remote,
            cause: None,
        }
    }
}
