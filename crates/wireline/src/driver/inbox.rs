//! What was read and the application has not taken yet.

use std::collections::VecDeque;

use bytes::Bytes;
use wireline_proto::MessageKind;

use super::buffers;
use crate::Message;

/// Bytes of payload that are read ahead of the application. Raised, it is memory that each connection
/// whose application is busy can hold.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Messages that are read ahead, since a message without payload costs memory too.
const READ_AHEAD_MESSAGES: usize = 1024;

/// What a connection receives for its application.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// Only where [`Core::tells_pings`](super::core::Core::tells_pings). The Pong is on its way.
    Ping(Bytes),
    /// Only where [`Config::receive_in_pieces`](crate::Config::receive_in_pieces).
    Piece(Piece),
}

/// A part of a message, as [`wireline_proto::Piece`] has it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) kind: MessageKind,
    pub(crate) payload: Bytes,
    pub(crate) begins_message: bool,
    pub(crate) ends_frame: bool,
    pub(crate) ends_message: bool,
}

impl From<wireline_proto::Piece<'_>> for Piece {
    fn from(piece: wireline_proto::Piece<'_>) -> Self {
        let wireline_proto::Piece { kind, payload, begins_message, ends_frame, ends_message } = piece;
        Self { kind, payload: payload.into_bytes(), begins_message, ends_frame, ends_message }
    }
}

impl Received {
    fn len(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Ping(payload) => payload.len(),
            Self::Piece(piece) => piece.payload.len(),
        }
    }
}

/// Decoded messages, and received bytes behind them that are not decoded yet. Both are bounded. What
/// holds them is lent by the thread, so that an empty inbox costs a pointer.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    backlog: Option<Box<Backlog>>,
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    messages: VecDeque<Received>,
    message_bytes: usize,
    /// Received bytes, of which those from `tail_at` on are not decoded yet.
    tail: Vec<u8>,
    tail_at: usize,
}

impl Backlog {
    /// Bytes that it holds on to while it is empty.
    pub(super) fn capacity(&self) -> usize {
        self.messages.capacity() * size_of::<Received>() + self.tail.capacity()
    }
}

impl Inbox {
    pub(super) fn push(&mut self, message: Received) {
        let backlog = self.backlog();
        backlog.message_bytes += message.len();
        backlog.messages.push_back(message);
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Received> {
        let backlog = self.backlog.as_mut()?;
        let message = backlog.messages.pop_front()?;
        backlog.message_bytes -= message.len();
        self.give_back_if_empty();
        Some(message)
    }

    #[inline]
    pub(super) fn has_message(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.messages.is_empty())
    }

    /// Whether nothing more should be read ahead.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| {
            backlog.message_bytes >= READ_AHEAD_BYTES || backlog.messages.len() >= READ_AHEAD_MESSAGES
        })
    }

    #[inline]
    pub(super) fn has_tail(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.tail.is_empty())
    }

    /// Keeps received bytes for later.
    pub(super) fn keep_tail(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.backlog().tail.extend_from_slice(bytes);
        }
    }

    /// Takes the kept bytes out to decode from them; [`put_tail_back`](Self::put_tail_back) follows.
    #[inline]
    pub(super) fn take_tail(&mut self) -> (Vec<u8>, usize) {
        match &mut self.backlog {
            Some(backlog) => (std::mem::take(&mut backlog.tail), backlog.tail_at),
            None => (Vec::new(), 0),
        }
    }

    /// The last `left` bytes of what was taken out are still not decoded.
    #[inline]
    pub(super) fn put_tail_back(&mut self, mut tail: Vec<u8>, left: usize) {
        let tail_at = tail.len() - left;
        if left == 0 {
            tail.clear();
        }
        let backlog = self.backlog();
        backlog.tail_at = if left == 0 { 0 } else { tail_at };
        backlog.tail = tail;
        self.give_back_if_empty();
    }

    pub(super) fn clear_messages(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.messages.clear();
            backlog.message_bytes = 0;
        }
        self.give_back_if_empty();
    }

    pub(super) fn clear_tail(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.tail.clear();
            backlog.tail_at = 0;
        }
        self.give_back_if_empty();
    }

    #[inline]
    fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_with(buffers::take_backlog)
    }

    #[inline]
    fn give_back_if_empty(&mut self) {
        if self.backlog.as_ref().is_some_and(|backlog| backlog.messages.is_empty() && backlog.tail.is_empty())
            && let Some(backlog) = self.backlog.take()
        {
            buffers::keep_backlog(backlog);
        }
    }
}
