//! Limits and timers of a connection, each with a default that is safe to leave alone.

use std::time::Duration;

use crate::Deflate;

/// When to ask a silent peer for a sign of life, and how long to wait for one.
///
/// Pings are sent only when nothing was received for `interval`; anything that arrives afterwards,
/// not only the Pong, counts as the sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which a Ping is sent.
    pub interval: Duration,
    /// Silence after that Ping which fails the connection.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// 20 s and 20 s: below the 30 to 60 s after which common middleboxes forget an idle connection.
    fn default() -> Self {
        Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(20) }
    }
}

/// The limits and timers of a connection.
///
/// ```
/// use wireline_proto::Config;
///
/// let config = Config::server().max_message_size(64 * 1024).keepalive(None);
/// assert_eq!(config.max_message_size, 64 * 1024);
/// ```
///
/// Each field has a setter of the same name, which tells what it is for and who is hurt if it is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bytes of payload in a received message.
    pub max_message_size: usize,
    /// Bytes of payload in a received frame.
    pub max_frame_size: Option<usize>,
    /// Frames in a received message.
    pub max_fragments: u32,
    /// Whether received messages are given in pieces rather than whole.
    pub receive_in_pieces: bool,
    /// Bytes of payload in a sent frame.
    pub fragment_size: Option<usize>,
    /// Unsent bytes above which a sender should wait.
    pub send_high_water: usize,
    /// Unsent bytes above which a sender that cannot wait is refused.
    pub send_cap: usize,
    /// When to ping a silent peer.
    pub keepalive: Option<Keepalive>,
    /// How long each part of the closing handshake may take.
    pub close_timeout: Duration,
    /// Whether and how to compress messages.
    pub deflate: Option<Deflate>,
}

impl Config {
    /// The defaults of a server: messages of 1 MiB at most, not compressed.
    #[must_use]
    pub fn server() -> Self {
        Self {
            max_message_size: 1 << 20,
            max_frame_size: None,
            max_fragments: 131_072,
            receive_in_pieces: false,
            fragment_size: None,
            send_high_water: 64 << 10,
            send_cap: 1 << 20,
            keepalive: Some(Keepalive::default()),
            close_timeout: Duration::from_secs(5),
            deflate: None,
        }
    }

    /// The defaults of a client, which has one server to trust where a server has many clients:
    /// messages of 64 MiB at most, compressed if the server agrees.
    #[must_use]
    pub fn client() -> Self {
        Self { max_message_size: 64 << 20, deflate: Some(Deflate::client()), ..Self::server() }
    }

    /// The most bytes of payload a received message may have, all fragments together. More is answered
    /// with close code 1009 as soon as a frame header announces it, or a compressed message, which may have
    /// twice as many bytes on the wire, comes to it while it is inflated. Raised, it is the memory one peer
    /// can make this endpoint hold.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// The most bytes of payload one received frame may have; `None` (the default) leaves it to
    /// [`max_message_size`](Self::max_message_size).
    #[must_use]
    pub fn max_frame_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.max_frame_size = bytes.into();
        self
    }

    /// The most frames a received message may come in. A fragment costs no memory of its own, only the
    /// time to read its header, so the default (131,072) is generous.
    #[must_use]
    pub fn max_fragments(mut self, frames: u32) -> Self {
        self.max_fragments = frames;
        self
    }

    /// Gives received messages in pieces, as their bytes come, rather than whole (false). No memory grows with
    /// a message then, so [`max_message_size`](Self::max_message_size) and
    /// [`max_fragments`](Self::max_fragments) do not end it: they bound only what an application has put
    /// together again.
    #[must_use]
    pub fn receive_in_pieces(mut self, in_pieces: bool) -> Self {
        self.receive_in_pieces = in_pieces;
        self
    }

    /// Sends messages in frames of at most this many bytes of payload; `None` (the default) sends each
    /// message as one frame. At least 1.
    #[must_use]
    pub fn fragment_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.fragment_size = bytes.into().map(|bytes| bytes.max(1));
        self
    }

    /// Unsent bytes above which a sender should wait (64 KiB).
    #[must_use]
    pub fn send_high_water(mut self, bytes: usize) -> Self {
        self.send_high_water = bytes;
        self
    }

    /// Unsent bytes above which a sender that cannot wait is refused (1 MiB). Raised, it is the memory
    /// that one peer which does not read can make this endpoint hold.
    #[must_use]
    pub fn send_cap(mut self, bytes: usize) -> Self {
        self.send_cap = bytes;
        self
    }

    /// Pings a silent peer, or does not (`None`).
    #[must_use]
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.keepalive = keepalive.into();
        self
    }

    /// How long each part of the closing handshake may take (5 s): the peer's Close frame after ours,
    /// then the end of the transport.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Compresses messages with permessage-deflate (RFC 7692), or does not (`None`). A client offers it
    /// then, and a server agrees to it where a client does. Compression costs time at both ends, and memory
    /// in each connection with context takeover.
    #[must_use]
    pub fn deflate(mut self, deflate: impl Into<Option<Deflate>>) -> Self {
        self.deflate = deflate.into();
        self
    }
}
