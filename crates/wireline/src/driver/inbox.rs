//! Decoded messages that the application has not taken yet.

use std::collections::VecDeque;

use super::buffers;
use crate::Message;

/// Bytes of payload that are read ahead of the application. Raised, it is memory that each connection
/// whose application is busy can hold.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Messages that are read ahead, since a message without payload costs memory too.
const READ_AHEAD_MESSAGES: usize = 1024;

/// A bounded queue. A single message waits in place; more of them in a queue that the thread lends.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    first: Option<Message>,
    rest: VecDeque<Message>,
    bytes: usize,
}

impl Inbox {
    #[inline]
    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.len();
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(message);
            return;
        }
        if self.rest.capacity() == 0 {
            self.rest = buffers::take_inbox();
        }
        self.rest.push_back(message);
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = match self.first.take() {
            Some(message) => message,
            None => self.pop_rest()?,
        };
        self.bytes -= message.len();
        Some(message)
    }

    #[inline]
    fn pop_rest(&mut self) -> Option<Message> {
        let message = self.rest.pop_front()?;
        if self.rest.is_empty() {
            buffers::keep_inbox(std::mem::take(&mut self.rest));
        }
        Some(message)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    /// Whether nothing more should be read ahead.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= READ_AHEAD_BYTES || self.rest.len() >= READ_AHEAD_MESSAGES
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
