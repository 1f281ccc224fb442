//! A topic, as a client hears it.

use std::{
    fmt,
    future::{IntoFuture, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tokio::sync::oneshot;
use wireline::Message;

use super::{
    Answering, ClientError, Command, Shared,
    dialogue::{Answer, Feed, Subscribed},
    queue::Queue,
};
use crate::{Member, Position, Topic, node::ResetReason};

/// Events in a subscription's queue. Raised, it is memory for each subscription that is not read.
const CAPACITY: usize = 256;

/// What happens in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something was published.
    Message {
        /// As it was published: text or bytes.
        message: Message,
        /// Its place in the topic.
        position: Position,
    },
    /// Somebody is here now.
    Join {
        /// Who.
        member: Member,
        /// Its place in the topic.
        position: Position,
    },
    /// Somebody is not here any more.
    Leave {
        /// Who.
        member: Member,
        /// Its place in the topic.
        position: Position,
    },
    /// Between what came before and what comes next something may be missing: read the application's state anew.
    Reset {
        /// Why, if the server says so. It does not where this client was away for too long, or the topic has begun
        /// anew meanwhile.
        why: Option<ResetReason>,
        /// Behind which what comes next begins.
        position: Position,
    },
}

impl Event {
    /// Where the topic stands with it: what [`Subscribe::since`] takes to go on behind it.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Message { position, .. }
            | Self::Join { position, .. }
            | Self::Leave { position, .. }
            | Self::Reset { position, .. } => *position,
        }
    }

    /// Bytes of payload.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Message { message, .. } => message.len(),
            Self::Join { member, .. } | Self::Leave { member, .. } => member.name().len(),
            Self::Reset { .. } => 0,
        }
    }
}

/// A subscription to be awaited; see [`Client::subscribe`](super::Client::subscribe).
#[must_use = "nothing is heard until it is awaited"]
pub struct Subscribe {
    shared: Arc<Shared>,
    topic: Result<Topic, ClientError>,
    since: Option<Position>,
    last: Option<usize>,
    capacity: usize,
}

impl Subscribe {
    pub(super) fn new(shared: Arc<Shared>, topic: Result<Topic, ClientError>) -> Self {
        Self { shared, topic, since: None, last: None, capacity: CAPACITY }
    }

    /// Goes on behind a position that was kept before. If what follows it is not there any more, the first event is a
    /// [`Event::Reset`].
    pub fn since(mut self, position: Position) -> Self {
        self.since = Some(position);
        self
    }

    /// Begins with so many of the publications that are kept, or all if there are fewer. With
    /// [`since`](Self::since) it means nothing.
    pub fn last(mut self, count: usize) -> Self {
        self.last = Some(count);
        self
    }

    /// Sets how many events may wait to be [received](Subscription::recv), of 1 MiB of payload at most. By default
    /// 256.
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, ClientError>;
    type IntoFuture = Answering<Subscription>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { shared, topic, since, last, capacity } = self;
            let topic = topic?;
            let queue = Arc::new(Queue::new(capacity));
            let key = shared.next_key();
            let (sender, answered) = oneshot::channel();
            let feed = Feed::new(key, Arc::clone(&queue), since, last, Answer::new(sender, None));
            shared.send(Command::Subscribe { topic: topic.clone(), feed })?;
            // From now on it ends with its subscription, heard of or not.
            let mut subscription = Subscription {
                shared,
                topic,
                key,
                queue,
                position: None,
                is_recovered: false,
                has_failed: false,
            };
            match answered.await {
                Ok(Ok(Subscribed { position, is_recovered })) => {
                    (subscription.position, subscription.is_recovered) = (Some(position), is_recovered);
                    Ok(subscription)
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(subscription.shared.why()),
            }
        })
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("topic", &self.topic)
            .field("since", &self.since)
            .field("last", &self.last)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// A topic that is heard, over as many connections as it takes. It is a stream, too, of what [`recv`](Self::recv)
/// gives. Dropped, the topic is unsubscribed.
pub struct Subscription {
    shared: Arc<Shared>,
    topic: Topic,
    key: u64,
    queue: Arc<Queue>,
    position: Option<Position>,
    is_recovered: bool,
    /// As a stream it tells an error once.
    has_failed: bool,
}

impl Subscription {
    pub(super) fn to_broadcasts(shared: Arc<Shared>) -> Self {
        let (key, queue) = (shared.next_key(), Arc::new(Queue::new(CAPACITY)));
        if let Err(error) = shared.send(Command::Listen { key, queue: Arc::clone(&queue) }) {
            queue.end_with(&error);
        }
        let topic = Topic::everyone();
        Self { shared, topic, key, queue, position: None, is_recovered: false, has_failed: false }
    }

    /// The topic: of [what is broadcast](super::Client::broadcasts) it is `$all`.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The place behind the last event that was received: kept beside what was made of it, it is where another
    /// subscription can [go on](Subscribe::since).
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether it began [behind the position](Subscribe::since) that it was to begin at.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.is_recovered
    }

    /// The next event. `Ok(None)`: the client was [closed](super::Client::close).
    ///
    /// # Errors
    /// The subscription ended: the server refused it after a loss, or the client ended.
    ///
    /// # Cancel safety
    /// Dropped early, no event is lost or doubled: the next call gives it.
    pub async fn recv(&mut self) -> Result<Option<Event>, ClientError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, ClientError>> {
        let taken = ready!(self.queue.poll_take(cx));
        if taken.is_to_catch_up {
            // Fails only if the client ended, which the queue tells.
            let _ = self.shared.send(Command::CatchUp { topic: self.topic.clone(), key: self.key });
        }
        if let Ok(Some(event)) = &taken.event {
            self.position = Some(event.position());
        }
        Poll::Ready(taken.event)
    }
}

impl Stream for Subscription {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let event = ready!(self.poll_recv(cx));
        self.has_failed = event.is_err();
        Poll::Ready(event.transpose())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.shared.send(Command::Unsubscribe { topic: self.topic.clone(), key: self.key });
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
