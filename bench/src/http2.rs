//! A load over HTTP/2 that costs less than any server: several WebSockets on one connection (RFC 8441), one read and
//! one write for all that is ready, and no more of HTTP/2 than that takes. It keeps to the server's windows, and
//! checks each answer.

use std::{io, net::SocketAddr};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::apply_mask,
};

use crate::client::{Conversation, Outcome};

const FRAME_HEADER_LEN: usize = 9;

/// RFC 9113, section 6.
mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const WINDOW_UPDATE: u8 = 8;
}

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const SETTINGS_ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What a window may be at most: the answers of a measurement stay below, so that none has to be given back.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const DEFAULT_WINDOW: i64 = 65_535;

/// `:status: 200` of HPACK's static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// Opens a WebSocket for each of `conversations` on one connection, and talks until that ends.
///
/// # Errors
/// When the server ends it, or says what it must not.
///
/// # Panics
/// When an answer is wrong.
pub async fn talk(conversations: Vec<Conversation>) -> Outcome {
    let mut stream = conversations[0].connect().await?;
    let mut connection = Connection::new(conversations);
    let mut input = BytesMut::with_capacity(256 * 1024);
    loop {
        if !connection.output.is_empty() {
            stream.write_all(&connection.output).await?;
            connection.output.clear();
        }
        input.reserve(64 * 1024);
        if stream.read_buf(&mut input).await? == 0 {
            return Err("the server ended the connection".into());
        }
        connection.receive(&mut input)?;
    }
}

struct Connection {
    streams: Vec<Stream>,
    address: SocketAddr,
    /// What the server takes: on the connection, and on a stream to begin with.
    window: i64,
    initial_window: i64,
    is_open: bool,
    random: u64,
    output: Vec<u8>,
}

struct Stream {
    conversation: Conversation,
    is_open: bool,
    window: i64,
    /// Messages that are to be sent.
    due: usize,
    /// An answer whose end has not arrived.
    partial: Vec<u8>,
}

impl Connection {
    fn new(conversations: Vec<Conversation>) -> Self {
        let address = conversations[0].address;
        let random = conversations[0].number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let stream = |conversation: Conversation| Stream {
            due: conversation.in_flight,
            conversation,
            is_open: false,
            window: DEFAULT_WINDOW,
            partial: Vec::new(),
        };
        let mut output = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        put_frame_header(&mut output, frame::SETTINGS, 0, 0, 6);
        output.extend_from_slice(&SETTINGS_INITIAL_WINDOW_SIZE.to_be_bytes());
        output.extend_from_slice(&LARGEST_WINDOW.to_be_bytes());
        put_frame_header(&mut output, frame::WINDOW_UPDATE, 0, 0, 4);
        output.extend_from_slice(&(LARGEST_WINDOW - DEFAULT_WINDOW as u32).to_be_bytes());
        Self {
            streams: conversations.into_iter().map(stream).collect(),
            address,
            window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            is_open: false,
            random,
            output,
        }
    }

    /// Takes the frames that are whole, and puts what they ask for into the output.
    fn receive(&mut self, input: &mut BytesMut) -> io::Result<()> {
        while let Some(header) = input.get(..FRAME_HEADER_LEN) {
            let len = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let (kind, flags) = (header[3], header[4]);
            let id = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let Some(payload) = input.get(FRAME_HEADER_LEN..FRAME_HEADER_LEN + len) else { break };
            self.frame(kind, flags, id, payload)?;
            bytes::Buf::advance(input, FRAME_HEADER_LEN + len);
        }
        for index in 0..self.streams.len() {
            self.send_due(index);
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
        match kind {
            frame::DATA if flags & PADDED == 0 => self.stream(id)?.receive(payload),
            frame::HEADERS if flags & (PADDED | PRIORITY) == 0 && payload.first() == Some(&STATUS_200) => {
                self.stream(id)?.is_open = true;
                Ok(())
            }
            frame::SETTINGS if flags & ACK == 0 => self.settings(payload),
            frame::PING if flags & ACK == 0 => {
                put_frame_header(&mut self.output, frame::PING, ACK, 0, payload.len());
                self.output.extend_from_slice(payload);
                Ok(())
            }
            frame::WINDOW_UPDATE => {
                let increment = i64::from(number(payload)?);
                match id {
                    0 => self.window += increment,
                    _ => self.stream(id)?.window += increment,
                }
                Ok(())
            }
            frame::SETTINGS | frame::PING => Ok(()),
            _ => Err(invalid(format!("frame of type {kind}, flags {flags}, stream {id}: {payload:?}"))),
        }
    }

    /// The server's settings: the first ones let the WebSockets be asked for.
    fn settings(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut can_connect = false;
        for setting in payload.chunks_exact(6) {
            let value = number(&setting[2..])?;
            match u16::from_be_bytes([setting[0], setting[1]]) {
                SETTINGS_INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.initial_window;
                    self.initial_window += change;
                    self.streams.iter_mut().for_each(|stream| stream.window += change);
                }
                SETTINGS_ENABLE_CONNECT_PROTOCOL => can_connect = value == 1,
                _ => {}
            }
        }
        put_frame_header(&mut self.output, frame::SETTINGS, ACK, 0, 0);
        if !self.is_open {
            if !can_connect {
                return Err(invalid("the server has no extended CONNECT".to_owned()));
            }
            self.is_open = true;
            let request = request(self.address);
            for index in 0..self.streams.len() {
                put_frame_header(&mut self.output, frame::HEADERS, END_HEADERS, id_of(index), request.len());
                self.output.extend_from_slice(&request);
            }
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> io::Result<&mut Stream> {
        let index = (id as usize).wrapping_sub(1) / 2;
        self.streams.get_mut(index).ok_or_else(|| invalid(format!("there is no stream {id}")))
    }

    /// The messages that a stream owes, in one DATA frame, as far as the windows let them go.
    fn send_due(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        if stream.due == 0 || !stream.is_open {
            return;
        }
        let start = self.output.len();
        self.output.resize(start + FRAME_HEADER_LEN, 0);
        while stream.due > 0 {
            let message_start = self.output.len();
            // xorshift64, which is random enough to be unknown to whoever looks for one mask.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let mask = (self.random as u32).to_ne_bytes();
            let text = stream.conversation.text();
            let mut header = FrameHeader::new(Opcode::Text, text.len() as u64);
            header.mask = Some(mask);
            let mut encoded = [0; MAX_HEADER_LEN];
            let encoded_len = header.encode(&mut encoded);
            let len = (encoded_len + text.len()) as i64;
            if len > self.window.min(stream.window) {
                break;
            }
            self.output.extend_from_slice(&encoded[..encoded_len]);
            self.output.extend_from_slice(&text);
            apply_mask(&mut self.output[message_start + encoded_len..], mask, 0);
            stream.conversation.sent();
            stream.due -= 1;
            self.window -= len;
            stream.window -= len;
        }
        let len = self.output.len() - start - FRAME_HEADER_LEN;
        if len == 0 {
            return self.output.truncate(start);
        }
        let mut header = Vec::with_capacity(FRAME_HEADER_LEN);
        put_frame_header(&mut header, frame::DATA, 0, id_of(index), len);
        self.output[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
    }
}

impl Stream {
    fn receive(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.partial.is_empty() {
            let consumed = self.answers(payload)?;
            self.partial.extend_from_slice(&payload[consumed..]);
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(payload);
        let consumed = self.answers(&bytes)?;
        bytes.drain(..consumed);
        self.partial = bytes;
        Ok(())
    }

    /// Takes the messages that are whole, and says how many bytes that was. Pings are not answered: a measurement
    /// takes less time than a server waits for a Pong.
    fn answers(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut consumed = 0;
        while let Some((header, len)) = FrameHeader::parse(&bytes[consumed..]).map_err(io::Error::other)? {
            let start = consumed + len;
            let Some(payload) = bytes.get(start..start + header.payload_len as usize) else { break };
            match header.opcode {
                Opcode::Text => {
                    self.conversation.answer(payload);
                    self.due += 1;
                }
                Opcode::Ping => {}
                opcode => return Err(invalid(format!("a frame {opcode:?}"))),
            }
            consumed = start + payload.len();
        }
        Ok(consumed)
    }
}

/// An extended CONNECT, in HPACK without its dynamic table: the names of the static table, values as they are.
fn request(address: SocketAddr) -> Vec<u8> {
    const AUTHORITY: u8 = 1;
    const METHOD: u8 = 2;
    const PATH_SLASH: u8 = 0x80 | 4;
    const SCHEME_HTTP: u8 = 0x80 | 6;
    let mut block = Vec::new();
    put_literal(&mut block, Name::Indexed(METHOD), "CONNECT");
    put_literal(&mut block, Name::New(":protocol"), "websocket");
    block.extend_from_slice(&[SCHEME_HTTP, PATH_SLASH]);
    put_literal(&mut block, Name::Indexed(AUTHORITY), &address.to_string());
    put_literal(&mut block, Name::New("sec-websocket-version"), "13");
    block
}

enum Name<'a> {
    Indexed(u8),
    New(&'a str),
}

/// A field that is not to be indexed (RFC 7541, section 6.2.2); its strings are shorter than 127 bytes.
fn put_literal(block: &mut Vec<u8>, name: Name<'_>, value: &str) {
    match name {
        Name::Indexed(index) => block.push(index),
        Name::New(name) => {
            block.extend_from_slice(&[0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
        }
    }
    block.push(value.len() as u8);
    block.extend_from_slice(value.as_bytes());
}

fn put_frame_header(output: &mut Vec<u8>, kind: u8, flags: u8, id: u32, len: usize) {
    output.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&id.to_be_bytes());
}

fn id_of(index: usize) -> u32 {
    index as u32 * 2 + 1
}

fn number(bytes: &[u8]) -> io::Result<u32> {
    let bytes = bytes.try_into().map_err(|_| invalid(format!("no number of four bytes: {bytes:?}")))?;
    Ok(u32::from_be_bytes(bytes))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
