//! What can be wrong with a server under load.

use std::{fmt, io};

use wireline_proto::frame::FrameError;

/// Why a connection no longer takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No opening handshake can ask for the URL, and why.
    Request(String),
    /// The opening handshake failed; what is wrong with the answer.
    Refused(String),
    /// The TLS session failed.
    Tls(String),
    /// A message differs from what it must be.
    WrongContent,
    /// A message that nothing asked for.
    UnexpectedMessage,
    /// Bytes that are no frame header.
    Header(FrameError),
    /// A frame that breaks another rule of the protocol.
    Frame(&'static str),
    /// The server began the closing handshake, with this code.
    Closed(Option<u16>),
    /// The connection ended without a closing handshake.
    Eof,
    /// The socket failed.
    Io(io::ErrorKind),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(why) => write!(f, "the URL cannot be asked for: {why}"),
            Self::Refused(what) => write!(f, "the opening handshake failed: {what}"),
            Self::Tls(what) => write!(f, "TLS failed: {what}"),
            Self::WrongContent => write!(f, "a message differs from what was sent"),
            Self::UnexpectedMessage => write!(f, "a message arrived that nothing asked for"),
            Self::Header(error) => error.fmt(f),
            Self::Frame(what) => f.write_str(what),
            Self::Closed(Some(code)) => write!(f, "the server closed with code {code}"),
            Self::Closed(None) => write!(f, "the server closed without a code"),
            Self::Eof => write!(f, "the server dropped the connection"),
            Self::Io(kind) => write!(f, "the connection failed: {kind}"),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Header(error)
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
