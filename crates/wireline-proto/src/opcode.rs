//! Opcodes (RFC 6455 section 5.2 and 11.8).

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Carries on the message that an earlier `Text` or `Binary` frame began.
    Continuation = 0x0,
    /// Begins a message of UTF-8 text.
    Text = 0x1,
    /// Begins a message of bytes.
    Binary = 0x2,
    /// Starts or answers the closing handshake.
    Close = 0x8,
    /// Asks for a `Pong` with the same payload.
    Ping = 0x9,
    /// Answers a `Ping`, or says unasked that the sender is alive.
    Pong = 0xA,
}

impl Opcode {
    /// The opcode with this four-bit value; `None` for those the RFC reserves.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Whether this is `Close`, `Ping` or `Pong`: never fragmented, at most 125 bytes of payload.
    #[must_use]
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}
