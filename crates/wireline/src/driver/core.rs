//! What a connection's driver and its handles share: the protocol, the transport, and who waits.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use slab::Slab;
use tokio::{io::AsyncWrite as _, sync::oneshot};
use wireline_proto::{CloseFrame, Compress, Connection, Event, Initiator, MessageKind, ProtocolError, Role};

#[cfg(all(feature = "io-uring", target_os = "linux"))]
use super::ring::Write;
use super::{
    buffers,
    inbox::{Inbox, Received},
};
use crate::{
    CloseCause, CloseEvent, Message, RecvError, SendError, Utf8Bytes,
    prepared::{Outgoing, Prepared},
    transport::Transport,
};

/// Work after which the task gives way to others, in bytes that are inflated in the same time: some two
/// nanoseconds each, so that it is a few milliseconds at most.
const TURN: usize = 2 << 20;

/// What a read counts, with the decoding of what it brought.
const READ_WORK: usize = 64 << 10;

/// Slices of one vectored write. A burst of small frames is one slice; large payloads are one more each.
const WRITE_SLICES: usize = 16;

/// The clock of timers and of round trips: tokio's, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// All that needs the lock.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about one side of the connection"
)]
pub(crate) struct Core {
    pub(super) connection: Connection,
    transport: Option<Transport>,
    inbox: Inbox,
    transport_error: Option<Box<io::Error>>,
    outcome: Option<Box<CloseEvent>>,
    waiters: Option<Box<Waiters>>,
    /// Bytes that the transport took, from the first frame on.
    transmitted: u64,
    /// A task outside the driver's waits in `recv`: it reads, not the driver.
    pub(super) is_reader_waiting: bool,
    /// While the driver's task was polled, `recv` saw that there is nothing to read.
    pub(super) is_read_exhausted: bool,
    /// The connection's deadline has passed, and the driver has not looked yet.
    pub(super) is_due: bool,
    /// The application wants to know of the peer's Pings, too.
    pub(super) tells_pings: bool,
    /// Messages found no room while this end was closing, and were dropped.
    has_dropped: bool,
    /// A message that came in pieces was too big for the application.
    refused: Option<Box<ProtocolError>>,
    /// The `WebSocket` was dropped: nobody takes messages any more.
    pub(super) is_reader_gone: bool,
    /// The peer sends no more, or the transport failed: it is not read again.
    is_eof: bool,
    /// Reading waits for the application; the protocol knows.
    is_reading_paused: bool,
    /// Written bytes may still wait in the transport's own buffer.
    needs_flush: bool,
    is_shut_down: bool,
    /// It waits in the outbox for what is queued to be written.
    pub(super) is_in_outbox: bool,
    /// Work until the task gives way.
    turn_left: usize,
}

/// Tasks that wait for something else than a message.
#[derive(Default)]
struct Waiters {
    senders: Slab<Waker>,
    /// The `WebSocket` as a sink, which waits until everything is out.
    flusher: Option<Waker>,
    closed: Slab<Waker>,
    /// A browser's `WebSocket`, which waits until the transport is gone.
    gone: Option<Waker>,
    pings: Vec<PendingPing>,
}

struct PendingPing {
    payload: [u8; 8],
    sent: Instant,
    answer: oneshot::Sender<Duration>,
}

impl Core {
    pub(super) fn new(connection: Connection, transport: Transport) -> Self {
        Self {
            connection,
            transport: Some(transport),
            inbox: Inbox::default(),
            transport_error: None,
            outcome: None,
            waiters: None,
            transmitted: 0,
            is_reader_waiting: false,
            is_read_exhausted: false,
            is_due: false,
            tells_pings: false,
            has_dropped: false,
            refused: None,
            is_reader_gone: false,
            is_eof: false,
            is_reading_paused: false,
            needs_flush: false,
            is_shut_down: false,
            is_in_outbox: false,
            turn_left: TURN,
        }
    }

    /// Bytes that came in the same segment as the handshake.
    pub(super) fn receive_first(&mut self, bytes: &[u8]) {
        self.inbox.keep_tail(bytes);
    }

    pub(super) fn outcome(&self) -> Option<&CloseEvent> {
        self.outcome.as_deref()
    }

    pub(super) fn is_driven(&self) -> bool {
        self.transport.is_some()
    }

    // Receiving.

    #[inline]
    pub(super) fn take_received(&mut self) -> Option<Received> {
        self.inbox.pop()
    }

    /// Whether the driver has something to do behind a message that was taken: undecoded bytes, or
    /// reading that waited for room.
    pub(super) fn has_more_to_read(&self) -> bool {
        self.inbox.has_tail() || self.is_reading_paused
    }

    /// What `recv` gives once every message is taken and the outcome is known.
    #[inline]
    pub(super) fn end_of_messages(&self) -> Option<Result<Option<Received>, RecvError>> {
        self.outcome.as_deref().map(|outcome| self.end_with(outcome))
    }

    fn end_with(&self, outcome: &CloseEvent) -> Result<Option<Received>, RecvError> {
        if outcome.was_clean && !self.has_dropped && self.refused.is_none() {
            return Ok(None);
        }
        let mut event = outcome.clone();
        if let Some(refused) = &self.refused {
            event.cause.get_or_insert(CloseCause::Protocol(**refused));
        }
        if self.has_dropped {
            event.cause.get_or_insert(CloseCause::Unread);
        }
        Err(RecvError(Box::new(event)))
    }

    pub(super) fn has_message(&self) -> bool {
        self.inbox.has_message()
    }

    /// Fails the connection with 1009, unless it is ending already: the application has no room for the message
    /// that is received in pieces.
    pub(super) fn refuse_message(&mut self, received: usize, limit: usize) {
        self.connection.refuse_message(received, limit, now());
        let error = ProtocolError::MessageTooBig { announced: received as u64, limit };
        self.refused.get_or_insert_with(|| Box::new(error));
    }

    /// Nobody will take messages any more.
    pub(super) fn drop_reader(&mut self) {
        self.is_reader_gone = true;
        self.inbox.clear_messages();
        if let Some(waiters) = &mut self.waiters {
            waiters.flusher = None;
        }
    }

    /// While the application is busy: reads and decodes until the read-ahead is full or there is nothing
    /// to read, which registers `cx`.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while !self.is_paused() {
            if self.poll_fill(cx, &mut Want::All).is_pending() {
                return;
            }
        }
        self.is_reading_paused = true;
        self.connection.pause_receiving(true, now());
    }

    /// Reads and decodes to the next message, or until there is nothing to read.
    pub(super) fn read_one(&mut self, cx: &mut Context<'_>) {
        let mut wanted = None;
        while wanted.is_none() && !self.has_message() {
            if self.poll_fill(cx, &mut Want::One(&mut wanted)).is_pending() {
                return;
            }
        }
        if let Some(message) = wanted {
            self.inbox.push(message);
        }
    }

    /// Whether reading waits for the application to take messages. Once this end is closing, and somebody
    /// waits for the outcome, it does not: messages that find no room are dropped, so that the closing
    /// handshake can complete.
    fn is_paused(&self) -> bool {
        let is_outcome_awaited = || self.waiters.as_ref().is_some_and(|waiters| !waiters.closed.is_empty());
        self.inbox.is_full()
            && self.connection.is_receiving()
            && !self.is_reader_gone
            && (self.connection.is_open() || !is_outcome_awaited())
    }

    /// Decodes what is there, or reads once. `Ready` if anything came of it, be it the end.
    #[inline]
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, want: &mut Want<'_>) -> Poll<()> {
        if std::mem::take(&mut self.is_reading_paused) {
            self.connection.pause_receiving(false, now());
        }
        let has_tail = self.inbox.has_tail();
        if !has_tail && (self.is_eof || self.transport.is_none()) {
            return Poll::Pending;
        }
        if self.turn_left == 0 {
            self.turn_left = TURN;
            // Not just woken: tokio looks at its sockets first, which it does after sixty tasks otherwise.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        if has_tail {
            let (mut tail, at) = self.inbox.take_tail();
            let left = self.decode(&mut tail[at..], self.connection.last_received(), want);
            self.inbox.put_tail_back(tail, left);
            return Poll::Ready(());
        }
        let read = if self.connection.bulk_buffer().is_some() {
            self.poll_read_bulk(cx, want)
        } else {
            self.poll_read(cx, want)
        };
        match read {
            Poll::Pending => {
                self.turn_left = TURN;
                return Poll::Pending;
            }
            Poll::Ready(Ok(1..)) => self.count_work(READ_WORK),
            Poll::Ready(Ok(0)) => self.handle_eof(),
            Poll::Ready(Err(error)) => self.handle_transport_error(error),
        }
        Poll::Ready(())
    }

    /// Reads into the thread's buffer, and decodes what came.
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, want: &mut Want<'_>) -> Poll<io::Result<usize>> {
        buffers::with_read_buffer(|buffer| {
            let Some(transport) = &mut self.transport else { return Poll::Pending };
            let count = std::task::ready!(transport.poll_read_once(cx, buffer))?;
            let left = self.decode(&mut buffer[..count], now(), want);
            self.inbox.keep_tail(&buffer[count - left..count]);
            Poll::Ready(Ok(count))
        })
    }

    /// Reads the rest of a large payload straight into its message.
    fn poll_read_bulk(&mut self, cx: &mut Context<'_>, want: &mut Want<'_>) -> Poll<io::Result<usize>> {
        let (Some(transport), Some(mut bulk)) = (&mut self.transport, self.connection.bulk_buffer()) else {
            return Poll::Pending;
        };
        let count = std::task::ready!(tokio_util::io::poll_read_buf(Pin::new(transport), cx, &mut bulk))?;
        if let Some(event) = self.connection.receive_bulk(now()) {
            self.handle_event(event, want);
        }
        Poll::Ready(Ok(count))
    }

    #[inline]
    fn count_work(&mut self, work: usize) {
        self.turn_left = self.turn_left.saturating_sub(work);
    }

    fn handle_eof(&mut self) {
        self.is_eof = true;
        self.connection.receive_eof();
    }

    /// Decodes from the front of `input`; how many bytes are left.
    #[inline]
    fn decode(&mut self, mut input: &mut [u8], now: Instant, want: &mut Want<'_>) -> usize {
        while let Some(event) = self.connection.receive(&mut input, now) {
            self.handle_event(event, want);
            let work = self.connection.take_deflate_work();
            self.count_work(work);
            let enough = match want {
                Want::One(wanted) => wanted.is_some(),
                Want::All => self.is_paused(),
            };
            if enough || self.turn_left == 0 {
                break;
            }
        }
        input.len()
    }

    #[inline]
    fn handle_event(&mut self, event: Event<'_>, want: &mut Want<'_>) {
        match event {
            Event::Message(_) | Event::Piece(_) if self.is_reader_gone => {}
            // Behind a piece that was dropped, the rest of its message is none.
            Event::Piece(_) if self.has_dropped => {}
            Event::Message(_) | Event::Piece(_) if self.inbox.is_full() && !self.is_paused() => {
                self.has_dropped = true;
            }
            Event::Message(message) => {
                let message = match message.kind() {
                    MessageKind::Text => Message::Text(Utf8Bytes::from_text_payload(message)),
                    MessageKind::Binary => Message::Binary(message.into_payload().into_bytes()),
                };
                self.hand_over(Received::Message(message), want);
            }
            Event::Ping(payload) if self.tells_pings && !self.is_reader_gone && !self.inbox.is_full() => {
                self.hand_over(Received::Ping(payload.into_bytes()), want);
            }
            Event::Piece(piece) => self.hand_over(Received::Piece(piece.into()), want),
            Event::Pong(payload) => self.handle_pong(payload.as_ref()),
            Event::Ping(_) | Event::Closed(_) => {}
        }
    }

    #[inline]
    fn hand_over(&mut self, received: Received, want: &mut Want<'_>) {
        match want {
            Want::One(wanted) if wanted.is_none() => **wanted = Some(received),
            _ => self.inbox.push(received),
        }
    }

    fn handle_pong(&mut self, payload: &[u8]) {
        let Some(waiters) = &mut self.waiters else { return };
        let Some(index) = waiters.pings.iter().position(|ping| ping.payload == payload) else { return };
        let ping = waiters.pings.swap_remove(index);
        let _ = ping.answer.send(now().saturating_duration_since(ping.sent));
    }

    // Sending.

    /// Queues a message.
    #[inline]
    pub(super) fn send(&mut self, message: Outgoing) -> Result<(), SendError> {
        self.connection.lend_buffer(buffers::take_bytes);
        let sent = match message {
            Outgoing::Message(Message::Text(text), compress) => {
                self.connection.send_with(MessageKind::Text, text.into(), compress).map_err(SendError::from)
            }
            Outgoing::Message(Message::Binary(bytes), compress) => {
                self.connection.send_with(MessageKind::Binary, bytes, compress).map_err(SendError::from)
            }
            Outgoing::Prepared(prepared, compress) => self.send_prepared(&prepared, compress),
        };
        if sent.is_err() {
            self.take_buffer_back();
        }
        sent
    }

    /// What the thread has lent goes back, unless something is in it.
    fn take_buffer_back(&mut self) {
        if self.connection.pending_transmit() == 0
            && let Some(buffer) = self.connection.reclaim_buffer()
        {
            buffers::keep_bytes(buffer);
        }
    }

    fn send_prepared(&mut self, prepared: &Prepared, compress: Compress) -> Result<(), SendError> {
        let plain = prepared.plain();
        if self.connection.role() == Role::Client || self.connection.config().fragment_size.is_some() {
            self.connection.send_with(plain.kind(), plain.payload(), compress)?;
        } else if self.connection.is_compressible(compress, prepared.len())
            && let Some(settings) = self.connection.compressor_settings()
            && let Some(compressed) = prepared.compressed(settings)
        {
            self.connection.send_precompressed(plain, &compressed)?;
        } else {
            self.connection.send_prepared(plain)?;
        }
        Ok(())
    }

    /// Queues a piece of a message.
    pub(super) fn send_piece(
        &mut self,
        kind: MessageKind,
        payload: Bytes,
        fin: bool,
    ) -> Result<(), SendError> {
        self.connection.lend_buffer(buffers::take_bytes);
        if let Err(error) = self.connection.send_piece(kind, payload, fin) {
            self.take_buffer_back();
            return Err(error.into());
        }
        if fin {
            // Those behind it, unless they have to wait for the peer now.
            self.wake_senders(true);
        }
        Ok(())
    }

    /// Queues a Ping whose Pong is told to `answer`.
    pub(super) fn ping(
        &mut self,
        payload: [u8; 8],
        answer: oneshot::Sender<Duration>,
    ) -> Result<(), SendError> {
        self.connection.ping(&payload)?;
        let pings = &mut self.waiters.get_or_insert_default().pings;
        pings.retain(|ping| !ping.answer.is_closed());
        pings.push(PendingPing { payload, sent: now(), answer });
        Ok(())
    }

    pub(super) fn close(&mut self, frame: Option<&CloseFrame>, initiator: Initiator) {
        self.connection.close(frame, initiator, now());
    }

    /// Writes what is queued, as far as the transport takes it; `cx` is registered where it does not.
    #[inline]
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        if self.connection.pending_transmit() == 0 && !self.needs_flush {
            return;
        }
        self.flush_behind(cx, self.is_above_high_water());
    }

    /// [`flush`](Self::flush), whatever is queued now: `was_above` the high-water mark, before something was written.
    #[inline]
    pub(super) fn flush_behind(&mut self, cx: &mut Context<'_>, was_above: bool) {
        match self.poll_write(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                if let Some(buffer) = self.connection.reclaim_buffer() {
                    buffers::keep_bytes(buffer);
                }
            }
            Poll::Ready(Err(error)) => self.handle_transport_error(error),
        }
        self.wake_senders(was_above);
    }

    /// What [`flush`](Self::flush) would write first, where that is one piece and the transport is a socket of the
    /// system's: for who writes for many.
    #[cfg(all(feature = "io-uring", target_os = "linux"))]
    pub(super) fn next_write(&self) -> Option<Write<'_>> {
        let socket = self.transport.as_ref()?.as_fd()?;
        let mut slices = [IoSlice::new(&[]); 2];
        (self.connection.poll_transmit(&mut slices) == 1).then_some(Write { socket, bytes: slices[0] })
    }

    /// What became of that; whether there is more to do, which [`flush_behind`](Self::flush_behind) does.
    #[cfg(all(feature = "io-uring", target_os = "linux"))]
    pub(super) fn handle_written(&mut self, outcome: io::Result<usize>) -> bool {
        match outcome {
            Ok(written) => {
                self.connection.handle_transmitted(written);
                self.transmitted += written as u64;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.handle_transport_error(error),
        }
        if let Some(buffer) = self.connection.reclaim_buffer() {
            buffers::keep_bytes(buffer);
        }
        !self.is_flushed() || !self.connection.is_open() || self.waiters.is_some()
    }

    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(transport) = &mut self.transport else { return Poll::Pending };
        while self.connection.pending_transmit() > 0 {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let filled = self.connection.poll_transmit(&mut slices);
            let written = match &slices[..filled] {
                [single] => std::task::ready!(transport.poll_write_once(cx, single))?,
                slices => std::task::ready!(Pin::new(&mut *transport).poll_write_vectored(cx, slices))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.connection.handle_transmitted(written);
            self.transmitted += written as u64;
        }
        if transport.is_buffered() {
            self.needs_flush = true;
            std::task::ready!(Pin::new(transport).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// How many bytes the transport took, from the first frame on.
    pub(super) fn transmitted(&self) -> u64 {
        self.transmitted
    }

    /// Where the next frame that is queued will begin, among the bytes that this end transmits.
    pub(super) fn end_of_queue(&self) -> u64 {
        self.transmitted + self.connection.pending_transmit() as u64
    }

    /// Whether everything queued was handed to the system.
    pub(super) fn is_flushed(&self) -> bool {
        self.connection.pending_transmit() == 0 && !self.needs_flush
    }

    /// Whether a sender should wait for the peer to read.
    #[inline]
    pub(super) fn is_above_high_water(&self) -> bool {
        self.connection.pending_transmit() > self.connection.config().send_high_water
    }

    /// Whether who sends a message should wait: for the peer to read, or for the end of a message that
    /// somebody sends in pieces.
    #[inline]
    pub(super) fn is_sending_delayed(&self) -> bool {
        self.connection.is_open() && (self.is_above_high_water() || self.connection.is_message_under_way())
    }

    // The end.

    fn handle_transport_error(&mut self, error: io::Error) {
        // TLS gives the same error again, as often as it is asked.
        self.is_eof = true;
        self.connection.handle_transport_error();
        self.transport_error.get_or_insert_with(|| Box::new(error));
    }

    /// Gives the connection up.
    pub(super) fn abort(&mut self) {
        self.connection.abort();
        self.inbox.clear_tail();
    }

    /// Writes what is queued and brings the end on its way, as far as it comes. Whether the outcome has
    /// just become known.
    #[inline]
    pub(super) fn flush_and_settle(&mut self, cx: &mut Context<'_>) -> bool {
        self.flush(cx);
        if self.connection.is_open() {
            return false;
        }
        let before = self.outcome.is_some();
        self.settle(cx);
        self.outcome.is_some() && !before
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.needs_flush && !self.connection.is_finished() {
            return;
        }
        if let Some(Event::Closed(closed)) = self.connection.poll_event() {
            let error = self.transport_error.take().map(|error| *error);
            self.outcome = Some(Box::new(CloseEvent::new(closed, error)));
        }
        if self.connection.is_shutdown_expected() && !self.is_shut_down {
            self.shut_down(cx);
        }
        if self.connection.is_finished() {
            self.transport = None;
        }
        self.wake_senders(false);
        self.wake_closed();
    }

    /// Ends the sending side. The peer's end of file, which may have come before, is then the end of all.
    fn shut_down(&mut self, cx: &mut Context<'_>) {
        let Some(transport) = &mut self.transport else { return };
        match Pin::new(transport).poll_shutdown(cx) {
            Poll::Pending => return,
            Poll::Ready(Ok(())) if !self.is_eof => {}
            Poll::Ready(_) => self.connection.receive_eof(),
        }
        self.is_shut_down = true;
    }

    // Who waits.

    pub(super) fn register_sender(&mut self, waker: &Waker, place: &mut Option<usize>) {
        register(&mut self.waiters.get_or_insert_default().senders, waker, place);
    }

    pub(super) fn unregister_sender(&mut self, place: usize) {
        if let Some(waiters) = &mut self.waiters {
            waiters.senders.try_remove(place);
        }
    }

    pub(super) fn register_flusher(&mut self, waker: &Waker) {
        self.waiters.get_or_insert_default().flusher = Some(waker.clone());
    }

    /// Whether reading, which waited for the application, goes on because of it.
    pub(super) fn register_closed(&mut self, waker: &Waker, place: &mut Option<usize>) -> bool {
        let was_paused = self.is_reading_paused && self.is_paused();
        register(&mut self.waiters.get_or_insert_default().closed, waker, place);
        was_paused && !self.is_paused()
    }

    pub(super) fn unregister_closed(&mut self, place: usize) {
        if let Some(waiters) = &mut self.waiters {
            waiters.closed.try_remove(place);
        }
    }

    pub(super) fn register_gone(&mut self, waker: &Waker) {
        self.waiters.get_or_insert_default().gone = Some(waker.clone());
    }

    /// Wakes who can go on. Those who wait to send can when `is_changed`: the peer has taken enough, or the
    /// message under way is finished. If nothing has changed they are let alone, since each of them writes what
    /// it can when it is woken, and so would wake the others.
    #[inline]
    fn wake_senders(&mut self, is_changed: bool) {
        let is_flushed = self.is_flushed();
        let Some(waiters) = &mut self.waiters else { return };
        if is_flushed && let Some(flusher) = waiters.flusher.take() {
            flusher.wake();
        }
        if !self.connection.is_open() {
            // Once, since they will find it closed.
            waiters.senders.drain().for_each(Waker::wake);
        } else if is_changed && self.connection.pending_transmit() <= self.connection.config().send_high_water
        {
            waiters.senders.iter().for_each(|(_, sender)| sender.wake_by_ref());
        }
    }

    fn wake_closed(&mut self) {
        if self.outcome.is_some()
            && let Some(mut waiters) = self.waiters.take()
        {
            waiters.closed.drain().for_each(Waker::wake);
            waiters.senders.drain().for_each(Waker::wake);
            waiters.flusher.into_iter().chain(waiters.gone).for_each(Waker::wake);
        }
    }
}

/// How far to decode.
#[derive(Debug)]
pub(super) enum Want<'m> {
    /// To the next message, which goes here: the application waits for it, and what it answers goes out
    /// before anything that the frames behind it bring about, such as a Close frame.
    One(&'m mut Option<Received>),
    /// As far as the read-ahead allows.
    All,
}

/// Notes who waits, in the place that it has or in a new one.
fn register(waiting: &mut Slab<Waker>, waker: &Waker, place: &mut Option<usize>) {
    match place.and_then(|place| waiting.get_mut(place)) {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waiting.insert(waker.clone())),
    }
}
