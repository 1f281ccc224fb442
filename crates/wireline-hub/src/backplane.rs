//! What orders publications, keeps them, and carries them between nodes.

mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

pub use self::memory::{Memory, MemoryNode};
#[cfg(feature = "nats")]
pub use self::nats::{ConnectNats, ConnectNatsError, Nats, NatsNode};
#[cfg(all(feature = "redis", feature = "testing"))]
pub(crate) use self::redis::decode_anything as decode_redis;
#[cfg(feature = "redis")]
pub use self::redis::{InvalidRedisUrl, Redis, RedisNode};
use crate::{History, Member, Outgoing, Position, Publication, Topic};

/// A future of a [`Backplane`]'s.
pub type BackplaneFuture<'b, T> = Pin<Box<dyn Future<Output = Result<T, BackplaneError>> + Send + 'b>>;

/// An engine that orders the publications of each topic, keeps the newest, and delivers them to nodes.
///
/// All that subscribers hear comes from there, what their own node published included: so everybody hears
/// one order. What it must and need not do:
///
/// - Deliveries of a topic may be lost, doubled and late; nodes find that out, since each publication names its
///   [predecessor](Publication::previous), and [`read`](Self::read). They must not be invented.
/// - What [`publish`](Self::publish) answered with a position is delivered, or readable as long as the history's
///   limits allow.
/// - A [`read`](Self::read) that begins after [`subscribe`](Self::subscribe) returned sees everything that will
///   not be delivered.
/// - It says [`Event::Up`] when it may have lost deliveries and works again.
///
/// `backplane_conformance!` (feature `testing`) tests all of it.
pub trait Backplane: Send + Sync + 'static {
    /// Publishes to a topic. The position is that of the publication, or of the one with the same
    /// [id](Outgoing::id) that was published within the last two minutes.
    ///
    /// # Errors
    /// [`BackplaneError::Unavailable`]: nothing happened. [`BackplaneError::Unknown`]: it may have been
    /// published; it is safe to try again with the same id.
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position>;

    /// Has the topic delivered to this node. It returns when the engine has it.
    ///
    /// # Errors
    /// The topic is not, or may be, delivered.
    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()>;

    /// Ends that.
    ///
    /// # Errors
    /// The topic may still be delivered, which does no harm.
    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()>;

    /// At most `max` publications of a topic: the first ones behind `after` if everything behind it is kept; else,
    /// and without `after`, the newest.
    ///
    /// # Errors
    /// The engine did not answer.
    fn read<'b>(&'b self, topic: &'b Topic, after: Option<Position>, max: usize)
    -> BackplaneFuture<'b, Page>;

    /// Keeps this node's rows, those of earlier calls included, for `ttl` from now. A row without members is
    /// taken away. Whether those of earlier calls were still there: not if the lease had ended, or the engine lost
    /// them.
    ///
    /// # Errors
    /// The rows may not have been kept.
    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool>;

    /// The rows of a topic, of all nodes whose lease has not ended.
    ///
    /// # Errors
    /// The engine did not answer.
    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>>;
}

/// Why an engine did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackplaneError {
    /// It is away, and nothing happened. It is worth another try.
    #[error("the backplane is away: {0}")]
    Unavailable(String),
    /// It did not answer in time: it may have happened. It is worth another try with the same id.
    #[error("the backplane did not answer: {0}")]
    Unknown(String),
    /// The publication has more bytes than the engine takes.
    #[error("{len} bytes are more than the backplane's {limit}")]
    TooLarge {
        /// Its bytes.
        len: usize,
        /// What the engine takes.
        limit: usize,
    },
    /// The engine does not allow it.
    #[error("the backplane denies it: {0}")]
    Denied(String),
}

impl BackplaneError {
    /// Whether another try may go better.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

/// What an engine has of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where the topic stands: the position of its newest publication, kept or not. A topic without any has one
    /// too, with a mark of its own.
    pub top: Position,
    /// `items` are what follows the position that was asked for, without a hole. False without a position.
    pub proven: bool,
    /// In order, each the predecessor of the next.
    pub items: Vec<Publication>,
}

/// The members that one node has of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceRow {
    /// The topic.
    pub topic: Topic,
    /// Each once, in order.
    pub members: Vec<Member>,
}

/// A node, as backplanes know it. No two have the same, nor has one that was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

impl NodeId {
    /// One that no other node has.
    #[must_use]
    pub fn random() -> Self {
        Self(crate::entropy::number())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A node's row of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Whose.
    pub node: NodeId,
    /// Under which of the node's leases: one that begins anew has another number.
    pub lease: u32,
    /// Who is there.
    pub members: Vec<Member>,
}

/// What a backplane tells its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was published to a topic that the node hears.
    Published(Publication),
    /// The engine is away.
    Down,
    /// It is there again, and may have lost deliveries.
    Up,
    /// Deliveries of these topics may have been lost.
    Suspect(Vec<Topic>),
    /// Deliveries of any topic may have been lost.
    SuspectAll,
}

impl Event {
    /// Bytes of payload.
    fn len(&self) -> usize {
        match self {
            Self::Published(publication) => publication.content.len(),
            Self::Down | Self::Up | Self::Suspect(_) | Self::SuspectAll => 0,
        }
    }
}

/// Bytes of payload that may wait for a node; one publication may always. Raised, it is memory for a node that falls
/// behind.
const EVENT_BYTES: usize = 16 << 20;

/// Where a backplane's node hears of its topics. The queue is bounded: what finds no room is dropped, which the
/// node is told ([`Event::SuspectAll`]), so that it reads what it lacks.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

/// The node's end of [`Events`].
#[derive(Debug)]
pub struct EventReceiver(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to take, or nobody is left who could tell anything.
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    events: VecDeque<Event>,
    /// What `events` holds at most.
    capacity: usize,
    /// Bytes of payload in it.
    bytes: usize,
    has_dropped: bool,
    /// The last word of whether the engine is there, if that was dropped.
    dropped_state: Option<Event>,
    /// How many [`Events`] there are.
    senders: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, event: Event) {
        let len = event.len();
        let is_state = matches!(event, Event::Up | Event::Down);
        let has_bytes = self.bytes == 0 || len == 0 || self.bytes + len <= EVENT_BYTES;
        if has_bytes && self.events.len() < self.capacity {
            self.bytes += len;
            self.events.push_back(event);
            if is_state {
                self.dropped_state = None;
            }
        } else {
            self.has_dropped = true;
            if is_state {
                self.dropped_state = Some(event);
            }
        }
    }

    fn pop(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.len();
            return Some(event);
        }
        // An engine that is there again may have lost anything, and one that is away will be there again.
        let is_told = std::mem::take(&mut self.has_dropped);
        is_told.then(|| self.dropped_state.take().unwrap_or(Event::SuspectAll))
    }
}

impl Events {
    /// A queue of at most `capacity` events, and of 16 MiB of payloads.
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, EventReceiver) {
        let waiting = Waiting {
            events: VecDeque::new(),
            capacity,
            bytes: 0,
            has_dropped: false,
            dropped_state: None,
            senders: 1,
        };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), changed: Notify::new() });
        (Self(Arc::clone(&queue)), EventReceiver(queue))
    }

    /// Tells the node. It never waits.
    pub fn tell(&self, event: Event) {
        self.0.lock().push(event);
        self.0.changed.notify_one();
    }
}

impl Clone for Events {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl EventReceiver {
    /// The next event; `None` once all [`Events`] are gone and everything was told.
    ///
    /// # Cancel safety
    /// Dropped early, no event is lost.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            {
                let mut waiting = self.0.lock();
                if let Some(event) = waiting.pop() {
                    return Some(event);
                }
                if waiting.senders == 0 {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;

    fn published(len: usize) -> Event {
        Event::Published(Publication {
            topic: Topic::new("tea").expect("it is a name"),
            position: Position::new(1, 1),
            previous: Position::new(0, 0).into(),
            content: Content::Message(vec![0; len].into()),
            except: None,
        })
    }

    #[tokio::test]
    async fn whether_the_engine_is_there_is_told_however_full_the_queue_is() {
        let (events, mut receiver) = Events::channel(1);
        events.tell(published(1));
        events.tell(Event::Down);
        events.tell(Event::Up);
        assert!(matches!(receiver.recv().await, Some(Event::Published(_))));
        assert_eq!(receiver.recv().await, Some(Event::Up));
        events.tell(published(1));
        events.tell(Event::Up);
        assert!(matches!(receiver.recv().await, Some(Event::Published(_))));
        // What is told later is what counts.
        events.tell(Event::Down);
        assert_eq!(receiver.recv().await, Some(Event::Down));
        assert_eq!(receiver.recv().await, Some(Event::SuspectAll));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_its_bytes_too_and_what_was_dropped_is_told() {
        let (events, mut receiver) = Events::channel(100);
        for _ in 0..20 {
            events.tell(published(1 << 20));
        }
        events.tell(Event::Up);
        for _ in 0..16 {
            assert!(matches!(receiver.recv().await, Some(Event::Published(_))));
        }
        assert_eq!(receiver.recv().await, Some(Event::Up));
        assert_eq!(receiver.recv().await, Some(Event::SuspectAll));
        // However large, one has room.
        events.tell(published(EVENT_BYTES + 1));
        assert!(matches!(receiver.recv().await, Some(Event::Published(_))));
        assert_eq!(receiver.0.lock().bytes, 0);
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_comes_while_something_is_dropped_hears_the_last_word_last() {
        const ROUNDS: u64 = 20_000;
        let (events, mut receiver) = Events::channel(1);
        let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
        let telling = tokio::spawn(async move {
            for _ in 0..ROUNDS {
                events.tell(Event::Suspect(Vec::new()));
                events.tell(Event::Down);
                events.tell(Event::Up);
                is_done.recv().await.expect("the receiver is there");
            }
        });
        let mut next = async || {
            let event = tokio::time::timeout(Duration::from_secs(10), receiver.recv());
            event.await.expect("what was dropped is told, whatever comes behind").expect("not the end")
        };
        for _ in 0..ROUNDS {
            let mut first = next().await;
            while first == Event::SuspectAll {
                first = next().await;
            }
            assert_eq!(first, Event::Suspect(Vec::new()), "a word of before comes late");
            while next().await != Event::Up {}
            done.send(()).expect("they are told");
        }
        telling.await.expect("it does not panic");
        assert!(matches!(receiver.recv().await, None | Some(Event::SuspectAll)));
    }
}
