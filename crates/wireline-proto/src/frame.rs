//! The frame header (RFC 6455 section 5.2): what stands before every payload.

use crate::{mask::MaskKey, opcode::Opcode};

/// The most bytes a header can have: two, eight of length, four of masking key.
pub const MAX_HEADER_LEN: usize = 14;

/// The most bytes of payload a control frame can have (section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// A frame header that follows every rule a header can be checked for by itself.
///
/// Rules that need the connection's state (who must mask, which continuation is expected, limits,
/// negotiated extensions) are [`Connection`](crate::Connection)'s.
///
/// ```
/// use wireline_proto::frame::FrameHeader;
/// use wireline_proto::Opcode;
///
/// let (header, len) = FrameHeader::parse(&[0x81, 0x05, b'H'])?.expect("the header is whole");
/// assert_eq!((header.opcode, header.fin, header.payload_len, len), (Opcode::Text, true, 5, 2));
/// # Ok::<(), wireline_proto::frame::FrameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The first reserved bit: an extension's (permessage-deflate marks compressed messages with it).
    pub rsv1: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key: on every frame of a client, on none of a server.
    pub mask: Option<MaskKey>,
    /// How many bytes of payload follow.
    pub payload_len: u64,
}

/// Why bytes are no frame header. All of these fail the connection with close code 1002.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// RSV2 or RSV3 is set; no extension that gives them a meaning exists.
    #[error("the peer set a reserved bit in a frame header")]
    ReservedBits,
    /// The opcode is one of 3-7 and 11-15.
    #[error("the peer sent a frame with the reserved opcode {0:#x}")]
    ReservedOpcode(u8),
    /// A control frame with FIN off.
    #[error("the peer sent a fragmented control frame")]
    FragmentedControlFrame,
    /// A control frame that announces more than 125 bytes.
    #[error("the peer sent a control frame with more than 125 bytes of payload")]
    OversizedControlFrame,
    /// A length that has a shorter form.
    #[error("the peer encoded a frame length in more bytes than needed")]
    OverlongLength,
    /// A 64-bit length with the top bit set.
    #[error("the peer sent a frame length of 2^63 or more")]
    LengthTopBit,
}

impl FrameHeader {
    /// A header of a whole, unmasked, uncompressed frame.
    #[must_use]
    pub const fn new(opcode: Opcode, payload_len: u64) -> Self {
        Self { fin: true, rsv1: false, opcode, mask: None, payload_len }
    }

    /// Reads a header from the start of `bytes`: the header and its length, or `None` while it is not
    /// whole. What the first two bytes already prove wrong is an error at once.
    ///
    /// # Errors
    /// When the bytes break a rule of section 5.2 or 5.5; see [`FrameError`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(FrameError::ReservedBits);
        }
        let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
            return Err(FrameError::ReservedOpcode(first & 0x0F));
        };
        let fin = first & 0x80 != 0;
        if opcode.is_control() && !fin {
            return Err(FrameError::FragmentedControlFrame);
        }
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        let short_len = second & 0x7F;
        if opcode.is_control() && usize::from(short_len) > MAX_CONTROL_PAYLOAD {
            return Err(FrameError::OversizedControlFrame);
        }
        let Some((payload_len, rest)) = parse_length(short_len, rest)? else { return Ok(None) };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let Some((key, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (Some(*key), rest)
        };
        let header = Self { fin, rsv1: first & 0x40 != 0, opcode, mask, payload_len };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Writes the header into the start of `out` and returns its length.
    ///
    /// The shortest form of the length is used, as section 5.2 demands.
    #[inline]
    pub fn encode(&self, out: &mut [u8; MAX_HEADER_LEN]) -> usize {
        out[0] = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode as u8;
        let mask_bit = u8::from(self.mask.is_some()) << 7;
        let mut len = 2;
        if let Ok(short) = u8::try_from(self.payload_len)
            && short < 126
        {
            out[1] = mask_bit | short;
        } else if let Ok(medium) = u16::try_from(self.payload_len) {
            out[1] = mask_bit | 126;
            out[2..4].copy_from_slice(&medium.to_be_bytes());
            len = 4;
        } else {
            out[1] = mask_bit | 127;
            out[2..10].copy_from_slice(&self.payload_len.to_be_bytes());
            len = 10;
        }
        if let Some(key) = self.mask {
            out[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        len
    }
}

/// The payload length that `short` and the bytes after it stand for, and what follows them.
#[inline]
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, FrameError> {
    let (len, rest) = match short {
        126 => {
            let Some((len, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            let len = u64::from(u16::from_be_bytes(*len));
            if len < 126 {
                return Err(FrameError::OverlongLength);
            }
            (len, rest)
        }
        127 => {
            let Some((len, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            let len = u64::from_be_bytes(*len);
            if len >> 63 != 0 {
                return Err(FrameError::LengthTopBit);
            }
            if len <= u64::from(u16::MAX) {
                return Err(FrameError::OverlongLength);
            }
            (len, rest)
        }
        short => (u64::from(short), rest),
    };
    Ok(Some((len, rest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(header: &FrameHeader) -> Vec<u8> {
        let mut out = [0; MAX_HEADER_LEN];
        let len = header.encode(&mut out);
        out[..len].to_vec()
    }

    #[test]
    fn examples_of_section_5_7() {
        let mut header = FrameHeader::new(Opcode::Text, 5);
        assert_eq!(encoded(&header), [0x81, 0x05]);
        header.mask = Some([0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(encoded(&header), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(encoded(&FrameHeader::new(Opcode::Binary, 256)), [0x82, 0x7E, 0x01, 0x00]);
        assert_eq!(encoded(&FrameHeader::new(Opcode::Binary, 65536)), [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        for (bytes, error) in [
            (&[0x91u8][..], FrameError::ReservedBits),
            (&[0xA1], FrameError::ReservedBits),
            (&[0x83], FrameError::ReservedOpcode(3)),
            (&[0x8B], FrameError::ReservedOpcode(11)),
            (&[0x09], FrameError::FragmentedControlFrame),
            (&[0x88, 0x7E], FrameError::OversizedControlFrame),
            (&[0x89, 0xFF], FrameError::OversizedControlFrame),
            (&[0x82, 126, 0, 125], FrameError::OverlongLength),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], FrameError::OverlongLength),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::LengthTopBit),
        ] {
            assert_eq!(FrameHeader::parse(bytes), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn parse_reads_back_what_encode_wrote(
            fin: bool,
            rsv1: bool,
            opcode in prop::sample::select(vec![Opcode::Continuation, Opcode::Text, Opcode::Binary]),
            mask: Option<MaskKey>,
            payload_len in prop_oneof![0u64..300, 65_530u64..65_545, 0u64..(1 << 63)],
        ) {
            let header = FrameHeader { fin, rsv1, opcode, mask, payload_len };
            let bytes = encoded(&header);
            prop_assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, bytes.len()))));
            for cut in 0..bytes.len() {
                prop_assert_eq!(FrameHeader::parse(&bytes[..cut]), Ok(None));
            }
        }
    }
}
