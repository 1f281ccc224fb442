//! The floor: an epoll loop that echoes messages and does nothing else that a library must.
//!
//! It reads into one buffer, unmasks there, checks UTF-8, and answers all that one read brought with one
//! write. There are no limits, no fragments, no keepalive, no closing code: what a library costs on top of
//! this is its own.

use std::io::{self, Read as _, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use sha1::{Digest as _, Sha1};
use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::apply_mask,
};

const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: TcpStream,
    is_open: bool,
    /// Whether the peer's Close has been answered.
    is_closed: bool,
    /// A message, or a request, whose end has not arrived.
    partial: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

fn main() -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::from_std(wireline_bench::listener());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let (mut input, mut output) = (vec![0; 256 * 1024], Vec::with_capacity(256 * 1024));
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let index = free.pop().unwrap_or(connections.len());
                    stream.set_nodelay(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(index), interest)?;
                    let (partial, unsent) = (Vec::new(), Vec::new());
                    let connection =
                        Some(Connection { stream, is_open: false, is_closed: false, partial, unsent });
                    if index == connections.len() {
                        connections.push(connection);
                    } else {
                        connections[index] = connection;
                    }
                }
                continue;
            }
            let index = event.token().0;
            let Some(connection) = &mut connections[index] else { continue };
            if connection.serve(event.is_read_closed(), &mut input, &mut output).is_err() {
                connections[index] = None;
                free.push(index);
            }
        }
    }
}

impl Connection {
    /// Reads until there is nothing left and answers; an error ends the connection.
    fn serve(&mut self, fin_arrived: bool, input: &mut [u8], output: &mut Vec<u8>) -> io::Result<()> {
        self.flush()?;
        loop {
            let wanted = self.missing();
            let len = if wanted > 0 {
                let start = self.partial.len();
                self.partial.resize(start + wanted, 0);
                let result = self.stream.read(&mut self.partial[start..]);
                self.partial.truncate(start + result.as_ref().map_or(0, |len| *len));
                result
            } else {
                self.stream.read(input)
            };
            let len = match len {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            output.clear();
            if wanted > 0 || !self.partial.is_empty() {
                if wanted == 0 {
                    self.partial.extend_from_slice(&input[..len]);
                }
                let mut partial = std::mem::take(&mut self.partial);
                let consumed = self.receive(&mut partial, output)?;
                partial.drain(..consumed);
                self.partial = partial;
            } else {
                let consumed = self.receive(&mut input[..len], output)?;
                if consumed < len {
                    self.partial.extend_from_slice(&input[consumed..len]);
                }
            }
            self.send(output)?;
            if self.is_closed {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let is_empty = if wanted > 0 { len < wanted } else { len < input.len() };
            if is_empty && !fin_arrived {
                return Ok(());
            }
        }
    }

    /// How much of a message that was begun is missing.
    fn missing(&self) -> usize {
        match FrameHeader::parse(&self.partial) {
            Ok(Some((header, len))) if self.is_open => {
                (len + header.payload_len as usize).saturating_sub(self.partial.len())
            }
            _ => 0,
        }
    }

    /// Answers what is whole of `bytes`, and says how much that is.
    fn receive(&mut self, bytes: &mut [u8], output: &mut Vec<u8>) -> io::Result<usize> {
        if !self.is_open {
            let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(0) };
            shake_hands(&bytes[..head], output)?;
            self.is_open = true;
            return Ok(head + 4);
        }
        let mut consumed = 0;
        while let Some((opcode, len)) = echo(&mut bytes[consumed..], output)? {
            consumed += len;
            self.is_closed |= opcode == Opcode::Close;
        }
        Ok(consumed)
    }

    fn send(&mut self, output: &[u8]) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        let written = if self.unsent.is_empty() { write(&mut self.stream, output)? } else { 0 };
        self.unsent.extend_from_slice(&output[written..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let written = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..written);
        }
        Ok(())
    }
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Puts the answer to the frame at the start of `bytes` into `output`; what the frame is, and its length, if
/// it is whole.
fn echo(bytes: &mut [u8], output: &mut Vec<u8>) -> io::Result<Option<(Opcode, usize)>> {
    let parsed = FrameHeader::parse(bytes).map_err(io::Error::other)?;
    let Some((header, header_len)) = parsed else { return Ok(None) };
    let Some(payload) = bytes[header_len..].get_mut(..header.payload_len as usize) else { return Ok(None) };
    apply_mask(payload, header.mask.unwrap_or_default(), 0);
    let opcode = match header.opcode {
        Opcode::Text => {
            simdutf8::basic::from_utf8(payload).map_err(io::Error::other)?;
            Opcode::Text
        }
        Opcode::Ping => Opcode::Pong,
        Opcode::Pong => return Ok(Some((Opcode::Pong, header_len + payload.len()))),
        opcode => opcode,
    };
    let mut encoded = [0; MAX_HEADER_LEN];
    let encoded_len = FrameHeader::new(opcode, header.payload_len).encode(&mut encoded);
    output.extend_from_slice(&encoded[..encoded_len]);
    output.extend_from_slice(payload);
    Ok(Some((header.opcode, header_len + payload.len())))
}

fn shake_hands(head: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let head = std::str::from_utf8(head).map_err(io::Error::other)?;
    let key = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let key = key.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let (_, key) = key.ok_or(io::ErrorKind::InvalidData)?;
    let digest = Sha1::new().chain_update(key.trim()).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    output.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    output.extend_from_slice(STANDARD.encode(digest.finalize()).as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    Ok(())
}
