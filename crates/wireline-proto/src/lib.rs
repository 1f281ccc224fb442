//! The WebSocket protocol (RFC 6455) as a state machine without IO: no socket, no clock, no thread, no
//! lock, no randomness of its own. Bytes, time and commands go in; events, bytes and a deadline come
//! out.
//!
//! # The contract
//!
//! A [`Negotiated`] is the proof that an opening [`handshake`] passed. It makes a [`Connection`], which
//! has four kinds of method:
//!
//! | kind | methods |
//! |---|---|
//! | inputs | [`receive`], [`receive_bulk`], [`receive_eof`], [`handle_transmitted`], [`handle_transport_error`], [`handle_timeout`], [`pause_receiving`] |
//! | commands | [`send`], [`send_slice`], [`send_with`], [`ping`], [`pong`], [`close`], [`abort`] |
//! | outputs | [`poll_event`], [`poll_transmit`], [`poll_timeout`] |
//! | questions | [`is_open`], [`is_receiving`], [`is_shutdown_expected`], [`is_finished`], … |
//!
//! 1. After bytes came: call [`receive`] until it gives `None`, acting on each event.
//! 2. After any input or command, write what [`poll_transmit`] gives and report it to
//!    [`handle_transmitted`], until there is nothing; then drain [`poll_event`]. Once a burst is enough,
//!    and best: everything sent meanwhile goes out in one write.
//! 3. When [`is_shutdown_expected`], shut the sending side of the transport, and go on reading. When
//!    [`is_finished`], drop it.
//! 4. Sleep no longer than [`poll_timeout`], then call [`handle_timeout`].
//!
//! Exactly one [`Event::Closed`] comes, and it is the last event. No input panics, and none makes the
//! connection hold more than its [`Config`] allows.
//!
//! # A driver
//!
//! This is a whole echo server for one connection, on a blocking socket:
//!
//! ```
//! use std::io::{ErrorKind, IoSlice, Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//! use std::{sync::Arc, time::Instant};
//! use wireline_proto::{Closed, Config, Connection, Event, Negotiated, Role};
//!
//! fn drive(mut socket: TcpStream, mut connection: Connection) -> std::io::Result<Closed> {
//!     let mut buffer = vec![0; 64 * 1024];
//!     let mut outcome = None;
//!     loop {
//!         // Transmit: everything, in as few writes as it takes.
//!         loop {
//!             let mut slices = [IoSlice::new(&[]); 16];
//!             let filled = connection.poll_transmit(&mut slices);
//!             if filled == 0 {
//!                 break;
//!             }
//!             let written = socket.write_vectored(&slices[..filled])?;
//!             connection.handle_transmitted(written);
//!         }
//!         while let Some(Event::Closed(closed)) = connection.poll_event() {
//!             outcome = Some(closed);
//!         }
//!         if connection.is_shutdown_expected() {
//!             let _ = socket.shutdown(Shutdown::Write);
//!         }
//!         if connection.is_finished() {
//!             return Ok(outcome.expect("an ended connection has said how"));
//!         }
//!         // Receive, or wait for the deadline, whichever comes first.
//!         let wait = connection.poll_timeout().map(|due| due.saturating_duration_since(Instant::now()));
//!         socket.set_read_timeout(wait.map(|wait| wait.max(std::time::Duration::from_millis(1))))?;
//!         match socket.read(&mut buffer) {
//!             Ok(0) => connection.receive_eof(),
//!             Ok(count) => {
//!                 let mut input = &mut buffer[..count];
//!                 while let Some(event) = connection.receive(&mut input, Instant::now()) {
//!                     if let Event::Message(message) = event {
//!                         let _ = connection.send_slice(message.kind(), message.payload());
//!                     }
//!                 }
//!             }
//!             Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
//!                 connection.handle_timeout(Instant::now());
//!             }
//!             Err(_) => connection.handle_transport_error(),
//!         }
//!     }
//! }
//!
//! # let listener = TcpListener::bind("127.0.0.1:0")?;
//! # let address = listener.local_addr()?;
//! # let server = std::thread::spawn(move || {
//! #     let (socket, _) = listener.accept()?;
//! let negotiated = Negotiated::assume_negotiated(Role::Server, None);
//! let config = Arc::new(Config::server());
//! let closed = drive(socket, Connection::new(negotiated, config, || [0; 4], Instant::now()))?;
//! #     Ok::<Closed, std::io::Error>(closed)
//! # });
//! # let mut client = TcpStream::connect(address)?;
//! # client.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i', 0x88, 0x80, 0, 0, 0, 0])?;
//! # let mut echo = Vec::new();
//! # client.read_to_end(&mut echo)?;
//! # assert_eq!(echo, [0x81, 0x02, b'h', b'i', 0x88, 0x00]);
//! # drop(client);
//! # let closed = server.join().unwrap()?;
//! assert!(closed.was_clean);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`receive`]: Connection::receive
//! [`receive_bulk`]: Connection::receive_bulk
//! [`receive_eof`]: Connection::receive_eof
//! [`handle_transmitted`]: Connection::handle_transmitted
//! [`handle_transport_error`]: Connection::handle_transport_error
//! [`handle_timeout`]: Connection::handle_timeout
//! [`pause_receiving`]: Connection::pause_receiving
//! [`send`]: Connection::send
//! [`send_slice`]: Connection::send_slice
//! [`send_with`]: Connection::send_with
//! [`ping`]: Connection::ping
//! [`pong`]: Connection::pong
//! [`close`]: Connection::close
//! [`abort`]: Connection::abort
//! [`poll_event`]: Connection::poll_event
//! [`poll_transmit`]: Connection::poll_transmit
//! [`poll_timeout`]: Connection::poll_timeout
//! [`is_open`]: Connection::is_open
//! [`is_receiving`]: Connection::is_receiving
//! [`is_shutdown_expected`]: Connection::is_shutdown_expected
//! [`is_finished`]: Connection::is_finished

mod close_code;
mod config;
mod connection;
pub mod deflate;
mod error;
mod event;
pub mod frame;
pub mod handshake;
pub mod mask;
mod opcode;
mod prepared;
mod utf8;

pub use self::{
    close_code::CloseCode,
    config::{Config, Keepalive},
    connection::Connection,
    deflate::{Compress, Deflate, DeflateParameters},
    error::{CloseFrameError, ProtocolError, SendError},
    event::{Cause, CloseFrame, Closed, Event, Initiator, Message, MessageKind, Payload, Piece},
    handshake::{Negotiated, Role},
    opcode::Opcode,
    prepared::{Prepared, PreparedDeflate},
};
