//! `bufferedAmount`: what the application sent and the network does not have yet.

use std::{collections::VecDeque, ops::Range};

/// Bytes of messages, without headers, and how many of them the network has.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    /// All that was ever sent.
    sent: u64,
    /// Messages that the network does not have whole, in order.
    waiting: VecDeque<Waiting>,
    /// Bytes of the messages that it has whole.
    handed_over_whole: u64,
}

#[derive(Debug)]
struct Waiting {
    /// Bytes of the message.
    len: u64,
    /// Where its frames lie among the bytes that this end transmits.
    frames: Range<u64>,
}

impl Buffered {
    /// What the network does not have, if it has `handed_over` bytes of messages.
    pub(super) fn amount(&self, handed_over: u64) -> u64 {
        self.sent - handed_over
    }

    /// A message of `len` bytes was sent and will never go out.
    pub(super) fn lose(&mut self, len: usize) {
        self.sent += len as u64;
    }

    /// A message of `len` bytes was sent, and queued as `frames`.
    pub(super) fn queue(&mut self, len: usize, frames: Range<u64>) {
        self.sent += len as u64;
        self.waiting.push_back(Waiting { len: len as u64, frames });
    }

    /// How many bytes of messages the network has, if it has the first `transmitted` bytes of what this end
    /// transmits.
    pub(super) fn handed_over(&mut self, transmitted: u64) -> u64 {
        while let Some(first) = self.waiting.pop_front_if(|first| first.frames.end <= transmitted) {
            self.handed_over_whole += first.len;
        }
        let part = self.waiting.front().map_or(0, |first| first.part_before(transmitted));
        self.handed_over_whole + part
    }
}

impl Waiting {
    /// How much of the message lies before `transmitted`: of a compressed one nothing, since nobody knows
    /// which bytes are in which.
    fn part_before(&self, transmitted: u64) -> u64 {
        let is_compressed = self.frames.end - self.frames.start < self.len;
        if is_compressed { 0 } else { self.len.saturating_sub(self.frames.end - transmitted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_do_not_count_and_a_message_goes_byte_by_byte() {
        let mut buffered = Buffered::default();
        buffered.queue(10, 0..16);
        buffered.queue(300, 20..328);
        let amounts = [0, 6, 7, 15, 16, 20, 28, 29, 327, 328].map(|transmitted| {
            let handed_over = buffered.handed_over(transmitted);
            buffered.amount(handed_over)
        });
        assert_eq!(amounts, [310, 310, 309, 301, 300, 300, 300, 299, 1, 0]);
    }

    #[test]
    fn a_compressed_message_counts_until_it_is_out() {
        let mut buffered = Buffered::default();
        buffered.queue(1000, 0..50);
        for transmitted in [0, 1, 49] {
            assert_eq!(buffered.handed_over(transmitted), 0);
        }
        assert_eq!(buffered.handed_over(50), 1000);
        assert_eq!(buffered.amount(1000), 0);
    }

    #[test]
    fn what_is_lost_stays() {
        let mut buffered = Buffered::default();
        buffered.lose(3);
        buffered.queue(4, 0..10);
        buffered.lose(5);
        let handed_over = buffered.handed_over(u64::MAX);
        assert_eq!(buffered.amount(handed_over), 8);
    }
}
