//! The state machine of one connection: bytes, time and commands in; events, bytes and a deadline out.

mod keepalive;
mod receive;
mod send_queue;
mod state;

use std::{io::IoSlice, sync::Arc, time::Duration, time::Instant};

use bytes::Bytes;

use self::{
    keepalive::{Verdict, Watch},
    receive::Receiver,
    send_queue::{Header, SendQueue},
    state::State,
};
use crate::{
    CloseCode, CloseFrame, Compress, Config, Deflate, Event, MessageKind, Negotiated, Opcode, Prepared,
    PreparedDeflate, Role, SendError,
    deflate::{CompressorSettings, ContextPool, DeflateTotals, PerMessageDeflate, append_frame},
    error::ProtocolError,
    event::{Cause, Closed, Initiator, Payload},
    frame::{FrameHeader, MAX_CONTROL_PAYLOAD, MAX_HEADER_LEN},
    mask::{MaskKey, apply_mask},
    utf8::Utf8Validator,
};

/// Payloads from this size on are sent by reference rather than copied behind their header. Measured:
/// below it a copy is cheaper than a second slice in the vectored write.
const BY_REFERENCE_FROM: usize = 4 << 10;

/// Unsent bytes above which a Ping is not answered at once: only the latest one is kept and answered
/// when the peer has read (section 5.5.3 allows it). It bounds what a peer that pings and does not read
/// can make this end hold.
const PONG_BUDGET: usize = 16 << 10;

/// One WebSocket connection, from the end of the opening handshake to the end of the transport.
///
/// See the [crate's first page](crate) for the order in which to call its methods.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    state: State,
    config: Arc<Config>,
    masks: fn() -> MaskKey,
    receiver: Receiver,
    queue: SendQueue,
    /// Boxed twice, since it is rare and an idle connection pays for the outer pointer only.
    deferred_pong: Option<Box<Box<[u8]>>>,
    deflate: Option<Box<PerMessageDeflate>>,
    /// A message that is being sent in pieces.
    under_way: Option<Box<UnderWay>>,
    watch: Watch,
    /// When the present closing state ends by force.
    close_deadline: Option<Instant>,
    /// The peer sends no more.
    is_eof: bool,
}

/// A message of which a part was sent.
#[derive(Debug)]
struct UnderWay {
    kind: MessageKind,
    utf8: Utf8Validator,
}

impl Connection {
    /// A connection whose opening handshake has just completed.
    ///
    /// `masks` gives a masking key for each frame that a client sends; it must be unpredictable to the
    /// application's data (RFC 6455 section 10.3). A server never calls it.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a handshake makes one connection")]
    pub fn new(negotiated: Negotiated, config: Arc<Config>, masks: fn() -> MaskKey, now: Instant) -> Self {
        let deflate = negotiated.deflate().map(|agreed| {
            let options = config.deflate.unwrap_or(Deflate::server());
            Box::new(PerMessageDeflate::new(negotiated.role() == Role::Client, agreed, &options))
        });
        Self {
            role: negotiated.role(),
            state: State::Open,
            receiver: Receiver::new(&config),
            config,
            masks,
            queue: SendQueue::default(),
            deferred_pong: None,
            deflate,
            under_way: None,
            watch: Watch::new(now),
            close_deadline: None,
            is_eof: false,
        }
    }

    // Inputs.

    /// Takes received bytes from the front of `input` up to and with the next event, and gives that
    /// event; `None` once all of `input` is taken. Call it until then. The bytes are unmasked in place.
    #[inline]
    pub fn receive<'b>(&mut self, input: &mut &'b mut [u8], now: Instant) -> Option<Event<'b>> {
        if !input.is_empty() {
            self.watch.hear(now);
        }
        while self.state.is_receiving() {
            let deflate = self.deflate.as_deref_mut();
            match self.receiver.advance(input, self.role, &self.config, deflate) {
                Ok(receive::Progress::Message(message)) => return Some(Event::Message(message)),
                Ok(receive::Progress::Piece(piece)) => return Some(Event::Piece(piece)),
                Ok(receive::Progress::Control(opcode, payload)) => {
                    if let Some(event) = self.handle_control(opcode, payload, now) {
                        return Some(event);
                    }
                }
                Ok(receive::Progress::Starved) => return None,
                Err(error) => self.fail(error, now),
            }
        }
        *input = &mut [];
        None
    }

    /// Where the rest of a large payload may be read to directly: a buffer whose spare room is no more
    /// than what the current frame still lacks. After bytes were appended, call
    /// [`receive_bulk`](Self::receive_bulk); appending none is fine. `None`: use
    /// [`receive`](Self::receive).
    ///
    /// The buffer grows with what was received, not with what was announced.
    #[inline]
    pub fn bulk_buffer(&mut self) -> Option<bytes::buf::Limit<&mut Vec<u8>>> {
        if self.state.is_receiving() && !self.config.receive_in_pieces {
            self.receiver.bulk_buffer()
        } else {
            None
        }
    }

    /// Takes the bytes that were appended to [`bulk_buffer`](Self::bulk_buffer).
    pub fn receive_bulk(&mut self, now: Instant) -> Option<Event<'static>> {
        if self.receiver.has_untaken_bulk() {
            self.watch.hear(now);
        }
        match self.receiver.take_bulk() {
            Ok(message) => message.map(Event::Message),
            Err(error) => {
                self.fail(error, now);
                None
            }
        }
    }

    /// The peer will send no more bytes (end of file).
    pub fn receive_eof(&mut self) {
        match &mut self.state {
            State::Open => self.finish(Cause::ConnectionLost, Initiator::Remote),
            State::AwaitingPeerClose { initiator } => {
                let initiator = *initiator;
                self.finish(Cause::ConnectionLost, initiator);
            }
            // A peer may close its sending side once its Close frame is out; ours still goes to it.
            State::AwaitingTransmit(_) => self.is_eof = true,
            State::Finished(_) | State::Closed => {}
            State::AwaitingEof => self.state = State::Closed,
        }
    }

    /// The transport failed: nothing can be received or transmitted any more.
    pub fn handle_transport_error(&mut self) {
        self.receive_eof();
        self.interrupt(Cause::ConnectionLost);
    }

    /// `count` bytes of what [`poll_transmit`](Self::poll_transmit) gave were written.
    #[inline]
    pub fn handle_transmitted(&mut self, count: usize) {
        if self.is_finished() {
            return;
        }
        self.queue.advance(count);
        self.watch.transmit(count);
        if self.deferred_pong.is_some() && self.queue.len() <= PONG_BUDGET && self.state.is_receiving() {
            let payload = self.deferred_pong.take().unwrap_or_default();
            self.push_control(Opcode::Pong, &payload);
        }
    }

    /// Time has passed: call it when [`poll_timeout`](Self::poll_timeout) is due. Early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        match &mut self.state {
            State::Open => self.handle_keepalive_due(now),
            State::AwaitingPeerClose { initiator } => {
                let initiator = *initiator;
                self.finish(Cause::CloseTimeout, initiator);
            }
            State::AwaitingTransmit(_) => self.interrupt(Cause::CloseTimeout),
            State::AwaitingEof => self.state = State::Closed,
            State::Finished(_) | State::Closed => {}
        }
    }

    /// The driver stopped reading, or went back to it, because the application does not take messages.
    /// While it is paused a missing Pong is not held against the peer, since nobody looks for it.
    pub fn pause_receiving(&mut self, paused: bool, now: Instant) {
        self.watch.pause(paused, now);
    }

    // Commands.

    /// Queues a message. Large payloads go out by reference; a client masks in place where it is the
    /// only owner of the bytes. Text must be UTF-8: the caller's types see to that.
    ///
    /// # Errors
    /// [`SendError::Closed`] after a Close frame was sent or received, or the connection was lost.
    #[inline]
    pub fn send(&mut self, kind: MessageKind, payload: Bytes) -> Result<(), SendError> {
        self.send_with(kind, payload, Compress::default())
    }

    /// Queues a message, and says whether to compress it if the peer takes that. A compressed form that
    /// is not smaller is not sent.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_with(
        &mut self,
        kind: MessageKind,
        payload: Bytes,
        compress: Compress,
    ) -> Result<(), SendError> {
        self.expect_room_for_message()?;
        if self.deflate.is_some() && self.push_compressed(kind, &payload, compress) {
            return Ok(());
        }
        let size = self.fragment_size();
        if payload.len().min(size) < BY_REFERENCE_FROM {
            self.push_message(kind, &payload);
            return Ok(());
        }
        if payload.len() <= size {
            self.push_bulk(kind.opcode(), true, payload);
        } else {
            for (opcode, fin, part) in fragments(kind, payload.len(), size) {
                self.push_bulk(opcode, fin, payload.slice(part));
            }
        }
        Ok(())
    }

    /// Queues a message, copying its payload.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_slice(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), SendError> {
        self.expect_room_for_message()?;
        if self.deflate.is_none() || !self.push_compressed(kind, payload, Compress::default()) {
            self.push_message(kind, payload);
        }
        Ok(())
    }

    /// Queues a message that was framed before, as it is. On a server its bytes are shared, unless they are
    /// few.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_prepared(&mut self, message: &Prepared) -> Result<(), SendError> {
        if self.role == Role::Client || self.config.fragment_size.is_some() {
            return self.send_with(message.kind(), message.payload(), Compress::Never);
        }
        self.expect_room_for_message()?;
        self.push_encoded(message.frame());
        Ok(())
    }

    /// Queues the compressed form of a message that was compressed before, for connections of the same
    /// [`compressor_settings`](Self::compressor_settings) as this one. On others, and on a client, the
    /// message goes out as [`send_prepared`](Self::send_prepared) sends it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_precompressed(
        &mut self,
        message: &Prepared,
        compressed: &PreparedDeflate,
    ) -> Result<(), SendError> {
        let is_shared = self.role == Role::Server && self.config.fragment_size.is_none();
        match &mut self.deflate {
            Some(deflate) if is_shared && deflate.settings() == compressed.settings() => {
                match (self.state.is_open(), &self.under_way) {
                    (false, _) => return Err(SendError::Closed),
                    (true, Some(_)) => return Err(SendError::MessageUnderWay),
                    (true, None) => {}
                }
                deflate.note_sent(&message.payload(), compressed.payload_len());
                self.push_encoded(compressed.frame());
                Ok(())
            }
            _ => self.send_prepared(message),
        }
    }

    /// Queues a piece of a message: the first one begins it, and one with `fin` ends it. Each is a frame of its
    /// own, or several where the configuration bounds their size. Between them only control frames go out. A
    /// message that is sent in pieces is not compressed.
    ///
    /// # Errors
    /// [`SendError::InvalidUtf8`] when a text is none, at the first byte that shows it. [`SendError::MessageUnderWay`] when the message that is under way is of
    /// another kind. Otherwise as [`send`](Self::send).
    pub fn send_piece(&mut self, kind: MessageKind, payload: Bytes, fin: bool) -> Result<(), SendError> {
        if !self.state.is_open() {
            return Err(SendError::Closed);
        }
        let mut utf8 = match &self.under_way {
            Some(message) if message.kind != kind => return Err(SendError::MessageUnderWay),
            Some(message) => message.utf8.clone(),
            None => Utf8Validator::default(),
        };
        if kind == MessageKind::Text {
            utf8.feed(&payload).map_err(|_| SendError::InvalidUtf8)?;
            if fin {
                utf8.finish().map_err(|_| SendError::InvalidUtf8)?;
            }
        }
        let begins = self.under_way.is_none();
        self.under_way = (!fin).then(|| Box::new(UnderWay { kind, utf8 }));
        self.push_piece(kind, begins, fin, payload);
        Ok(())
    }

    /// Whether a message was begun in pieces and its last one not sent.
    #[must_use]
    #[inline]
    pub fn is_message_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Queues a Ping.
    ///
    /// # Errors
    /// When the payload has more than 125 bytes, or as [`send`](Self::send).
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.send_control(Opcode::Ping, payload)
    }

    /// Queues a Pong that nobody asked for: a sign of life that wants no answer (section 5.5.3). Pings
    /// of the peer are answered without it.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub fn pong(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.send_control(Opcode::Pong, payload)
    }

    /// Starts the closing handshake, behind everything that is queued. Nothing can be sent afterwards;
    /// messages still come in until the peer's Close frame does. Without effect if a Close frame was
    /// sent or received before.
    pub fn close(&mut self, frame: Option<&CloseFrame>, initiator: Initiator, now: Instant) {
        if self.state.is_open() {
            self.push_close(frame);
            self.state = State::AwaitingPeerClose { initiator };
            self.close_deadline = now.checked_add(self.config.close_timeout);
        }
    }

    /// Fails the connection with 1009 while a message is received in pieces: its first `received` bytes are
    /// more than the `limit` that the application has for it.
    pub fn refuse_message(&mut self, received: usize, limit: usize, now: Instant) {
        if self.state.is_receiving() {
            self.fail(ProtocolError::MessageTooBig { announced: received as u64, limit }, now);
        }
    }

    /// Gives the connection up at once, without a Close frame. The transport can be dropped.
    pub fn abort(&mut self) {
        match &mut self.state {
            State::Open | State::AwaitingPeerClose { .. } => {
                self.finish(Cause::Aborted, Initiator::User);
            }
            State::AwaitingTransmit(_) => self.interrupt(Cause::Aborted),
            State::AwaitingEof => self.state = State::Closed,
            State::Finished(_) | State::Closed => {}
        }
    }

    // Outputs.

    /// The next event that no received byte caused: only ever the end of the connection. Call it after
    /// any input, and after transmitting.
    pub fn poll_event(&mut self) -> Option<Event<'static>> {
        match &mut self.state {
            State::AwaitingTransmit(outcome) if self.queue.is_empty() => {
                let outcome = std::mem::take(outcome);
                self.state = if self.is_eof { State::Closed } else { State::AwaitingEof };
                Some(Event::Closed(*outcome))
            }
            State::Finished(outcome) => {
                let outcome = std::mem::take(outcome);
                self.state = State::Closed;
                Some(Event::Closed(*outcome))
            }
            _ => None,
        }
    }

    /// Fills `slices` with the bytes to transmit next, for one vectored write; the number of slices
    /// filled, 0 if there is nothing. Report what was written to
    /// [`handle_transmitted`](Self::handle_transmitted).
    #[inline]
    pub fn poll_transmit<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.queue.slices(slices)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). It need not be asked for after every
    /// message: receiving moves it to later (unless the keepalive's timeout is longer than its
    /// interval), and an early call does nothing but give a new one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Open => self.watch.due(self.config.keepalive?),
            State::Finished(_) | State::Closed => None,
            _ => self.close_deadline,
        }
    }

    /// Whether receiving only ever moves [`poll_timeout`](Self::poll_timeout) to later, so that a driver
    /// need not look at it before it is due. With a keepalive whose timeout is longer than its interval an
    /// answer moves it to earlier.
    #[must_use]
    #[inline]
    pub fn is_timeout_steady(&self) -> bool {
        self.config.keepalive.is_none_or(|keepalive| keepalive.timeout <= keepalive.interval)
    }

    // Questions.

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The limits and timers in force.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether messages can be sent: no Close frame was sent or received, nothing failed.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// Whether received bytes still mean something. Afterwards they are only to be read and dropped.
    #[must_use]
    #[inline]
    pub fn is_receiving(&self) -> bool {
        self.state.is_receiving()
    }

    /// Whether the last byte was transmitted and the transport's sending side should be shut. The
    /// driver then goes on reading to the end of file or the deadline, so that a reset does not
    /// overtake the Close frame.
    #[must_use]
    pub fn is_shutdown_expected(&self) -> bool {
        matches!(self.state, State::AwaitingEof)
    }

    /// Whether the transport can be dropped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished(_) | State::Closed)
    }

    /// Bytes queued and not transmitted, frame headers included.
    #[must_use]
    #[inline]
    pub fn pending_transmit(&self) -> usize {
        self.queue.len()
    }

    /// When bytes were last received: the `now` of that call.
    #[must_use]
    #[inline]
    pub fn last_received(&self) -> Instant {
        self.watch.heard()
    }

    /// The time from the last keepalive Ping to its Pong.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.watch.latency()
    }

    /// What compression made of the messages so far; `None` if it was not agreed on.
    #[must_use]
    pub fn deflate_totals(&self) -> Option<DeflateTotals> {
        self.deflate.as_ref().map(|deflate| deflate.totals())
    }

    /// Whether a message of this length would be compressed, if that makes it smaller.
    #[must_use]
    pub fn is_compressible(&self, compress: Compress, message_len: usize) -> bool {
        self.deflate.as_ref().is_some_and(|deflate| deflate.is_wanted(compress, message_len))
    }

    /// What compression did since this was last asked, in bytes that are inflated in the same time: some two
    /// nanoseconds each. A driver that gives way to other connections after so many bytes read counts this
    /// too, since a kilobyte that is read can stand for a mebibyte. 0 without compression.
    #[inline]
    pub fn take_deflate_work(&mut self) -> usize {
        self.deflate.as_mut().map_or(0, |deflate| deflate.take_work())
    }

    /// What this end compresses with; `None` if compression was not agreed on. A frame that is made once
    /// for many connections ([`encode_frame`](crate::deflate::encode_frame)) fits all whose settings are
    /// the same.
    #[must_use]
    pub fn compressor_settings(&self) -> Option<CompressorSettings> {
        self.deflate.as_ref().map(|deflate| deflate.settings())
    }

    // Buffers.

    /// Has compression borrow its contexts from `pool`, which connections share, rather than make new ones
    /// for each message.
    pub fn share_contexts(&mut self, pool: &'static dyn ContextPool) {
        if let Some(deflate) = &mut self.deflate {
            deflate.share_contexts(pool);
        }
    }

    /// Takes a buffer to encode into, unless it has one. A driver with many connections keeps a few
    /// buffers and lends them, so that idle connections own none.
    #[inline]
    pub fn lend_buffer(&mut self, lend: impl FnOnce() -> Vec<u8>) {
        self.queue.lend_buffer(lend);
    }

    /// Gives the encoding buffer back once nothing is queued.
    #[inline]
    pub fn reclaim_buffer(&mut self) -> Option<Vec<u8>> {
        self.queue.reclaim_buffer()
    }

    // Control frames.

    fn handle_control<'b>(
        &mut self,
        opcode: Opcode,
        payload: Payload<'b>,
        now: Instant,
    ) -> Option<Event<'b>> {
        match opcode {
            Opcode::Ping => {
                self.answer_ping(payload.as_ref());
                Some(Event::Ping(payload))
            }
            Opcode::Pong => {
                if payload.as_ref().is_empty() {
                    self.watch.hear_pong(now);
                }
                Some(Event::Pong(payload))
            }
            _ => {
                match CloseFrame::parse(payload.as_ref()) {
                    Ok(frame) => self.handle_close(frame, now),
                    Err(error) => self.fail(error, now),
                }
                None
            }
        }
    }

    fn answer_ping(&mut self, payload: &[u8]) {
        if self.deferred_pong.is_some() || self.queue.len() > PONG_BUDGET {
            self.deferred_pong = Some(Box::new(payload.into()));
        } else {
            self.push_control(Opcode::Pong, payload);
        }
    }

    fn handle_close(&mut self, frame: Option<CloseFrame>, now: Instant) {
        let initiator = match self.state {
            State::AwaitingPeerClose { initiator } => initiator,
            _ => {
                self.push_close(frame.as_ref());
                Initiator::Remote
            }
        };
        let (code, reason) = frame
            .map_or((CloseCode::NO_STATUS, String::new()), |frame| (frame.code(), frame.reason().to_owned()));
        self.end(Closed { was_clean: true, code, reason, initiator, cause: None }, now);
    }

    /// Fails the connection (section 7.1.7): tells the peer why, and listens to it no more.
    fn fail(&mut self, error: ProtocolError, now: Instant) {
        let initiator = match self.state {
            State::AwaitingPeerClose { initiator } => initiator,
            _ => {
                self.push_close(Some(&CloseFrame::of(error.close_code())));
                Initiator::Library
            }
        };
        self.end(Closed::failed(error.into(), initiator), now);
    }

    /// Nothing more is to be received; the outcome is told when everything queued was transmitted.
    fn end(&mut self, outcome: Closed, now: Instant) {
        self.release_receiver();
        self.state = State::AwaitingTransmit(Box::new(outcome));
        self.close_deadline = now.checked_add(self.config.close_timeout);
    }

    fn release_receiver(&mut self) {
        self.receiver = Receiver::default();
        if let Some(deflate) = &mut self.deflate {
            deflate.release();
        }
    }

    /// The outcome was known; what was still to go out, if anything, does not.
    fn interrupt(&mut self, cause: Cause) {
        if let State::AwaitingTransmit(outcome) = &mut self.state {
            let mut outcome = std::mem::take(outcome);
            if !self.queue.is_empty() {
                outcome.interrupt(cause);
            }
            self.state = State::Finished(outcome);
        }
        self.queue.clear();
    }

    /// The transport is gone or given up: nothing more goes out.
    fn finish(&mut self, cause: Cause, initiator: Initiator) {
        self.queue.clear();
        self.release_receiver();
        self.state = State::Finished(Box::new(Closed::failed(cause, initiator)));
    }

    fn handle_keepalive_due(&mut self, now: Instant) {
        match self.watch.check(now) {
            Verdict::Alive => {}
            Verdict::Dead => self.finish(Cause::PingTimeout, Initiator::Library),
            Verdict::SendPing => {
                if self.watch.wants_ping() {
                    self.push_control(Opcode::Ping, b"");
                }
                self.watch.ping(now, self.queue.len());
            }
        }
    }

    // Encoding.

    fn send_control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), SendError> {
        if payload.len() > MAX_CONTROL_PAYLOAD {
            return Err(SendError::ControlPayloadTooBig(payload.len()));
        }
        if !self.state.is_open() {
            return Err(SendError::Closed);
        }
        self.push_control(opcode, payload);
        Ok(())
    }

    #[inline]
    fn expect_room_for_message(&self) -> Result<(), SendError> {
        if !self.state.is_open() {
            return Err(SendError::Closed);
        }
        if self.under_way.is_some() {
            return Err(SendError::MessageUnderWay);
        }
        Ok(())
    }

    fn push_piece(&mut self, kind: MessageKind, begins: bool, fin: bool, mut payload: Bytes) {
        let mut opcode = if begins { kind.opcode() } else { Opcode::Continuation };
        loop {
            let part = payload.split_to(payload.len().min(self.fragment_size()));
            let is_last = payload.is_empty();
            if part.len() < BY_REFERENCE_FROM {
                self.push_frame(opcode, fin && is_last, false, &part);
            } else {
                self.push_bulk(opcode, fin && is_last, part);
            }
            if is_last {
                return;
            }
            opcode = Opcode::Continuation;
        }
    }

    fn fragment_size(&self) -> usize {
        self.config.fragment_size.unwrap_or(usize::MAX).max(1)
    }

    fn push_encoded(&mut self, frame: &Bytes) {
        if frame.len() < BY_REFERENCE_FROM {
            self.queue.push_encoded(frame);
        } else {
            self.queue.push_encoded_bulk(frame.clone());
        }
    }

    #[inline]
    fn push_message(&mut self, kind: MessageKind, payload: &[u8]) {
        let size = self.fragment_size();
        if payload.len() <= size {
            self.push_frame(kind.opcode(), true, false, payload);
        } else {
            for (opcode, fin, part) in fragments(kind, payload.len(), size) {
                self.push_frame(opcode, fin, false, &payload[part]);
            }
        }
    }

    /// Queues a message in compressed form, if that is wanted and smaller; whether it is queued.
    #[inline(never)]
    fn push_compressed(&mut self, kind: MessageKind, message: &[u8], compress: Compress) -> bool {
        let Some(deflate) = &mut self.deflate else { return false };
        if !deflate.is_wanted(compress, message.len()) {
            return false;
        }
        if let Some(size) = self.config.fragment_size {
            let mut compressed = Vec::new();
            let is_smaller = deflate.compress(message, &mut compressed);
            for (opcode, fin, part) in fragments(kind, compressed.len(), size.max(1)) {
                let rsv1 = opcode != Opcode::Continuation;
                self.push_frame(opcode, fin, rsv1, &compressed[part]);
            }
            return is_smaller;
        }
        let mask = (self.role == Role::Client).then(|| (self.masks)());
        self.queue.push_with(|buffer| {
            append_frame(buffer, kind, mask, message.len(), |buffer| deflate.compress(message, buffer))
        })
    }

    fn push_control(&mut self, opcode: Opcode, payload: &[u8]) {
        self.push_frame(opcode, true, false, payload);
    }

    fn push_close(&mut self, frame: Option<&CloseFrame>) {
        let payload = frame.map(CloseFrame::payload).unwrap_or_default();
        self.push_control(Opcode::Close, &payload);
    }

    #[inline]
    fn push_frame(&mut self, opcode: Opcode, fin: bool, rsv1: bool, payload: &[u8]) {
        let (header, mask) = self.header(opcode, fin, rsv1, payload.len());
        let copy = self.queue.push(&header, payload);
        if let Some(key) = mask {
            apply_mask(copy, key, 0);
        }
    }

    fn push_bulk(&mut self, opcode: Opcode, fin: bool, payload: Bytes) {
        let (header, mask) = self.header(opcode, fin, false, payload.len());
        let payload = match mask {
            None => payload,
            Some(key) => {
                let mut own = payload.try_into_mut().unwrap_or_else(|shared| shared[..].into());
                apply_mask(&mut own, key, 0);
                own.freeze()
            }
        };
        self.queue.push_bulk(&header, payload);
    }

    /// Encodes a header, with a mask if this end masks.
    #[inline]
    fn header(&self, opcode: Opcode, fin: bool, rsv1: bool, payload_len: usize) -> (Header, Option<MaskKey>) {
        let mask = match self.role {
            Role::Server => None,
            Role::Client => Some((self.masks)()),
        };
        let mut bytes = [0; MAX_HEADER_LEN];
        let len = FrameHeader { fin, rsv1, opcode, mask, payload_len: payload_len as u64 }.encode(&mut bytes);
        ((bytes, len), mask)
    }
}

/// The frames that a message of `len` bytes is sent in, when `size` is the most that one carries:
/// opcode, FIN, and the part of the payload.
fn fragments(
    kind: MessageKind,
    len: usize,
    size: usize,
) -> impl Iterator<Item = (Opcode, bool, std::ops::Range<usize>)> {
    (0..len).step_by(size).map(move |from| {
        let opcode = if from == 0 { kind.opcode() } else { Opcode::Continuation };
        let to = from.saturating_add(size).min(len);
        (opcode, to == len, from..to)
    })
}
