//! Two connections and the wire between them, under one virtual clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use wireline_proto::{Config, DeflateParameters, Negotiated, Role};

use crate::{Clock, Endpoint};

/// A client and a server that talk to each other.
///
/// ```
/// use wireline_proto::{Config, MessageKind};
/// use wireline_testkit::{Pair, Told};
///
/// let mut pair = Pair::new(Config::client(), Config::server());
/// pair.client.connection.send_slice(MessageKind::Text, b"hi").unwrap();
/// pair.drive();
/// assert_eq!(pair.server.events, [Told::text("hi")]);
/// ```
#[derive(Debug)]
pub struct Pair {
    /// The time at both ends.
    pub clock: Clock,
    /// The client's end.
    pub client: Endpoint,
    /// The server's end.
    pub server: Endpoint,
    /// From the client to the server.
    pub to_server: Wire,
    /// From the server to the client.
    pub to_client: Wire,
}

impl Pair {
    /// Two ends whose opening handshake has just completed.
    #[must_use]
    pub fn new(client: Config, server: Config) -> Self {
        Self::negotiated(client, server, None)
    }

    /// The same, with permessage-deflate if it was agreed on.
    #[must_use]
    pub fn negotiated(client: Config, server: Config, deflate: Option<DeflateParameters>) -> Self {
        let clock = Clock::new();
        let end = |role, config| {
            let negotiated = Negotiated::assume_negotiated(role, None).with_deflate(deflate);
            Endpoint::negotiated(negotiated, config, clock.now())
        };
        Self {
            clock,
            client: end(Role::Client, client),
            server: end(Role::Server, server),
            to_server: Wire::default(),
            to_client: Wire::default(),
        }
    }

    /// Moves bytes both ways until nothing moves any more. No time passes.
    pub fn drive(&mut self) {
        let now = self.clock.now();
        loop {
            let there = self.to_server.carry(&mut self.client, &mut self.server, now);
            let back = self.to_client.carry(&mut self.server, &mut self.client, now);
            if !there && !back {
                return;
            }
        }
    }

    /// Lets time pass, stopping at every deadline that either end asks for, and drives.
    ///
    /// # Panics
    /// When a deadline does not move however often it is served.
    pub fn advance(&mut self, by: Duration) {
        self.drive();
        let mut next_stop = self.clock;
        next_stop.advance(by);
        let target = next_stop.now();
        let mut served = 0;
        loop {
            let deadlines = [&self.client, &self.server].map(|end| end.connection.poll_timeout());
            let Some(due) = deadlines.into_iter().flatten().min().filter(|due| *due <= target) else { break };
            served = if due > self.clock.now() { 0 } else { served + 1 };
            assert!(served < 1000, "a deadline does not move");
            self.clock.advance_to(due);
            for end in [&mut self.client, &mut self.server] {
                end.connection.handle_timeout(self.clock.now());
                end.take_events();
            }
            self.drive();
        }
        self.clock.advance_to(target);
    }

    /// The transport is reset: bytes under way are lost, and both ends are told.
    pub fn reset(&mut self) {
        for wire in [&mut self.to_server, &mut self.to_client] {
            wire.in_flight.clear();
        }
        for end in [&mut self.client, &mut self.server] {
            end.connection.handle_transport_error();
            end.take_events();
        }
    }

    /// The peer vanishes without a word: nothing arrives any more, either way.
    pub fn sever(&mut self) {
        self.to_server.hold();
        self.to_client.hold();
    }
}

/// One direction of the transport.
#[derive(Debug)]
pub struct Wire {
    in_flight: VecDeque<u8>,
    /// Everything that was ever written to it.
    pub log: Vec<u8>,
    held: bool,
    capacity: usize,
    pieces: Vec<usize>,
    next_piece: usize,
    eof_sent: bool,
    eof_delivered: bool,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            in_flight: VecDeque::new(),
            log: Vec::new(),
            held: false,
            capacity: usize::MAX,
            pieces: vec![usize::MAX],
            next_piece: 0,
            eof_sent: false,
            eof_delivered: false,
        }
    }
}

impl Wire {
    /// Keeps what is written and delivers nothing, not even the end: a network that stalls, a reader
    /// that does not read, or, if it is never released, a direction that is dead.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Delivers again, and what was kept first.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Takes no more than this many bytes in flight; the writer keeps the rest, as behind a full
    /// socket buffer.
    pub fn set_capacity(&mut self, bytes: usize) {
        self.capacity = bytes;
    }

    /// Delivers in pieces of these sizes, over and over. The default is all there is.
    ///
    /// # Panics
    /// When a size is 0 or there is none.
    pub fn cut_into(&mut self, sizes: &[usize]) {
        assert!(!sizes.is_empty() && !sizes.contains(&0), "pieces have bytes");
        self.pieces = sizes.to_vec();
        self.next_piece = 0;
    }

    /// Bytes written and not delivered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// One write of `from`, then one read of `to`; whether anything happened.
    fn carry(&mut self, from: &mut Endpoint, to: &mut Endpoint, now: Instant) -> bool {
        let written = from.transmit_at_most(self.capacity.saturating_sub(self.in_flight.len()));
        self.in_flight.extend(&written);
        self.log.extend(&written);
        let connection = &from.connection;
        self.eof_sent |= connection.is_shutdown_expected() || connection.is_finished();
        let delivered = !self.held && self.deliver(to, now);
        !written.is_empty() || delivered
    }

    fn deliver(&mut self, to: &mut Endpoint, now: Instant) -> bool {
        if self.in_flight.is_empty() {
            if !self.eof_sent || self.eof_delivered {
                return false;
            }
            self.eof_delivered = true;
            to.connection.receive_eof();
            to.take_events();
            return true;
        }
        let size = self.pieces[self.next_piece % self.pieces.len()].min(self.in_flight.len());
        self.next_piece += 1;
        let piece: Vec<u8> = self.in_flight.drain(..size).collect();
        to.receive(&piece, now);
        true
    }
}
