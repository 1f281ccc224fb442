//! Events as a stream.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::sync::mpsc;

use super::{Event, object::Object};

/// The events of a [`WebSocket`](super::WebSocket) in order, from its making to `close`, which is the last;
/// see [`WebSocket::events`](super::WebSocket::events).
///
/// While an event in it is not taken, the socket reads no further, so that it holds one message at most.
/// Other listeners wait too then. Dropping it is like removing a listener.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    object: Arc<Object>,
}

impl Events {
    pub(super) fn new(object: Arc<Object>) -> Self {
        Self { receiver: object.add_stream(), object }
    }

    /// The next event; `None` after `close`.
    ///
    /// # Cancel safety
    /// Dropped early, no event is lost: the next call gives it.
    pub async fn next_event(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.object.awaited.notify_one();
        loop {
            match std::task::ready!(self.receiver.poll_recv(cx)) {
                // As with any listener, no message comes after `close()`.
                Some(Event::Message(_)) if self.object.is_closed_here() => {}
                event => return Poll::Ready(event),
            }
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.receiver.close();
        self.object.collect();
    }
}
