//! Who listens to what, in the order in which they came.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::{Event, EventType, ReadyState, WebSocket};

/// What is called with an event.
pub(super) type Callback = Box<dyn FnMut(&WebSocket, &Event) + Send>;

/// A listener of [`WebSocket::add_event_listener`], to be removed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

impl ListenerId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    streams: Vec<mpsc::Sender<Event>>,
}

struct Listener {
    id: ListenerId,
    event_type: EventType,
    /// It is the one that `on_open` and its like set.
    is_handler: bool,
    /// Out while it is being called.
    callback: Option<Callback>,
}

/// A callback that is not needed any more. It is to be dropped outside of the lock, since what it owns may
/// be a socket.
pub(super) type Unneeded = Option<Callback>;

impl Listeners {
    pub(super) fn add(&mut self, id: ListenerId, event_type: EventType, callback: Callback) -> Unneeded {
        self.all.push(Listener { id, event_type, is_handler: false, callback: Some(callback) });
        None
    }

    /// Sets the handler. It takes the place of the one before it among the listeners, or the last place.
    pub(super) fn set_handler(&mut self, event_type: EventType, callback: Callback) -> Unneeded {
        let found = self.all.iter_mut().find(|known| known.is_handler && known.event_type == event_type);
        if let Some(known) = found {
            return known.callback.replace(callback);
        }
        let callback = Some(callback);
        self.all.push(Listener { id: ListenerId::new(), event_type, is_handler: true, callback });
        None
    }

    pub(super) fn remove_handler(&mut self, event_type: EventType) -> Unneeded {
        self.remove_where(|known| known.is_handler && known.event_type == event_type)
    }

    pub(super) fn remove(&mut self, id: ListenerId) -> Unneeded {
        self.remove_where(|known| known.id == id)
    }

    fn remove_where(&mut self, is_meant: impl Fn(&Listener) -> bool) -> Unneeded {
        let place = self.all.iter().position(is_meant)?;
        self.all.remove(place).callback
    }

    /// Those who listen to `event_type` now.
    pub(super) fn of(&self, event_type: EventType) -> Vec<ListenerId> {
        self.all.iter().filter(|known| known.event_type == event_type).map(|known| known.id).collect()
    }

    /// Takes a callback out to be called; `None` if its listener was removed.
    pub(super) fn take(&mut self, id: ListenerId) -> Option<Callback> {
        self.all.iter_mut().find(|known| known.id == id)?.callback.take()
    }

    /// Puts a callback back, unless its listener was removed or replaced while it was called.
    pub(super) fn put_back(&mut self, id: ListenerId, callback: Callback) -> Unneeded {
        match self.all.iter_mut().find(|known| known.id == id) {
            Some(known) if known.callback.is_none() => {
                known.callback = Some(callback);
                None
            }
            _ => Some(callback),
        }
    }

    pub(super) fn add_stream(&mut self, stream: mpsc::Sender<Event>) {
        self.streams.push(stream);
    }

    pub(super) fn streams(&mut self) -> &[mpsc::Sender<Event>] {
        self.streams.retain(|stream| !stream.is_closed());
        &self.streams
    }

    /// Whether anybody listens to an event that can still come in this state.
    pub(super) fn can_be_told(&self, ready_state: ReadyState) -> bool {
        let is_possible = |event_type| match event_type {
            EventType::Open => ready_state == ReadyState::Connecting,
            EventType::Message => ready_state <= ReadyState::Open,
            EventType::Error | EventType::Close => ready_state <= ReadyState::Closing,
        };
        self.all.iter().any(|known| is_possible(known.event_type))
            || self.streams.iter().any(|stream| !stream.is_closed())
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("all", &self.all.len()).finish_non_exhaustive()
    }
}
