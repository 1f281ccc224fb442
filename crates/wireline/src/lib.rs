//! WebSocket for Rust, both ends of it: a strict, fast client and server on one connection type.
//!
//! - [`Server`] listens; its handler gets a [`Request`], accepts or rejects it, and talks.
//! - [`connect`] opens a connection, [`Connect::reconnect`] one after the other.
//! - Both give a [`WebSocket`]: `recv().await` for messages, `send().await` to send. Its cheap clones,
//!   [`Socket`], send from any task.
//! - The end is told in full by a [`CloseEvent`], with the cause that code 1006 hides.
//! - [`browser::WebSocket`] is the browser's API instead: handlers and events, by the rules of its standard.
//! - Other people's servers have doors: [`upgrade`] for one request, in hyper and (feature `axum`) as an
//!   extractor; [`Server::into_service`] for tower. [`WebSocket::into_io`] is a pipe of bytes.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `axum` | [`Upgrade`] is an extractor of axum 0.8 |
//! | `http3` | WebSockets over HTTP/3, on QUIC |
//! | `io-uring` | on Linux, what goes to many sockets at once is sent with one call of the system; where the kernel has no io_uring, or forbids it, each is written by itself |
//! | `json` | `send_json`, `recv_json`, `Message::json`: values by serde |
//! | `testing` | `testing`: a client and a server in memory, under virtual time |
//!
//! None is on by default.
//!
//! # What it runs on
//!
//! All of it runs on tokio, with the `net`, `rt` and `time` drivers enabled.
//!
//! # A server and a client
//!
//! ```
//! use wireline::{Request, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> wireline::Result<()> {
//! let server = Server::new().on_request(|req: Request| async move {
//!     let mut ws = req.accept().protocol("echo-protocol").await?;
//!     while let Some(message) = ws.recv().await? {
//!         ws.send(message).await?;
//!     }
//!     Ok(())
//! });
//! let listener = server.bind("127.0.0.1:0")?;
//! let url = format!("ws://{}/", listener.local_addr()?);
//! tokio::spawn(listener.serve());
//!
//! let mut ws = wireline::connect(url).protocols(["echo-protocol"]).await?;
//! ws.send("My name is John").await?;
//! assert_eq!(ws.recv().await?, Some("My name is John".into()));
//! ws.close_with(4001, "done")?;
//! assert_eq!(ws.recv().await?, None); // the closing handshake completed
//! let close = ws.closed().await;
//! assert!(close.was_clean);
//! assert_eq!(close.code, 4001);
//! # Ok(())
//! # }
//! ```
//!
//! # Event style
//!
//! Both ends can have handlers that are called instead: see [`Server`](Server#event-style) and
//! [`EventClient`], or [`Handler`] for a state of its own. They stand on the same `recv`, so messages
//! come in order, and a slow handler makes the peer wait.
//!
//! # What dropping a future does
//!
//! | future | dropped before it is ready |
//! |---|---|
//! | `recv()` | loses and doubles nothing |
//! | `send()`, `send_prepared()` | the message was not sent; once ready, it is queued whole |
//! | `ping()` | the Ping is sent, its Pong ignored |
//! | `closed()` | nothing |
//! | reads and writes of a [`ByteStream`] | lose and double nothing |
//! | `upgrade.on_request(..)` | the client does not get the handler's answer |
//! | `browser::Events::next_event()` | loses and doubles nothing |
//! | `connect(..)` | the attempt ends, the socket is closed |
//! | `req.accept()` | the client gets a 500, or loses the connection if it has its 101 |
//! | `ws.run(..)`, `client.run()` | the connection is closed with 1000, and no handler is told |
//! | `connections.next()` of a [`Reconnect`] | the attempt ends; how long to wait is kept |
//! | `handle.shutdown(..)` | what it began goes on, and nothing is cut; called again, it waits for the rest |
//! | a handler, with its runtime | its connection is aborted |
//!
//! # Limits
//!
//! All of them are in [`Config`], or here: a request or response has at most 128 header lines in 64 KiB;
//! a request target and each header line at most 8 KiB (414, 431); 64 KiB of a plain request's body are
//! taken and of a refusal's body kept; a load balancer's PROXY header has at most 4 KiB; a client that is refused
//! in TLS is listened to for 1 s or 256 KiB, so that it hears why; a [`ClientTls`] keeps sessions with 256 servers;
//! 64 KiB or 1,024 messages are read ahead of a busy application. A [`browser::WebSocket`] keeps 64 MiB of
//! unsent bytes. Over HTTP/2 and HTTP/3 a server takes 128 streams a connection and 64 KiB ahead on each, a
//! client opens 100 and takes 1 MiB.

/// The README's code is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub mod browser;
mod byte_stream;
mod client;
mod close;
mod cookie;
mod driver;
mod entropy;
mod error;
mod events;
mod forwarded;
mod http2;
#[cfg(feature = "http3")]
mod http3;
#[cfg(feature = "json")]
mod json;
mod message;
mod message_reader;
mod message_writer;
mod origin;
mod prepared;
mod registry;
mod request;
mod response;
mod server;
mod socket;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod transport;
mod upgrade;
mod websocket;

pub use wireline_proto::{
    CloseCode, CloseFrameError, Compress, Config, Deflate, Initiator, Keepalive, MessageKind, ProtocolError,
    deflate::DeflateTotals,
    handshake::{InvalidProtocols, ProtocolNotOffered, RequestError, ResponseError},
};

#[cfg(feature = "json")]
pub use self::json::JsonError;
pub use self::{
    byte_stream::ByteStream,
    client::{Backoff, Client, Connect, Loss, Reconnect, ReconnectError, connect, reconnect_with},
    close::{CloseCause, CloseEvent},
    cookie::{SameSite, SetCookie},
    error::{AcceptError, ConnectError, Error, RecvError, Result, SendError, SetupError, TlsError},
    events::{EventClient, Handler},
    message::{Message, Utf8Bytes},
    message_reader::{Frame, MessageReader},
    message_writer::MessageWriter,
    prepared::Prepared,
    request::{Accept, Reject, Request},
    response::Body,
    server::{Drained, Listener, Server, ServerHandle, Service},
    socket::{ReadyState, SendMessage, Socket},
    tls::{ClientTls, PeerCertificates, ServerTls},
    upgrade::{Upgrade, UpgradeError, is_upgrade, upgrade},
    websocket::{RecvMessage, WebSocket},
};
