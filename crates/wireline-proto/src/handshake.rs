//! The opening handshake (RFC 6455 section 4), on `http` heads and without IO.
//!
//! Passing it yields a [`Negotiated`], and only a `Negotiated` makes a
//! [`Connection`](crate::Connection).

mod accept;
mod client;
mod extensions;
mod fields;
mod server;

use crate::DeflateParameters;

pub use self::{
    client::{ClientHandshake, InvalidProtocols, ResponseError},
    server::{ProtocolNotOffered, RequestError, UpgradeRequest},
};

/// Which end of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that opened the connection; it masks what it sends.
    Client,
    /// The end that accepted it.
    Server,
}

/// The proof that an opening handshake passed, with what it agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    role: Role,
    protocol: Option<String>,
    deflate: Option<DeflateParameters>,
}

impl Negotiated {
    /// For those who did the opening handshake themselves.
    #[must_use]
    pub fn assume_negotiated(role: Role, protocol: Option<String>) -> Self {
        Self { role, protocol, deflate: None }
    }

    /// The same, with permessage-deflate agreed on (or not): for those who negotiated it themselves.
    #[must_use]
    pub fn with_deflate(mut self, deflate: impl Into<Option<DeflateParameters>>) -> Self {
        self.deflate = deflate.into();
        self
    }

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The subprotocol agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// What was agreed on about permessage-deflate; `None`: messages are not compressed. It displays as it
    /// stands in a `Sec-WebSocket-Extensions` header.
    #[must_use]
    pub fn deflate(&self) -> Option<DeflateParameters> {
        self.deflate
    }
}
