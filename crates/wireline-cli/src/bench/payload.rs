//! The messages that are sent, and the check of the answers.
//!
//! All messages have one size and one body, and begin with their sequence number in letters. So a message
//! costs a copy of the body, an answer costs a comparison with it, and an answer that is lost, doubled or
//! given to the wrong question is noticed.

use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::{MaskKey, apply_mask},
};

/// How many bytes of a message its sequence number takes (less in shorter messages).
const STAMP_LEN: usize = 8;

/// What text is made of: letters of one to four bytes, so that UTF-8 checks have work to do.
const TEXT: &str =
    "größer, schneller: wireline, провод, 線, €5, 𝄞, and then plain words for the rest of it. ";

/// The messages of one run.
#[derive(Debug)]
pub(super) struct Payload {
    opcode: Opcode,
    /// The body, with room for the stamp at its start.
    body: Vec<u8>,
    header_len: usize,
}

impl Payload {
    /// Valid UTF-8 of `len_bytes`.
    pub(super) fn text(len_bytes: usize) -> Self {
        let mut body = "a".repeat(STAMP_LEN.min(len_bytes));
        for letter in TEXT.chars().cycle() {
            let left = len_bytes - body.len();
            match left {
                0 => break,
                _ if letter.len_utf8() <= left => body.push(letter),
                _ => body.push('.'),
            }
        }
        Self::new(Opcode::Text, body.into_bytes())
    }

    /// `len_bytes` bytes of every value.
    pub(super) fn binary(len_bytes: usize) -> Self {
        Self::new(Opcode::Binary, (0..=u8::MAX).rev().cycle().take(len_bytes).collect())
    }

    fn new(opcode: Opcode, body: Vec<u8>) -> Self {
        let mut header = FrameHeader::new(opcode, body.len() as u64);
        header.mask = Some([0; 4]);
        let header_len = header.encode(&mut [0; MAX_HEADER_LEN]);
        Self { opcode, body, header_len }
    }

    /// What the messages are.
    pub(super) fn opcode(&self) -> Opcode {
        self.opcode
    }

    /// The length of each message.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// The length of each frame.
    #[inline]
    pub(super) fn frame_len(&self) -> usize {
        self.header_len + self.body.len()
    }

    /// Writes the frame of message `sequence` into `out`, from its byte `offset` on, as much as there is
    /// room for; returns how much that was.
    #[inline]
    pub(super) fn encode(&self, sequence: u64, key: MaskKey, offset: usize, out: &mut [u8]) -> usize {
        let mut header = FrameHeader::new(self.opcode, self.body.len() as u64);
        header.mask = Some(key);
        let mut encoded = [0; MAX_HEADER_LEN];
        let header_len = header.encode(&mut encoded);
        let mut written = 0;
        if offset < header_len {
            written = out.len().min(header_len - offset);
            out[..written].copy_from_slice(&encoded[offset..offset + written]);
        }
        let body_offset = (offset + written).saturating_sub(header_len);
        let body_len = (out.len() - written).min(self.body.len() - body_offset);
        let body = &mut out[written..written + body_len];
        self.copy(sequence, body_offset, body);
        apply_mask(body, key, body_offset as u64);
        written + body_len
    }

    /// Whether `bytes` are what message `sequence` has from byte `offset` on.
    #[inline]
    pub(super) fn matches(&self, sequence: u64, offset: usize, bytes: &[u8]) -> bool {
        let Some(expected) = self.body.get(offset..offset.saturating_add(bytes.len())) else { return false };
        if offset >= STAMP_LEN {
            return bytes == expected;
        }
        let stamped = bytes.len().min(STAMP_LEN - offset);
        bytes[..stamped] == stamp(sequence)[offset..offset + stamped]
            && bytes[stamped..] == expected[stamped..]
    }

    #[inline]
    fn copy(&self, sequence: u64, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.body[offset..offset + out.len()]);
        if offset < STAMP_LEN {
            let stamped = out.len().min(STAMP_LEN - offset);
            out[..stamped].copy_from_slice(&stamp(sequence)[offset..offset + stamped]);
        }
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
        for len_bytes in 0..300 {
            let payload = Payload::text(len_bytes);
            let mut frame = vec![0; payload.frame_len()];
            assert_eq!(payload.encode(123, [1, 2, 3, 4], 0, &mut frame), frame.len());
            let (header, message) = decode(&frame);
            assert_eq!((header.opcode, header.fin, message.len()), (Opcode::Text, true, len_bytes));
            assert!(std::str::from_utf8(&message).is_ok());
            assert_eq!(message.is_ascii(), len_bytes < 12, "{len_bytes}");
        }
    }

    #[test]
    fn a_frame_in_pieces_equals_the_whole_frame() {
        for payload in [Payload::binary(300), Payload::text(20), Payload::text(3), Payload::binary(70_000)] {
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
    fn an_answer_matches_its_own_message_only() {
        let payload = Payload::text(40);
        let mut frame = vec![0; payload.frame_len()];
        payload.encode(41, [5; 4], 0, &mut frame);
        let (_, mut message) = decode(&frame);
        for cut in 0..=message.len() {
            let (start, end) = message.split_at(cut);
            assert!(payload.matches(41, 0, start) && payload.matches(41, cut, end), "{cut}");
        }
        assert!(!payload.matches(42, 0, &message));
        assert!(!payload.matches(41, 1, &message));
        for at in 0..message.len() {
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
