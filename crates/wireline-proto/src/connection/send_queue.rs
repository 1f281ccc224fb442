//! Bytes on their way out: small frames in one buffer, large payloads by reference.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

use crate::frame::MAX_HEADER_LEN;

/// Dead bytes at the front of the buffer that are worth a move of the rest.
const COMPACT_ABOVE: usize = 64 << 10;

/// What was encoded and not yet transmitted, in order.
///
/// Frames are appended to `buffer`. A large payload is not copied there: it waits in `bulk`, with the
/// place in `buffer` where it belongs.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    buffer: Vec<u8>,
    /// How much of `buffer` was transmitted.
    head: usize,
    #[expect(clippy::box_collection, reason = "an idle connection pays 8 bytes for it instead of 32")]
    bulk: Option<Box<VecDeque<Bulk>>>,
    len: usize,
}

/// An encoded frame header and its length.
pub(crate) type Header = ([u8; MAX_HEADER_LEN], usize);

#[derive(Debug)]
struct Bulk {
    /// Goes out once `head` has come here.
    at: usize,
    bytes: Bytes,
}

impl SendQueue {
    /// Bytes not yet transmitted.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `header` and `payload`, and gives the payload's copy for masking.
    #[inline]
    pub(crate) fn push(&mut self, header: &Header, payload: &[u8]) -> &mut [u8] {
        let (bytes, len) = header;
        self.len += len + payload.len();
        self.buffer.reserve(MAX_HEADER_LEN + payload.len());
        // A copy of fixed length is a few instructions; what is too much is taken back.
        let start = self.buffer.len() + len;
        self.buffer.extend_from_slice(bytes);
        self.buffer.truncate(start);
        self.buffer.extend_from_slice(payload);
        &mut self.buffer[start..]
    }

    /// Appends what `encode` appends to the buffer that it is given, if it says so. If not, it leaves
    /// nothing behind, nor much room that it took.
    pub(crate) fn push_with(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let (before, capacity) = (self.buffer.len(), self.buffer.capacity());
        let is_done = encode(&mut self.buffer);
        if is_done {
            self.len += self.buffer.len() - before;
            return true;
        }
        self.buffer.truncate(before);
        if self.buffer.capacity() > capacity.max(COMPACT_ABOVE) {
            self.buffer.shrink_to(capacity);
        }
        false
    }

    /// Appends a copy of `header`, then `payload` by reference.
    pub(crate) fn push_bulk(&mut self, (header, len): &Header, payload: Bytes) {
        self.push_encoded(&header[..*len]);
        self.push_encoded_bulk(payload);
    }

    /// Appends a copy of whole frames.
    #[inline]
    pub(crate) fn push_encoded(&mut self, frames: &[u8]) {
        self.len += frames.len();
        self.buffer.extend_from_slice(frames);
    }

    /// Appends whole frames by reference.
    pub(crate) fn push_encoded_bulk(&mut self, frames: Bytes) {
        self.len += frames.len();
        let at = self.buffer.len();
        self.bulk.get_or_insert_default().push_back(Bulk { at, bytes: frames });
    }

    /// Fills `slices` with what comes next; the number of slices filled.
    #[inline]
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(bulk) = &self.bulk else {
            return match (&self.buffer[self.head..], slices) {
                ([], _) | (_, []) => 0,
                (next, [first, ..]) => {
                    *first = IoSlice::new(next);
                    1
                }
            };
        };
        let mut filled = 0;
        let mut start = self.head;
        let mut bulk = bulk.iter();
        while filled < slices.len() {
            let next = bulk.next();
            let end = next.map_or(self.buffer.len(), |next| next.at);
            if start < end {
                slices[filled] = IoSlice::new(&self.buffer[start..end]);
                filled += 1;
                start = end;
            }
            let Some(next) = next else { break };
            if filled < slices.len() {
                slices[filled] = IoSlice::new(&next.bytes);
                filled += 1;
            }
        }
        filled
    }

    /// Forgets the first `count` bytes, which were transmitted.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len, "more transmitted than was queued");
        self.len -= count.min(self.len);
        if self.len == 0 {
            self.buffer.clear();
            self.head = 0;
            if let Some(bulk) = &mut self.bulk {
                bulk.clear();
            }
        } else {
            self.advance_partly(count);
        }
    }

    fn advance_partly(&mut self, mut count: usize) {
        while count > 0 {
            let front = self.bulk.as_ref().and_then(|bulk| bulk.front());
            let end = front.map_or(self.buffer.len(), |next| next.at);
            let buffered = count.min(end - self.head);
            self.head += buffered;
            count -= buffered;
            if count > 0
                && let Some(bulk) = &mut self.bulk
                && let Some(front) = bulk.front_mut()
            {
                let sent = count.min(front.bytes.len());
                bytes::Buf::advance(&mut front.bytes, sent);
                count -= sent;
                if front.bytes.is_empty() {
                    bulk.pop_front();
                }
            }
        }
        if self.head > COMPACT_ABOVE && self.head > self.buffer.len() / 2 {
            self.buffer.drain(..self.head);
            for bulk in self.bulk.iter_mut().flat_map(|bulk| bulk.iter_mut()) {
                bulk.at -= self.head;
            }
            self.head = 0;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes a buffer to encode into, unless there is one.
    #[inline]
    pub(crate) fn lend_buffer(&mut self, lend: impl FnOnce() -> Vec<u8>) {
        if self.buffer.capacity() == 0 {
            self.buffer = lend();
        }
    }

    /// Gives the buffer back once everything in it was transmitted, and keeps nothing.
    #[inline]
    pub(crate) fn reclaim_buffer(&mut self) -> Option<Vec<u8>> {
        if self.len > 0 {
            return None;
        }
        if self.bulk.is_some() {
            self.bulk = None;
        }
        (self.buffer.capacity() > 0).then(|| std::mem::take(&mut self.buffer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(bytes: &[u8]) -> Header {
        let mut header = [0; MAX_HEADER_LEN];
        header[..bytes.len()].copy_from_slice(bytes);
        (header, bytes.len())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Small(Vec<u8>),
        Bulk(Vec<u8>),
        /// What is tried, and given up.
        GivenUp(Vec<u8>),
        With(Vec<u8>),
        Transmit {
            slices: usize,
            portion: prop::sample::Index,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 1..50);
        prop_oneof![
            bytes().prop_map(Step::Small),
            bytes().prop_map(Step::Bulk),
            bytes().prop_map(Step::GivenUp),
            bytes().prop_map(Step::With),
            (1usize..5, any::<prop::sample::Index>())
                .prop_map(|(slices, portion)| Step::Transmit { slices, portion }),
        ]
    }

    /// Transmits what the first `slices` slices hold, or the part of it that `portion` picks.
    fn transmit(queue: &mut SendQueue, slices: usize, portion: Option<prop::sample::Index>) -> Vec<u8> {
        let mut filled = vec![IoSlice::new(&[]); slices];
        let count = queue.slices(&mut filled);
        let mut bytes: Vec<u8> = filled[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        if let Some(portion) = portion {
            bytes.truncate(portion.index(bytes.len() + 1));
        }
        queue.advance(bytes.len());
        bytes
    }

    proptest! {
        #[test]
        fn gives_out_what_was_put_in_whatever_the_writes(steps in prop::collection::vec(step(), 0..40)) {
            let mut queue = SendQueue::default();
            let (mut expected, mut transmitted) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Small(bytes) => {
                        queue.push(&header(b"h"), &bytes);
                        expected.push(b'h');
                        expected.extend(bytes);
                    }
                    Step::Bulk(bytes) => {
                        expected.push(b'h');
                        expected.extend(&bytes);
                        queue.push_bulk(&header(b"h"), bytes.into());
                    }
                    Step::GivenUp(bytes) => {
                        let is_done = queue.push_with(|buffer| {
                            buffer.extend(bytes);
                            false
                        });
                        prop_assert!(!is_done);
                    }
                    Step::With(bytes) => {
                        expected.extend(&bytes);
                        let is_done = queue.push_with(|buffer| {
                            buffer.extend(bytes);
                            true
                        });
                        prop_assert!(is_done);
                    }
                    Step::Transmit { slices, portion } => {
                        transmitted.extend(transmit(&mut queue, slices, Some(portion)));
                    }
                }
                prop_assert_eq!(queue.len(), expected.len() - transmitted.len());
            }
            while !queue.is_empty() {
                transmitted.extend(transmit(&mut queue, 4, None));
            }
            prop_assert_eq!(transmitted, expected);
            prop_assert!(queue.reclaim_buffer().is_none_or(|buffer| buffer.is_empty()));
        }
    }

    #[test]
    fn what_is_given_up_leaves_no_room_behind() {
        let mut queue = SendQueue::default();
        queue.push(&header(b"h"), b"before");
        let is_done = queue.push_with(|buffer| {
            buffer.resize(1 << 20, 1);
            false
        });
        assert!(!is_done);
        assert_eq!(queue.len(), 7);
        assert!(queue.buffer.capacity() <= COMPACT_ABOVE, "{}", queue.buffer.capacity());
    }

    #[test]
    fn a_buffer_that_never_drains_is_compacted() {
        let mut queue = SendQueue::default();
        queue.push(&header(b""), &[1; 1000]);
        for _ in 0..10_000 {
            queue.push(&header(b""), &[2; 1000]);
            queue.advance(1000);
        }
        assert!(queue.buffer.capacity() < 4 * COMPACT_ABOVE, "{}", queue.buffer.capacity());
    }
}
