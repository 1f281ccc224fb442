//! What one connection has received: frames taken apart as their bytes arrive.
//!
//! Nothing is collected: payload is handed on where it lies in the read buffer, however frames and reads
//! are cut, so that a check of every byte costs one look at it. Only a header that a read cut in two and
//! the payload of control frames are kept.

use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_HEADER_LEN},
};

use super::{fault::Fault, inflate::Inflating};

/// What is done with what a server sends.
pub(super) trait Receiver {
    /// A piece of a message's payload, `offset` bytes into the message.
    fn data(&mut self, opcode: Opcode, offset: usize, bytes: &[u8]) -> Result<(), Fault>;

    /// The end of a message of `len` bytes.
    fn end(&mut self, opcode: Opcode, len: usize) -> Result<(), Fault>;

    /// A whole control frame.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault>;
}

/// Where in the stream of frames a connection stands.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The start of a header whose rest has not arrived.
    partial_header: PartialHeader,
    frame: Option<Frame>,
    message: Option<Message>,
    control_payload: Vec<u8>,
    /// If compression was agreed on.
    inflating: Option<Box<Inflating>>,
}

#[derive(Debug, Default)]
struct PartialHeader {
    bytes: [u8; MAX_HEADER_LEN],
    len: usize,
}

/// The frame whose payload is arriving.
#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    left: u64,
}

/// The message whose frames are arriving.
#[derive(Debug, Clone, Copy)]
struct Message {
    opcode: Opcode,
    is_compressed: bool,
    len: usize,
}

impl Incoming {
    /// Messages may be compressed from here on.
    pub(super) fn allow_compression(&mut self) {
        self.inflating = Some(Box::new(Inflating::new()));
    }

    /// Takes the bytes of one read.
    #[inline]
    pub(super) fn receive(&mut self, mut bytes: &[u8], receiver: &mut impl Receiver) -> Result<(), Fault> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.header(&mut bytes)? {
                    Some(header) => self.begin(header)?,
                    None => return Ok(()),
                },
            };
            let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(len);
            bytes = rest;
            self.payload(frame, payload, receiver)?;
            let left = frame.left - len as u64;
            if left > 0 {
                self.frame = Some(Frame { left, ..frame });
                return Ok(());
            }
            self.frame = None;
            self.end(frame, receiver)?;
        }
    }

    /// The header at the start of `bytes`, which it takes off; `None` while it is not whole.
    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<FrameHeader>, Fault> {
        if self.partial_header.len > 0 {
            return self.partial_header.complete(bytes);
        }
        if let Some((header, header_len)) = FrameHeader::parse(bytes)? {
            *bytes = &bytes[header_len..];
            return Ok(Some(header));
        }
        self.partial_header.bytes[..bytes.len()].copy_from_slice(bytes);
        self.partial_header.len = bytes.len();
        Ok(None)
    }

    /// Checks a header against what came before it.
    #[inline]
    fn begin(&mut self, header: FrameHeader) -> Result<Frame, Fault> {
        if header.mask.is_some() {
            return Err(Fault::Frame("the server masked a frame"));
        }
        let may_be_compressed =
            self.inflating.is_some() && matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.rsv1 && !may_be_compressed {
            return Err(Fault::Frame("the server compressed a frame, and no extension was agreed on"));
        }
        match (header.opcode, self.message) {
            (Opcode::Continuation, None) => Err(Fault::Frame("a continuation of no message"))?,
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(Fault::Frame("a message within a message"))?,
            (opcode @ (Opcode::Text | Opcode::Binary), None) => {
                self.message = Some(Message { opcode, is_compressed: header.rsv1, len: 0 });
            }
            _ => {}
        }
        Ok(Frame { opcode: header.opcode, fin: header.fin, left: header.payload_len })
    }

    #[inline]
    fn payload(&mut self, frame: Frame, bytes: &[u8], receiver: &mut impl Receiver) -> Result<(), Fault> {
        if frame.opcode.is_control() {
            self.control_payload.extend_from_slice(bytes);
        } else if let Some(message) = &mut self.message {
            match &mut self.inflating {
                Some(inflating) if message.is_compressed => {
                    inflating.piece(bytes, |bytes| message.take(bytes, receiver))?;
                }
                _ => message.take(bytes, receiver)?,
            }
        }
        Ok(())
    }

    #[inline]
    fn end(&mut self, frame: Frame, receiver: &mut impl Receiver) -> Result<(), Fault> {
        if frame.opcode.is_control() {
            receiver.control(frame.opcode, &self.control_payload)?;
            self.control_payload.clear();
        } else if frame.fin
            && let Some(mut message) = self.message.take()
        {
            if let (true, Some(inflating)) = (message.is_compressed, &mut self.inflating) {
                inflating.end(|bytes| message.take(bytes, receiver))?;
            }
            receiver.end(message.opcode, message.len)?;
        }
        Ok(())
    }
}

impl Message {
    #[inline]
    fn take(&mut self, bytes: &[u8], receiver: &mut impl Receiver) -> Result<(), Fault> {
        receiver.data(self.opcode, self.len, bytes)?;
        self.len += bytes.len();
        Ok(())
    }
}

impl PartialHeader {
    /// Adds bytes of `bytes` until the header is whole.
    fn complete(&mut self, bytes: &mut &[u8]) -> Result<Option<FrameHeader>, Fault> {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.bytes[self.len] = byte;
            self.len += 1;
            *bytes = rest;
            if let Some((header, _)) = FrameHeader::parse(&self.bytes[..self.len])? {
                self.len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is told.
    #[derive(Debug, Default, PartialEq)]
    struct Log {
        message: Vec<u8>,
        events: Vec<(Opcode, Vec<u8>)>,
    }

    impl Receiver for Log {
        fn data(&mut self, _: Opcode, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
            assert_eq!(offset, self.message.len());
            self.message.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self, opcode: Opcode, len: usize) -> Result<(), Fault> {
            assert_eq!(len, self.message.len());
            self.events.push((opcode, std::mem::take(&mut self.message)));
            Ok(())
        }

        fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
            self.events.push((opcode, payload.to_vec()));
            Ok(())
        }
    }

    fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![first_byte];
        if len < 126 {
            frame.push(len.to_be_bytes()[1]);
        } else {
            frame.push(126);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn cut_anywhere_the_messages_are_the_same() {
        let stream = [
            frame(0x81, b"whole"),
            frame(0x02, b"in "),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x80, &[b'x'; 300]),
            frame(0x82, b""),
            frame(0x88, &[3, 232]),
        ]
        .concat();
        let events = vec![
            (Opcode::Text, b"whole".to_vec()),
            (Opcode::Ping, b"ping".to_vec()),
            (Opcode::Binary, [b"in ".to_vec(), vec![b'x'; 300]].concat()),
            (Opcode::Binary, Vec::new()),
            (Opcode::Close, vec![3, 232]),
        ];
        for piece_len in 1..=stream.len() {
            let (mut incoming, mut log) = (Incoming::default(), Log::default());
            for piece in stream.chunks(piece_len) {
                incoming.receive(piece, &mut log).unwrap();
            }
            assert_eq!(log, Log { message: Vec::new(), events: events.clone() }, "pieces of {piece_len}");
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_a_fault() {
        for stream in [
            &[0x81, 0x80, 0, 0, 0, 0][..],   // masked
            &[0xC1, 0x00],                   // compressed
            &[0x80, 0x00],                   // a continuation of nothing
            &[0x01, 0x01, b'a', 0x81, 0x00], // a message within a message
            &[0x83],                         // a reserved opcode
            &[0x81, 126, 0, 1],              // a length in more bytes than needed
        ] {
            assert!(Incoming::default().receive(stream, &mut Log::default()).is_err(), "{stream:x?}");
        }
    }
}
