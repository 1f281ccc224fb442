//! What the handles of a browser's WebSocket and its task share, and the steps that change it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, mpsc, watch};
use url::Url;
use wireline_proto::CloseFrame;

use super::{
    BinaryType, Cause, CloseEvent, Data, ErrorEvent, Event, EventType, Exception, ListenerId, MessageEvent,
    ReadyState, WebSocket,
    buffered::Buffered,
    listeners::{Callback, Listeners, Unneeded},
    turn::Turns,
};
use crate::{Message, SendError, Socket, prepared::Outgoing};

/// Events that a stream can hold: a message or `open`, then `error` and `close`. No other comes before
/// those are taken.
const STREAM_EVENTS: usize = 4;

#[derive(Debug)]
pub(super) struct Object {
    pub(super) url: Box<str>,
    origin: Arc<str>,
    /// The connection, from `open` on.
    socket: OnceLock<Socket>,
    state: Mutex<State>,
    handles: AtomicUsize,
    pub(super) turns: Arc<Turns>,
    /// `close()` was called, or nobody was left to call it.
    closed_here: Notify,
    /// Somebody waits for an event, or for the end.
    pub(super) awaited: Notify,
    pub(super) outcome: watch::Sender<Option<CloseEvent>>,
}

#[derive(Debug)]
struct State {
    ready_state: ReadyState,
    binary_type: BinaryType,
    buffered: Buffered,
    listeners: Listeners,
    is_closed_here: bool,
    is_full: bool,
    /// No event will come any more.
    is_over: bool,
}

impl Object {
    pub(super) fn new(url: &Url) -> Arc<Self> {
        Arc::new(Self {
            url: url.as_str().into(),
            origin: url.origin().ascii_serialization().into(),
            socket: OnceLock::new(),
            state: Mutex::new(State {
                ready_state: ReadyState::Connecting,
                binary_type: BinaryType::default(),
                buffered: Buffered::default(),
                listeners: Listeners::default(),
                is_closed_here: false,
                is_full: false,
                is_over: false,
            }),
            handles: AtomicUsize::new(0),
            turns: Arc::default(),
            closed_here: Notify::new(),
            awaited: Notify::new(),
            outcome: watch::Sender::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What the handles ask.

    pub(super) fn ready_state(&self) -> ReadyState {
        self.lock().ready_state
    }

    pub(super) fn binary_type(&self) -> BinaryType {
        self.lock().binary_type
    }

    pub(super) fn set_binary_type(&self, binary_type: BinaryType) {
        self.lock().binary_type = binary_type;
    }

    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.get()
    }

    pub(super) fn buffered_amount(&self) -> u64 {
        let mut state = self.lock();
        let handed_over = self.handed_over(&mut state);
        state.buffered.amount(handed_over)
    }

    /// As a caller's turn begins, it is seen what the network has; for the rest of the turn it stays so.
    fn handed_over(&self, state: &mut State) -> u64 {
        self.turns.handed_over(|| {
            let transmitted = self.socket.get().map_or(0, |socket| socket.link().transmitted());
            state.buffered.handed_over(transmitted)
        })
    }

    // What the handles do.

    pub(super) fn send(&self, message: Message) -> Result<(), Exception> {
        let len = message.len();
        let mut state = self.lock();
        self.handed_over(&mut state);
        let queued = match (state.ready_state, self.socket.get()) {
            (ReadyState::Connecting, _) => return Err(Exception::InvalidStateError),
            (ReadyState::Open, Some(socket)) => socket.link().try_send(Outgoing::from(message)),
            _ => Err(SendError::Closed),
        };
        match queued {
            Ok(frames) => state.buffered.queue(len, frames),
            Err(error) => {
                state.buffered.lose(len);
                if let (SendError::Full { .. }, Some(socket)) = (error, self.socket.get()) {
                    state.is_full = true;
                    socket.abort();
                }
            }
        }
        Ok(())
    }

    /// Starts the closing handshake, or gives the attempt up.
    pub(super) fn close(&self, frame: Option<&CloseFrame>) {
        let mut state = self.lock();
        if state.ready_state >= ReadyState::Closing {
            return;
        }
        state.ready_state = ReadyState::Closing;
        state.is_closed_here = true;
        if let Some(socket) = self.socket.get() {
            socket.link().close(frame);
        }
        drop(state);
        self.closed_here.notify_one();
    }

    // Who listens.

    pub(super) fn set_handler(&self, event_type: EventType, callback: Callback) {
        self.change_listeners(|listeners| listeners.set_handler(event_type, callback));
    }

    pub(super) fn remove_handler(&self, event_type: EventType) {
        self.change_listeners(|listeners| listeners.remove_handler(event_type));
        self.collect();
    }

    pub(super) fn add_listener(&self, event_type: EventType, callback: Callback) -> ListenerId {
        let id = ListenerId::new();
        self.change_listeners(|listeners| listeners.add(id, event_type, callback));
        id
    }

    pub(super) fn remove_listener(&self, id: ListenerId) {
        self.change_listeners(|listeners| listeners.remove(id));
        self.collect();
    }

    fn change_listeners(&self, change: impl FnOnce(&mut Listeners) -> Unneeded) {
        let mut state = self.lock();
        let unneeded = change(&mut state.listeners);
        let all = state.is_over.then(|| std::mem::take(&mut state.listeners));
        drop(state);
        drop((unneeded, all));
    }

    pub(super) fn add_stream(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(STREAM_EVENTS);
        let mut state = self.lock();
        if !state.is_over {
            state.listeners.add_stream(sender);
        }
        receiver
    }

    /// Whether messages that are still in a stream must not be given out: `close()` came before them.
    pub(super) fn is_closed_here(&self) -> bool {
        self.lock().is_closed_here
    }

    // Who is left.

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.collect();
        }
    }

    /// A browser's garbage collection: closes a socket that nobody can use and that can tell nobody
    /// anything.
    pub(super) fn collect(&self) {
        let state = self.lock();
        let is_needed = self.handles.load(Ordering::Acquire) > 0
            || state.listeners.can_be_told(state.ready_state)
            || state.ready_state >= ReadyState::Closing;
        drop(state);
        if !is_needed {
            self.close(None);
        }
    }

    // The steps of its task. What listeners are called in is a turn of its own, which sees the network anew.

    /// Waits until `close()` was called.
    pub(super) async fn closed_here(&self) {
        while !self.is_closed_here() {
            self.closed_here.notified().await;
        }
    }

    /// Waits until the streams gave out what they hold, or what they hold is not given out any more.
    pub(super) async fn streams_taken(&self) {
        let streams = self.lock().listeners.streams().to_vec();
        for stream in streams {
            tokio::select! {
                _ = stream.reserve_many(STREAM_EVENTS) => {}
                () = self.closed_here() => return,
            }
        }
    }

    /// The opening handshake succeeded. `false` if the connection is not wanted any more.
    pub(super) fn open(self: &Arc<Self>, socket: Socket) -> bool {
        self.turns.end_current();
        // Whoever drops the last other handle now does not find the socket needless: who listens to `open`
        // counts while it connects, and is called when it does not any more.
        let _target = WebSocket::of(Arc::clone(self));
        let mut state = self.lock();
        if state.ready_state != ReadyState::Connecting {
            return false;
        }
        let _ = self.socket.set(socket);
        state.ready_state = ReadyState::Open;
        drop(state);
        self.fire(&Event::Open);
        true
    }

    /// A message came. It counts only while the socket is open.
    pub(super) fn receive(self: &Arc<Self>, message: Message) {
        self.turns.end_current();
        let state = self.lock();
        if state.ready_state != ReadyState::Open {
            return;
        }
        let data = Data::new(message, state.binary_type);
        drop(state);
        self.fire(&Event::Message(MessageEvent { data, origin: Arc::clone(&self.origin) }));
    }

    /// Either end has begun to close.
    pub(super) fn begin_closing(&self) {
        let mut state = self.lock();
        state.ready_state = state.ready_state.max(ReadyState::Closing);
    }

    /// The connection is over: the last step.
    pub(super) fn finish(self: &Arc<Self>, mut event: CloseEvent) {
        self.turns.end_current();
        let mut state = self.lock();
        state.ready_state = ReadyState::Closed;
        if state.is_full {
            event.cause = Some(Cause::Full);
        }
        drop(state);
        if let Some(cause) = &event.cause {
            self.fire(&Event::Error(ErrorEvent { cause: cause.clone() }));
        }
        self.fire(&Event::Close(event.clone()));
        self.end(event);
    }

    /// No event will come any more: nobody needs to be kept for one.
    pub(super) fn end(&self, event: CloseEvent) {
        let mut state = self.lock();
        state.ready_state = ReadyState::Closed;
        state.is_over = true;
        let listeners = std::mem::take(&mut state.listeners);
        drop(state);
        drop(listeners);
        self.outcome.send_if_modified(|outcome| {
            let is_first = outcome.is_none();
            outcome.get_or_insert(event);
            is_first
        });
    }

    /// Calls those who listen to the event now, and hands it to the streams.
    fn fire(self: &Arc<Self>, event: &Event) {
        let target = WebSocket::of(Arc::clone(self));
        let listening = self.lock().listeners.of(event.event_type());
        for id in listening {
            let taken = self.lock().listeners.take(id);
            let Some(mut callback) = taken else { continue };
            if catch_unwind(AssertUnwindSafe(|| callback(&target, event))).is_err() {
                tracing::error!("a listener of a WebSocket panicked; the others get their events");
            }
            self.change_listeners(|listeners| listeners.put_back(id, callback));
        }
        let streams = self.lock().listeners.streams().to_vec();
        for stream in streams {
            let _ = stream.try_send(event.clone());
        }
    }
}
