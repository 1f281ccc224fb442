//! Errors: a small one per operation, and one that takes them all for `?` in handlers.

use std::io;

use bytes::Bytes;
use wireline_proto::{
    CloseFrameError,
    handshake::{InvalidProtocols, ProtocolNotOffered, ResponseError},
};

use crate::{ReconnectError, browser::Exception, close::CloseEvent, tls};

/// An error of whatever kind.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of this crate, or one of the application's own: what a handler returns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Accepting a request failed.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// Opening a connection failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no further connection.
    #[error(transparent)]
    Reconnect(#[from] ReconnectError),
    /// The connection ended without a closing handshake.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// A message could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A close code or reason that must not be sent.
    #[error(transparent)]
    Close(#[from] CloseFrameError),
    /// Certificates or keys could not be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A server was set up in a way that cannot work.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A browser's `WebSocket` was used wrongly.
    #[error(transparent)]
    Browser(#[from] Exception),
    /// A JSON message could not be sent or understood.
    #[cfg(feature = "json")]
    #[error(transparent)]
    Json(#[from] crate::JsonError),
    /// Listening failed, or an error of the application's own IO.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An error of the application's own.
    #[error(transparent)]
    Other(BoxError),
}

impl Error {
    /// Wraps an error of the application's own.
    pub fn other(error: impl Into<BoxError>) -> Self {
        Self::Other(error.into())
    }
}

/// A connection ended without a closing handshake, so messages may be missing.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the connection ended: {}", .0)]
pub struct RecvError(pub(crate) Box<CloseEvent>);

impl RecvError {
    /// How it ended.
    #[must_use]
    pub fn close_event(&self) -> &CloseEvent {
        &self.0
    }
}

/// Why a message was not queued. It will not be sent, and the connection is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Either end has begun to close, or the connection was lost. `closed()` says how it ends.
    #[error("the connection is closing or closed")]
    Closed,
    /// The peer does not read as fast as this end sends, and the send cap is reached. Only the calls that
    /// do not wait give this; `send` waits.
    #[error("{buffered} bytes wait for the peer to read; the send cap does not allow more")]
    Full {
        /// Bytes queued.
        buffered: usize,
    },
    /// A message is being sent in pieces, and another can go only behind it. Only the calls that do not
    /// wait give this; `send` waits.
    #[error("a message is being sent in pieces, and no other can go between them")]
    MessageUnderWay,
    /// A piece of a text that is not UTF-8.
    #[error("text must be UTF-8; send other bytes as a binary message")]
    InvalidUtf8,
    /// A Ping or Pong with more than 125 bytes.
    #[error("a Ping or Pong carries at most 125 bytes; this one has {0}")]
    ControlPayloadTooBig(usize),
}

impl From<wireline_proto::SendError> for SendError {
    fn from(error: wireline_proto::SendError) -> Self {
        match error {
            wireline_proto::SendError::ControlPayloadTooBig(len) => Self::ControlPayloadTooBig(len),
            wireline_proto::SendError::MessageUnderWay => Self::MessageUnderWay,
            wireline_proto::SendError::InvalidUtf8 => Self::InvalidUtf8,
            _ => Self::Closed,
        }
    }
}

/// Why answering a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The application's fault: the client did not offer this subprotocol. The client got a 400.
    #[error(transparent)]
    ProtocolNotOffered(#[from] ProtocolNotOffered),
    /// The application's fault: a header that cannot be sent. The client got a 500.
    #[error("the response header {0:?} is not valid, or is the handshake's own")]
    InvalidHeader(String),
    /// The application's fault: a cookie of this name that cannot be sent or that no browser would keep, or
    /// the second one of it. The client got a 500.
    #[error("the cookie {0:?} has characters or attributes that cannot be sent, or is set twice")]
    InvalidCookie(String),
    /// The client went away before the response reached it.
    #[error("the client left before the handshake was done: {0}")]
    ClientGone(#[source] BoxError),
}

/// Why a server does not listen: it was set up in a way that cannot work. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A route that cannot be used, or is in the way of another.
    #[error("the route {pattern:?} cannot be used: {reason}")]
    Route {
        /// The path as it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What stands in a list of origins and could never match one.
    #[error("{0:?} is no origin such as https://app.example: a scheme, a host and perhaps a port")]
    Origin(String),
    /// HTTP/3 cannot be spoken with the other settings, or this certificate.
    #[error("HTTP/3 cannot be spoken: {0}")]
    Http3(String),
    /// What stands in a list of peers and is none.
    #[error("{0:?} is no address, no range such as 10.0.0.0/8, and not unix:")]
    Peer(String),
}

impl SetupError {
    pub(crate) fn route(pattern: &str, reason: &str) -> Self {
        Self::Route { pattern: pattern.to_owned(), reason: reason.to_owned() }
    }
}

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller's fault: not a `ws:`, `wss:`, `http:` or `https:` URL with a host and no fragment.
    #[error("{url:?} is not a WebSocket URL: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller's fault: a subprotocol that cannot be offered.
    #[error(transparent)]
    Protocols(#[from] InvalidProtocols),
    /// The caller's fault: a header that cannot be sent, or that the handshake sets itself.
    #[error("the request header {0:?} is not valid, or is the handshake's own")]
    InvalidHeader(String),
    /// The host's name could not be resolved.
    #[error("the name {host:?} could not be resolved: {source}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The host could not be reached, or nothing listens there.
    #[error("no connection to {address}: {source}")]
    Tcp {
        /// Host and port, or the path of a Unix socket.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy could not be reached, or does not let through to the host: the fault is on the way, not at the
    /// host.
    #[error("the proxy {proxy} does not lead there: {source}")]
    Proxy {
        /// The proxy's URL, without user and password.
        proxy: String,
        /// What went wrong.
        source: BoxError,
    },
    /// An HTTP proxy answered CONNECT with another status than 2xx: 407 wants a user and a password, 403 does
    /// not allow the host or port, 502 and 504 did not reach it.
    #[error("the proxy {proxy} refused to connect: {}", .response.status())]
    ProxyRejected {
        /// The proxy's URL, without user and password.
        proxy: String,
        /// Status, headers, and up to 64 KiB of the body.
        response: Box<http::Response<Bytes>>,
    },
    /// TLS failed: most often a certificate that is not trusted, expired, or for another name; or the server wants
    /// one of the client and has got none, or not the right one. The message says what can be done where that is
    /// known.
    #[error("TLS with {host} failed: {source}{}", tls::advice(.source))]
    Tls {
        /// The host.
        host: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The server answered with another status than 101. It is all here: status, headers, and up to
    /// 64 KiB of the body.
    #[error("the server refused the WebSocket: {}", .0.status())]
    Rejected(Box<http::Response<Bytes>>),
    /// The server's 101 breaks the rules of the opening handshake.
    #[error(transparent)]
    Handshake(#[from] ResponseError),
    /// The server did not speak HTTP, or hung up during the handshake.
    #[error("the opening handshake failed: {0}")]
    Http(#[source] BoxError),
    /// The handshake timeout passed.
    #[error("the server did not complete the opening handshake in time")]
    Timeout,
    /// Certificates could not be used.
    #[error(transparent)]
    Certificates(#[from] TlsError),
}

/// Why certificates or keys could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The caller's fault: a file or text that could not be read, is not PEM, or has not in it what it should.
    #[error("{path}: {reason}")]
    File {
        /// The file, or what the text was to be.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The caller's fault: the certificate and the key do not go together, or one of them is not usable.
    #[error("{certificate} and {key} cannot be used: {reason}")]
    KeyPair {
        /// The file of the certificate, or `certificate`.
        certificate: String,
        /// The file of the key, or `key`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The system has no trusted root certificates; give a CA file.
    #[error("no trusted root certificates were found on this system; give a CA file")]
    NoRoots,
    /// TLS itself could not be set up, as where the system has no random bytes.
    #[error("TLS could not be set up: {reason}")]
    Setup {
        /// What is wrong.
        reason: String,
    },
}

impl TlsError {
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
    pub(crate) fn setup(error: impl ToString) -> Self {
        Self::Setup { reason: error.to_string() }
    }
}
