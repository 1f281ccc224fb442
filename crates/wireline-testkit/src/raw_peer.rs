//! A peer on a real socket that a test speaks through frame by frame.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use wireline_proto::Role;

use crate::Frame;

/// How long a peer waits for bytes, and for room to write, before the test fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// The key of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The other end of a connection under test: a TCP socket, its own handshake and its own frames. It
/// blocks, so that a test reads like a conversation; an asynchronous one wants a runtime whose workers
/// are other threads.
///
/// Every method that reads or writes panics when the other end does not do its part within seconds.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
    role: Role,
    head: String,
}

impl RawPeer {
    /// A TCP connection to `addr` on which nothing was said yet. Frames are sent as a client's.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    pub fn dial(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).expect("the server listens"), Role::Client)
    }

    /// A client whose opening handshake succeeded.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn connect(addr: SocketAddr) -> Self {
        let peer = Self::request(addr, "");
        assert!(peer.head.starts_with("HTTP/1.1 101 "), "the server answered {:?}", peer.head);
        peer
    }

    /// A client that asked for a WebSocket, with more header lines (each with its CR LF), and read the
    /// head of the answer.
    #[must_use]
    pub fn request(addr: SocketAddr, more: &str) -> Self {
        let mut peer = Self::dial(addr);
        peer.send_bytes(&Self::request_head(more));
        peer.read_head();
        peer
    }

    /// The bytes of a good request, with more header lines.
    #[must_use]
    pub fn request_head(more: &str) -> Vec<u8> {
        format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
        .into_bytes()
    }

    /// The server's end of the next connection: it read the request, and answered nothing yet. Frames
    /// are sent as a server's.
    ///
    /// # Panics
    /// When no client connects and asks.
    #[must_use]
    pub fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().expect("a client connects");
        let mut peer = Self::new(stream, Role::Server);
        peer.read_head();
        peer
    }

    /// The bytes of a good answer to the request that was read, with more header lines.
    ///
    /// # Panics
    /// When the request had no key.
    #[must_use]
    pub fn switching_protocols(&self, more: &str) -> Vec<u8> {
        let key = self.header("sec-websocket-key").expect("the request has a key");
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{more}\r\n",
            accept_value(key)
        )
        .into_bytes()
    }

    /// A server whose opening handshake succeeded.
    #[must_use]
    pub fn serve(listener: &TcpListener) -> Self {
        let mut peer = Self::accept(listener);
        peer.send_bytes(&peer.switching_protocols(""));
        peer
    }

    fn new(stream: TcpStream, role: Role) -> Self {
        stream.set_nodelay(true).expect("a socket can be set up");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be set up");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket can be set up");
        Self { stream, role, head: String::new() }
    }

    /// The head that was read last: of the request, or of the answer.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.head
    }

    /// A header of that head, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// Sends a frame, masked if this is a client.
    pub fn send(&mut self, frame: &Frame) {
        self.send_bytes(&frame.sent_by(self.role));
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the other end does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the other end takes bytes");
    }

    /// Sends as much of `bytes` as fits until the other end has taken nothing for `patience`; how much.
    ///
    /// # Panics
    /// When the connection fails.
    pub fn send_until_stalled(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.stream.set_write_timeout(Some(patience)).expect("a socket can be set up");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if is_timeout(&error) => break,
                Err(error) => panic!("writing failed: {error}"),
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a socket can be set up");
        sent
    }

    /// Reads a head, up to its empty line.
    ///
    /// # Panics
    /// When the other end does not send one.
    pub fn read_head(&mut self) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut ahead = [0; 1024];
            let count = self.stream.peek(&mut ahead).expect("the other end sends a head");
            assert!(count > 0, "the stream ended within a head: {:?}", String::from_utf8_lossy(&head));
            let seen = head.len();
            head.extend_from_slice(&ahead[..count]);
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").map_or(head.len(), |at| at + 4);
            head.truncate(end);
            self.stream.read_exact(&mut ahead[..end - seen]).expect("it was seen");
        }
        self.head = String::from_utf8(head).expect("a head is text");
    }

    /// Reads the next frame, unmasked; `None` at the end of the stream.
    ///
    /// # Panics
    /// When none comes in time, or the stream ends within one.
    pub fn read(&mut self) -> Option<Frame> {
        let mut first = [0];
        match self.stream.read(&mut first) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no frame came: {error}"),
        }
        let second = self.take::<1>()[0];
        let len = match second & 0x7F {
            126 => u64::from(u16::from_be_bytes(self.take())),
            127 => u64::from_be_bytes(self.take()),
            short => u64::from(short),
        };
        let mask = (second & 0x80 != 0).then(|| self.take::<4>());
        let mut payload = vec![0; usize::try_from(len).expect("a frame fits into memory")];
        self.stream.read_exact(&mut payload).expect("a frame comes whole");
        if let Some(key) = mask {
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        let first = first[0];
        Some(Frame {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 0b111,
            mask,
            ..Frame::new(first & 0xF, payload)
        })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("a frame comes whole");
        bytes
    }

    /// Reads the next frame, which must be this one, masked as its sender's role demands.
    ///
    /// # Panics
    /// When it is another one, or none comes.
    pub fn expect(&mut self, frame: &Frame) {
        let read = self.read().unwrap_or_else(|| panic!("the stream ended before {frame:?}"));
        assert_eq!(read.mask.is_some(), self.role == Role::Server, "clients mask, servers do not");
        let read = Frame { mask: None, ..read };
        assert!(read == *frame, "got {}, expected {}", brief(&read), brief(frame));
    }

    /// Reads to the end of the stream, which must come now.
    ///
    /// # Panics
    /// When something else comes, or nothing.
    pub fn expect_end(&mut self) {
        let read = self.read();
        assert!(read.is_none(), "got {read:?} instead of the end");
    }

    /// Reads all bytes to the end of the stream.
    ///
    /// # Panics
    /// When the end does not come.
    #[must_use]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("no end came: {error}"),
            _ => bytes,
        }
    }

    /// Sends no more: the other end reads an end of file.
    pub fn shut_down(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// A second handle, to read in one thread and write in another.
    ///
    /// # Panics
    /// When the system has no descriptor left.
    #[must_use]
    pub fn second(&self) -> Self {
        let stream = self.stream.try_clone().expect("a descriptor is left");
        Self { stream, role: self.role, head: self.head.clone() }
    }

    /// The socket itself.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn brief(frame: &Frame) -> String {
    let payload = String::from_utf8_lossy(&frame.payload[..frame.payload.len().min(64)]);
    format!("opcode {:#x} fin {} {} bytes {payload:?}", frame.opcode, frame.fin, frame.payload.len())
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept_value(key: &str) -> String {
    base64(&sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()))
}

/// RFC 3174, as it stands there.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len();
    padded[end - 8..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let mut hash = [0x6745_2301_u32, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    for block in padded.chunks_exact(64) {
        let words =
            block.chunks_exact(4).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        let mut w: Vec<u32> = words.collect();
        for t in 16..80 {
            w.push((w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = hash;
        for (t, word) in w.iter().enumerate() {
            let (f, k) = match t / 20 {
                0 => (b & c | !b & d, 0x5A82_7999),
                1 => (b ^ c ^ d, 0x6ED9_EBA1),
                2 => (b & c | b & d | c & d, 0x8F1B_BCDC),
                _ => (b ^ c ^ d, 0xCA62_C1D6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, part) in hash.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut bytes = [0; 20];
    bytes.chunks_exact_mut(4).zip(hash).for_each(|(four, word)| four.copy_from_slice(&word.to_be_bytes()));
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |sum, at| sum << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit > three.len() { '=' } else { char::from(DIGITS[value]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_the_rfcs() {
        assert_eq!(accept_value(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
