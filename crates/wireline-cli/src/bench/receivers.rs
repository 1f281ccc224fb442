//! What is done with messages, one receiver for each kind of load.

use wireline_proto::Opcode;

use super::{connection::Control, fault::Fault, incoming::Receiver, payload::Payload};

/// Expects every message to be the answer to the next one sent, byte for byte.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pub(super) payload: &'a Payload,
    pub(super) received: &'a mut u64,
    pub(super) control: &'a mut Control,
}

impl Receiver for Answers<'_> {
    #[inline]
    fn data(&mut self, opcode: Opcode, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        if opcode == self.payload.opcode() && self.payload.matches(*self.received, offset, bytes) {
            Ok(())
        } else {
            Err(Fault::WrongContent)
        }
    }

    #[inline]
    fn end(&mut self, opcode: Opcode, len: usize) -> Result<(), Fault> {
        if opcode != self.payload.opcode() || len != self.payload.len() {
            return Err(Fault::WrongContent);
        }
        *self.received += 1;
        Ok(())
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.control.receive(opcode, payload);
        Ok(())
    }
}

/// What every published message must be: learned from the first one, as its bytes arrive.
#[derive(Debug)]
pub(super) struct Publication {
    expected_len: Option<usize>,
    content: Vec<u8>,
}

impl Publication {
    /// Messages of this length, all the same; without a length any messages will do.
    pub(super) fn new(expected_len: Option<usize>) -> Self {
        Self { expected_len, content: Vec::new() }
    }

    fn matches(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(expected_len) = self.expected_len else { return true };
        let known = bytes.len().min(self.content.len().saturating_sub(offset));
        if self.content[offset..offset + known] != bytes[..known] {
            return false;
        }
        self.content.extend_from_slice(&bytes[known..]);
        self.content.len() <= expected_len
    }
}

/// Expects messages that nobody asked for, and counts them.
#[derive(Debug)]
pub(super) struct Deliveries<'a> {
    pub(super) publication: &'a mut Publication,
    pub(super) received: &'a mut u64,
    pub(super) bytes: &'a mut u64,
    pub(super) control: &'a mut Control,
}

impl Receiver for Deliveries<'_> {
    #[inline]
    fn data(&mut self, _: Opcode, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        *self.bytes += bytes.len() as u64;
        if self.publication.matches(offset, bytes) { Ok(()) } else { Err(Fault::WrongContent) }
    }

    #[inline]
    fn end(&mut self, _: Opcode, len: usize) -> Result<(), Fault> {
        if self.publication.expected_len.is_some_and(|expected_len| len != expected_len) {
            return Err(Fault::WrongContent);
        }
        *self.received += 1;
        Ok(())
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.control.receive(opcode, payload);
        Ok(())
    }
}

/// Minds control frames only: for connections that wait, open or close.
#[derive(Debug)]
pub(super) struct ControlOnly<'a>(pub(super) &'a mut Control);

impl Receiver for ControlOnly<'_> {
    fn data(&mut self, _: Opcode, _: usize, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn end(&mut self, _: Opcode, _: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.0.receive(opcode, payload);
        Ok(())
    }
}
