//! What one connection has to send: a place in an endless row of frames, and no bytes.
//!
//! A frame is a function of its number (see [`Masks`] and [`Payload`]), so frames are made into a buffer
//! that all connections share, right before the write, and what a full socket did not take is made again.

use std::io::IoSlice;

use super::{masks::Masks, payload::Payload};

/// The row of frames of one connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    masks: Masks,
    /// The number of the frame that is sent next, or half sent.
    sequence: u64,
    /// How many bytes of that frame are sent.
    offset: usize,
    /// How many frames are to be sent, the half-sent one included.
    owed: u64,
}

impl Outgoing {
    /// A row from its start, nothing owed.
    pub(super) fn new(masks: Masks) -> Self {
        Self { masks, sequence: 0, offset: 0, owed: 0 }
    }

    /// Has `frames` more sent.
    #[inline]
    pub(super) fn owe(&mut self, frames: u64) {
        self.owed += frames;
    }

    /// Forgets what is owed but for the rest of a half-sent frame.
    pub(super) fn cancel(&mut self) {
        self.owed = u64::from(self.offset > 0);
    }

    /// Whether there is something to send.
    #[inline]
    pub(super) fn is_owing(&self) -> bool {
        self.owed > 0
    }

    /// Whether the last frame that was begun is whole, so that another kind of frame may follow.
    pub(super) fn is_between_frames(&self) -> bool {
        self.offset == 0
    }

    /// How many frames were begun, that is, how many answers can be expected.
    #[inline]
    pub(super) fn begun(&self) -> u64 {
        self.sequence + u64::from(self.offset > 0)
    }

    /// How many frames were owed since the start, sent or not.
    pub(super) fn promised(&self) -> u64 {
        self.sequence + self.owed
    }

    /// Fills `out` with what is to be sent; returns how much that is.
    #[inline]
    pub(super) fn fill(&self, payload: &Payload, out: &mut [u8]) -> usize {
        let mut filled = 0;
        let mut offset = self.offset;
        for sequence in self.sequence..self.sequence + self.owed {
            let room = &mut out[filled..];
            if room.is_empty() {
                break;
            }
            filled += payload.encode(sequence, self.masks.key(sequence), offset, room);
            offset = 0;
        }
        filled
    }

    /// The rest of the frame that is sent next, in pieces that share `buffer`; for frames of many periods.
    pub(super) fn pieces<'a>(&self, payload: &Payload, buffer: &'a mut [u8]) -> Vec<IoSlice<'a>> {
        payload.pieces(self.sequence, self.masks.key(self.sequence), self.offset, buffer)
    }

    /// Moves on by `written` bytes of what [`fill`](Self::fill) or [`pieces`](Self::pieces) gave.
    #[inline]
    pub(super) fn advance(&mut self, payload: &Payload, written: usize) {
        let position = self.offset + written;
        let frames = (position / payload.frame_len()) as u64;
        self.offset = position % payload.frame_len();
        self.sequence += frames;
        self.owed -= frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that `frames` frames are, written in pieces of at most `piece_len`.
    fn written(masks: Masks, payload: &Payload, frames: u64, piece_len: usize) -> Vec<u8> {
        let mut outgoing = Outgoing::new(masks);
        outgoing.owe(frames);
        let mut bytes = Vec::new();
        let mut buffer = [0; 64];
        while outgoing.is_owing() {
            let filled = outgoing.fill(payload, &mut buffer);
            let written = filled.min(piece_len);
            bytes.extend_from_slice(&buffer[..written]);
            outgoing.advance(payload, written);
        }
        assert_eq!((outgoing.begun(), outgoing.is_between_frames()), (frames, true));
        bytes
    }

    #[test]
    fn short_writes_change_nothing() {
        let masks = Masks::random();
        for payload in [Payload::text(20), Payload::binary(150), Payload::binary(0)] {
            let expected = written(masks, &payload, 5, 64);
            assert_eq!(expected.len(), 5 * payload.frame_len());
            for piece_len in 1..64 {
                assert_eq!(written(masks, &payload, 5, piece_len), expected, "pieces of {piece_len}");
            }
        }
    }

    #[test]
    fn a_half_sent_frame_survives_cancel() {
        let payload = Payload::text(20);
        let mut outgoing = Outgoing::new(Masks::random());
        outgoing.owe(3);
        outgoing.advance(&payload, payload.frame_len() + 1);
        outgoing.cancel();
        assert!(outgoing.is_owing() && !outgoing.is_between_frames());
        assert_eq!(outgoing.begun(), 2);
        outgoing.advance(&payload, payload.frame_len() - 1);
        assert!(!outgoing.is_owing() && outgoing.is_between_frames());
    }
}
