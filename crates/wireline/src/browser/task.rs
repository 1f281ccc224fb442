//! The task of a browser's WebSocket: everything that happens to one happens in it, in order.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Cause, CloseEvent, object::Object, turn::Turn};
use crate::{CloseCause, Message, ReadyState, RecvError, Result, WebSocket as Connection, client::Attempt};

/// How long the first event waits for the constructor's caller where nobody sees when his poll is over. He
/// needs microseconds to say who listens; this is as long as a busy machine may take him off its processor.
const PATIENCE: Duration = Duration::from_millis(100);

/// When the first event may come.
#[derive(Debug, Clone, Copy)]
pub(super) enum FirstEvent {
    /// When the poll that the constructor was called in is over.
    AfterTurn(Turn),
    /// When the caller waits for something of the socket, or then at the latest.
    By(Instant),
}

impl FirstEvent {
    /// For an object that is being made by the caller.
    pub(super) fn of(object: &Object) -> Self {
        // Nothing was sent yet.
        object.turns.handed_over(|| 0);
        object.turns.current().map_or_else(|| Self::By(Instant::now() + PATIENCE), Self::AfterTurn)
    }

    async fn allowed(self, object: &Object) {
        match self {
            Self::AfterTurn(turn) => object.turns.over(turn).await,
            Self::By(deadline) => {
                let _ = timeout_at(deadline, object.awaited.notified()).await;
            }
        }
    }
}

/// Connects, receives, and tells the object, from its construction to its last event.
pub(super) async fn run(unfinished: Unfinished, attempt: Attempt, first_event: FirstEvent) {
    let object = Arc::clone(&unfinished.0);
    let connected = tokio::select! {
        biased;
        () = object.closed_here() => Err(Cause::ClosedBeforeOpen),
        connected = Box::pin(attempt.run()) => connected.map_err(|error| Cause::Connect(Arc::new(error))),
    };
    first_event.allowed(&object).await;
    let outcome = match connected {
        Ok(connection) => converse(&object, connection).await,
        Err(cause) => CloseEvent::failed(cause),
    };
    object.finish(outcome);
    drop(unfinished);
}

/// From the opening handshake to the end of the transport.
async fn converse(object: &Arc<Object>, mut connection: Connection) -> CloseEvent {
    if !object.open(connection.socket()) {
        connection.abort();
        return CloseEvent::failed(Cause::ClosedBeforeOpen);
    }
    loop {
        object.streams_taken().await;
        let Ok(Some(message)) = next(object, &mut connection).await else { break };
        object.receive(message);
        tokio::task::coop::consume_budget().await;
    }
    object.begin_closing();
    let outcome = connection.closed().await;
    if outcome.was_clean {
        poll_fn(|cx| connection.link().poll_gone(cx)).await;
    }
    CloseEvent {
        was_clean: outcome.was_clean,
        code: outcome.code.into(),
        reason: outcome.reason,
        cause: outcome.cause.map(Cause::Close),
    }
}

/// The next message. While there is none, it is seen that the peer has begun to close.
async fn next(object: &Object, connection: &mut Connection) -> Result<Option<Message>, RecvError> {
    poll_fn(|cx| {
        let polled = pin!(connection.recv()).poll(cx);
        if polled.is_pending() && connection.ready_state() != ReadyState::Open {
            object.begin_closing();
        }
        polled
    })
    .await
}

/// The task can be dropped before its end, with its runtime, and even before its beginning. Then no event
/// comes, and the object is closed.
pub(super) struct Unfinished(pub(super) Arc<Object>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.end(CloseEvent::failed(Cause::Close(CloseCause::Aborted)));
    }
}
