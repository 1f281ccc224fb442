//! The one loop that does IO: read → receive, transmit → write, timeout → sleep.
//!
//! Each connection has one task that drives it. On the server that task also polls the application's
//! handler, so that a message needs no hop and no channel between the socket and the application; on
//! the client the task stands by, and `recv` reads the socket itself while it waits.
//!
//! Whoever polls first does the work, under the connection's lock: `recv` reads when nothing is decoded;
//! the driver flushes when its task is about to park, reads ahead while the application is busy
//! elsewhere, keeps the timers, and sees the connection to its end.

mod alarms;
pub(crate) mod buffers;
mod contexts;
mod core;
mod inbox;
mod outbox;
#[cfg(all(feature = "io-uring", target_os = "linux"))]
mod ring;
mod runtime;

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::HeaderMap;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use wireline_proto::{CloseCode, CloseFrame, Config, Connection, Initiator, MessageKind, Negotiated};

use self::{
    alarms::Alarm,
    core::{Core, Want, now},
    runtime::Runtime,
};
pub(crate) use self::{
    contexts::with_compressor,
    inbox::{Piece, Received},
};
use crate::{
    CloseEvent, RecvError, Result, SendError, entropy, prepared::Outgoing, registry::Registration,
    transport::Transport,
};

/// One connection, as its driver and its handles share it.
pub(crate) struct Link {
    core: Mutex<Core>,
    /// Set at the driver's first poll; it stays the same.
    driver: OnceLock<Attendance>,
    /// A task that waits in `recv` and is not the driver's.
    reader: AtomicWaker,
    /// The transport has called that task, and it has not come yet.
    is_reader_called: AtomicBool,
    /// The driver's task is being polled, and will flush before it parks.
    is_attended: AtomicBool,
    /// `WebSocket` and `Socket`s. At zero nobody can use the connection any more, and it is closed.
    handles: AtomicUsize,
    pub(crate) id: u64,
    pub(crate) remote_addr: Option<SocketAddr>,
    /// Boxed, since a server's connections most often have none.
    names: Option<Box<Names>>,
}

/// Who drives a connection.
struct Attendance {
    /// Calls the driver's task.
    waker: Waker,
    runtime: Arc<Runtime>,
}

#[derive(Debug)]
struct Names {
    protocol: Option<String>,
    extensions: Option<Box<str>>,
    url: Option<Box<str>>,
    client_ip: Option<IpAddr>,
    response_headers: Option<Box<HeaderMap>>,
}

impl Names {
    fn is_empty(&self) -> bool {
        self.protocol.is_none()
            && self.extensions.is_none()
            && self.url.is_none()
            && self.client_ip.is_none()
            && self.response_headers.is_none()
    }
}

/// What a finished opening handshake leaves to make a [`Link`] of.
pub(crate) struct Opened {
    pub(crate) negotiated: Negotiated,
    pub(crate) config: Arc<Config>,
    pub(crate) transport: Transport,
    /// Bytes that came behind the handshake.
    pub(crate) first_bytes: Bytes,
    pub(crate) url: Option<Box<str>>,
    pub(crate) remote_addr: Option<SocketAddr>,
    /// What proxies say, where they do.
    pub(crate) client_ip: Option<IpAddr>,
    /// On a client: the server's.
    pub(crate) response_headers: Option<Box<HeaderMap>>,
}

impl Link {
    pub(crate) fn new(opened: Opened) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let protocol = opened.negotiated.protocol().map(str::to_owned);
        let extensions = opened.negotiated.deflate().map(|deflate| deflate.to_string().into());
        let client_ip = opened.client_ip.filter(|ip| opened.remote_addr.map(|addr| addr.ip()) != Some(*ip));
        let names = Names {
            protocol,
            extensions,
            url: opened.url,
            client_ip,
            response_headers: opened.response_headers,
        };
        let names = (!names.is_empty()).then(|| Box::new(names));
        let mut connection = Connection::new(opened.negotiated, opened.config, entropy::mask_key, now());
        connection.share_contexts(&contexts::Contexts);
        let mut core = Core::new(connection, opened.transport);
        core.receive_first(&opened.first_bytes);
        Arc::new(Self {
            core: Mutex::new(core),
            driver: OnceLock::new(),
            reader: AtomicWaker::new(),
            is_reader_called: AtomicBool::new(false),
            is_attended: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            remote_addr: opened.remote_addr,
            names,
        })
    }

    pub(crate) fn protocol(&self) -> Option<&str> {
        self.names.as_ref()?.protocol.as_deref()
    }

    pub(crate) fn extensions(&self) -> Option<&str> {
        self.names.as_ref()?.extensions.as_deref()
    }

    pub(crate) fn url(&self) -> Option<&str> {
        self.names.as_ref()?.url.as_deref()
    }

    pub(crate) fn client_ip(&self) -> Option<IpAddr> {
        let told = self.names.as_ref().and_then(|names| names.client_ip);
        told.or_else(|| self.remote_addr.map(|addr| addr.ip()))
    }

    pub(crate) fn response_headers(&self) -> Option<&HeaderMap> {
        self.names.as_ref()?.response_headers.as_deref()
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver look at the connection, unless it will anyhow before its task parks.
    #[inline]
    fn notify_driver(&self) {
        if !self.is_attended.load(Ordering::Relaxed) {
            self.wake_driver();
        }
    }

    /// `cx` is that of the task which drives the connection from now on.
    #[inline]
    fn set_driver(&self, cx: &Context<'_>) {
        self.driver.get_or_init(|| Attendance { waker: cx.waker().clone(), runtime: Runtime::current() });
    }

    /// Has what was queued written, unless the driver will anyhow before its task parks.
    #[inline]
    fn have_flushed(self: &Arc<Self>, core: MutexGuard<'_, Core>) {
        if !self.is_attended.load(Ordering::Relaxed) {
            self.have_flushed_by_outbox(core);
        }
    }

    fn have_flushed_by_outbox(self: &Arc<Self>, mut core: MutexGuard<'_, Core>) {
        let Some(driver) = self.driver.get() else { return };
        if !std::mem::replace(&mut core.is_in_outbox, true) {
            drop(core);
            driver.runtime.outbox(self.id).push(Arc::clone(self));
        }
    }

    /// Writes what others have queued; the driver's task goes on where the transport does not.
    fn flush_for_others(&self) {
        let core = self.lock();
        let was_above = core.is_above_high_water();
        self.flush_behind_others(core, was_above);
    }

    /// [`flush_for_others`](Self::flush_for_others), where `was_above` the high-water mark before a part was written.
    fn flush_behind_others(&self, mut core: MutexGuard<'_, Core>, was_above: bool) {
        core.is_in_outbox = false;
        let Some(driver) = self.driver.get() else { return };
        core.flush_behind(&mut Context::from_waker(&driver.waker), was_above);
        if !core.connection.is_open() {
            drop(core);
            self.wake_driver();
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = self.driver.get() {
            driver.waker.wake_by_ref();
        }
    }

    /// Whether `cx` is the driver's own task, in the poll that the driver ends by flushing.
    #[inline]
    fn is_driver(&self, cx: &Context<'_>) -> bool {
        self.is_attended.load(Ordering::Relaxed)
            && self.driver.get().is_some_and(|driver| driver.waker.will_wake(cx.waker()))
    }

    /// Calls `f` with the context to register at the transport: the driver's task if that is the one
    /// being polled, else [`Link::wake`], which finds out who waits when the time comes.
    #[inline]
    fn with_io_context<R>(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        is_driver: bool,
        f: impl FnOnce(&mut Context<'_>) -> R,
    ) -> R {
        if is_driver { f(cx) } else { f(&mut Context::from_waker(&Waker::from(Arc::clone(self)))) }
    }

    // What the handles do.

    /// The next message, or what else [was asked for](Self::tell_pings); `Ok(None)` after a closing
    /// handshake.
    #[inline]
    pub(crate) fn poll_recv(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Received>, RecvError>> {
        let mut core = self.lock();
        let is_driver = self.is_driver(cx);
        core.is_reader_waiting = false;
        self.is_reader_called.store(false, Ordering::Relaxed);
        let mut wanted = None;
        loop {
            if let Some(received) = wanted.or_else(|| core.take_received()) {
                if !is_driver && core.has_more_to_read() {
                    // While this task is busy with the message, the driver sees to what is behind it.
                    self.notify_driver();
                }
                return Poll::Ready(Ok(Some(received)));
            }
            if let Some(end) = core.end_of_messages() {
                return Poll::Ready(end);
            }
            wanted = None;
            let want = &mut Want::One(&mut wanted);
            let filled =
                if is_driver { core.poll_fill(cx, want) } else { self.fill_for_reader(&mut core, want) };
            if filled.is_pending() {
                if is_driver {
                    core.is_read_exhausted = true;
                    return Poll::Pending;
                }
                // This task reads for itself; what that made is written before it parks.
                self.reader.register(cx.waker());
                core.is_reader_waiting = true;
                if !self.with_io_context(cx, false, |cx| core.flush_and_settle(cx)) {
                    return Poll::Pending;
                }
            } else if wanted.is_none() && !core.connection.is_open() {
                // The end is the driver's to bring about.
                self.wake_driver();
                if is_driver {
                    return Poll::Pending;
                }
            }
        }
    }

    /// From now on [`poll_recv`](Self::poll_recv) gives the peer's Pings as well.
    pub(crate) fn tell_pings(&self) {
        self.lock().tells_pings = true;
    }

    /// As [`Core::poll_fill`], in a task that is not the driver's.
    fn fill_for_reader(self: &Arc<Self>, core: &mut Core, want: &mut Want<'_>) -> Poll<()> {
        core.poll_fill(&mut Context::from_waker(&Waker::from(Arc::clone(self))), want)
    }

    /// Queues `message`, waiting while more than the high-water mark is unsent; `place` is the waiting
    /// task's, to be given up with [`cancel_send`](Self::cancel_send).
    #[inline]
    pub(crate) fn poll_send(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        message: &mut Option<Outgoing>,
        place: &mut Option<usize>,
    ) -> Poll<Result<(), SendError>> {
        let mut core = self.lock();
        ready!(self.poll_may_send(&mut core, cx, place, Core::is_sending_delayed));
        let Some(message) = message.take() else { return Poll::Ready(Ok(())) };
        let sent = core.send(message);
        self.have_flushed(core);
        Poll::Ready(sent)
    }

    /// Queues a piece of a message, as [`poll_send`](Self::poll_send) does a whole one. `is_begun`: the
    /// message under way is this one.
    pub(crate) fn poll_send_piece(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        piece: (MessageKind, &Bytes, bool),
        is_begun: bool,
        place: &mut Option<usize>,
    ) -> Poll<Result<(), SendError>> {
        let mut core = self.lock();
        let is_delayed = if is_begun {
            |core: &Core| core.connection.is_open() && core.is_above_high_water()
        } else {
            Core::is_sending_delayed
        };
        ready!(self.poll_may_send(&mut core, cx, place, is_delayed));
        let (kind, payload, fin) = piece;
        let sent = core.send_piece(kind, payload.clone(), fin);
        self.have_flushed(core);
        Poll::Ready(sent)
    }

    /// Waits while sending is delayed.
    #[inline]
    fn poll_may_send(
        self: &Arc<Self>,
        core: &mut Core,
        cx: &mut Context<'_>,
        place: &mut Option<usize>,
        is_delayed: impl Fn(&Core) -> bool,
    ) -> Poll<()> {
        if is_delayed(core) {
            let is_driver = self.is_driver(cx);
            self.with_io_context(cx, is_driver, |cx| core.flush(cx));
            if is_delayed(core) {
                core.register_sender(cx.waker(), place);
                return Poll::Pending;
            }
        }
        if let Some(place) = place.take() {
            core.unregister_sender(place);
        }
        Poll::Ready(())
    }

    /// Whether somebody sends a message in pieces, and has not finished it.
    pub(crate) fn is_message_under_way(&self) -> bool {
        let core = self.lock();
        core.connection.is_open() && core.connection.is_message_under_way()
    }

    /// Fails the connection with 1009: the application has no room for the message that is received in
    /// pieces.
    pub(crate) fn refuse_message(&self, received: usize, limit: usize) {
        self.lock().refuse_message(received, limit);
        self.notify_driver();
    }

    /// Queues `message` if the send cap allows; where its frames lie among the bytes that this end
    /// transmits.
    pub(crate) fn try_send(self: &Arc<Self>, message: Outgoing) -> Result<Range<u64>, SendError> {
        let mut core = self.lock();
        let buffered = core.connection.pending_transmit();
        if core.connection.is_open() && buffered + message.len() > core.connection.config().send_cap {
            return Err(SendError::Full { buffered });
        }
        let start = core.end_of_queue();
        core.send(message)?;
        let end = core.end_of_queue();
        self.have_flushed(core);
        Ok(start..end)
    }

    /// Queues `message` if at most `limit` bytes are unsent then, or sending is not delayed now; how many are.
    pub(crate) fn try_send_within(
        self: &Arc<Self>,
        message: Outgoing,
        limit: usize,
    ) -> Result<usize, SendError> {
        let mut core = self.lock();
        let buffered = core.connection.pending_transmit();
        if core.is_sending_delayed() && buffered + message.len() > limit {
            return Err(SendError::Full { buffered });
        }
        core.send(message)?;
        let buffered = core.connection.pending_transmit();
        self.have_flushed(core);
        Ok(buffered)
    }

    /// How many bytes the transport took, from the first frame on.
    pub(crate) fn transmitted(&self) -> u64 {
        self.lock().transmitted()
    }

    /// Queues `message` whatever is unsent: for those who waited before.
    pub(crate) fn send_unchecked(self: &Arc<Self>, message: Outgoing) -> Result<(), SendError> {
        let mut core = self.lock();
        core.send(message)?;
        self.have_flushed(core);
        Ok(())
    }

    /// Waits until everything queued was handed to the system. One task at a time can wait for that: the
    /// one that has the `WebSocket`.
    pub(crate) fn poll_flushed(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut core = self.lock();
        let is_driver = self.is_driver(cx);
        self.with_io_context(cx, is_driver, |cx| core.flush(cx));
        if !core.connection.is_open() {
            // Should the write have failed, the driver brings the end about.
            self.wake_driver();
        }
        if core.connection.is_finished() {
            return Poll::Ready(Err(SendError::Closed));
        }
        if core.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        core.register_flusher(cx.waker());
        Poll::Pending
    }

    pub(crate) fn ping(&self) -> Result<oneshot::Receiver<Duration>, SendError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (answer, answered) = oneshot::channel();
        self.lock().ping(NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes(), answer)?;
        self.notify_driver();
        Ok(answered)
    }

    pub(crate) fn pong(&self, payload: &[u8]) -> Result<(), SendError> {
        self.lock().connection.pong(payload)?;
        self.notify_driver();
        Ok(())
    }

    pub(crate) fn close(&self, frame: Option<&CloseFrame>) {
        self.lock().close(frame, Initiator::User);
        self.notify_driver();
    }

    pub(crate) fn abort(&self) {
        self.lock().abort();
        self.notify_driver();
    }

    /// Waits for the outcome; `place` is the waiting task's, to be given up with
    /// [`cancel_closed`](Self::cancel_closed).
    pub(crate) fn poll_closed(&self, cx: &Context<'_>, place: &mut Option<usize>) -> Poll<CloseEvent> {
        let mut core = self.lock();
        if let Some(outcome) = core.outcome() {
            return Poll::Ready(outcome.clone());
        }
        let goes_on = core.register_closed(cx.waker(), place);
        drop(core);
        if goes_on {
            self.wake_driver();
        }
        Poll::Pending
    }

    /// Waits until the transport is gone, which can be after the outcome is known. One task at a time can
    /// wait for that: the one of a browser's `WebSocket`.
    pub(crate) fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut core = self.lock();
        if !core.is_driven() {
            return Poll::Ready(());
        }
        core.register_gone(cx.waker());
        Poll::Pending
    }

    pub(crate) fn cancel_send(&self, place: usize) {
        self.lock().unregister_sender(place);
    }

    pub(crate) fn cancel_closed(&self, place: usize) {
        self.lock().unregister_closed(place);
    }

    pub(crate) fn with_connection<R>(&self, f: impl FnOnce(&Connection) -> R) -> R {
        f(&self.lock().connection)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().outcome().is_some()
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<CloseEvent> {
        self.lock().outcome().cloned()
    }

    /// Whether the closing handshake has completed.
    pub(crate) fn was_clean(&self) -> bool {
        self.lock().outcome().is_some_and(|outcome| outcome.was_clean)
    }

    /// The `WebSocket` is dropped: nobody takes messages any more.
    pub(crate) fn drop_reader(&self) {
        self.lock().drop_reader();
        self.reader.take();
        self.notify_driver();
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // No lock orders this with the driver's look at the count, so it is told in any case.
            self.wake_driver();
        }
    }

    // What the driver does.

    /// Looks at everything once: the deadline, what there is to read, what is queued, the end.
    fn attend(self: &Arc<Self>, cx: &mut Context<'_>, alarm: &mut Option<Alarm>) -> Attended {
        let mut core = self.lock();
        self.is_attended.store(false, Ordering::Relaxed);
        if self.handles.load(Ordering::Acquire) == 0 && core.connection.is_open() {
            core.close(CloseFrame::new(CloseCode::NORMAL, "").ok().as_ref(), Initiator::User);
        }
        let is_due = std::mem::take(&mut core.is_due);
        let is_reader_called = self.is_reader_called.swap(false, Ordering::AcqRel);
        if is_due {
            // Before the peer is found silent, what it sent is read; whoever waits for more stays registered.
            let is_reader_waiting = core.is_reader_waiting;
            self.with_io_context(cx, !is_reader_waiting, |cx| core.read_ahead(cx));
        } else if core.is_reader_waiting {
            // The task that waits reads for itself, unless it was called and has not come yet. Then it
            // gets one message, and is given the time to answer it before anything behind it is read.
            if is_reader_called {
                core.is_reader_waiting = false;
                core.read_one(cx);
                let _ = pin!(tokio::task::yield_now()).poll(cx);
            }
        } else if !core.is_read_exhausted {
            core.read_ahead(cx);
        }
        core.is_read_exhausted = false;
        if is_due {
            core.connection.handle_timeout(now());
        }
        let has_ended = core.flush_and_settle(cx);
        if core.connection.is_shutdown_expected() {
            core.read_ahead(cx);
            core.flush_and_settle(cx);
        }
        let is_steady = core.connection.is_open() && core.connection.is_timeout_steady();
        if (is_due || alarm.is_none() || !is_steady)
            && let Some(due) = core.connection.poll_timeout()
            && let Some(driver) = self.driver.get()
        {
            alarm.get_or_insert_with(|| Alarm::new(Arc::clone(&driver.runtime), self)).set(due);
        }
        let is_driven = core.is_driven();
        let is_news = has_ended || core.has_message();
        drop(core);
        if is_news {
            self.reader.wake();
        }
        Attended { is_driven, has_ended }
    }

    /// Has the driver look at the connection if its deadline has passed, else says when that will be.
    fn check_deadline(&self, now: Instant) -> Option<Instant> {
        let mut core = self.lock();
        let due = core.connection.poll_timeout()?;
        if due > now {
            return Some(due);
        }
        core.is_due = true;
        drop(core);
        self.wake_driver();
        None
    }

    /// The driver was dropped before the end: its runtime is shutting down.
    fn abandon(&self) {
        let mut core = self.lock();
        core.abort();
        core.flush_and_settle(&mut Context::from_waker(Waker::noop()));
        drop(core);
        self.reader.wake();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the transport's wake-ups do while a task other than the driver's waits in `recv`: that task comes
/// first and reads for itself. The driver looks after it, should the task have turned to other work.
impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_reader_called.store(true, Ordering::Release);
        self.reader.wake();
        self.wake_driver();
    }
}

struct Attended {
    /// The transport is still there.
    is_driven: bool,
    /// The outcome has just become known.
    has_ended: bool,
}

/// Where a handler's task finds the connection that the handler accepts. Until then it keeps the
/// connection's place in the registry.
pub(crate) struct Seat {
    state: Mutex<SeatState>,
}

enum SeatState {
    /// The handler has not accepted yet; this is its task.
    Vacant(Option<Registration>, Option<Waker>),
    Taken(Arc<Link>, Option<Registration>),
    /// The handler ended, and what it left behind may still accept: in a task of its own.
    Orphaned(Option<Registration>),
    /// The connection is driven, or was.
    Left,
}

impl Seat {
    pub(crate) fn new(registration: Option<Registration>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(SeatState::Vacant(registration, None)) })
    }

    fn lock(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the connection to the handler's task to drive. It is one of the server's from now on.
    pub(crate) fn take(&self, link: &Arc<Link>) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, SeatState::Left) {
            SeatState::Vacant(registration, waker) => {
                set_link(registration.as_ref(), link);
                *state = SeatState::Taken(Arc::clone(link), registration);
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            SeatState::Orphaned(registration) => {
                set_link(registration.as_ref(), link);
                spawn_driver(Arc::clone(link), registration);
            }
            other => *state = other,
        }
    }

    /// The connection, if the handler has accepted.
    fn poll_taken(&self, cx: &Context<'_>) -> Option<(Arc<Link>, Option<Registration>)> {
        let mut state = self.lock();
        if let SeatState::Vacant(_, waker) = &mut *state {
            *waker = Some(cx.waker().clone());
            return None;
        }
        match std::mem::replace(&mut *state, SeatState::Left) {
            SeatState::Taken(link, registration) => Some((link, registration)),
            _ => None,
        }
    }

    /// The client has another answer, or is gone: no connection is to come.
    pub(crate) fn vacate(&self) {
        let mut state = self.lock();
        if matches!(*state, SeatState::Vacant(..) | SeatState::Orphaned(_)) {
            *state = SeatState::Left;
        }
    }

    /// The handler has ended without accepting.
    fn orphan(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, SeatState::Left) {
            SeatState::Vacant(registration, _) => *state = SeatState::Orphaned(registration),
            // Accepted in the meantime, by another task.
            SeatState::Taken(link, registration) => spawn_driver(link, registration),
            other => *state = other,
        }
    }
}

/// Tells the server, if there is one, that the connection is accepted.
fn set_link(registration: Option<&Registration>, link: &Arc<Link>) {
    if let Some(registration) = registration {
        registration.set_link(link);
    }
}

/// Drives a connection in a task of its own.
pub(crate) fn spawn_driver(link: Arc<Link>, registration: Option<Registration>) {
    let driver: Driver<std::future::Pending<Result<()>>> =
        Driver { handler: None, seat: None, link: Some(link), alarm: None, registration };
    tokio::spawn(driver);
}

/// Runs a handler, and drives the connection that it accepts, in one task.
pub(crate) fn spawn_handler<H>(handler: H, seat: Arc<Seat>)
where
    H: Future<Output = Result<()>> + Send + 'static,
{
    let (handler, seat) = (Some(handler), Some(seat));
    tokio::spawn(Driver { handler, seat, link: None, alarm: None, registration: None });
}

pin_project! {
    /// The task of a connection.
    struct Driver<H> {
        #[pin]
        handler: Option<H>,
        seat: Option<Arc<Seat>>,
        link: Option<Arc<Link>>,
        alarm: Option<Alarm>,
        registration: Option<Registration>,
    }

    impl<H> PinnedDrop for Driver<H> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(link) = this.project().link {
                link.abandon();
            }
        }
    }
}

impl<H: Future<Output = Result<()>>> Future for Driver<H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            if let Some(link) = this.link {
                link.is_attended.store(true, Ordering::Relaxed);
            }
            let ended_with = poll_handler(this.handler.as_mut(), cx);
            if ended_with.is_some() {
                this.handler.set(None);
            }
            let handler_ended = this.handler.is_none();
            if let Some(seat) = this.seat
                && let Some((link, registration)) = seat.poll_taken(cx)
            {
                link.set_driver(cx);
                *this.link = Some(link);
                *this.registration = registration;
                *this.seat = None;
            }
            let Some(link) = this.link else {
                if !handler_ended {
                    return Poll::Pending;
                }
                if let Some(seat) = this.seat {
                    seat.orphan();
                }
                return Poll::Ready(());
            };
            link.set_driver(cx);
            if let Some(Ended::Badly) = ended_with {
                link.lock()
                    .close(CloseFrame::new(CloseCode::INTERNAL_ERROR, "").ok().as_ref(), Initiator::User);
            }
            let attended = link.attend(cx, this.alarm);
            if !attended.is_driven {
                *this.registration = None;
                *this.alarm = None;
                if handler_ended {
                    return Poll::Ready(());
                }
            }
            if !attended.has_ended || handler_ended {
                return Poll::Pending;
            }
        }
    }
}

/// How a handler ended.
enum Ended {
    Well,
    /// With an error or a panic: the peer gets 1011, if it does not know better.
    Badly,
}

fn poll_handler<H: Future<Output = Result<()>>>(
    handler: Pin<&mut Option<H>>,
    cx: &mut Context<'_>,
) -> Option<Ended> {
    let handler = handler.as_pin_mut()?;
    match catch_unwind(AssertUnwindSafe(|| handler.poll(cx))) {
        Ok(Poll::Pending) => None,
        Ok(Poll::Ready(Ok(()))) => Some(Ended::Well),
        Ok(Poll::Ready(Err(error))) => {
            tracing::debug!(%error, "a handler ended with an error");
            Some(Ended::Badly)
        }
        Err(_) => {
            tracing::error!("a handler panicked; its connection is closed with 1011");
            Some(Ended::Badly)
        }
    }
}
