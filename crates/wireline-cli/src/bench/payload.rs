//! The messages that are sent, and the check of the answers.
//!
//! All messages of a run have one length. They begin with their sequence number in letters and go on with
//! a pattern that is short enough to stay in the first-level cache, so that a message costs a copy and an
//! answer a comparison, even one of megabytes; and an answer that is lost, doubled or given to the wrong
//! question is noticed.

use std::io::IoSlice;

use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::{MaskKey, apply_mask},
};

use super::json::Json;

/// How many bytes of a message its sequence number takes (less in shorter messages).
const STAMP_LEN: usize = 8;

/// After how many bytes messages repeat themselves.
const PERIOD: usize = 8 * 1024;

/// The most pieces that Linux takes in one vectored write.
const MAX_PIECES: usize = 1024;

/// What text is made of: letters of one to four bytes, so that UTF-8 checks have work to do.
const TEXT: &str = "𝄞, 線, провод, and then plain words for the rest of it: wireline, schneller, größer €";

/// The messages of one run.
#[derive(Debug)]
pub(super) struct Payload {
    opcode: Opcode,
    len: usize,
    header_len: usize,
    /// How much of a message the pattern does not reach: the stamp, and the rest of a letter it would cut.
    start_len: usize,
    /// What messages end with, twice over, so that a period lies in one piece wherever it begins.
    pattern: Vec<u8>,
    /// Instead of all that: JSON, sent compressed.
    json: Option<Json>,
}

impl Payload {
    /// Valid UTF-8 of `len_bytes`.
    pub(super) fn text(len_bytes: usize) -> Self {
        let repeats = PERIOD / TEXT.len();
        let period = ".".repeat(PERIOD - repeats * TEXT.len()) + &TEXT.repeat(repeats);
        let is_letter_start =
            |start_len: &usize| period.is_char_boundary((PERIOD - (len_bytes - start_len) % PERIOD) % PERIOD);
        let start_len = (STAMP_LEN..len_bytes).find(is_letter_start).unwrap_or(len_bytes);
        Self::new(Opcode::Text, len_bytes, start_len, period.as_bytes())
    }

    /// `len_bytes` bytes of every value.
    pub(super) fn binary(len_bytes: usize) -> Self {
        let period: Vec<u8> = (0..=u8::MAX).cycle().take(PERIOD).collect();
        Self::new(Opcode::Binary, len_bytes, STAMP_LEN.min(len_bytes), &period)
    }

    /// JSON of `len_bytes` bytes, sent compressed.
    pub(super) fn json(len_bytes: usize) -> Self {
        let json = Json::new(len_bytes);
        let len = json.message(0).len();
        let wire = Self::new(Opcode::Text, json.compressed(0).len(), 0, &[]);
        Self { len, json: Some(json), ..wire }
    }

    /// Whether messages are sent compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.json.is_some()
    }

    /// The length of each message on the wire.
    #[inline]
    fn wire_len(&self) -> usize {
        self.json.as_ref().map_or(self.len, |json| json.compressed(0).len())
    }

    fn new(opcode: Opcode, len: usize, start_len: usize, period: &[u8]) -> Self {
        let mut header = FrameHeader::new(opcode, len as u64);
        header.mask = Some([0; 4]);
        let header_len = header.encode(&mut [0; MAX_HEADER_LEN]);
        Self { opcode, len, header_len, start_len, pattern: period.repeat(2), json: None }
    }

    /// What the messages are.
    pub(super) fn opcode(&self) -> Opcode {
        self.opcode
    }

    /// The length of each message.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The length of each frame.
    #[inline]
    pub(super) fn frame_len(&self) -> usize {
        self.header_len + self.wire_len()
    }

    /// Writes the frame of message `sequence` into `out`, from its byte `offset` on, as much as there is
    /// room for; returns how much that was.
    #[inline]
    pub(super) fn encode(&self, sequence: u64, key: MaskKey, offset: usize, out: &mut [u8]) -> usize {
        let mut header = FrameHeader::new(self.opcode, self.wire_len() as u64);
        header.rsv1 = self.is_compressed();
        header.mask = Some(key);
        let mut encoded = [0; MAX_HEADER_LEN];
        let header_len = header.encode(&mut encoded);
        let mut written = 0;
        if offset < header_len {
            written = out.len().min(header_len - offset);
            out[..written].copy_from_slice(&encoded[offset..offset + written]);
        }
        let mut body_offset = (offset + written).saturating_sub(header_len);
        let body_len = (out.len() - written).min(self.wire_len() - body_offset);
        for piece in out[written..written + body_len].chunks_mut(PERIOD) {
            self.copy(sequence, body_offset, piece);
            apply_mask(piece, key, body_offset as u64);
            body_offset += piece.len();
        }
        written + body_len
    }

    /// The rest of the frame of message `sequence` from its byte `offset` on, in pieces for a vectored write,
    /// as many as one write takes. `buffer` holds the first piece and one period, which the others share:
    /// a period is a multiple of the key's length, so that masked, too, it repeats itself.
    pub(super) fn pieces<'a>(
        &self,
        sequence: u64,
        key: MaskKey,
        offset: usize,
        buffer: &'a mut [u8],
    ) -> Vec<IoSlice<'a>> {
        let (first, rest) = buffer.split_at_mut(MAX_HEADER_LEN + PERIOD);
        let period = &mut rest[..PERIOD];
        period.copy_from_slice(self.pattern(0, PERIOD));
        apply_mask(period, key, 0);
        let period = &*period;
        let mut pieces = Vec::with_capacity(MAX_PIECES.min(2 + self.len / PERIOD));
        let mut position = offset;
        if let Some(first_len) = (self.header_len + PERIOD).checked_sub(offset) {
            let first_len = self.encode(sequence, key, offset, &mut first[..first_len]);
            pieces.push(IoSlice::new(&first[..first_len]));
            position += first_len;
        }
        while position < self.frame_len() && pieces.len() < MAX_PIECES {
            let start = (position - self.header_len) % PERIOD;
            let piece_len = (PERIOD - start).min(self.frame_len() - position);
            pieces.push(IoSlice::new(&period[start..start + piece_len]));
            position += piece_len;
        }
        pieces
    }

    /// Whether `bytes` are what message `sequence` has from byte `offset` on.
    #[inline]
    pub(super) fn matches(&self, sequence: u64, mut offset: usize, mut bytes: &[u8]) -> bool {
        if bytes.len() > self.len.saturating_sub(offset) {
            return false;
        }
        if let Some(json) = &self.json {
            return *bytes == json.message(sequence)[offset..][..bytes.len()];
        }
        if offset < self.start_len {
            let start;
            (start, bytes) = bytes.split_at(bytes.len().min(self.start_len - offset));
            if start != &self.start(sequence)[offset..offset + start.len()] {
                return false;
            }
            offset += start.len();
        }
        bytes.chunks(PERIOD).all(|piece| {
            let is_equal = piece == self.pattern(offset, piece.len());
            offset += piece.len();
            is_equal
        })
    }

    /// Copies a piece of a message, a period at most.
    #[inline]
    fn copy(&self, sequence: u64, offset: usize, out: &mut [u8]) {
        if let Some(json) = &self.json {
            out.copy_from_slice(&json.compressed(sequence)[offset..][..out.len()]);
            return;
        }
        out.copy_from_slice(self.pattern(offset, out.len()));
        if offset < self.start_len {
            let len = out.len().min(self.start_len - offset);
            out[..len].copy_from_slice(&self.start(sequence)[offset..offset + len]);
        }
    }

    /// What the pattern has for a piece of a message, a period at most.
    #[inline]
    fn pattern(&self, offset: usize, len: usize) -> &[u8] {
        let position = (offset + PERIOD - self.len % PERIOD) % PERIOD;
        &self.pattern[position..position + len]
    }

    /// The bytes before the pattern; only `start_len` of them belong to the message.
    #[inline]
    fn start(&self, sequence: u64) -> [u8; STAMP_LEN + 3] {
        let mut start = [b'.'; STAMP_LEN + 3];
        start[..STAMP_LEN].copy_from_slice(&stamp(sequence));
        start
    }
}

/// The low 32 bits of `sequence` as eight letters from `a` to `p`, the lowest first: what a short message
/// keeps of them still differs from one message to the next.
#[inline]
fn stamp(sequence: u64) -> [u8; STAMP_LEN] {
    let mut nibbles = sequence & 0xFFFF_FFFF;
    nibbles = (nibbles | nibbles << 16) & 0x0000_FFFF_0000_FFFF;
    nibbles = (nibbles | nibbles << 8) & 0x00FF_00FF_00FF_00FF;
    nibbles = (nibbles | nibbles << 4) & 0x0F0F_0F0F_0F0F_0F0F;
    (nibbles + 0x6161_6161_6161_6161).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of a whole frame, unmasked, and its header.
    fn decode(frame: &[u8]) -> (FrameHeader, Vec<u8>) {
        let (header, header_len) = FrameHeader::parse(frame).unwrap().unwrap();
        let mut payload = frame[header_len..].to_vec();
        apply_mask(&mut payload, header.mask.unwrap(), 0);
        (header, payload)
    }

    #[test]
    fn text_of_every_length_is_valid_utf8() {
        for len_bytes in (0..300).chain(PERIOD - 20..PERIOD + 100) {
            let payload = Payload::text(len_bytes);
            let mut frame = vec![0; payload.frame_len()];
            assert_eq!(payload.encode(123, [1, 2, 3, 4], 0, &mut frame), frame.len());
            let (header, message) = decode(&frame);
            assert_eq!((header.opcode, header.fin, message.len()), (Opcode::Text, true, len_bytes));
            assert!(std::str::from_utf8(&message).is_ok());
            assert_eq!(message.is_ascii(), len_bytes < 11, "{len_bytes}");
        }
    }

    #[test]
    fn a_frame_in_pieces_equals_the_whole_frame() {
        for payload in [Payload::binary(300), Payload::text(20), Payload::text(3), Payload::text(70_000)] {
            let mut whole = vec![0; payload.frame_len()];
            payload.encode(99, [9, 8, 7, 6], 0, &mut whole);
            for cut in (0..whole.len()).step_by(1 + whole.len() / 200) {
                let mut pieces = vec![0; whole.len()];
                assert_eq!(payload.encode(99, [9, 8, 7, 6], 0, &mut pieces[..cut]), cut);
                assert_eq!(payload.encode(99, [9, 8, 7, 6], cut, &mut pieces[cut..]), whole.len() - cut);
                assert_eq!(pieces, whole, "cut at {cut}");
            }
        }
    }

    #[test]
    fn shared_pieces_make_up_the_whole_frame() {
        for payload in [Payload::text(100_000), Payload::binary(3 * PERIOD), Payload::text(20)] {
            let mut whole = vec![0; payload.frame_len()];
            payload.encode(7, [1, 2, 3, 4], 0, &mut whole);
            for offset in (0..whole.len()).step_by(1 + whole.len() / 300) {
                let mut buffer = [0; MAX_HEADER_LEN + 2 * PERIOD];
                let pieces = payload.pieces(7, [1, 2, 3, 4], offset, &mut buffer);
                assert_eq!(
                    pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>(),
                    whole[offset..]
                );
            }
        }
    }

    #[test]
    fn an_answer_matches_its_own_message_only() {
        for payload in [Payload::text(40), Payload::binary(PERIOD + 9), Payload::text(3)] {
            check_answers(&payload);
        }
    }

    fn check_answers(payload: &Payload) {
        let mut frame = vec![0; payload.frame_len()];
        payload.encode(41, [5; 4], 0, &mut frame);
        let (_, mut message) = decode(&frame);
        for cut in (0..=message.len()).step_by(1 + message.len() / 100) {
            let (start, end) = message.split_at(cut);
            assert!(payload.matches(41, 0, start) && payload.matches(41, cut, end), "{cut}");
        }
        assert!(!payload.matches(42, 0, &message));
        assert!(!payload.matches(41, 1, &message));
        assert!(!payload.matches(41, 0, &[&message[..], b"a"].concat()));
        for at in (0..message.len()).step_by(1 + message.len() / 100) {
            message[at] ^= 1;
            assert!(!payload.matches(41, 0, &message), "{at}");
            message[at] ^= 1;
        }
    }

    #[test]
    fn stamps_count() {
        assert_eq!(&stamp(0), b"aaaaaaaa");
        assert_eq!(&stamp(0x1234_5678), b"ihgfedcb");
        assert_eq!(stamp(1 << 32), stamp(0));
    }
}
