//! HTTP/3 (RFC 9114) as far as WebSockets need it (RFC 9220), on quinn's QUIC: requests and responses, and
//! streams that an extended CONNECT has opened. No pushes, no dynamic table (RFC 9204).

mod connection;
mod field_section;
mod frame;
mod stream;

use std::{io, time::Duration};

use quinn::{ConnectionError, ReadError, TransportConfig, VarInt, WriteError};

pub(crate) use self::{
    connection::{Connection, WeakConnection},
    stream::RequestStream,
};

/// The name of HTTP/3 in ALPN (RFC 9114 section 3.1).
pub(crate) const ALPN: &[u8] = b"h3";

/// Bytes of a head, as RFC 9114 section 4.2.2 counts them, and of its field section as it is sent.
pub(crate) const MAX_HEAD: u32 = 64 << 10;

/// Streams in one direction: the three of RFC 9114 and RFC 9204, and some that mean nothing (section 6.2.3).
const MAX_UNIDIRECTIONAL_STREAMS: u32 = 8;

/// Bytes that a connection keeps until the peer acknowledges them.
const SEND_WINDOW: u64 = 4 << 20;

/// After so much silence a PING is sent, and after three times as much the connection is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The error codes of RFC 9114 section 8.1 and RFC 9204 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(u32);

impl Code {
    pub(crate) const NO_ERROR: Self = Self(0x100);
    const STREAM_CREATION_ERROR: Self = Self(0x103);
    const CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    const FRAME_UNEXPECTED: Self = Self(0x105);
    const FRAME_ERROR: Self = Self(0x106);
    const EXCESSIVE_LOAD: Self = Self(0x107);
    const ID_ERROR: Self = Self(0x108);
    const SETTINGS_ERROR: Self = Self(0x109);
    const MISSING_SETTINGS: Self = Self(0x10a);
    pub(crate) const REQUEST_REJECTED: Self = Self(0x10b);
    pub(crate) const REQUEST_CANCELLED: Self = Self(0x10c);
    pub(crate) const REQUEST_INCOMPLETE: Self = Self(0x10d);
    pub(crate) const MESSAGE_ERROR: Self = Self(0x10e);
    const QPACK_DECOMPRESSION_FAILED: Self = Self(0x200);
    const QPACK_ENCODER_STREAM_ERROR: Self = Self(0x201);

    pub(crate) fn to_quic(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

/// Why a stream cannot be read or written any further.
#[derive(Debug)]
pub(crate) enum Error {
    /// The peer broke the rules in a way that ends the whole connection.
    Connection(Code, &'static str),
    /// The peer broke the rules in a way that ends this stream only.
    Stream(Code, &'static str),
    /// The head is longer than [`MAX_HEAD`].
    HeadTooLong,
    /// The peer reset the stream, or the connection is lost.
    Quic(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(_, what) | Self::Stream(_, what) => f.write_str(what),
            Self::HeadTooLong => f.write_str("the head is too long"),
            Self::Quic(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Quic(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Quic(match error {
            ReadError::ConnectionLost(lost) => connection_lost(lost),
            error => io::Error::new(io::ErrorKind::ConnectionReset, error),
        })
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        Self::Quic(match error {
            WriteError::ConnectionLost(lost) => connection_lost(lost),
            error => io::Error::new(io::ErrorKind::ConnectionReset, error),
        })
    }
}

/// A lost connection as the system would tell it of TCP's.
pub(crate) fn connection_lost(lost: ConnectionError) -> io::Error {
    let kind = match lost {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::LocallyClosed => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, lost)
}

/// How QUIC is spoken where the peer may open `streams` streams, and each may bring `window` bytes ahead of its application: the
/// connection's window is that of all of them together, so that one whose application does not read does not
/// hold up the others.
pub(crate) fn transport_config(streams: u32, window: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(MAX_UNIDIRECTIONAL_STREAMS.into())
        .stream_receive_window(window.into())
        .receive_window(VarInt::from_u32(streams.saturating_mul(window)))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEPALIVE))
        .max_idle_timeout((3 * KEEPALIVE).try_into().ok());
    transport
}
