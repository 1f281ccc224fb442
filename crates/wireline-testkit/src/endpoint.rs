//! One connection that a test talks to in bytes.

use std::{io::IoSlice, sync::Arc, time::Instant};

use wireline_proto::{Closed, Config, Connection, Event, MessageKind, Negotiated, Piece, Role};

use crate::frames::masks;

/// An event, with its payload copied out of the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A part of a message.
    Piece {
        /// Text or binary.
        kind: MessageKind,
        /// What came.
        payload: Vec<u8>,
        /// Its message begins with it.
        begins_message: bool,
        /// Its frame ends with it.
        ends_frame: bool,
        /// Its message ends with it.
        ends_message: bool,
    },
    /// A Ping.
    Ping(Vec<u8>),
    /// A Pong.
    Pong(Vec<u8>),
    /// The end.
    Closed(Closed),
}

impl From<Event<'_>> for Told {
    /// # Panics
    /// When a text message is not UTF-8.
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => match message.kind() {
                MessageKind::Text => {
                    Self::text(std::str::from_utf8(message.payload()).expect("text is UTF-8"))
                }
                MessageKind::Binary => Self::binary(message.payload()),
            },
            Event::Piece(Piece { kind, payload, begins_message, ends_frame, ends_message }) => {
                let payload = payload.as_ref().to_vec();
                Self::Piece { kind, payload, begins_message, ends_frame, ends_message }
            }
            Event::Ping(payload) => Self::ping(payload),
            Event::Pong(payload) => Self::pong(payload),
            Event::Closed(closed) => Self::Closed(closed),
        }
    }
}

impl Told {
    /// A text message.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A binary message.
    pub fn binary(bytes: impl AsRef<[u8]>) -> Self {
        Self::Binary(bytes.as_ref().to_vec())
    }

    /// A Ping.
    pub fn ping(payload: impl AsRef<[u8]>) -> Self {
        Self::Ping(payload.as_ref().to_vec())
    }

    /// A Pong.
    pub fn pong(payload: impl AsRef<[u8]>) -> Self {
        Self::Pong(payload.as_ref().to_vec())
    }
}

/// Puts the messages together that were told in pieces; one that was not told to its end is left out.
///
/// # Panics
/// When the pieces of a message do not fit each other.
#[must_use]
pub fn put_together(events: Vec<Told>) -> Vec<Told> {
    let mut whole: Option<(MessageKind, Vec<u8>)> = None;
    let mut told = Vec::new();
    for event in events {
        let Told::Piece { kind, payload, begins_message, ends_frame, ends_message } = event else {
            told.push(event);
            continue;
        };
        assert_eq!(begins_message, whole.is_none(), "a message begins with its first piece");
        assert!(ends_frame || !ends_message, "a message ends with a frame");
        let (first_kind, all) = whole.get_or_insert((kind, Vec::new()));
        assert_eq!(*first_kind, kind, "a message is of one kind");
        all.extend(payload);
        if ends_message && let Some((kind, all)) = whole.take() {
            told.push(match kind {
                MessageKind::Text => Told::Text(String::from_utf8(all).expect("text is UTF-8")),
                MessageKind::Binary => Told::Binary(all),
            });
        }
    }
    told
}

/// A connection and all it has told so far.
#[derive(Debug)]
pub struct Endpoint {
    /// The connection. Tests may use it directly.
    pub connection: Connection,
    /// Every event, in order.
    pub events: Vec<Told>,
}

impl Endpoint {
    /// An open connection of this role. A client masks with [`MASK`](crate::frames::MASK).
    #[must_use]
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self::negotiated(Negotiated::assume_negotiated(role, None), config, now)
    }

    /// The same, with what the handshake agreed on.
    #[must_use]
    pub fn negotiated(negotiated: Negotiated, config: Config, now: Instant) -> Self {
        let connection = Connection::new(negotiated, Arc::new(config), masks, now);
        Self { connection, events: Vec::new() }
    }

    /// The role at the other end.
    #[must_use]
    pub fn peer(&self) -> Role {
        match self.connection.role() {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    /// Gives the connection these bytes, as one read brought them.
    ///
    /// # Panics
    /// When the connection does not take them all.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.receive_with(bytes, now, |_, _| {});
    }

    /// The same, with an application that acts on each event before the next is asked for.
    ///
    /// # Panics
    /// When the connection does not take all the bytes.
    pub fn receive_with(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut application: impl FnMut(&mut Connection, &Told),
    ) {
        let mut bytes = bytes.to_vec();
        let mut input = &mut bytes[..];
        while let Some(event) = self.connection.receive(&mut input, now) {
            let told = event.into();
            application(&mut self.connection, &told);
            self.events.push(told);
        }
        assert!(input.is_empty(), "receive gave None and left {} bytes", input.len());
    }

    /// Writes everything there is to transmit, then takes the events.
    pub fn transmit(&mut self) -> Vec<u8> {
        self.transmit_at_most(usize::MAX)
    }

    /// Writes at most `limit` bytes of what there is to transmit, then takes the events.
    pub fn transmit_at_most(&mut self, limit: usize) -> Vec<u8> {
        let mut written = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = self.connection.poll_transmit(&mut slices);
            let before = written.len();
            for slice in &slices[..filled] {
                let room = limit - written.len();
                written.extend(&slice[..slice.len().min(room)]);
            }
            let count = written.len() - before;
            if count == 0 {
                break;
            }
            self.connection.handle_transmitted(count);
        }
        self.take_events();
        written
    }

    /// Takes the events that no received byte caused.
    pub fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.events.push(event.into());
        }
    }

    /// How the connection ended, if it has told.
    #[must_use]
    pub fn outcome(&self) -> Option<&Closed> {
        self.events.iter().find_map(|event| match event {
            Told::Closed(closed) => Some(closed),
            _ => None,
        })
    }
}
