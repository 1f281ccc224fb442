//! What a node does, without IO: topics with their cursors, whatever the backplane and the connections are.
//!
//! # The contract
//!
//! A [`Node`] is told what happens and says what is to be done. It has no clock: each input that depends on
//! time is given it.
//!
//! - Connections: [`connect`](Node::connect), [`subscribe`](Node::subscribe),
//!   [`unsubscribe`](Node::unsubscribe), [`disconnect`](Node::disconnect), and
//!   [`handle_room`](Node::handle_room) when a queue that was full is not any more.
//! - The backplane: [`handle_event`](Node::handle_event) for what it tells,
//!   [`handle_subscribed`](Node::handle_subscribed), [`handle_page`](Node::handle_page),
//!   [`handle_presence_told`](Node::handle_presence_told), [`handle_rows`](Node::handle_rows) for what it was asked.
//! - Time: [`handle_timeout`](Node::handle_timeout), at [`poll_timeout`](Node::poll_timeout) or later.
//!
//! After each of them, take all [`Action`]s out of [`take_actions`](Node::take_actions). What connections get
//! goes to their [`Outlet`] at once.
//!
//! # The rules
//!
//! A topic is a log, and a subscriber a cursor in it. A cursor moves over one publication after the other, each
//! the predecessor of the next; where the chain is broken the engine is asked, once for all subscribers, and
//! where it cannot be mended they get a [`Notice::Reset`]. A subscriber whose queue is full keeps its cursor and
//! nothing else, and goes on from there when there is room: coming late, coming back and reading slowly are one
//! thing.

mod connections;
mod feed;
mod log;
mod presence;
mod watch;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;

pub use self::log::Entry;
use self::{
    connections::Connections,
    feed::{Feed, Joining, Reading},
    presence::{Presence, RENEWALS},
    watch::Watch,
};
use crate::{
    BackplaneError, ConnectionId, Event, History, Member, NodeId, NodeRow, Page, Position, PresenceRow, Topic,
};

/// How often who got nothing for want of the node's budget may try again. Lowered, all queues are counted as often.
const STARVED_RETRY: Duration = Duration::from_millis(20);

/// Between attempts to ask an engine that does not answer: doubled each time, from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What a node's limits are.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Bytes that may wait for one connection. Beyond, it is behind, and costs a cursor for each topic. Raised,
    /// it is memory for each slow connection.
    pub queue_limit: usize,
    /// Bytes that may wait for all connections together. Beyond, a connection gets one publication at a time.
    pub queue_budget: usize,
    /// What becomes of a connection that is so slow that what it lacks is not kept any more.
    pub lagging: Lagging,
    /// How long a topic is kept up after its last subscriber left, so that one who comes back finds it.
    pub linger: Duration,
    /// After how long a topic that was silent is checked against the engine.
    pub idle_check: Duration,
    /// How long who subscribes waits for an engine that does not answer.
    pub join_timeout: Duration,
    /// Reads that the engine is asked for at the same time.
    pub max_reads: usize,
    /// How long members that came and went are collected until they are told.
    pub presence_delay: Duration,
    /// How long after a node fell silent its members count as gone.
    pub presence_lease: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            queue_limit: 1 << 20,
            queue_budget: 256 << 20,
            lagging: Lagging::default(),
            linger: Duration::from_secs(2),
            idle_check: Duration::from_secs(15),
            join_timeout: Duration::from_secs(5),
            max_reads: 64,
            presence_delay: Duration::from_millis(100),
            presence_lease: Duration::from_secs(15),
        }
    }
}

/// What becomes of a connection that lacks more than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lagging {
    /// It is told so, and goes on from the topic's end.
    #[default]
    Reset,
    /// It is closed with 4008.
    Close,
}

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    Now,
    /// Behind a position that it had before, if everything since then is kept; else from now on.
    After(Position),
    /// With so many of those publications that are kept, or all if there are fewer.
    Last(usize),
}

/// Somebody's wish to hear a topic.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// Who wants it.
    pub connection: ConnectionId,
    /// Comes back in the answer.
    pub request: u64,
    /// The topic.
    pub topic: Topic,
    /// What is kept of it.
    pub history: History,
    /// From where on.
    pub start: Start,
    /// Whether the topic tells who is there.
    pub presence: bool,
    /// Who is present while it is subscribed, if anybody is.
    pub member: Option<Member>,
}

/// Where a connection gets what it is to be sent. Its queue is bounded.
pub trait Outlet: Debug {
    /// What it makes of a publication for the wire, kept beside that for all connections.
    type Frames: Default + Debug;

    /// Queues an entry unless more than `limit` bytes would be queued then; what is queued now. An empty queue
    /// takes anything.
    ///
    /// # Errors
    /// [`Refused::Full`] when there is no room: the node asks to be told when there is.
    fn offer(&self, entry: &Arc<Entry<Self::Frames>>, limit: usize) -> Result<usize, Refused>;

    /// Queues what must be told, whatever is queued. If it cannot be queued, the connection must end. Whether it is
    /// still subscribed to the notice's topic, if it was.
    fn tell(&self, notice: &Notice) -> AfterNotice;

    /// Bytes in the queue.
    fn queued(&self) -> usize;
}

/// Why an outlet does not take an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its queue has no room.
    Full,
    /// The connection is closing, and will be disconnected.
    Closed,
}

/// What becomes of a subscription when its connection was told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterNotice {
    /// It goes on.
    Subscribed,
    /// It is over: what was said ends it, in the protocol that the connection speaks.
    Left,
}

/// What a connection is told beside publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It is subscribed.
    Subscribed {
        /// Its request.
        request: u64,
        /// The topic.
        topic: Topic,
        /// The position behind which what it gets from now on begins.
        position: Position,
        /// It asked to go on behind a position, and misses nothing.
        recovered: bool,
    },
    /// It is not subscribed.
    Refused {
        /// Its request.
        request: u64,
        /// The topic.
        topic: Topic,
        /// Why not.
        error: SubscribeError,
    },
    /// Something may be missing between what it got before and what comes next.
    Reset {
        /// The topic.
        topic: Topic,
        /// The position behind which what comes next begins.
        position: Position,
        /// Why.
        reason: ResetReason,
    },
}

impl Notice {
    /// The topic that it is about.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Subscribed { topic, .. } | Self::Refused { topic, .. } | Self::Reset { topic, .. } => topic,
        }
    }
}

/// Why a subscriber may lack something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// It read so slowly that what it lacks is not kept any more.
    Window,
    /// The engine has taken back what it delivered: it lost its data, or a replica took over.
    Rollback,
    /// The engine does not keep what it failed to deliver.
    Lost,
}

/// Why somebody is not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The connection has subscribed to the topic already.
    #[error("the connection has subscribed to this topic already")]
    AlreadySubscribed,
    /// The engine does not answer. It is worth another try.
    #[error("the backplane does not answer")]
    Unavailable,
    /// The connection has changed its mind meanwhile.
    #[error("the connection does not want this topic any more")]
    Withdrawn,
}

/// What is to be done for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have the engine deliver the topic, then call [`Node::handle_subscribed`]. In order with
    /// [`Unsubscribe`](Self::Unsubscribe).
    Subscribe(Topic),
    /// The engine need not deliver the topic any more.
    Unsubscribe(Topic),
    /// Read from the engine, then call [`Node::handle_page`].
    Read {
        /// Comes back with the page.
        ticket: u64,
        /// The topic.
        topic: Topic,
        /// Behind which position; `None`: the newest.
        after: Option<Position>,
        /// Publications at most.
        max: usize,
    },
    /// Call [`Node::handle_room`] when the connection's queue has room.
    AwaitRoom(ConnectionId),
    /// The connection is too slow: close it with 4008.
    Close(ConnectionId),
    /// Tell the engine and the topics who is here, then call [`Node::handle_presence_told`]. There is one such
    /// action at a time.
    TellPresence(PresenceUpdate),
    /// Read the topic's rows of presence, then call [`Node::handle_rows`].
    ReadRows(Topic),
    /// A node is gone without saying so: say that its member left. Other nodes say it, too, so the publication needs
    /// the same id on all of them, which nothing else has.
    TellGone {
        /// The topic.
        topic: Topic,
        /// Who was there.
        member: Member,
        /// Where.
        node: NodeId,
        /// Under which of its leases.
        lease: u32,
    },
}

/// What changed among the members on a node's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceUpdate {
    /// The node's rows that changed, each with all members that the node has of the topic. To be written first.
    pub rows: Vec<PresenceRow>,
    /// How long from now the engine keeps all rows of the node, those that did not change included.
    pub lease: Duration,
    /// Who is here now: to be published where they are.
    pub joined: Vec<(Topic, Member)>,
    /// Who is here no more: to be published unless another node has a row with them.
    pub left: Vec<(Topic, Member)>,
}

/// What a topic acts upon.
#[derive(Debug)]
struct Outside<O> {
    connections: Connections<O>,
    presence: Presence,
    actions: Vec<Action>,
    /// The time of the input that is handled.
    now: Instant,
}

/// The state machine: see the [module](self).
#[derive(Debug)]
pub struct Node<O: Outlet> {
    config: NodeConfig,
    outside: Outside<O>,
    feeds: Slab<Feed<O::Frames>>,
    keys: HashMap<Topic, usize>,
    /// Feeds that wait for their turn to read.
    queue: VecDeque<usize>,
    /// Reads that were asked for, by their tickets.
    reads: HashMap<u64, usize>,
    next_ticket: u64,
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
    starved_retry: Option<Instant>,
}

impl<O: Outlet> Node<O> {
    /// A node without connections.
    #[must_use]
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let outside = Outside {
            connections: Connections::new(&config),
            presence: Presence::new(config.presence_delay, config.presence_lease),
            actions: Vec::new(),
            now,
        };
        Self {
            outside,
            config,
            feeds: Slab::new(),
            keys: HashMap::new(),
            queue: VecDeque::new(),
            reads: HashMap::new(),
            next_ticket: 0,
            alarms: BinaryHeap::new(),
            starved_retry: None,
        }
    }

    /// What is to be done. In order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.outside.actions)
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            connections: self.outside.connections.len(),
            topics: self.feeds.len(),
            lagging: self.feeds.iter().map(|(_, feed)| feed.lagging()).sum(),
            queued: self.outside.connections.queued(),
        }
    }

    /// The topics that it keeps up, each with its subscribers.
    #[must_use]
    pub fn topics(&self) -> Vec<(Topic, usize)> {
        self.feeds.iter().map(|(_, feed)| (feed.topic.clone(), feed.subscribers.len())).collect()
    }

    /// The newest publication of a topic that the node keeps.
    #[must_use]
    pub fn newest(&self, topic: &Topic) -> Option<&Arc<Entry<O::Frames>>> {
        self.feeds[*self.keys.get(topic)?].log.as_ref()?.newest()
    }

    // Connections.

    /// A connection, whose id no other has.
    pub fn connect(&mut self, id: ConnectionId, outlet: O) {
        self.outside.connections.insert(id, outlet);
    }

    /// The connection is gone, and leaves all topics.
    pub fn disconnect(&mut self, id: ConnectionId, now: Instant) {
        self.outside.now = now;
        let Some(connection) = self.outside.connections.remove(id) else { return };
        for (topic, subscriber) in connection.subscriptions {
            let Some(feed) = self.keys.get(&topic).copied() else { continue };
            self.feeds[feed].remove(subscriber, id, &mut self.outside);
            self.settle(feed);
        }
    }

    /// Somebody wants to hear a topic. The answer is a [`Notice::Subscribed`], followed by what it missed, or a
    /// [`Notice::Refused`].
    pub fn subscribe(&mut self, subscribe: Subscribe, now: Instant) {
        self.outside.now = now;
        let Subscribe { connection: id, request, topic, history, start, presence, member } = subscribe;
        let Some(connection) = self.outside.connections.key(id) else { return };
        let subscriptions = &mut self.outside.connections.at(connection).subscriptions;
        if subscriptions.contains_key(&topic) {
            let error = SubscribeError::AlreadySubscribed;
            self.outside.connections.tell(connection, &Notice::Refused { request, topic, error });
            return;
        }
        subscriptions.insert(topic.clone(), None);
        // What the hub itself has subscribed a connection to nobody waits for: it comes when it can.
        let until = (!topic.is_reserved()).then(|| now + self.config.join_timeout);
        let feed = self.feed(&topic, history, presence);
        self.feeds[feed].join(Joining { connection, id, start, member, request, until }, &mut self.outside);
        self.settle(feed);
    }

    /// The connection does not want to hear the topic any more. Whether it did. If it is still waiting for the answer to
    /// its [`subscribe`](Self::subscribe), that is a [`Notice::Refused`] now.
    pub fn unsubscribe(&mut self, id: ConnectionId, topic: &Topic, now: Instant) -> bool {
        self.outside.now = now;
        let Some(connection) = self.outside.connections.key(id) else { return false };
        let subscription = self.outside.connections.at(connection).subscriptions.remove(topic);
        let (Some(subscriber), Some(feed)) = (subscription, self.keys.get(topic).copied()) else {
            return false;
        };
        match subscriber {
            Some(_) => self.feeds[feed].remove(subscriber, id, &mut self.outside),
            None => self.feeds[feed].withdraw(id, &self.outside),
        }
        self.settle(feed);
        true
    }

    /// The connection's queue, which had none, has room.
    pub fn handle_room(&mut self, id: ConnectionId, now: Instant) {
        self.outside.now = now;
        if let Some(connection) = self.outside.connections.handle_room(id) {
            self.catch_up(connection);
            self.note_starved();
        }
    }

    fn catch_up(&mut self, connection: usize) {
        let subscriptions = &self.outside.connections.at(connection).subscriptions;
        let subscriptions: Vec<_> = subscriptions.iter().map(|(topic, key)| (topic.clone(), *key)).collect();
        for (topic, subscriber) in subscriptions {
            let (Some(feed), Some(subscriber)) = (self.keys.get(&topic).copied(), subscriber) else {
                continue;
            };
            self.feeds[feed].catch_up(subscriber, &mut self.outside);
            if self.feeds[feed].is_deserted() {
                self.settle(feed);
            }
        }
    }

    fn feed(&mut self, topic: &Topic, history: History, presence: bool) -> usize {
        if let Some(key) = self.keys.get(topic) {
            return *key;
        }
        let interval = self.config.presence_lease / RENEWALS;
        let watch = presence.then(|| Watch::new(interval, self.outside.now));
        let key = self.feeds.insert(Feed::new(
            topic.clone(),
            history,
            self.config.lagging,
            watch,
            self.outside.now,
        ));
        self.keys.insert(topic.clone(), key);
        self.outside.actions.push(Action::Subscribe(topic.clone()));
        key
    }

    // The backplane.

    /// Takes what the backplane tells.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        self.outside.now = now;
        match event {
            Event::Published(publication) => {
                let Some(feed) = self.keys.get(&publication.topic).copied() else { return };
                self.feeds[feed].receive(publication, &mut self.outside);
                self.settle(feed);
            }
            Event::Down => {}
            // Whatever was delivered meanwhile is lost, or not.
            Event::Up => self.doubt_all(),
            Event::Suspect(topics) => {
                for topic in &topics {
                    if let Some(feed) = self.keys.get(topic).copied() {
                        self.doubt(feed);
                    }
                }
            }
            Event::SuspectAll => self.doubt_all(),
        }
    }

    /// The engine delivers the topic from now on, or does not.
    pub fn handle_subscribed(&mut self, topic: &Topic, is_delivered: bool, now: Instant) {
        self.outside.now = now;
        let Some(key) = self.keys.get(topic).copied() else { return };
        let feed = &mut self.feeds[key];
        if !is_delivered {
            self.delay(key);
        } else if feed.is_subscribed {
            // It was given up and wanted again, and something may have been published between.
            return self.doubt(key);
        } else {
            feed.is_subscribed = true;
            feed.reading = Reading::No;
            feed.failures = 0;
        }
        self.settle(key);
    }

    /// What the engine has of a topic, or why it does not say.
    pub fn handle_page(&mut self, ticket: u64, result: Result<Page, BackplaneError>, now: Instant) {
        self.outside.now = now;
        let Some(key) = self.reads.remove(&ticket) else { return };
        if let Some(feed) = self.feeds.get_mut(key)
            && let Reading::Asked { ticket: current, is_heal, is_whole } = feed.reading
            && current == ticket
        {
            let is_stuck = match result {
                Ok(page) => feed.receive_page(page, is_heal, is_whole, &mut self.outside),
                Err(_) => true,
            };
            if is_stuck {
                // The engine does not answer, or is behind what it delivered.
                self.delay(key);
            } else {
                feed.failures = 0;
            }
            self.settle(key);
        }
        self.ask_next();
    }

    /// The engine and the topics know who is here. `is_kept`: the engine still has the rows that it was told before.
    pub fn handle_presence_told(&mut self, is_kept: bool, now: Instant) {
        self.outside.now = now;
        self.outside.presence.handle_told(is_kept, now);
    }

    /// The engine's rows of a topic; `None` if it did not answer.
    pub fn handle_rows(&mut self, topic: &Topic, rows: Option<Vec<NodeRow>>, now: Instant) {
        self.outside.now = now;
        let Some(key) = self.keys.get(topic).copied() else { return };
        let Some(watch) = &mut self.feeds[key].watch else { return };
        for (member, node, lease) in watch.handle_rows(rows, now) {
            self.outside.actions.push(Action::TellGone { topic: topic.clone(), member, node, lease });
        }
        self.settle(key);
    }

    fn doubt_all(&mut self) {
        let all: Vec<usize> = self.feeds.iter().map(|(key, _)| key).collect();
        all.into_iter().for_each(|key| self.doubt(key));
        self.outside.presence.doubt(self.outside.now);
    }

    /// Something may be missing behind the last publication.
    fn doubt(&mut self, key: usize) {
        let feed = &mut self.feeds[key];
        feed.wants_heal |= feed.log.is_some();
        feed.is_doubted_meanwhile |= matches!(feed.reading, Reading::Asked { .. });
        self.settle(key);
    }

    fn delay(&mut self, key: usize) {
        let feed = &mut self.feeds[key];
        let doublings = feed.failures.min(16);
        feed.failures = feed.failures.saturating_add(1);
        feed.reading = Reading::Delayed(self.outside.now + RETRY.1.min(RETRY.0 * (1 << doublings)));
    }

    // Reading.

    /// Has the topic read, if it wants that, and sets its alarm: after every change.
    fn settle(&mut self, key: usize) {
        let now = self.outside.now;
        let feed = &mut self.feeds[key];
        feed.left = match feed.left {
            _ if !feed.is_deserted() => None,
            None => Some(now),
            left => left,
        };
        if feed.reading == Reading::No && feed.wants_read() {
            feed.reading = Reading::Queued;
            self.queue.push_back(key);
            self.ask_next();
        }
        self.set_alarm(key);
        self.note_starved();
    }

    /// Has who got nothing for want of the budget try again.
    fn note_starved(&mut self) {
        if self.outside.connections.has_starved() && self.starved_retry.is_none() {
            self.starved_retry = Some(self.outside.now + STARVED_RETRY);
        }
    }

    /// Asks for the next reads in the queue.
    fn ask_next(&mut self) {
        while self.reads.len() < self.config.max_reads {
            let Some(key) = self.queue.pop_front() else { return };
            if self.feeds.get(key).is_some_and(|feed| feed.reading == Reading::Queued) {
                self.ask(key);
            }
        }
    }

    fn ask(&mut self, key: usize) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let feed = &mut self.feeds[key];
        let wants_past = |joining: &Joining| joining.start != Start::Now;
        let (after, max) = match &feed.log {
            Some(log) if feed.wants_heal => (Some(log.top()), feed.history.messages.max(1)),
            None if !feed.joining.iter().any(wants_past) => (None, 0),
            _ => (None, feed.history.messages),
        };
        let is_whole = max >= feed.history.messages;
        feed.reading = Reading::Asked { ticket, is_heal: after.is_some(), is_whole };
        feed.is_doubted_meanwhile = false;
        self.reads.insert(ticket, key);
        self.outside.actions.push(Action::Read { ticket, topic: feed.topic.clone(), after, max });
    }

    // Time.

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let alarm = self.alarms.peek().map(|Reverse((at, _))| *at);
        alarm.into_iter().chain(self.starved_retry).chain(self.outside.presence.due()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.outside.now = now;
        while let Some(Reverse((at, _))) = self.alarms.peek()
            && *at <= now
        {
            let Some(Reverse((at, key))) = self.alarms.pop() else { return };
            let Some(feed) = self.feeds.get_mut(key) else { continue };
            if feed.alarm == Some(at) {
                feed.alarm = None;
                self.handle_alarm(key);
            }
        }
        if self.starved_retry.is_some_and(|at| at <= now) {
            self.retry_starved();
        }
        if let Some(update) = self.outside.presence.take_update(now) {
            self.outside.actions.push(Action::TellPresence(update));
        }
    }

    fn retry_starved(&mut self) {
        self.starved_retry = None;
        let starved = self.outside.connections.take_starved();
        starved.into_iter().for_each(|connection| self.catch_up(connection));
        self.note_starved();
    }

    fn handle_alarm(&mut self, key: usize) {
        let now = self.outside.now;
        let idle_check = self.idle_check(key);
        let feed = &mut self.feeds[key];
        if feed.left.is_some_and(|left| left + self.config.linger <= now) {
            return self.abandon(key);
        }
        feed.refuse_late(&mut self.outside);
        if let Some(log) = &mut feed.log {
            log.trim(&feed.history, now);
        }
        if let Some(watch) = &mut feed.watch
            && watch.take_due(now)
        {
            self.outside.actions.push(Action::ReadRows(feed.topic.clone()));
        }
        if let Reading::Delayed(until) = feed.reading
            && until <= now
        {
            feed.reading = Reading::No;
            if !feed.is_subscribed {
                // Until the engine says so.
                feed.reading = Reading::Queued;
                self.outside.actions.push(Action::Subscribe(feed.topic.clone()));
            }
        }
        if feed.log.is_some() && feed.heard + idle_check <= now {
            feed.wants_heal = true;
            feed.heard = now;
        }
        self.settle(key);
    }

    fn abandon(&mut self, key: usize) {
        let feed = self.feeds.remove(key);
        self.keys.remove(&feed.topic);
        self.outside.actions.push(Action::Unsubscribe(feed.topic));
    }

    /// Spread over a quarter more, so that topics which fell silent together are not checked together.
    fn idle_check(&self, key: usize) -> Duration {
        const SPREAD: usize = 64;
        let share = u32::try_from(key % SPREAD).unwrap_or_default();
        self.config.idle_check + self.config.idle_check / 4 / 64 * share
    }

    fn set_alarm(&mut self, key: usize) {
        let idle_check = self.idle_check(key);
        let feed = &mut self.feeds[key];
        let linger = feed.left.map(|left| left + self.config.linger);
        // Whoever came first is refused first.
        let join = feed.joining.first().and_then(|joining| joining.until);
        let watch = feed.watch.as_ref().and_then(Watch::due);
        let retry = match feed.reading {
            Reading::Delayed(until) => Some(until),
            _ => None,
        };
        let idle = feed.log.as_ref().map(|_| feed.heard + idle_check);
        let expiry = feed.log.as_ref().and_then(|log| log.expires(&feed.history));
        let Some(at) = [linger, join, watch, retry, idle, expiry].into_iter().flatten().min() else { return };
        // A later deadline than the alarm's is looked at when that goes off.
        if feed.alarm.is_none_or(|alarm| at < alarm) {
            feed.alarm = Some(at);
            self.alarms.push(Reverse((at, key)));
        }
    }
}

/// How large a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Connections.
    pub connections: usize,
    /// Topics that it keeps up.
    pub topics: usize,
    /// Cursors that are behind.
    pub lagging: usize,
    /// Bytes that wait in the connections' queues, or did when they were last given something.
    pub queued: usize,
}
