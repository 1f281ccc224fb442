//! From received bytes to whole messages and control frames, whatever the cuts.

use bytes::BufMut as _;

use crate::{
    Config, Opcode, ProtocolError, Role,
    deflate::PerMessageDeflate,
    event::{Message, MessageKind, Payload, Piece},
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::{MaskKey, apply_mask},
    utf8::{self, Utf8Validator},
};

/// A payload that lacks at least this much is read straight into its message. Below it a read into the
/// shared buffer is better, since it brings the frames behind it along.
const BULK_FROM: u64 = 16 << 10;

/// The least room that a direct read is given.
const BULK_STEP: usize = 64 << 10;

/// Compressed bytes that are taken at a time where messages are given in pieces.
const COMPRESSED_STEP: usize = 4 << 10;

/// Inflated bytes that a piece has at most, and what the decompressor still had in it.
const PIECE: usize = 64 << 10;

/// Bytes on the wire that a compressed message may have beyond twice the limit of its inflated size. No
/// compressor needs nearly that much: beyond it are blocks that stand for nothing.
const COMPRESSED_ALLOWANCE: u64 = 1 << 10;

/// What the received bytes gave.
#[derive(Debug)]
pub(super) enum Progress<'b> {
    Message(Message<'b>),
    Piece(Piece<'b>),
    Control(Opcode, Payload<'b>),
    /// All bytes are taken, and more are needed.
    Starved,
}

/// The receiving side. Between messages, and while every message comes whole, it owns nothing; where
/// messages are given in pieces it always has a `Partial`.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    partial: Option<Box<Partial>>,
}

/// A frame and a message that are under way.
#[derive(Debug, Default)]
struct Partial {
    header: PartialHeader,
    frame: Option<Frame>,
    assembly: Assembly,
    /// The payload of a control frame that came in pieces.
    control: Vec<u8>,
}

/// A frame whose header was taken and whose payload is under way.
#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    mask: Option<MaskKey>,
    taken: u64,
    remaining: u64,
}

impl Receiver {
    pub(super) fn new(config: &Config) -> Self {
        Self { partial: config.receive_in_pieces.then(Box::default) }
    }

    /// Takes bytes from the front of `input` up to the end of the next message or control frame. `deflate`
    /// is there if it was agreed on.
    #[inline]
    pub(super) fn advance<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        role: Role,
        config: &Config,
        deflate: Option<&mut PerMessageDeflate>,
    ) -> Result<Progress<'b>, ProtocolError> {
        if self.partial.is_none()
            && let Some((header, len)) = FrameHeader::parse(input)?
        {
            Assembly::default().check(&header, role, config, deflate.is_some())?;
            if let Some(payload) = whole_payload(&header, len, input) {
                return whole(header.opcode, payload);
            }
        }
        self.advance_partly(input, role, config, deflate)
    }

    /// As [`advance`](Self::advance), with what came before, and keeping what is cut.
    fn advance_partly<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        role: Role,
        config: &Config,
        deflate: Option<&mut PerMessageDeflate>,
    ) -> Result<Progress<'b>, ProtocolError> {
        if input.is_empty() && self.partial.is_none() {
            return Ok(Progress::Starved);
        }
        let partial = self.partial.get_or_insert_default();
        let progress = partial.advance(input, role, config, deflate)?;
        if partial.is_between_messages() && !config.receive_in_pieces {
            self.partial = None;
        }
        Ok(progress)
    }

    /// See [`Connection::bulk_buffer`](crate::Connection::bulk_buffer).
    #[inline]
    pub(super) fn bulk_buffer(&mut self) -> Option<bytes::buf::Limit<&mut Vec<u8>>> {
        self.partial.as_mut()?.bulk_buffer()
    }

    /// Whether anything was appended to the bulk buffer.
    pub(super) fn has_untaken_bulk(&self) -> bool {
        self.partial
            .as_ref()
            .is_some_and(|partial| partial.assembly.payload.len() > partial.assembly.validated)
    }

    /// Takes what was appended to the bulk buffer.
    pub(super) fn take_bulk(&mut self) -> Result<Option<Message<'static>>, ProtocolError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let message = partial.take_bulk()?;
        if partial.is_between_messages() {
            self.partial = None;
        }
        Ok(message)
    }
}

/// The payload behind a header of `header_len` bytes, unmasked, if the frame is a message or control
/// frame by itself, not compressed, and lies whole in `input`.
#[inline]
fn whole_payload<'b>(
    header: &FrameHeader,
    header_len: usize,
    input: &mut &'b mut [u8],
) -> Option<&'b mut [u8]> {
    let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
    let is_single = header.fin && !header.rsv1 && header.opcode != Opcode::Continuation;
    if !is_single || len > input.len() - header_len {
        return None;
    }
    let payload = &mut split_front(input, header_len + len)[header_len..];
    if let Some(key) = header.mask {
        apply_mask(payload, key, 0);
    }
    Some(payload)
}

impl Partial {
    /// Whether nothing is under way.
    fn is_between_messages(&self) -> bool {
        self.header.len == 0 && self.frame.is_none() && self.assembly.kind.is_none()
    }

    fn advance<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        role: Role,
        config: &Config,
        mut deflate: Option<&mut PerMessageDeflate>,
    ) -> Result<Progress<'b>, ProtocolError> {
        loop {
            let progress = match self.frame {
                None => {
                    let Some(header) = self.header.take(input)? else { return Ok(Progress::Starved) };
                    self.assembly.check(&header, role, config, deflate.is_some())?;
                    let is_given_whole = !config.receive_in_pieces || header.opcode.is_control();
                    if is_given_whole && let Some(payload) = whole_payload(&header, 0, input) {
                        return whole(header.opcode, payload);
                    }
                    self.begin(&header);
                    None
                }
                Some(frame) => self.take_payload(frame, input, config, deflate.as_deref_mut())?,
            };
            if let Some(progress) = progress {
                return Ok(progress);
            }
        }
    }

    /// Starts on a payload that comes in pieces, or on a fragment.
    fn begin(&mut self, header: &FrameHeader) {
        match header.opcode {
            Opcode::Text => self.assembly.kind = Some(MessageKind::Text),
            Opcode::Binary => self.assembly.kind = Some(MessageKind::Binary),
            _ => {}
        }
        if !header.opcode.is_control() {
            self.assembly.fragments += 1;
            self.assembly.is_compressed |= header.rsv1;
        }
        self.frame = Some(Frame {
            opcode: header.opcode,
            fin: header.fin,
            mask: header.mask,
            taken: 0,
            remaining: header.payload_len,
        });
    }

    /// Takes what there is of a payload that comes in pieces.
    fn take_payload<'b>(
        &mut self,
        mut frame: Frame,
        input: &mut &'b mut [u8],
        config: &Config,
        deflate: Option<&mut PerMessageDeflate>,
    ) -> Result<Option<Progress<'b>>, ProtocolError> {
        let count = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(input.len());
        let is_control = frame.opcode.is_control();
        if config.receive_in_pieces && !is_control {
            let deflate = deflate.filter(|_| self.assembly.is_compressed);
            return match deflate {
                None => self.take_piece(frame, split_front(input, count)).map(Some),
                Some(deflate) => self.inflate_piece(frame, input, deflate),
            };
        }
        let piece = split_front(input, count);
        frame.unmask(piece);
        self.frame = Some(frame);
        if is_control {
            self.control.extend_from_slice(piece);
            if frame.remaining > 0 {
                return Ok(Some(Progress::Starved));
            }
            self.frame = None;
            let payload = Payload::Owned(std::mem::take(&mut self.control));
            return Ok(Some(Progress::Control(frame.opcode, payload)));
        }
        match deflate.filter(|_| self.assembly.is_compressed) {
            None => {
                self.assembly.payload.extend_from_slice(piece);
                self.assembly.validate(count)?;
            }
            Some(deflate) => {
                self.assembly.inflate(piece, deflate, config)?;
                if frame.remaining == 0 && frame.fin {
                    deflate.finish(&self.assembly.payload, self.assembly.wire_len)?;
                }
            }
        }
        if frame.remaining > 0 {
            return Ok(Some(Progress::Starved));
        }
        Ok(self.end_data_frame(frame)?.map(Progress::Message))
    }

    /// Gives what came of a payload as it is.
    fn take_piece<'b>(
        &mut self,
        mut frame: Frame,
        payload: &'b mut [u8],
    ) -> Result<Progress<'b>, ProtocolError> {
        frame.unmask(payload);
        self.frame = Some(frame);
        if payload.is_empty() && frame.remaining > 0 {
            return Ok(Progress::Starved);
        }
        if self.assembly.kind == Some(MessageKind::Text) {
            self.assembly.utf8.feed(payload).map_err(|_| ProtocolError::InvalidUtf8)?;
        }
        self.end_piece(frame, Payload::Borrowed(payload)).map(Progress::Piece)
    }

    /// Gives some of what the front of `input` stands for, if that is anything.
    fn inflate_piece<'b>(
        &mut self,
        mut frame: Frame,
        input: &mut &'b mut [u8],
        deflate: &mut PerMessageDeflate,
    ) -> Result<Option<Progress<'b>>, ProtocolError> {
        let available = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(input.len());
        let mask = frame.mask.unwrap_or_default();
        let count = available.min(COMPRESSED_STEP);
        apply_mask(&mut input[..count], mask, frame.taken);
        let (mut compressed, mut inflated) = (&input[..count], Vec::new());
        let mut has_more = count > 0;
        // What the decompressor has taken comes out to the last byte: nobody would come back for it.
        while has_more && (inflated.len() < PIECE || compressed.is_empty()) {
            has_more = deflate.inflate(&mut compressed, &mut inflated, usize::MAX)?;
        }
        if inflated.capacity() / 2 > inflated.len() {
            // Nobody sees how much room a piece holds, so it holds none to speak of.
            inflated.shrink_to_fit();
        }
        let taken = count - compressed.len();
        // The rest is taken again, from the wire as it were.
        apply_mask(&mut input[taken..count], mask, frame.taken + taken as u64);
        split_front(input, taken);
        frame.taken += taken as u64;
        frame.remaining -= taken as u64;
        self.frame = Some(frame);
        self.assembly.wire_len += taken as u64;
        if self.assembly.kind == Some(MessageKind::Text) {
            self.assembly.utf8.feed(&inflated).map_err(|_| ProtocolError::InvalidUtf8)?;
        }
        deflate.pass_piece(&inflated);
        if frame.remaining == 0 && frame.fin {
            deflate.finish_pieces(self.assembly.wire_len)?;
        } else if frame.remaining > 0 && inflated.is_empty() {
            return Ok(input.is_empty().then_some(Progress::Starved));
        }
        self.end_piece(frame, Payload::Owned(inflated)).map(|piece| Some(Progress::Piece(piece)))
    }

    /// Where a payload is between its pieces, and the message with it.
    fn end_piece<'b>(&mut self, frame: Frame, payload: Payload<'b>) -> Result<Piece<'b>, ProtocolError> {
        let ends_frame = frame.remaining == 0;
        let ends_message = ends_frame && frame.fin;
        let kind = self.assembly.kind.unwrap_or(MessageKind::Binary);
        let begins_message = !std::mem::replace(&mut self.assembly.has_begun, true);
        if ends_frame {
            self.frame = None;
        }
        if ends_message {
            self.assembly.finish()?;
        }
        Ok(Piece { kind, payload, begins_message, ends_frame, ends_message })
    }

    fn end_data_frame(&mut self, frame: Frame) -> Result<Option<Message<'static>>, ProtocolError> {
        self.frame = None;
        if frame.fin { self.assembly.finish().map(Some) } else { Ok(None) }
    }

    #[inline]
    fn bulk_buffer(&mut self) -> Option<bytes::buf::Limit<&mut Vec<u8>>> {
        let frame = self.frame.filter(|frame| frame.remaining >= BULK_FROM && !frame.opcode.is_control())?;
        if self.assembly.is_compressed {
            return None;
        }
        let payload = &mut self.assembly.payload;
        let remaining = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
        if payload.capacity() - payload.len() < remaining.min(BULK_STEP) {
            payload.reserve_exact(remaining.min(payload.len().max(BULK_STEP)));
        }
        Some(payload.limit(remaining))
    }

    /// Takes what was appended to the bulk buffer.
    fn take_bulk(&mut self) -> Result<Option<Message<'static>>, ProtocolError> {
        let Some(mut frame) = self.frame else { return Ok(None) };
        let piece = &mut self.assembly.payload[self.assembly.validated..];
        let count = piece.len();
        frame.unmask(piece);
        self.frame = Some(frame);
        self.assembly.validate(count)?;
        if frame.remaining > 0 { Ok(None) } else { self.end_data_frame(frame) }
    }
}

impl Frame {
    fn unmask(&mut self, piece: &mut [u8]) {
        if let Some(key) = self.mask {
            apply_mask(piece, key, self.taken);
        }
        self.taken += piece.len() as u64;
        self.remaining -= piece.len() as u64;
    }
}

/// A frame that is a whole message or a control frame, and lies whole in the input.
#[inline]
fn whole(opcode: Opcode, payload: &[u8]) -> Result<Progress<'_>, ProtocolError> {
    let kind = match opcode {
        Opcode::Text if !utf8::is_utf8(payload) => return Err(ProtocolError::InvalidUtf8),
        Opcode::Text => MessageKind::Text,
        Opcode::Binary => MessageKind::Binary,
        control => return Ok(Progress::Control(control, Payload::Borrowed(payload))),
    };
    Ok(Progress::Message(Message { kind, payload: Payload::Borrowed(payload) }))
}

/// The first `count` bytes of `input`, which moves behind them.
#[inline]
fn split_front<'b>(input: &mut &'b mut [u8], count: usize) -> &'b mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(count);
    *input = rest;
    front
}

/// A header that was cut: the bytes of it that came.
#[derive(Debug, Default)]
struct PartialHeader {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl PartialHeader {
    /// Takes a header from the front of `input`, with what came before; `None` takes all of `input`.
    #[inline]
    fn take(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        if self.len == 0
            && let Some((header, len)) = FrameHeader::parse(input)?
        {
            split_front(input, len);
            return Ok(Some(header));
        }
        self.take_slowly(input)
    }

    fn take_slowly(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        while !input.is_empty() {
            self.bytes[usize::from(self.len)] = split_front(input, 1)[0];
            self.len += 1;
            if let Some((header, _)) = FrameHeader::parse(&self.bytes[..usize::from(self.len)])? {
                self.len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

/// A message that is being put together.
#[derive(Debug, Default)]
struct Assembly {
    /// Set from the first frame's header to the end of the last frame.
    kind: Option<MessageKind>,
    fragments: u32,
    /// RSV1 of the first frame (RFC 7692 section 6).
    is_compressed: bool,
    /// Of a compressed message: bytes taken, as they came.
    wire_len: u64,
    payload: Vec<u8>,
    /// How much of `payload` is unmasked and, if text, checked.
    validated: usize,
    utf8: Utf8Validator,
    /// A piece of the message was given.
    has_begun: bool,
}

impl Assembly {
    /// What a header must obey besides its own form. Nothing is allocated for a frame that fails here.
    #[inline]
    fn check(
        &self,
        header: &FrameHeader,
        role: Role,
        config: &Config,
        has_deflate: bool,
    ) -> Result<(), ProtocolError> {
        // Only the first frame of a message has it (RFC 7692 section 6.1).
        if header.rsv1 && !(has_deflate && matches!(header.opcode, Opcode::Text | Opcode::Binary)) {
            return Err(ProtocolError::ReservedBit1);
        }
        match (role, header.mask) {
            (Role::Server, None) => return Err(ProtocolError::UnmaskedFrame),
            (Role::Client, Some(_)) => return Err(ProtocolError::MaskedFrame),
            _ => {}
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        match (header.opcode, self.kind) {
            (Opcode::Continuation, None) => return Err(ProtocolError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ProtocolError::ContinuationExpected),
            _ => {}
        }
        let announced = header.payload_len;
        if let Some(limit) = config.max_frame_size
            && announced > limit as u64
        {
            return Err(ProtocolError::FrameTooBig { announced, limit });
        }
        if config.receive_in_pieces {
            return Ok(());
        }
        let limit = config.max_message_size;
        let (announced, most) = if header.rsv1 || self.is_compressed {
            (announced + self.wire_len, (limit as u64).saturating_mul(2).saturating_add(COMPRESSED_ALLOWANCE))
        } else {
            (announced + self.payload.len() as u64, limit as u64)
        };
        if announced > most {
            return Err(ProtocolError::MessageTooBig { announced, limit });
        }
        if self.fragments >= config.max_fragments {
            return Err(ProtocolError::TooManyFragments { limit: config.max_fragments });
        }
        Ok(())
    }

    /// Appends what a compressed piece stands for, checking it as it comes.
    fn inflate(
        &mut self,
        piece: &[u8],
        deflate: &mut PerMessageDeflate,
        config: &Config,
    ) -> Result<(), ProtocolError> {
        self.wire_len += piece.len() as u64;
        let (mut input, mut has_more) = (piece, !piece.is_empty());
        while has_more {
            let inflated = deflate.inflate(&mut input, &mut self.payload, config.max_message_size);
            self.validate(self.payload.len() - self.validated)?;
            has_more = inflated?;
        }
        Ok(())
    }

    /// Checks the `count` bytes that were appended.
    fn validate(&mut self, count: usize) -> Result<(), ProtocolError> {
        if self.kind == Some(MessageKind::Text) {
            self.utf8
                .feed(&self.payload[self.validated..][..count])
                .map_err(|_| ProtocolError::InvalidUtf8)?;
        }
        self.validated += count;
        Ok(())
    }

    fn finish(&mut self) -> Result<Message<'static>, ProtocolError> {
        let kind = self.kind.take().unwrap_or(MessageKind::Binary);
        self.utf8.finish().map_err(|_| ProtocolError::InvalidUtf8)?;
        self.fragments = 0;
        if self.is_compressed && self.payload.capacity() > 2 * self.payload.len() + 64 {
            // Room that the compressed bytes promised to fill, and did not.
            self.payload.shrink_to_fit();
        }
        self.is_compressed = false;
        self.wire_len = 0;
        self.validated = 0;
        self.has_begun = false;
        Ok(Message { kind, payload: Payload::Owned(std::mem::take(&mut self.payload)) })
    }
}
