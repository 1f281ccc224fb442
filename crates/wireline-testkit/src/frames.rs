//! Frames as literal bytes (RFC 6455 section 5.2), right and deliberately wrong ones.
//!
//! ```
//! use wireline_proto::Role;
//! use wireline_testkit::Frame;
//!
//! assert_eq!(Frame::text("Hello").bytes(), *b"\x81\x05Hello");
//! assert_eq!(Frame::ping("").more().rsv(0b010).bytes(), [0x29, 0x00]); // two rules broken
//! assert_eq!(Frame::text("").sent_by(Role::Client), [0x81, 0x80, 0x37, 0xfa, 0x21, 0x3d]);
//! ```

use wireline_proto::{Role, mask::MaskKey};

/// The masking key of RFC 6455 section 5.7, which every client here uses.
pub const MASK: MaskKey = [0x37, 0xfa, 0x21, 0x3d];

/// [`MASK`] as a connection's source of masking keys.
#[must_use]
pub fn masks() -> MaskKey {
    MASK
}

/// A payload in which every byte tells its place, with a period that fits no buffer.
#[must_use]
pub fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// How many bytes a length is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthForm {
    /// As few as it takes, as section 5.2 demands.
    Shortest,
    /// The two bytes after 126.
    Medium,
    /// The eight bytes after 127.
    Long,
}

/// A frame to be. Each part can be set to what the RFC forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The FIN bit.
    pub fin: bool,
    /// RSV1, RSV2 and RSV3, as the bits 4, 2 and 1.
    pub rsv: u8,
    /// Four bits, reserved values included.
    pub opcode: u8,
    /// The masking key, if the frame is masked.
    pub mask: Option<MaskKey>,
    /// The payload, unmasked.
    pub payload: Vec<u8>,
    /// The payload length that the header tells, if it lies.
    pub declared: Option<u64>,
    /// How the length is written.
    pub length_form: LengthForm,
}

impl Frame {
    /// A whole, unmasked frame with any opcode.
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            mask: None,
            payload: payload.as_ref().to_vec(),
            declared: None,
            length_form: LengthForm::Shortest,
        }
    }

    /// A Text frame; the payload need not be UTF-8.
    pub fn text(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0x1, payload)
    }

    /// A Binary frame.
    pub fn binary(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0x2, payload)
    }

    /// A Continuation frame.
    pub fn continuation(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0x0, payload)
    }

    /// A Ping frame.
    pub fn ping(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0x9, payload)
    }

    /// A Pong frame.
    pub fn pong(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0xA, payload)
    }

    /// A Close frame with any code and a reason that need not be UTF-8.
    pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Self {
        Self::close_payload([&code.to_be_bytes(), reason.as_ref()].concat())
    }

    /// A Close frame with any payload: none, or half a code.
    pub fn close_payload(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0x8, payload)
    }

    /// With FIN off: more fragments follow.
    #[must_use]
    pub fn more(mut self) -> Self {
        self.fin = false;
        self
    }

    /// With reserved bits: RSV1 is 4, RSV2 is 2, RSV3 is 1.
    #[must_use]
    pub fn rsv(mut self, bits: u8) -> Self {
        self.rsv = bits;
        self
    }

    /// Masked with `key`.
    #[must_use]
    pub fn masked(mut self, key: MaskKey) -> Self {
        self.mask = Some(key);
        self
    }

    /// With a header that tells this payload length.
    #[must_use]
    pub fn declaring(mut self, len: u64) -> Self {
        self.declared = Some(len);
        self
    }

    /// With the length written in another form than the shortest.
    #[must_use]
    pub fn length_form(mut self, form: LengthForm) -> Self {
        self.length_form = form;
        self
    }

    /// The bytes of the header alone.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let first = u8::from(self.fin) << 7 | (self.rsv & 0b111) << 4 | self.opcode & 0xF;
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        let len = self.declared.unwrap_or(self.payload.len() as u64);
        let form = match self.length_form {
            LengthForm::Shortest if len > 0xFFFF => LengthForm::Long,
            LengthForm::Shortest if len > 125 => LengthForm::Medium,
            form => form,
        };
        let len = len.to_be_bytes();
        let mut bytes = vec![first];
        match form {
            LengthForm::Shortest => bytes.push(mask_bit | len[7]),
            LengthForm::Medium => {
                bytes.push(mask_bit | 126);
                bytes.extend(&len[6..]);
            }
            LengthForm::Long => {
                bytes.push(mask_bit | 127);
                bytes.extend(len);
            }
        }
        bytes.extend(self.mask.iter().flatten());
        bytes
    }

    /// The frame on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        match self.mask {
            None => bytes.extend(&self.payload),
            Some(key) => {
                bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            }
        }
        bytes
    }

    /// The frame as this role sends it: a client's masked with [`MASK`], a server's not.
    #[must_use]
    pub fn sent_by(&self, role: Role) -> Vec<u8> {
        let mask = match role {
            Role::Client => Some(MASK),
            Role::Server => None,
        };
        Self { mask, ..self.clone() }.bytes()
    }

    /// Reads whole, well-formed frames back, unmasking them.
    ///
    /// # Panics
    /// When the bytes are not that. What a connection transmits must be.
    #[must_use]
    pub fn read_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            frames.push(Self::read(&mut bytes));
        }
        frames
    }

    fn read(bytes: &mut &[u8]) -> Self {
        let mut take = |count: usize| {
            let (front, rest) = bytes.split_at_checked(count).expect("a frame is cut short");
            *bytes = rest;
            front
        };
        let (first, second) = (take(1)[0], take(1)[0]);
        let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        let len = match second & 0x7F {
            126 => number(take(2)),
            127 => number(take(8)),
            short => usize::from(short),
        };
        let mask = (second & 0x80 != 0).then(|| MaskKey::try_from(take(4)).expect("four bytes were taken"));
        let mut payload = take(len).to_vec();
        if let Some(key) = mask {
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        Self { fin: first & 0x80 != 0, rsv: first >> 4 & 0b111, mask, ..Self::new(first & 0xF, payload) }
    }
}
