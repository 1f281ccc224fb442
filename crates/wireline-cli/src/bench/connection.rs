//! One connection under load: a nonblocking socket, what it awaits, and its two directions.
//!
//! This is the only file that reads from and writes to sockets.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::SocketAddr,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::SockRef;
use wireline_proto::{
    Opcode,
    frame::{FrameHeader, MAX_CONTROL_PAYLOAD, MAX_HEADER_LEN},
    mask::apply_mask,
};

use super::{
    fault::Fault,
    handshake::Handshake,
    incoming::{Incoming, Receiver},
    masks::Masks,
    outgoing::Outgoing,
    payload::Payload,
    target::Target,
    tls::Session,
};

/// Reads take this much at once: small enough to stay in the second-level cache.
const READ_BUFFER_LEN: usize = 128 * 1024;

/// Writes give this much at once: what is masked has to be still in the cache when the kernel copies it.
const WRITE_BUFFER_LEN: usize = 64 * 1024;

/// A congestion control that sets no timer for what it sends, as BBR does, which is the default in places.
/// Between two sockets of one machine there is no congestion to control.
const UNPACED: &[u8] = b"reno";

/// The status code of a normal closure (section 7.4.1).
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

/// The buffers that all connections share.
#[derive(Debug)]
pub(super) struct Buffers {
    read: Box<[u8]>,
    write: Box<[u8]>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { read: vec![0; READ_BUFFER_LEN].into(), write: vec![0; WRITE_BUFFER_LEN].into() }
    }
}

/// A connection, from the first SYN to the last FIN.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) stage: Stage,
    handshake: Handshake,
    pub(super) outgoing: Outgoing,
    pub(super) control: Control,
    /// How many messages have arrived.
    pub(super) received: u64,
}

/// The socket, and the frames that come out of it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// What lies between the two if the URL says `wss`.
    tls: Option<Box<Session>>,
    incoming: Incoming,
    /// What has come of the response of the opening handshake, then the frames that came along with it.
    early: Vec<u8>,
}

/// What a connection awaits.
#[derive(Debug)]
pub(super) enum Stage {
    /// The TCP connection.
    Connecting,
    /// The server's answer to the opening handshake.
    AwaitingResponse,
    /// Messages.
    Open,
    /// The server's answer to a Close frame.
    AwaitingClose,
    /// The end of the TCP connection, which is the server's to begin (section 7.1.1).
    AwaitingEof,
}

/// The control frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Frames that are not sent yet.
    unsent: Vec<u8>,
    /// The status code of the Close frame that arrived.
    pub(super) close: Option<Option<u16>>,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn start(
        target: &Target,
        address: SocketAddr,
        compresses: bool,
        registry: &Registry,
        token: Token,
    ) -> Result<Self, Fault> {
        let tls = target.trust().map(Session::new).transpose()?.map(Box::new);
        let mut stream = TcpStream::connect(address)?;
        if address.ip().is_loopback() {
            // Nothing to save: the system's default does as well, at more of this core's time.
            let _ = SockRef::from(&stream).set_tcp_congestion(UNPACED);
        }
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            wire: Wire { stream, tls, incoming: Incoming::default(), early: Vec::new() },
            stage: Stage::Connecting,
            handshake: Handshake::new(target, compresses)?,
            outgoing: Outgoing::new(Masks::random()),
            control: Control::default(),
            received: 0,
        })
    }

    /// Goes on with the opening handshake as far as it can; true once it is through.
    pub(super) fn shake_hands(&mut self, buffers: &mut Buffers) -> Result<bool, Fault> {
        if matches!(self.stage, Stage::Connecting) {
            if !self.wire.is_connected()? {
                return Ok(false);
            }
            // A fresh socket takes a request of a few hundred bytes whole.
            self.wire.write_all(self.handshake.request())?;
            self.stage = Stage::AwaitingResponse;
        }
        if matches!(self.stage, Stage::AwaitingResponse) {
            let is_through = self.wire.read_response(buffers, &self.handshake)?;
            self.wire.flush()?;
            if !is_through {
                return Ok(false);
            }
            if self.handshake.offers_compression() {
                self.wire.incoming.allow_compression();
            }
            self.stage = Stage::Open;
        }
        Ok(true)
    }

    /// Sends what there is to send, as far as the socket takes it.
    #[inline]
    pub(super) fn flush(&mut self, payload: &Payload, buffers: &mut Buffers) -> Result<(), Fault> {
        if !self.wire.flush()? {
            return Ok(());
        }
        loop {
            if !self.control.unsent.is_empty() && self.outgoing.is_between_frames() {
                let Some(written) = written(self.wire.write(&self.control.unsent))? else {
                    return Ok(());
                };
                self.control.unsent.drain(..written);
            } else if self.outgoing.is_owing() {
                if !self.send(payload, buffers)? {
                    return Ok(());
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Sends frames with one write; false if the socket did not take all that was there.
    #[inline]
    fn send(&mut self, payload: &Payload, buffers: &mut Buffers) -> Result<bool, Fault> {
        let (available, result) = if payload.frame_len() > WRITE_BUFFER_LEN {
            let mut pieces = self.outgoing.pieces(payload, &mut buffers.write);
            (pieces.iter().map(|piece| piece.len()).sum(), self.wire.write_vectored(&mut pieces))
        } else {
            let filled = self.outgoing.fill(payload, &mut buffers.write);
            (filled, self.wire.write(&buffers.write[..filled]))
        };
        let Some(written) = written(result)? else { return Ok(false) };
        self.outgoing.advance(payload, written);
        Ok(written == available)
    }

    /// Begins the closing handshake; nothing but the rest of a half-sent frame goes before it.
    pub(super) fn close(&mut self) {
        self.outgoing.cancel();
        self.control.send(Opcode::Close, &NORMAL_CLOSURE);
        self.stage = Stage::AwaitingClose;
    }
}

impl Wire {
    /// Whether the TCP connection stands; if it does, small writes leave at once from here on.
    fn is_connected(&self) -> Result<bool, Fault> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        match self.stream.peer_addr() {
            Ok(_) => self.stream.set_nodelay(true)?,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Writes once; less than all was taken only if the socket is full.
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write(bytes),
            Some(tls) => tls.write(&mut self.stream, &mut [IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write_vectored(pieces),
            Some(tls) => tls.write(&mut self.stream, pieces),
        }
    }

    /// Writes what must find room.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.write(bytes)? < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Sends what was written and waits for room; false if there is none yet.
    #[inline]
    fn flush(&mut self) -> io::Result<bool> {
        self.tls.as_mut().map_or(Ok(true), |tls| tls.flush(&mut self.stream))
    }

    /// Reads the response of the opening handshake; true once it is whole.
    fn read_response(&mut self, buffers: &mut Buffers, handshake: &Handshake) -> Result<bool, Fault> {
        let bytes = match self.stream.read(&mut buffers.read) {
            Ok(0) => return Err(Fault::Eof),
            Ok(len) => &buffers.read[..len],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        open(&mut self.tls, bytes, |bytes| {
            self.early.extend_from_slice(bytes);
            Ok(())
        })?;
        let Some(head_len) = handshake.check(&self.early)? else { return Ok(false) };
        self.early.drain(..head_len);
        Ok(true)
    }

    /// Reads what has arrived and gives it to `receiver`; false at the end of the stream.
    ///
    /// A read that does not fill the buffer has emptied the socket, which spares the read that would only
    /// say so, unless the server is known to have sent its FIN behind.
    #[inline]
    pub(super) fn read(
        &mut self,
        buffers: &mut Buffers,
        fin_arrived: bool,
        receiver: &mut impl Receiver,
    ) -> Result<bool, Fault> {
        if !self.early.is_empty() {
            self.incoming.receive(&std::mem::take(&mut self.early), receiver)?;
        }
        loop {
            match self.stream.read(&mut buffers.read) {
                Ok(0) => return Ok(false),
                Ok(len) => {
                    let bytes = &buffers.read[..len];
                    open(&mut self.tls, bytes, |bytes| self.incoming.receive(bytes, receiver))?;
                    if len < buffers.read.len() && !fin_arrived {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Control {
    /// Takes a control frame that arrived: answers pings, notes a Close.
    pub(super) fn receive(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => self.send(Opcode::Pong, payload),
            Opcode::Close => {
                self.close = Some(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
            }
            _ => {}
        }
    }

    /// Puts a control frame on the way.
    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        // A server that pings and does not read is owed no more than the last answers (section 5.5.3).
        if self.unsent.len() > 16 * (MAX_HEADER_LEN + MAX_CONTROL_PAYLOAD) {
            return;
        }
        let mut header = FrameHeader::new(opcode, payload.len() as u64);
        let key = Masks::random().key(0);
        header.mask = Some(key);
        let mut encoded = [0; MAX_HEADER_LEN];
        let header_len = header.encode(&mut encoded);
        self.unsent.extend_from_slice(&encoded[..header_len]);
        let start = self.unsent.len();
        self.unsent.extend_from_slice(payload);
        apply_mask(&mut self.unsent[start..], key, 0);
    }
}

/// Gives what came out of the socket to `take`, as the server meant it.
#[inline]
fn open(
    tls: &mut Option<Box<Session>>,
    bytes: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    match tls {
        None => take(bytes),
        Some(tls) => tls.open(bytes, take),
    }
}

/// How much a write took; `None` if the socket is full.
fn written(result: io::Result<usize>) -> Result<Option<usize>, Fault> {
    match result {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}
